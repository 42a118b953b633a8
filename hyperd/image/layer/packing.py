"""The form in which layers and manifests leave this host, for pushing and for saving."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256

from hyperd.errors import HostFault
from hyperd.image import manifest as manifests
from hyperd.image.catalog import Catalog
from hyperd.image.layer.compression import MAGIC, decompressed, kind_of
from hyperd.image.layer.convert import disk_errors, sync_file
from hyperd.image.manifest import Descriptor
from hyperd.image.origins import Blob, Provenance, Source
from hyperd.image.store import ImageStore, size_of
from hyperd.registry.client import RawManifest
from hyperd.registry.transport import Stop

_CHUNK = 256 * 1024
_STRIPES = 16
_LEVEL = 6  # of gzip, as everybody's
_MISSING = "missing"


class Packer:
    """Chooses among the stored forms of a layer, and makes the gzip form of one that was made here. Safe for threads.

    Args:
        store: the files.
        catalog: the rows.
        provenance: the rows of blobs and manifests.
        max_bytes: bound of an uncompressed layer.

    """

    def __init__(self, *, store: ImageStore, catalog: Catalog, provenance: Provenance, max_bytes: int) -> None:
        self._store = store
        self._catalog = catalog
        self._provenance = provenance
        self._max_bytes = max_bytes
        self._locks = [threading.Lock() for _ in range(_STRIPES)]  # of two who want a layer packed one packs it

    @contextmanager
    def held(self, image_id: str) -> Iterator[tuple[bytes, list[Source]]]:
        """Yield an image's configuration and layers; the layers stay while the block runs, even without the image.

        Raises:
            ImageNotFound: there is no such image.

        """
        with self._store.lock:  # an image that goes at this moment is gone whole or stays whole
            config, sources = self._provenance.config_blob(image_id), self._provenance.sources(image_id)
            diff_ids = [source.diff_id for source in sources]
            pins = ExitStack()
            pins.enter_context(self._store.pinned(diff_ids))
        try:
            yield config, sources
        finally:
            with self._store.lock:
                pins.close()
                # The image may be gone: what was spared for this block only goes now.
                layers, blobs = self._catalog.drop_layers(diff_ids, spare=self._store.pins())
                self._store.remove_layers(layers, blobs)

    def manifest(
        self, image_id: str, sources: Sequence[Source], *, prefer: str = "", oci_only: bool = False
    ) -> tuple[RawManifest, list[Descriptor]] | None:
        """Choose a manifest the image came with whose blobs are all here.

        Args:
            image_id: the image.
            sources: its layers.
            prefer: a digest that comes first, else the newest does.
            oci_only: not one of Docker's form.

        """
        diff_ids = [source.diff_id for source in sources]
        for raw in sorted(self._provenance.manifests(image_id), key=lambda raw: raw.digest != prefer):
            if oci_only and raw.media_type != manifests.OCI_MANIFEST:
                continue
            layers = list(manifests.parse_manifest(manifests.load(raw.body)).layers)
            whole = all(size_of(self._store.blob_path(layer.digest)) == layer.size for layer in layers)
            if whole and [self._catalog.blob_layer(layer.digest) for layer in layers] == diff_ids:
                return raw, layers
        return None

    def is_oci(self, sources: Sequence[Source]) -> bool:
        """Tell which form a new manifest has: that of the layers that came from elsewhere; Docker's knows no zstd."""
        for source in sources:
            oci = source.media_type.startswith(manifests.OCI_PREFIX)
            if source.blob and (oci or self._kind(source.blob) == "zstd"):
                return True
        return False

    def outgoing(self, source: Source, *, progress: Callable[[int], object], stop: Stop) -> Descriptor:
        """Return the form in which a layer leaves: the one it came in, else gzip, which is made when there is none.

        Args:
            source: the layer, which somebody holds.
            progress: gets the number of uncompressed bytes that were packed.
            stop: ends it.

        Raises:
            HostFault: the layer's data is lost.
            OutOfSpace: no room for the packed form.
            Cancelled: ``stop`` was switched.

        """
        with self._locks[hash(source.diff_id) % _STRIPES]:
            blobs = self.usable(source.diff_id)
            if source.blob in blobs:
                return _descriptor(*blobs[source.blob])
            for blob, kind in blobs.values():
                if kind == "gzip":
                    return _descriptor(blob, kind)
            first, _ = next(iter(blobs.values()))
            made = self._pack(source.diff_id, first, progress, stop)
            if not source.blob:  # the store's own form is needed no more
                with self._store.lock:
                    for gone in self._provenance.forget_blobs([first.digest]):
                        self._store.remove(self._store.blob_path(gone))
            return _descriptor(made, "gzip")

    def usable(self, diff_id: str) -> dict[str, tuple[Blob, str]]:
        """Return the forms of a layer that are here by digest, each with its compression.

        Raises:
            HostFault: there is none.

        """
        found = {blob.digest: (blob, self._kind(blob.digest)) for blob in self._provenance.blobs(diff_id)}
        found = {digest: (blob, kind) for digest, (blob, kind) in found.items() if kind != _MISSING}
        if not found:
            raise HostFault("the data of a layer is lost", details=diff_id, resolution="pull or build the image again")
        return found

    def read(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        """Yield a stored blob from an offset on; whoever reads holds its layer."""
        with disk_errors(), self._store.blob_path(digest).open("rb", buffering=0) as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                yield chunk

    def read_tar(self, diff_id: str) -> Iterator[bytes]:
        """Yield a layer's uncompressed tar. Errors: as ``usable``."""
        with self._locks[hash(diff_id) % _STRIPES]:
            blob, _ = next(iter(self.usable(diff_id).values()))
            pieces = self.read(blob.digest)
            first = next(pieces, b"")  # it is open now: a form that is forgotten meanwhile can be read to its end
        return decompressed(_behind(first, pieces), max_bytes=self._max_bytes)

    def _kind(self, digest: str) -> str:
        try:
            with self._store.blob_path(digest).open("rb") as file:
                return kind_of(file.read(MAGIC))
        except FileNotFoundError:
            return _MISSING

    def _pack(self, diff_id: str, blob: Blob, progress: Callable[[int], object], stop: Stop) -> Blob:
        digest, size = sha256(), 0
        with self._store.new_file() as (file, path):
            for done, data in _packed(decompressed(self.read(blob.digest), max_bytes=self._max_bytes)):
                stop.check()
                digest.update(data)
                size += len(data)
                with disk_errors():
                    file.write(data)
                progress(done)
            sync_file(file)
            made = Blob(f"sha256:{digest.hexdigest()}", size)
            with self._store.lock:
                self._store.keep(path, self._store.blob_path(made.digest))
                self._provenance.add_blob(made.digest, diff_id=diff_id, size=size)
        return made


def _behind(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _packed(pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    packer, done = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31), 0
    for piece in pieces:
        done += len(piece)
        yield done, packer.compress(piece)
    yield done, packer.flush()


def _descriptor(blob: Blob, kind: str) -> Descriptor:
    return Descriptor(manifests.layer_type(kind), blob.digest, blob.size)
