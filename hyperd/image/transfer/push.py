"""Pushing an image: its layers' blobs in parallel, the configuration, then the manifest it came with or a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256

import structlog

from hyperd.config.model import RegistryConfig
from hyperd.errors import RegistryError
from hyperd.failpoint import failpoint
from hyperd.image import manifest as manifests
from hyperd.image.catalog import Catalog
from hyperd.image.layer.packing import Packer
from hyperd.image.manifest import Descriptor
from hyperd.image.origins import Provenance, Source
from hyperd.image.progress import PushFinished, PushPhase, PushProgress, PushStarted, Sink
from hyperd.image.transfer.pull import host_of
from hyperd.image.work import Workers
from hyperd.registry.auth import AuthConfig, TokenCache
from hyperd.registry.push import Outgoing, PushClient, Upload
from hyperd.registry.reference import Reference
from hyperd.registry.transport import Stop, Transport

log = structlog.get_logger(__name__)

MOUNT_TRIES = 3  # repositories that are tried as the source of a mount


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
        catalog: the rows.
        provenance: the rows of blobs and manifests.
        transport: connections.
        tokens: bearer tokens.
        workers: the transfers' threads.
        packer: gives layers and manifests the form in which they leave.

    """

    def __init__(
        self,
        *,
        config: RegistryConfig,
        catalog: Catalog,
        provenance: Provenance,
        transport: Transport,
        tokens: TokenCache,
        workers: Workers,
        packer: Packer,
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._provenance = provenance
        self._transport = transport
        self._tokens = tokens
        self._workers = workers
        self._packer = packer

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
        reference = job.reference
        with self._packer.held(job.image_id) as (config, sources):
            client = job.make_client(())
            wanted = self._provenance.tag_digest(reference.repository, reference.tag)
            known = self._packer.manifest(job.image_id, sources, prefer=wanted)
            if known is not None:
                manifest, layers = known
                self._send_layers(job, client, [_Task(s, d, d.digest) for s, d in zip(sources, layers, strict=True)])
            else:
                oci = self._packer.is_oci(sources)
                layers = self._send_layers(job, client, [_Task(source, None, source.diff_id) for source in sources])
                manifest = manifests.new_manifest(config, layers, oci=oci)
            self._send_config(client, config)
            failpoint("image.push.config_sent")
            digest = client.put_manifest(job.reference.tag, manifest)
            failpoint("image.push.manifest_sent")
        self._provenance.add_manifest(job.image_id, manifest)
        self._provenance.note_push(job.reference, job.image_id, digest)
        failpoint("image.push.noted")
        job.sink(PushFinished(tag=job.reference.tag, digest=digest, size=len(manifest.body)))
        return digest

    def _send_layers(self, job: _Job, client: PushClient, tasks: Sequence[_Task]) -> list[Descriptor]:
        job.sink(PushStarted(repository=job.reference.canonical_repository))
        unique = {task.key: task for task in tasks}
        for task in reversed(unique.values()):
            PushProgress(job.sink, task.source.diff_id).phase(PushPhase.PREPARING)
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
        told = PushProgress(job.sink, task.source.diff_id)
        if (layer := task.layer) is None:
            layer = self._packer.outgoing(
                task.source,
                progress=lambda done: told.transfer(PushPhase.COMPRESSING, done, task.source.size),
                stop=job.stop,
            )
        if client.has_blob(layer.digest):
            told.phase(PushPhase.EXISTS)
            return layer
        upload = None
        for source in self._mountable(job.reference, task.source.diff_id):
            if upload is not None:
                client.abandon(upload)
            upload = job.make_client((source,)).begin(layer.digest, source=source)
            if upload is None:
                told.phase(PushPhase.MOUNTED, source=source)
                return layer
        told.transfer(PushPhase.PUSHING, 0, layer.size)
        client.send_blob(
            upload or _begun(client.begin(layer.digest), client.host),
            Outgoing(
                digest=layer.digest,
                size=layer.size,
                open_at=lambda offset: self._packer.read(layer.digest, offset),
                progress=lambda sent: told.transfer(PushPhase.PUSHING, sent, layer.size),
            ),
        )
        told.phase(PushPhase.PUSHED)
        failpoint("image.push.layer_sent")
        return layer

    def _send_config(self, client: PushClient, config: bytes) -> None:
        digest = "sha256:" + sha256(config).hexdigest()
        if not client.has_blob(digest):
            blob = Outgoing(
                digest=digest, size=len(config), open_at=lambda at: iter([config[at:]]), progress=lambda _sent: None
            )
            client.send_blob(_begun(client.begin(digest), client.host), blob)

    def _mountable(self, reference: Reference, diff_id: str) -> list[str]:
        """Return paths of other repositories of the same registry that have had this layer."""
        found = []
        for repository in self._provenance.repositories(diff_id):
            other = self._catalog.parse(repository)
            if other.domain == reference.domain and other.path != reference.path:
                found.append(other.path)
        return found[:MOUNT_TRIES]


def _begun(upload: Upload | None, host: str) -> Upload:
    if upload is None:
        raise RegistryError(f"{host} has mounted a blob from nowhere")
    return upload
