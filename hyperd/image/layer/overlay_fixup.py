"""The layer that an image gets on top when overlayfs would show directories otherwise than they should be.

It also has the files of lower layers that hard links point to.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import structlog

from hyperd.errors import HostFault
from hyperd.image.catalog import Catalog
from hyperd.image.layer import hardlinks
from hyperd.image.layer.convert import MAX_ENTRIES, BuiltLayer, build_layer, disk_errors
from hyperd.image.layer.directories import Attributes, Chain, directories_tar, inherited, shown, with_parents
from hyperd.image.layer.packing import Packer
from hyperd.image.layer.tarstream import BLOCK, TarReader
from hyperd.image.store import ImageStore, size_of

log = structlog.get_logger(__name__)

_CHUNK = 256 * 1024
# Of one line; a name with a blank or a quote is quoted, and of what is in it only quotes are escaped.
_NOT_A_DIRECTORY = re.compile(rb'(?:file|slink|nod|pipe|sock) (?:"(.*?)"|([^" ][^ ]*)) 0[0-7]* \d+ \d+')

_Links = dict[int, dict[int, list[bytes]]]  # names of files to copy, by the number of their layer and of their member


class Trimmer:
    """Makes the topmost layer of images that need one. Safe for threads.

    Args:
        store: the files.
        catalog: the rows.
        packer: reads layers.
        max_bytes: bound of an uncompressed layer.

    """

    def __init__(self, *, store: ImageStore, catalog: Catalog, packer: Packer, max_bytes: int) -> None:
        self._store = store
        self._catalog = catalog
        self._packer = packer
        self._max_bytes = max_bytes

    @contextmanager
    def trimmed(self, diff_ids: Sequence[str]) -> Iterator[str]:
        """Yield the diff_id of the layer that an image of these layers needs on top, empty when it needs none.

        It stays while the block runs; the image is added inside.

        Raises:
            InvalidInput, TooLarge: a hard link points to nothing; the links need too much.
            OutOfSpace, HostFault: this host's part.

        """
        directories, links = self._needed(diff_ids)
        if not directories:
            yield ""
            return
        with self._store.new_file() as (tar, _), self._store.new_file() as (file, path):
            built = self._build(tar, file, directories, {diff_ids[number]: links[number] for number in links})
            with self._store.lock, self._store.pinned([built.diff_id]):
                target = self._store.layer_path(built.diff_id)
                if size_of(target) < 0 or self._catalog.layer_size(built.diff_id) < 0:
                    self._store.keep(path, target)
                    self._catalog.add_layer(built)
                log.info("image-trimmed", directories=len(directories), layer=built.diff_id)
                try:
                    yield built.diff_id
                finally:
                    layers, blobs = self._catalog.drop_layers([built.diff_id])  # when no image was made of it
                    self._store.remove_layers(layers, blobs)

    def _build(
        self,
        tar: BinaryIO,
        output: BinaryIO,
        directories: dict[bytes, Attributes],
        files: dict[str, dict[int, list[bytes]]],
    ) -> BuiltLayer:
        with disk_errors():
            tar.writelines(directories_tar(directories))
            for diff_id, names in files.items():
                hardlinks.copy(self._reader(diff_id), names, tar.write, max_bytes=self._max_bytes)
            tar.write(bytes(2 * BLOCK))
        return build_layer(lambda: _content(tar), output, max_bytes=self._max_bytes)

    def _needed(self, diff_ids: Sequence[str]) -> tuple[dict[bytes, Attributes], _Links]:
        """Return the directories and files that the layer on top has; both can be empty."""
        packed = self._catalog.directory_notes(diff_ids)
        chain = Chain(packed)
        links: _Links = {}
        if any(one.links for one in chain.layers):
            chain, links = self._links(diff_ids, packed, chain)
        elif inherited(chain.layers):
            self._find_files(diff_ids, chain)
        else:
            return {}, {}
        names = [name for ones in links.values() for own in ones.values() for name in own]
        wanted = [*inherited(chain.layers), *names]
        directories = with_parents(wanted).difference(names) if wanted else ()
        return {path: shown(path, chain.layers) for path in directories}, links

    def _links(self, diff_ids: Sequence[str], packed: Sequence[bytes], chain: Chain) -> tuple[Chain, _Links]:
        files = self._find_files(diff_ids, chain)
        found = {
            number: hardlinks.members(self._reader(diff_ids[number]), wanted, max_bytes=self._max_bytes)
            for number, wanted in hardlinks.sources(chain.layers, files).items()
        }
        chain = Chain(packed, (name for ones in found.values() for own, _ in ones.values() for name in own))
        self._find_files(diff_ids, chain)
        return chain, {
            number: {
                index: sorted(names.union(name for name in own if hardlinks.visible(name, number, chain.layers)))
                for index, (own, names) in ones.items()
            }
            for number, ones in found.items()
        }

    def _find_files(self, diff_ids: Sequence[str], chain: Chain) -> list[set[bytes]]:
        """Tell a chain, and the caller, which of its names layers have as something else than a directory."""
        names, found = set(chain.names), []
        for number, diff_id in enumerate(diff_ids):
            found.append(set(_non_directories(self._store.layer_path(diff_id), names)))
            chain.hide(number, found[-1])
        return found

    def _reader(self, diff_id: str) -> Callable[[], TarReader]:
        def read() -> TarReader:
            pieces = self._packer.read_tar(diff_id)
            return TarReader(lambda: next(pieces, b""), max_entries=MAX_ENTRIES)

        return read


def _content(file: BinaryIO) -> Iterator[bytes]:
    with disk_errors():
        file.seek(0)
        while chunk := file.read(_CHUNK):
            yield chunk


def _non_directories(image: Path, names: Collection[bytes]) -> Iterator[bytes]:
    """Yield those of the names that a layer has as something else than a directory or a whiteout."""
    try:
        process = subprocess.Popen(
            ["rdsquashfs", "--describe", str(image)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"
        )
    except FileNotFoundError as exc:
        raise HostFault("rdsquashfs is missing", resolution="install squashfs-tools-ng") from exc
    with process:
        for line in process.stdout or ():
            match = _NOT_A_DIRECTORY.match(line)
            if match is not None and not (line.startswith(b"nod ") and line.endswith(b" c 0 0\n")):
                name = match[2] if match[1] is None else match[1].replace(b'\\"', b'"')
                if name.lstrip(b"/") in names:
                    yield name.lstrip(b"/")
    if process.returncode:
        raise HostFault("rdsquashfs failed on a layer", details=image.name)
