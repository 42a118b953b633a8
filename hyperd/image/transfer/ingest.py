"""Layers and images that no registry sent: what was committed, built, loaded or imported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import structlog

from hyperd.errors import Conflict, InvalidInput, RegistryError, TooLarge
from hyperd.failpoint import failpoint
from hyperd.image import manifest as manifests
from hyperd.image.catalog import Catalog, NewImage, NewLayer
from hyperd.image.layer.compression import MAGIC, decompressed, kind_of
from hyperd.image.layer.convert import disk_errors, sync_file
from hyperd.image.layer.overlay_fixup import Trimmer
from hyperd.image.origins import Provenance
from hyperd.image.store import ImageStore, size_of
from hyperd.image.transfer.layers import LayerIngest, NewLayerFile
from hyperd.image.transfer.packer import BackgroundPacker
from hyperd.registry.client import RawManifest
from hyperd.registry.reference import Reference

log = structlog.get_logger(__name__)

_CHUNK = 256 * 1024
_KEPT = frozenset({"gzip", "zstd"})  # what registries and other tools take as a layer


@dataclass(frozen=True, kw_only=True)
class AddedLayer:
    """A layer that was added.

    Args:
        diff_id: ``sha256:`` of the uncompressed tar.
        size: of it, bytes.
        image_size: of the squashfs file, bytes.
        blob: digest of the data that is kept for pushing and saving.
        blob_size: of it, bytes.
        kept: whether these are the very bytes that came; else they are the store's own form and never leave it.

    """

    diff_id: str
    size: int
    image_size: int
    blob: str
    blob_size: int
    kept: bool


class Intake:
    """One piece of work that adds layers, then images of them. Safe for threads.

    While the ``with`` block runs nobody removes what was added. When it ends with an exception (or always, unless
    ``keep_unused``), added layers that no image uses are removed again.
    """

    def __init__(
        self,
        *,
        store: ImageStore,
        catalog: Catalog,
        provenance: Provenance,
        trimmer: Trimmer,
        layers: LayerIngest,
        keep_unused: bool = False,
    ) -> None:
        self._keep_unused = keep_unused
        self._store = store
        self._catalog = catalog
        self._provenance = provenance
        self._trimmer = trimmer
        self._layers = layers
        self._added: set[str] = set()
        self._pins = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._store.lock:
            self._pins.close()
            if self._added and not (self._keep_unused and kind is None):
                layers, blobs = self._catalog.drop_layers(self._added, spare=self._store.pins())
                self._store.remove_layers(layers, blobs)

    def add_layer(
        self, open_chunks: Callable[[], Iterator[bytes]], *, diff_id: str = "", digest: str = ""
    ) -> AddedLayer:
        """Convert a layer and keep its data.

        Args:
            open_chunks: starts the stream of a tar, compressed or not; called once.
            diff_id: what the uncompressed tar must be, empty when nobody knows.
            digest: what the stream itself must be, empty when nobody knows.

        Raises:
            InvalidInput, TooLarge: it is hostile or damaged, or not what a digest says.
            OutOfSpace, HostFault: this host's part.
            Whatever the stream raises.

        """
        with (
            self._store.new_file() as (blob, blob_path),
            _Recorder(open_chunks, blob, max_bytes=self._layers.max_bytes, named=bool(digest)) as recorder,
            self._layers.converted(recorder.open) as layer,
        ):
            recorder.finish()
            for what, wanted, got in (("layer", diff_id, layer.built.diff_id), ("blob", digest, recorder.source)):
                if wanted and wanted != got:
                    raise InvalidInput(f"a {what} is not what its digest says", details=f"want {wanted}, got {got}")
            sync_file(blob)
            failpoint("image.add.blob_written")
            return self._keep(layer, recorder, blob_path)

    def hold(self, digests: Collection[str]) -> None:
        """Keep layers (by diff_id) and blobs (by digest) from being removed until the end of this piece of work."""
        self._pins.enter_context(self._store.pinned(digests))

    def _keep(self, layer: NewLayerFile, recorder: _Recorder, blob_path: Path) -> AddedLayer:
        store, kept, built = self._store, recorder.kept, layer.built
        with store.lock:  # nobody shall remove a layer between its row and its pin
            stored = (recorder.digest, recorder.size)
            if not kept:
                stored = next(
                    (
                        (blob.digest, blob.size)
                        for blob in self._provenance.blobs(built.diff_id)
                        if size_of(store.blob_path(blob.digest)) == blob.size
                    ),
                    stored,
                )
            if size_of(store.blob_path(stored[0])) < 0:
                store.keep(blob_path, store.blob_path(stored[0]))
                failpoint("image.add.blob_named")
            fresh = layer.keep(*stored)
            self._pins.enter_context(store.pinned([built.diff_id]))
            if fresh:
                self._added.add(built.diff_id)
        return AddedLayer(
            diff_id=built.diff_id,
            size=built.size,
            image_size=built.image_size,
            blob=stored[0],
            blob_size=stored[1],
            kept=kept,
        )

    def use_layer(self, diff_id: str, *, blob: str = "") -> bool:
        """Hold a layer that is in the store already, with its data (in the form ``blob``); tell whether it is."""
        store = self._store
        with store.lock:
            there = self._catalog.layer_size(diff_id) >= 0 and size_of(store.layer_path(diff_id)) >= 0
            if there and any(
                size_of(store.blob_path(one.digest)) == one.size and blob in {"", one.digest}
                for one in self._provenance.blobs(diff_id)
            ):
                self._pins.enter_context(store.pinned([diff_id]))
                return True
        return False

    def add_image(
        self,
        config: Mapping[str, Any],
        layers: Sequence[AddedLayer | NewLayer | str],
        *,
        blob: bytes = b"",
        tags: Sequence[Reference] = (),
        parent: str = "",
        manifest: RawManifest | None = None,
        digest: str = "",
    ) -> tuple[str, list[tuple[Reference, str]]]:
        """Register an image.

        Args:
            config: its configuration (OCI image-spec, config.md); ``rootfs`` is written from ``layers``.
            layers: bottom first; a diff_id alone means a layer that is in the store.
            blob: the configuration's bytes when they must stay as they came.
            tags: names it gets.
            parent: id of the image it was built from here.
            manifest: the manifest it came with, if any.
            digest: of the manifest or index that the names mean where it came from.

        Returns:
            Its id, and the names that were taken from other images with those images' ids.

        Raises:
            InvalidInput, TooLarge, NotSupported: the configuration is nonsense or for another system.
            Conflict: a layer is missing.

        """
        rows = [self._described(layer) for layer in layers]
        diff_ids = [row.diff_id for row in rows]
        if len(rows) > manifests.MAX_LAYERS:
            raise TooLarge(f"an image can have {manifests.MAX_LAYERS} layers", details=f"{len(rows)} were asked for")
        if not blob:
            config, blob = _configuration(config, diff_ids)
        _check_configuration(config, blob, diff_ids)
        image_id = "sha256:" + hashlib.sha256(blob).hexdigest()
        with self._trimmer.trimmed(diff_ids) as trim, self._store.lock:
            self._catalog.add_image(
                NewImage(
                    id=image_id,
                    blob=blob,
                    config=config,
                    layers=rows,
                    created_at=created_at(config),
                    parent=parent,
                    trim=trim,
                )
            )
            failpoint("image.add.row_written")
            if manifest is not None:
                self._provenance.add_manifest(image_id, manifest)
                failpoint("image.add.manifest_written")
            return image_id, self._name(image_id, tags, digest)

    def _name(self, image_id: str, tags: Sequence[Reference], digest: str) -> list[tuple[Reference, str]]:
        taken = []
        for reference in tags:
            before = self._catalog.image_of_tag(reference.repository, reference.tag)
            self._catalog.set_name(reference, image_id, digest=digest)
            failpoint("image.add.named")
            if before not in {"", image_id}:
                taken.append((reference, before))
        return taken

    def _described(self, layer: AddedLayer | NewLayer | str) -> NewLayer:
        if isinstance(layer, NewLayer):
            return layer
        if isinstance(layer, AddedLayer):
            return NewLayer(diff_id=layer.diff_id)
        if self._catalog.layer_size(layer) < 0:
            raise Conflict("an image cannot be added without its layers", details=layer[:100])
        return self._provenance.origin(layer)


def _configuration(config: Mapping[str, Any], diff_ids: Sequence[str]) -> tuple[dict[str, Any], bytes]:
    """Complete a configuration that was made here; give it and its bytes."""
    rootfs = {"type": "layers", "diff_ids": list(diff_ids)}
    whole = {"architecture": manifests.host_architecture(), "os": "linux", **config, "rootfs": rootfs}
    return whole, json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()


def _check_configuration(config: Mapping[str, Any], blob: bytes, diff_ids: Sequence[str]) -> None:
    if len(blob) > manifests.MAX_CONFIG:
        raise TooLarge(f"an image's configuration has more than {manifests.MAX_CONFIG} bytes")
    try:
        named = manifests.diff_ids(config, len(diff_ids))
    except RegistryError as exc:
        raise InvalidInput("an image's configuration does not fit its layers", details=exc.details) from exc
    if list(named) != list(diff_ids):
        raise InvalidInput("an image's configuration does not fit its layers")


class _Recorder:
    """Passes a stream on and keeps it: as it came when that is a usual form, else compressed by zstd.

    ``open`` starts the stream the first time and reads what was kept from then on.
    """

    def __init__(
        self, open_chunks: Callable[[], Iterator[bytes]], file: BinaryIO, *, max_bytes: int, named: bool
    ) -> None:
        self._open_chunks = open_chunks
        self._max_bytes = max_bytes
        self._named = named
        self._file = file
        self._opened = ExitStack()
        self._begun = False
        self._packer: BackgroundPacker | None = None
        self._source = hashlib.sha256()
        self._size = 0
        self.kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        if self._packer is not None:
            self._packer.abandon()

    @property
    def source(self) -> str:
        """The digest of what came, if that is kept or somebody wants to know."""
        return f"sha256:{self._source.hexdigest()}"

    @property
    def digest(self) -> str:
        """The digest of what is kept."""
        return self.source if self._packer is None else self._packer.digest

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return self._size if self._packer is None else self._packer.size

    def open(self) -> Iterator[bytes]:
        if self._begun:
            self.finish()
            return self._opened.enter_context(closing(self._reread()))
        self._begun = True
        return self._opened.enter_context(closing(self._stream()))

    def finish(self) -> None:
        """Write what is left; the stream was read to its end."""
        if self._packer is not None:
            self._packer.finish()

    def _stream(self) -> Generator[bytes, None, None]:
        chunks, head = self._open_chunks(), b""
        for chunk in chunks:
            head += chunk
            if len(head) >= MAGIC:
                break
        kind = kind_of(head)
        self.kept = kind in _KEPT
        pieces: Iterator[bytes] = chain([head] if head else [], chunks)
        if self.kept or self._named:  # of a tar as it is the diff_id says the same, and is found out anyway
            pieces = self._hashed(pieces)
        if not self.kept:
            self._packer = BackgroundPacker(self._file)
            if kind:
                pieces = decompressed(pieces, max_bytes=self._max_bytes)
        for piece in pieces:
            self._write(piece)
            yield piece

    def _hashed(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._source.update(chunk)
            yield chunk

    def _write(self, data: bytes) -> None:
        if self._packer is not None:
            self._packer.write(data)
            return
        self._size += len(data)
        with disk_errors():
            self._file.write(data)

    def _reread(self) -> Generator[bytes, None, None]:
        with disk_errors():
            self._file.flush()
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK):
                yield chunk


def created_at(config: Mapping[str, Any]) -> float:
    """Read a configuration's RFC 3339 time; fractions finer than microseconds are cut, nonsense is the epoch."""
    try:
        return max(datetime.fromisoformat(str(config.get("created"))).timestamp(), 0.0)
    except (ValueError, OverflowError):
        return 0.0
