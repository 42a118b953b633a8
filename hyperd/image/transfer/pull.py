"""Pulling an image: manifest, configuration, layers in parallel, then the rows that make it an image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import structlog

from hyperd.config.model import RegistryConfig
from hyperd.errors import Cancelled, HyperError, InvalidInput, OutOfSpace, RegistryError, TooLarge
from hyperd.failpoint import failpoint
from hyperd.image import manifest as manifests
from hyperd.image.catalog import Catalog, NewLayer
from hyperd.image.manifest import Descriptor, Manifest
from hyperd.image.model import Distribution, Platform, text_of
from hyperd.image.progress import (
    Flights,
    PullFinished,
    PullPhase,
    PullProgress,
    PullSigned,
    PullStarted,
    Sink,
)
from hyperd.image.signing.signature import SignatureGuard
from hyperd.image.store import ImageStore, size_of
from hyperd.image.transfer.fetch import LayerFetch
from hyperd.image.transfer.ingest import Intake
from hyperd.image.transfer.layers import LayerIngest
from hyperd.image.work import Workers
from hyperd.registry.auth import AuthConfig, TokenCache
from hyperd.registry.client import RawManifest, RegistryClient
from hyperd.registry.reference import DOCKER_DOMAIN, Reference
from hyperd.registry.transport import Stop, Transport

log = structlog.get_logger(__name__)

DOCKER_HOST = "registry-1.docker.io"
_POLL = 0.2  # seconds between two looks at whether the pull was ended
_META_HEADER = "x-meta-"


@dataclass
class _Job:
    """One pull on its way through the steps."""

    reference: Reference
    sink: Sink
    stop: Stop
    auth: AuthConfig | None
    headers: Mapping[str, str]
    touched: set[str] = field(default_factory=set)  # diff_ids that this pull worked on


class Puller:
    """Pulls images into a store. Safe for threads; pulls that need the same layer share the work.

    Args:
        config: registries, mirrors, limits.
        store: the files.
        catalog: the rows.
        transport: connections.
        tokens: bearer tokens.
        workers: the transfers' threads.
        layers: converts and keeps layers.
        adding: begins an intake.
        signatures: says whose images may come in.

    """

    def __init__(
        self,
        *,
        config: RegistryConfig,
        store: ImageStore,
        catalog: Catalog,
        transport: Transport,
        tokens: TokenCache,
        workers: Workers,
        layers: LayerIngest,
        adding: Callable[[], Intake],
        signatures: SignatureGuard,
    ) -> None:
        self._config = config
        self._store = store
        self._catalog = catalog
        self._transport = transport
        self._tokens = tokens
        self._flights = Flights()
        self._workers = workers
        self._layers = layers
        self._adding = adding
        self._signatures = signatures

    def reconfigure(self, config: RegistryConfig) -> None:
        """Use other settings for pulls from now on."""
        self._config = config

    def pull(
        self,
        reference: Reference,
        *,
        auth: AuthConfig | None,
        headers: Mapping[str, str],
        progress: Sink,
        cancelled: Callable[[], bool],
    ) -> str:
        """Pull an image; give its id.

        ``progress`` and ``cancelled`` are called in the caller's thread only. When either raises, or ``cancelled`` says
        yes, the call ends at once; what was downloaded is kept for the next try for a day.

        Raises:
            ImageNotFound, Unauthorized, Forbidden, RegistryError, Timeout: the registry's part.
            SignatureRefused: the policy on signatures does not let it in.
            InvalidInput, TooLarge, NotSupported: the image is hostile, damaged or not for here.
            OutOfSpace, HostFault: this host's part.
            Cancelled: ``cancelled`` said yes.

        """
        target, sent = reference.with_default_tag(), meta_headers(headers)
        return self._workers.run(
            "image-pull",
            lambda sink, stop: self._pull(_Job(target, sink, stop, auth, sent)),
            progress=progress,
            cancelled=cancelled,
        )

    def tags(self, reference: Reference, *, auth: AuthConfig | None, cancelled: Callable[[], bool]) -> list[str]:
        """Return the tags that a repository has in its registry. Errors: the registry's, as ``pull``; Cancelled."""

        def work(_sink: Sink, stop: Stop) -> list[str]:
            client = RegistryClient(
                transport=self._transport,
                tokens=self._tokens,
                host=self._hosts(reference)[-1][0],
                path=reference.path,
                auth=auth,
                stop=stop,
            )
            return client.tags()

        return self._workers.run("image-tags", work, progress=lambda _event: None, cancelled=cancelled)

    def distribution(
        self, reference: Reference, *, auth: AuthConfig | None, cancelled: Callable[[], bool]
    ) -> Distribution:
        """Return what a registry has under a name. Errors: the registry's, as ``pull``; Cancelled."""

        def work(sink: Sink, stop: Stop) -> Distribution:
            client, top = self._resolve(_Job(reference.with_default_tag(), sink, stop, auth, {}))
            data = manifests.load(top.body)
            kind = manifests.kind_of(data, top.media_type)
            found: list[Mapping[str, Any]]
            if kind in {manifests.OCI_MANIFEST, manifests.DOCKER_MANIFEST}:
                described = manifests.parse_manifest(data).config
                found = [manifests.load(client.small_blob(described.digest, size=described.size))]
            else:
                found = manifests.platforms(data)
            platforms = [
                Platform(
                    os=text_of(one, "os"), architecture=text_of(one, "architecture"), variant=text_of(one, "variant")
                )
                for one in found
            ]
            return Distribution(
                media_type=kind,
                digest=top.digest,
                size=len(top.body),
                platforms=tuple(one for one in platforms if one.os),
            )

        return self._workers.run("image-distribution", work, progress=lambda _event: None, cancelled=cancelled)

    def _pull(self, job: _Job) -> str:
        reference = job.reference
        client, top = self._resolve(job)
        failpoint("image.pull.manifest_read")
        job.sink(PullStarted(repository=reference.path, target=reference.target))
        approval = self._signatures.check_pull(reference, client, top, lambda: self._image_manifest(client, top)[0])
        if approval is not None:
            job.sink(PullSigned(key=approval.key.name))
        before = self._catalog.image_of_tag(reference.repository, reference.tag) if reference.tag else ""
        image_id = self._known(reference, top.digest)
        if not image_id:
            image_id = self._fetch_image(job, client, top)
        elif reference.tag and before != image_id:
            self._catalog.set_name(reference, image_id, digest=top.digest)
        self._signatures.note(image_id, approval)
        failpoint("image.pull.noted")
        newer = before != image_id if reference.tag else bool(job.touched)
        job.sink(PullFinished(name=reference.familiar, digest=top.digest, image_id=image_id, newer=newer))
        return image_id

    def _known(self, reference: Reference, digest: str) -> str:
        image_id = self._catalog.image_of_digest(reference.repository, digest)
        if not image_id:
            return ""
        layers = self._catalog.get(image_id).diff_ids
        return image_id if all(size_of(self._store.layer_path(layer)) >= 0 for layer in layers) else ""

    def _resolve(self, job: _Job) -> tuple[RegistryClient, RawManifest]:
        """Ask the mirrors, then the registry itself, for what the reference names."""
        hosts = self._hosts(job.reference)
        for host, mirror in hosts:
            auth = job.auth if not mirror or _is_for(job.auth, host) else None
            client = RegistryClient(
                transport=self._transport,
                tokens=self._tokens,
                host=host,
                path=job.reference.path,
                auth=auth,
                headers=job.headers,
                stop=job.stop,
            )
            try:
                return client, client.manifest(job.reference.target, manifests.ACCEPT)
            except Cancelled:
                raise
            except HyperError as exc:
                if not mirror:
                    raise
                log.info("mirror-failed", host=host, image=str(job.reference), error=str(exc))
        raise RegistryError(f"no registry for {job.reference}")

    def _hosts(self, reference: Reference) -> list[tuple[str, bool]]:
        if reference.domain != DOCKER_DOMAIN:
            return [(reference.domain, False)]
        return [*((host_of(mirror), True) for mirror in self._config.mirrors), (DOCKER_HOST, False)]

    def _fetch_image(self, job: _Job, client: RegistryClient, top: RawManifest) -> str:
        raw, manifest = self._image_manifest(client, top)
        blob = client.small_blob(manifest.config.digest, size=manifest.config.size)
        config = manifests.load(blob)
        diff_ids = manifests.diff_ids(config, len(manifest.layers))
        if config.get("architecture") not in (manifests.host_architecture(), None, ""):
            log.warning("image-for-other-machine", image=str(job.reference), architecture=config["architecture"])
        pins = {*diff_ids, *(layer.digest for layer in manifest.layers)}
        layers = [
            NewLayer(diff_id=diff_id, blob=layer.digest, media_type=layer.media_type)
            for diff_id, layer in zip(diff_ids, manifest.layers, strict=True)
        ]
        with self._adding() as intake:
            intake.hold(pins)
            try:
                self._fetch_layers(job, client, manifest, diff_ids)
                failpoint("image.pull.layers_kept")
                image_id, _ = intake.add_image(
                    config, layers, blob=blob, tags=[job.reference], manifest=raw, digest=top.digest
                )
            except (InvalidInput, TooLarge, OutOfSpace):  # another try would end as this one
                self._drop(job.touched, pins)
                raise
        return image_id

    def _image_manifest(self, client: RegistryClient, top: RawManifest) -> tuple[RawManifest, Manifest]:
        raw = top
        for _ in range(3):  # an index may hold an index (OCI image-spec, image-index.md); none is nested deeper
            data = manifests.load(raw.body)
            kind = manifests.kind_of(data, raw.media_type)
            if kind in {manifests.OCI_MANIFEST, manifests.DOCKER_MANIFEST}:
                return RawManifest(raw.body, kind, raw.digest), manifests.parse_manifest(data)
            chosen = manifests.choose_platform(data)
            raw = client.manifest(chosen.digest, manifests.ACCEPT)
        raise RegistryError("the registry's index leads nowhere")

    def _fetch_layers(self, job: _Job, client: RegistryClient, manifest: Manifest, diff_ids: tuple[str, ...]) -> None:
        wanted: dict[tuple[str, str], Descriptor] = {}
        for diff_id, layer in zip(diff_ids, manifest.layers, strict=True):
            wanted.setdefault((layer.digest, diff_id), layer)
        missing = []
        for (digest, diff_id), layer in wanted.items():
            ready = self._ready(digest, diff_id)
            PullProgress(job.sink, digest).phase(PullPhase.EXISTS if ready else PullPhase.PULLING)
            if not ready:
                missing.append((layer, diff_id))
                job.touched.add(diff_id)
        if not missing:
            return
        for layer, _ in missing[self._config.parallel_layers :]:
            PullProgress(job.sink, layer.digest).phase(PullPhase.WAITING)
        with ThreadPoolExecutor(self._config.parallel_layers, thread_name_prefix="image-layer") as pool:
            futures = [pool.submit(self._layer, job, client, layer, diff_id) for layer, diff_id in missing]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                job.stop.set()
                raise

    def _ready(self, digest: str, diff_id: str) -> bool:
        """Whether a layer is there, and this very blob was seen to be it."""
        present = self._catalog.blob_layer(digest) == diff_id and size_of(self._store.layer_path(diff_id)) >= 0
        return present and size_of(self._store.blob_path(digest)) >= 0

    def _layer(self, job: _Job, client: RegistryClient, layer: Descriptor, diff_id: str) -> None:
        if self._ready(layer.digest, diff_id):  # by another pull, since this one has looked
            PullProgress(job.sink, layer.digest).phase(PullPhase.COMPLETE)
        while not self._ready(layer.digest, diff_id):
            job.stop.check()
            flight, mine = self._flights.join(layer.digest)
            with _following(flight.follow, flight.leave, job.sink):
                if not mine:
                    while not flight.done.wait(_POLL):
                        job.stop.check()
                    continue
                progress = PullProgress(flight.send, layer.digest)
                try:
                    if self._ready(layer.digest, diff_id):  # another flight has landed between the look and the join
                        progress.phase(PullPhase.COMPLETE)
                        continue
                    LayerFetch(
                        store=self._store,
                        catalog=self._catalog,
                        ingest=self._layers,
                        client=client,
                        layer=layer,
                        diff_id=diff_id,
                        progress=progress,
                    ).run()
                finally:
                    self._flights.land(layer.digest)

    def _drop(self, diff_ids: set[str], own_pins: set[str]) -> None:
        """Remove finished layers of a pull that failed for good, unless another one needs them."""
        with self._store.lock:
            spare = {digest for digest in own_pins if self._store.pin_count(digest) > 1}
            layers, blobs = self._catalog.drop_layers(diff_ids, spare=spare)
            self._store.remove_layers(layers, blobs)
            for digest in own_pins - spare:
                self._store.remove(self._store.partial_path(digest))


@contextlib.contextmanager
def _following(follow: Callable[[Sink], None], leave: Callable[[Sink], None], sink: Sink) -> Iterator[None]:
    follow(sink)
    try:
        yield
    finally:
        leave(sink)


def host_of(server: str) -> str:
    """Return ``host[:port]`` of a registry's address, which may be a URL; Docker Hub's old index means its registry.

    Errors: InvalidInput.
    """
    try:
        host = urlsplit(server).netloc if "://" in server else server.partition("/")[0]
    except ValueError as error:
        raise InvalidInput(f"{server[:80]!r} is no address of a registry", details=str(error)) from error
    host = host.rpartition("@")[2]
    return DOCKER_HOST if host in {"", DOCKER_DOMAIN, "index.docker.io"} else host


def _is_for(auth: AuthConfig | None, host: str) -> bool:
    return auth is not None and bool(auth.serveraddress) and host_of(auth.serveraddress) == host


def meta_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Choose the headers of a client's request that go on to the registry."""
    return {name: value for name, value in headers.items() if name.lower().startswith(_META_HEADER)}
