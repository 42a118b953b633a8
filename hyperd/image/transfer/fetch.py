"""One layer on its way from a registry into the store."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO

import structlog

from hyperd.errors import InvalidInput, OutOfSpace, RegistryError, TooLarge
from hyperd.failpoint import failpoint
from hyperd.image.catalog import Catalog
from hyperd.image.layer.convert import disk_errors, sync_file
from hyperd.image.manifest import Descriptor
from hyperd.image.progress import PullPhase, PullProgress
from hyperd.image.store import ImageStore, size_of
from hyperd.image.transfer.layers import LayerIngest
from hyperd.registry.client import RegistryClient

log = structlog.get_logger(__name__)

_CHUNK = 256 * 1024


class _Stale(RegistryError):
    """What an earlier download had left does not fit: once more from the beginning."""


class LayerFetch:
    """Downloads a blob (or what is missing of it), checks it, and converts it on the way.

    Args:
        store: the files.
        catalog: the rows.
        ingest: converts and keeps it.
        client: the repository that has the blob.
        layer: the blob's descriptor.
        diff_id: the uncompressed digest that the image's configuration names.
        progress: is told how far it is.

    """

    def __init__(
        self,
        *,
        store: ImageStore,
        catalog: Catalog,
        ingest: LayerIngest,
        client: RegistryClient,
        layer: Descriptor,
        diff_id: str,
        progress: PullProgress,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._ingest = ingest
        self._client = client
        self._layer = layer
        self._diff_id = diff_id
        self._progress = progress
        self._blob = store.blob_path(layer.digest)
        self._partial = store.partial_path(layer.digest)
        self._opened = ExitStack()

    def run(self) -> None:
        """Bring the layer into the store, with its rows.

        A download that breaks off stays as ``.partial`` for the next try; what was refused or found no room is removed.

        Raises:
            RegistryError: the blob or the layer is not what its digest says; and as ``RegistryClient.blob``.
            InvalidInput, TooLarge: the layer is hostile or damaged.
            OutOfSpace, HostFault: this host's part.

        """
        if self._layer.size > self._ingest.max_bytes:
            raise TooLarge(f"a layer has more than {self._ingest.max_bytes} bytes")
        try:
            with self._opened:  # files and connections are closed now, not when the exception's frames are forgotten
                self._run()
        except _Stale:
            log.info("partial-download-stale", digest=self._layer.digest)
            with self._opened:
                self._run()
        self._progress.phase(PullPhase.COMPLETE)

    def _run(self) -> None:
        try:
            self._convert()
        except (InvalidInput, TooLarge, OutOfSpace, _WrongData):
            self._discard()
            raise

    def _convert(self) -> None:
        # A layer that is there from another blob is only measured, to see that this one is the same.
        with self._ingest.converted(self._chunks, diff_id=self._diff_id) as layer:
            if layer.built.diff_id != self._diff_id:
                raise _WrongData(
                    "a layer is not what the image's configuration says",
                    details=f"want {self._diff_id}, got {layer.built.diff_id}",
                )
            layer.keep(self._layer.digest, self._layer.size)

    def _discard(self) -> None:
        self._store.remove(self._partial)
        if not self._catalog.blob_layer(self._layer.digest):
            self._store.remove(self._blob)

    def _chunks(self) -> Iterator[bytes]:
        there = size_of(self._blob) == self._layer.size
        return self._opened.enter_context(closing(self._from_disk() if there else self._from_registry()))

    def _from_disk(self) -> Generator[bytes, None, None]:
        digest = hashlib.sha256()
        with disk_errors(), self._blob.open("rb", buffering=0) as file:
            for chunk in _read(file):
                digest.update(chunk)
                yield chunk
        if f"sha256:{digest.hexdigest()}" != self._layer.digest:
            self._store.remove(self._blob)
            raise _Stale("a stored blob is damaged", details=self._layer.digest)

    def _from_registry(self) -> Generator[bytes, None, None]:
        digest, size = hashlib.sha256(), self._layer.size
        with disk_errors():
            file = _open_partial(self._partial, size)
        with file:
            position = 0
            for chunk in _read(file):
                position += len(chunk)
                digest.update(chunk)
                yield chunk
            resumed = position
            for chunk in self._client.blob(self._layer.digest, size=size, offset=position):
                with disk_errors():
                    file.write(chunk)
                failpoint("image.pull.part_written")
                digest.update(chunk)
                position += len(chunk)
                self._progress.transfer(PullPhase.DOWNLOADING, position, size)
                yield chunk
            self._progress.phase(PullPhase.VERIFYING)
            if f"sha256:{digest.hexdigest()}" != self._layer.digest:
                self._store.remove(self._partial)
                kind = _Stale if resumed else _WrongData
                raise kind(f"{self._client.host} sent wrong data for {self._layer.digest}")
            sync_file(file)
        self._store.keep(self._partial, self._blob)
        failpoint("image.pull.blob_kept")
        self._progress.phase(PullPhase.DOWNLOADED)
        self._progress.transfer(PullPhase.EXTRACTING, size, size)


class _WrongData(RegistryError):
    """The data is not what a digest says."""


def _open_partial(path: Path, size: int) -> BinaryIO:
    path.touch(mode=0o600)
    file: BinaryIO = path.open("r+b", buffering=0)
    if file.seek(0, 2) > size:
        file.truncate(0)
    file.seek(0)
    return file


def _read(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
