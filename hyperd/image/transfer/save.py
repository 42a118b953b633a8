"""Images as one tar: Docker's archive of version 1.10 and later, or an OCI layout (image-spec, image-layout.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from hyperd.errors import Cancelled, HostFault, InvalidInput
from hyperd.image import manifest as manifests
from hyperd.image.catalog import Catalog
from hyperd.image.layer import tarstream
from hyperd.image.layer.packing import Packer
from hyperd.image.layer.tarstream import Entry
from hyperd.image.origins import Source
from hyperd.registry.reference import DOCKER_DOMAIN, Reference
from hyperd.registry.transport import Stop

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"  # containerd's and Docker's: the whole name
MAX_NAMES = 1024
_REF = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_NO_BLOCK = bytes(2 * tarstream.BLOCK)


@dataclass
class Wanted:
    """An image to be saved, the names it was asked for by, and their names in an OCI layout."""

    image_id: str
    names: list[Reference]
    references: list[tuple[Reference | None, str]]


class Saver:
    """Writes archives. Safe for threads.

    Args:
        catalog: the rows.
        packer: gives layers and manifests the form in which they leave.

    """

    def __init__(self, *, catalog: Catalog, packer: Packer) -> None:
        self._catalog = catalog
        self._packer = packer

    def save(
        self, names: Sequence[str], *, oci: bool, references: Mapping[str, str], cancelled: Callable[[], bool]
    ) -> Iterator[bytes]:
        """Yield the archive's bytes; the images stay until the last of them or ``close``.

        Args:
            names: as for ``ImageService.get``; a repository without a tag means all its tags.
            oci: as OCI image layout, else as Docker's archive.
            references: for images by name, what they are called in the layout.
            cancelled: asked between pieces of work.

        Raises:
            InvalidInput: no names or too many, or a reference that an OCI layout cannot have; at once.
            ImageNotFound: there is no such image; at once.
            OutOfSpace, HostFault: this host's part; when the bytes are read.

        """
        if not names or len(names) > MAX_NAMES:
            raise InvalidInput("names of images are needed", details=f"{len(names)} were given, {MAX_NAMES} at most")
        for name, reference in references.items():
            if not _REF.fullmatch(reference):
                raise InvalidInput(f"{reference[:200]!r} cannot be a reference", details=f"of {name[:200]}")
        wanted = self._wanted(names, references)
        return self._oci(wanted, cancelled) if oci else self._docker(wanted)

    def _wanted(self, names: Sequence[str], references: Mapping[str, str]) -> list[Wanted]:
        found: dict[str, Wanted] = {}
        for name in names:
            for image_id, reference in self._resolve(name):
                one = found.setdefault(image_id, Wanted(image_id, [], []))
                asked = references.get(name) or (references.get(reference.familiar) if reference is not None else "")
                if reference is not None and reference not in one.names:
                    one.names.append(reference)
                entry = (reference, asked or (reference.tag if reference is not None else ""))
                if entry not in one.references:
                    one.references.append(entry)
        return list(found.values())

    def _resolve(self, name: str) -> list[tuple[str, Reference | None]]:
        try:
            reference = self._catalog.parse(name)
        except InvalidInput:
            reference = None
        if reference is not None and not reference.tag and not reference.digest:
            tags = [reference.with_tag(tag) for tag in self._catalog.tags(reference.repository)]
            if tags:
                return [(self._catalog.image_of_tag(one.repository, one.tag), one) for one in tags]
        image_id, found = self._catalog.find(name)
        return [(image_id, found.with_default_tag() if found is not None and not found.digest else None)]

    def _docker(self, wanted: Sequence[Wanted]) -> Iterator[bytes]:
        with ExitStack() as stack:
            images = [(one, *stack.enter_context(self._packer.held(one.image_id))) for one in wanted]
            entries = [
                {
                    "Config": f"{one.image_id.removeprefix('sha256:')}.json",
                    "RepoTags": [portable(name) for name in one.names] or None,
                    "Layers": [_layer_name(source) for source in sources],
                }
                for one, _, sources in images
            ]
            yield from _file("manifest.json", json.dumps(entries).encode())
            for one, config, _ in images:
                yield from _file(f"{one.image_id.removeprefix('sha256:')}.json", config)
            for source in {source.diff_id: source for _, _, sources in images for source in sources}.values():
                yield from _stream(_layer_name(source), source.size, self._packer.read_tar(source.diff_id))
            yield _NO_BLOCK

    def _oci(self, wanted: Sequence[Wanted], cancelled: Callable[[], bool]) -> Iterator[bytes]:
        with ExitStack() as stack:
            index: list[dict[str, Any]] = []
            small: dict[str, bytes] = {}
            large: dict[str, int] = {}
            for one in wanted:
                config, sources = stack.enter_context(self._packer.held(one.image_id))
                known = self._packer.manifest(one.image_id, sources, oci_only=True)
                if known is None:
                    layers = [
                        self._packer.outgoing(source, progress=_Check(cancelled), stop=Stop()) for source in sources
                    ]
                    manifest = manifests.new_manifest(config, layers, oci=True)
                else:
                    manifest, layers = known
                small |= {manifest.digest: manifest.body, "sha256:" + sha256(config).hexdigest(): config}
                large |= {layer.digest: layer.size for layer in layers}
                descriptor = {
                    "mediaType": manifest.media_type,
                    "digest": manifest.digest,
                    "size": len(manifest.body),
                }
                index += [{**descriptor, **_annotations(*entry)} for entry in one.references]
            yield from _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            document = {"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": index}
            yield from _file("index.json", json.dumps(document).encode())
            for digest, body in small.items():
                yield from _file(_blob_name(digest), body)
            for digest, size in large.items():
                yield from _stream(_blob_name(digest), size, self._packer.read(digest))
            yield _NO_BLOCK


class _Check:
    """Takes progress, and ends the work when the client has left."""

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled = cancelled

    def __call__(self, _done: int) -> None:
        if self._cancelled():
            raise Cancelled("the client has left")


def _annotations(name: Reference | None, reference: str) -> dict[str, dict[str, str]]:
    found = {IMAGE_NAME: name.canonical} if name is not None else {}
    if reference:
        found[REF_NAME] = reference
    return {"annotations": found} if found else {}


def portable(name: Reference) -> str:
    """Return a name that means the same elsewhere, where another registry is left out of names."""
    return replace(name, default_domain=DOCKER_DOMAIN).familiar


def _layer_name(source: Source) -> str:
    return f"{source.diff_id.removeprefix('sha256:')}.tar"


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _file(name: str, data: bytes) -> Iterator[bytes]:
    yield from _stream(name, len(data), [data])


def _stream(name: str, size: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield tarstream.pack(Entry(name.encode(), tarstream.FILE), size=size)
    given = 0
    for piece in pieces:
        given += len(piece)
        yield piece
    if given != size:  # what was stored is not what its row says
        raise HostFault("a stored layer has another size than it had", details=f"{name}: {given}, not {size}")
    yield bytes(-size % tarstream.BLOCK)
