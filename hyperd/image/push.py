"""Pushing an image: its layers' blobs in parallel, the configuration, then the manifest it came with or a new one."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256

import structlog

from hyperd.config import RegistryConfig
from hyperd.errors import HostFault, RegistryError
from hyperd.image import manifest as manifests
from hyperd.image.catalog import Catalog
from hyperd.image.compression import MAGIC, decompressed, kind_of
from hyperd.image.layer import disk_errors, sync_file
from hyperd.image.manifest import Descriptor
from hyperd.image.progress import LayerProgress, Sink
from hyperd.image.provenance import Blob, Provenance, Source
from hyperd.image.pull import host_of
from hyperd.image.store import ImageStore, size_of
from hyperd.image.work import Workers
from hyperd.registry.auth import AuthConfig, TokenCache
from hyperd.registry.client import RawManifest
from hyperd.registry.push import Outgoing, PushClient, Upload
from hyperd.registry.reference import Reference
from hyperd.registry.transport import Stop, Transport

log = structlog.get_logger(__name__)

MOUNT_TRIES = 3  # repositories that are tried as the source of a mount
_CHUNK = 256 * 1024
_STRIPES = 16
_LEVEL = 6  # of gzip, as everybody's


@dataclass
class _Job:
    reference: Reference
    image_id: str
    sink: Sink
    stop: Stop
    make_client: Callable[[Sequence[str]], PushClient]


@dataclass(frozen=True)
class _Task:
    """A layer to be sent: as ``layer`` says, or in whichever form there is."""

    source: Source
    layer: Descriptor | None
    key: str


class Pusher:
    """Pushes images of a store. Safe for threads.

    Args:
        config: limits.
        store: the files.
        catalog: the rows.
        provenance: the rows of blobs and manifests.
        transport: connections.
        tokens: bearer tokens.
        workers: the transfers' threads.

    """

    def __init__(
        self,
        *,
        config: RegistryConfig,
        store: ImageStore,
        catalog: Catalog,
        provenance: Provenance,
        transport: Transport,
        tokens: TokenCache,
        workers: Workers,
    ) -> None:
        self._config = config
        self._store = store
        self._catalog = catalog
        self._provenance = provenance
        self._transport = transport
        self._tokens = tokens
        self._workers = workers
        self._packing = [threading.Lock() for _ in range(_STRIPES)]  # of two pushes one packs a layer

    def push(
        self,
        reference: Reference,
        image_id: str,
        *,
        auth: AuthConfig | None,
        headers: Mapping[str, str],
        progress: Sink,
        cancelled: Callable[[], bool],
    ) -> str:
        """Push an image under a name with a tag; give the manifest's digest.

        Raises:
            ImageNotFound: it was removed.
            Unauthorized, Forbidden, RegistryError, Timeout: the registry's part.
            OutOfSpace, HostFault: this host's part.
            Cancelled: ``cancelled`` said yes.

        """

        def work(sink: Sink, stop: Stop) -> str:
            def make_client(sources: Sequence[str]) -> PushClient:
                return PushClient(
                    sources=sources,
                    transport=self._transport,
                    tokens=self._tokens,
                    host=host_of(reference.domain),
                    path=reference.path,
                    auth=auth,
                    headers=headers,
                    stop=stop,
                )

            return self._push(_Job(reference, image_id, sink, stop, make_client))

        return self._workers.run("image-push", work, progress=progress, cancelled=cancelled)

    def _push(self, job: _Job) -> str:
        with ExitStack() as stack:
            with self._store.lock:  # an image that goes at this moment is gone whole or stays whole
                sources = self._provenance.sources(job.image_id)
                config = self._provenance.config_blob(job.image_id)
                stack.enter_context(self._store.pinned([source.diff_id for source in sources]))
            client = job.make_client(())
            known = self._known_manifest(job, sources)
            if known is not None:
                manifest, layers = known
                self._send_layers(job, client, [_Task(s, d, d.digest) for s, d in zip(sources, layers, strict=True)])
            else:
                oci = self._is_oci(sources)
                layers = self._send_layers(job, client, [_Task(source, None, source.diff_id) for source in sources])
                manifest = manifests.new_manifest(config, layers, oci=oci)
            self._send_config(client, config)
            digest = client.put_manifest(job.reference.tag, manifest)
        self._provenance.add_manifest(job.image_id, manifest)
        self._provenance.note_push(job.reference, job.image_id, digest)
        size, tag = len(manifest.body), job.reference.tag
        job.sink({"status": f"{tag}: digest: {digest} size: {size}"})
        job.sink({"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": size}})
        return digest

    def _known_manifest(self, job: _Job, sources: Sequence[Source]) -> tuple[RawManifest, list[Descriptor]] | None:
        """Choose a manifest the image came with whose blobs are all here: the name's own one, else the newest."""
        wanted = self._provenance.tag_digest(job.reference.repository, job.reference.tag)
        diff_ids = [source.diff_id for source in sources]
        for raw in sorted(self._provenance.manifests(job.image_id), key=lambda raw: raw.digest != wanted):
            layers = list(manifests.parse_manifest(manifests.load(raw.body)).layers)
            whole = all(size_of(self._store.blob_path(layer.digest)) == layer.size for layer in layers)
            if whole and [self._catalog.blob_layer(layer.digest) for layer in layers] == diff_ids:
                return raw, layers
        return None

    def _is_oci(self, sources: Sequence[Source]) -> bool:
        """Tell which form a new manifest has: that of the layers that came from elsewhere; Docker's knows no zstd."""
        for source in sources:
            if source.blob and (
                source.media_type.startswith(manifests.OCI_PREFIX) or self._kind(source.blob) == "zstd"
            ):
                return True
        return False

    def _kind(self, digest: str) -> str:
        try:
            with self._store.blob_path(digest).open("rb") as file:
                return kind_of(file.read(MAGIC))
        except OSError:
            return "missing"

    def _send_layers(self, job: _Job, client: PushClient, tasks: Sequence[_Task]) -> list[Descriptor]:
        job.sink({"status": f"The push refers to a repository [{job.reference.canonical_repository}]"})
        unique = {task.key: task for task in tasks}
        for task in reversed(unique.values()):
            LayerProgress(job.sink, task.source.diff_id).status("Preparing")
        with ThreadPoolExecutor(self._config.parallel_layers, thread_name_prefix="image-push-layer") as pool:
            futures = {pool.submit(self._send_layer, job, client, task): key for key, task in unique.items()}
            try:
                sent = {futures[future]: future.result() for future in as_completed(futures)}
            except BaseException:
                job.stop.set()
                raise
        return [sent[task.key] for task in tasks]

    def _send_layer(self, job: _Job, client: PushClient, task: _Task) -> Descriptor:
        job.stop.check()
        line = LayerProgress(job.sink, task.source.diff_id)
        if (layer := task.layer) is None:
            with self._packing[hash(task.source.diff_id) % len(self._packing)]:
                layer = self._outgoing(job, task.source, line)
        if client.has_blob(layer.digest):
            line.status("Layer already exists")
            return layer
        upload = None
        for source in self._mountable(job.reference, task.source.diff_id):
            if upload is not None:
                client.abandon(upload)
            upload = job.make_client((source,)).begin(layer.digest, source=source)
            if upload is None:
                line.status(f"Mounted from {source}")
                return layer
        line.transfer("Pushing", 0, layer.size)
        client.send_blob(
            upload or _begun(client.begin(layer.digest), client.host),
            Outgoing(
                digest=layer.digest,
                size=layer.size,
                open_at=lambda offset: self._read(layer.digest, offset),
                progress=lambda sent: line.transfer("Pushing", sent, layer.size),
            ),
        )
        line.status("Pushed")
        return layer

    def _send_config(self, client: PushClient, config: bytes) -> None:
        digest = "sha256:" + sha256(config).hexdigest()
        if not client.has_blob(digest):
            blob = Outgoing(
                digest=digest, size=len(config), open_at=lambda at: iter([config[at:]]), progress=lambda _sent: None
            )
            client.send_blob(_begun(client.begin(digest), client.host), blob)

    def _mountable(self, reference: Reference, diff_id: str) -> list[str]:
        """Give paths of other repositories of the same registry that have had this layer."""
        found = []
        for repository in self._provenance.repositories(diff_id):
            other = self._catalog.parse(repository)
            if other.domain == reference.domain and other.path != reference.path:
                found.append(other.path)
        return found[:MOUNT_TRIES]

    def _read(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        with disk_errors(), self._store.blob_path(digest).open("rb", buffering=0) as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                yield chunk

    def _outgoing(self, job: _Job, source: Source, line: LayerProgress) -> Descriptor:
        """Give the form in which a layer leaves: the one it came in, else gzip, which is made when there is none."""
        blobs = {blob.digest: blob for blob in self._provenance.blobs(source.diff_id)}
        kinds = {digest: self._kind(digest) for digest in blobs}
        if source.blob in blobs and kinds[source.blob] != "missing":
            return _descriptor(blobs[source.blob], kinds[source.blob])
        for digest, kind in kinds.items():
            if kind == "gzip":
                return _descriptor(blobs[digest], kind)
        usable = [blob for digest, blob in blobs.items() if kinds[digest] != "missing"]
        if not usable:
            raise HostFault(
                "the data of a layer is lost", details=source.diff_id, resolution="pull or build the image again"
            )
        return _descriptor(self._pack(job, source, usable[0], line), "gzip")

    def _pack(self, job: _Job, source: Source, blob: Blob, line: LayerProgress) -> Blob:
        """Compress a layer that was made here; its gzip form takes the place of the store's own."""
        packer, digest, size, done = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31), sha256(), 0, 0
        with self._store.new_file() as (file, path):
            pieces = decompressed(self._read(blob.digest), max_bytes=self._config.max_layer_bytes)
            for packed in _packed(packer, pieces):
                job.stop.check()
                done, data = packed
                digest.update(data)
                size += len(data)
                with disk_errors():
                    file.write(data)
                line.transfer("Compressing", done, source.size)
            sync_file(file)
            made = Blob(f"sha256:{digest.hexdigest()}", size)
            with self._store.lock:
                self._store.keep(path, self._store.blob_path(made.digest))
                self._provenance.add_blob(made.digest, diff_id=source.diff_id, size=size)
                for gone in self._provenance.forget_blobs([] if source.blob else [blob.digest]):
                    self._store.remove(self._store.blob_path(gone))
        return made


def _packed(packer: zlib._Compress, pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    done = 0
    for piece in pieces:
        done += len(piece)
        yield done, packer.compress(piece)
    yield done, packer.flush()


def _descriptor(blob: Blob, kind: str) -> Descriptor:
    return Descriptor(manifests.layer_type(kind), blob.digest, blob.size)


def _begun(upload: Upload | None, host: str) -> Upload:
    if upload is None:
        raise RegistryError(f"{host} has mounted a blob from nowhere")
    return upload
