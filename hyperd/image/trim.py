"""The layer that an image gets on top when overlayfs would show directories otherwise than they should be."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from hyperd.errors import HostFault
from hyperd.image.catalog import Catalog
from hyperd.image.directories import Attributes, Notes, directories_tar, inherited, shown, with_parents
from hyperd.image.layer import build_layer
from hyperd.image.store import ImageStore, size_of

log = structlog.get_logger(__name__)

MAX_BYTES = 2**30
_NOT_A_DIRECTORY = re.compile(rb'(?:file|slink|nod|pipe|sock) (?:"((?:[^"\\]|\\.)*)"|(\S+)) ')


class Trimmer:
    """Makes the topmost layer of images that need one. Safe for threads.

    Args:
        store: the files.
        catalog: the rows.

    """

    def __init__(self, *, store: ImageStore, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    @contextmanager
    def trimmed(self, diff_ids: Sequence[str]) -> Iterator[str]:
        """Give the diff_id of the layer that an image of these layers needs on top, empty when it needs none.

        It stays while the block runs; the image is added inside.

        Raises:
            OutOfSpace, HostFault: this host's part.

        """
        directories = self._directories(diff_ids)
        if not directories:
            yield ""
            return
        tar = b"".join(directories_tar(directories))
        with self._store.new_file() as (file, path):
            built = build_layer(lambda: iter([tar]), file, max_bytes=MAX_BYTES)
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

    def _directories(self, diff_ids: Sequence[str]) -> dict[bytes, Attributes]:
        notes = [Notes.unpack(data) for data in self._catalog.directory_notes(diff_ids)]
        found = inherited(notes)
        if not found:
            return {}
        wanted = with_parents(found)
        for diff_id, one in zip(diff_ids[1:], notes[1:], strict=True):
            one.hidden.update(_non_directories(self._store.layer_path(diff_id), wanted))
        return {path: shown(path, notes) for path in with_parents(inherited(notes))}


def _non_directories(image: Path, names: Collection[bytes]) -> Iterator[bytes]:
    """Give those of the names that a layer has as something else than a directory."""
    try:
        process = subprocess.Popen(
            ["rdsquashfs", "--describe", str(image)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"
        )
    except FileNotFoundError as exc:
        raise HostFault("rdsquashfs is missing", resolution="install squashfs-tools-ng") from exc
    with process:
        for line in process.stdout or ():
            match = _NOT_A_DIRECTORY.match(line)
            if match is not None:
                name = match[2] if match[1] is None else match[1].replace(b'\\"', b'"')
                if name.lstrip(b"/") in names:
                    yield name.lstrip(b"/")
    if process.returncode:
        raise HostFault("rdsquashfs failed on a layer", details=image.name)
