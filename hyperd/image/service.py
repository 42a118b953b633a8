"""Images of this host: what the API, pods and builds ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from hyperd.config.model import Config
from hyperd.db.session import Database
from hyperd.errors import ImageNotFound, InvalidInput, Unauthorized
from hyperd.event.bus import EventBus
from hyperd.failpoint import failpoint
from hyperd.image.catalog import Catalog, ImageRecord
from hyperd.image.filters import chosen
from hyperd.image.gc import Keeper
from hyperd.image.layer.overlay_fixup import Trimmer
from hyperd.image.layer.packing import Packer
from hyperd.image.model import Distribution, Image, ImageFilter, LayerRef, Loaded, Pruned, Removal, StoreTotals, Tagged
from hyperd.image.origins import Provenance
from hyperd.image.progress import ImageEvent, Sink
from hyperd.image.reports import ImageReports
from hyperd.image.signing.signature import SignatureGuard
from hyperd.image.store import ImageStore
from hyperd.image.transfer.ingest import AddedLayer, Intake
from hyperd.image.transfer.layers import LayerIngest
from hyperd.image.transfer.load import Loader
from hyperd.image.transfer.pull import Puller, host_of, meta_headers
from hyperd.image.transfer.push import Pusher
from hyperd.image.transfer.save import Saver
from hyperd.image.work import Workers
from hyperd.registry.auth import AuthConfig, TokenCache
from hyperd.registry.client import RegistryClient, watched
from hyperd.registry.pace import Pace
from hyperd.registry.reference import Reference
from hyperd.registry.transport import Stop, Transport

log = structlog.get_logger(__name__)


def _ignored(_event: ImageEvent) -> None:
    """Take no notice of progress."""


class ImageService:
    """The image store. Safe for threads.

    Args:
        config: the parts ``registry`` and ``images`` are used.
        database: migrated.
        root: directory of the store, made when missing.
        in_use: gives the names of the containers that use an image.
        events: is told what happens to images.

    Errors: InvalidInput when a key of the policy on signatures cannot be read.

    """

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        root: Path,
        in_use: Callable[[str], Sequence[str]],
        events: EventBus | None = None,
    ) -> None:
        self._events = events or EventBus()
        self._signatures = SignatureGuard(config=config.images.signatures, database=database)
        self._store = ImageStore(root)
        self._catalog = Catalog(database, default_domain=config.registry.default)
        self._transport = Transport(config.registry)
        self._tokens = TokenCache()
        self._provenance = Provenance(database)
        self._workers = Workers()
        self._max_layer = config.registry.max_layer_bytes
        self._packer = Packer(
            store=self._store, catalog=self._catalog, provenance=self._provenance, max_bytes=self._max_layer
        )
        parts: dict[str, Any] = {
            "config": config.registry,
            "catalog": self._catalog,
            "transport": self._transport,
            "tokens": self._tokens,
            "workers": self._workers,
        }
        self._trimmer = Trimmer(
            store=self._store, catalog=self._catalog, packer=self._packer, max_bytes=self._max_layer
        )
        self._layers = LayerIngest(store=self._store, catalog=self._catalog, max_bytes=self._max_layer)
        self._puller = Puller(
            store=self._store, layers=self._layers, adding=self.adding, signatures=self._signatures, **parts
        )
        self._pusher = Pusher(packer=self._packer, provenance=self._provenance, **parts)
        self._saver = Saver(catalog=self._catalog, packer=self._packer)
        self._loader = Loader(
            catalog=self._catalog, provenance=self._provenance, adding=self.adding, max_layer=self._max_layer
        )
        self.reports = ImageReports(catalog=self._catalog, value=self._info, in_use=in_use, transport=self._transport)
        self._keeper = Keeper(store=self._store, catalog=self._catalog, in_use=in_use, events=self._events)

    def close(self) -> None:
        """End all transfers and close all connections."""
        self._workers.close()
        self._transport.close()

    def reconfigure(self, config: Config) -> None:
        """Take over other settings; a pull under way goes on with the old ones. Errors: as the constructor."""
        self._signatures.reconfigure(config.images.signatures)
        self._transport.reconfigure(config.registry)
        self._puller.reconfigure(config.registry)

    def recover(self) -> None:
        """Put the store right after a crash: half-made files go, unfinished pulls can be resumed for a day."""
        self._store.recover()
        self._keeper.expire()
        diff_ids, digests = self._catalog.known()
        self._store.remove_strangers(diff_ids=diff_ids, digests=digests)

    def get(self, name: str) -> Image:
        """Return an image by name, ``name:tag``, ``name@digest``, id or unique beginning of an id.

        Raises:
            ImageNotFound: there is none.

        """
        return self._info(self._catalog.get(name))

    def usable(self, name: str) -> Image:
        """Return an image that a container or a build may be made of. Errors: ImageNotFound, SignatureRefused."""
        if self._signatures.accepts_anything:
            return self.get(name)
        _, reference = self._catalog.find(name)
        image = self.get(name)
        named = [reference] if reference else [self._catalog.parse(tag) for tag in (*image.tags, *image.digests)]
        self._signatures.check_use(image.id, {one.canonical_repository for one in named}, name=name[:300])
        return image

    @contextmanager
    def held(self, name: str) -> Iterator[Image]:
        """Yield an image that cannot be removed while the block runs; keep the block short.

        Whoever is going to use an image notes that (so that ``in_use`` says it) inside the block.

        Raises:
            ImageNotFound: there is none.

        """
        with self._store.lock:
            yield self.get(name)

    def list(self, *, all_images: bool = False, wanted: ImageFilter = ImageFilter()) -> list[Image]:  # noqa: B008
        """Return images, newest first.

        Args:
            all_images: also nameless ones that others were built from.
            wanted: which of them.

        Raises:
            ImageNotFound: the filter names an image that is not there.

        """
        records = self._catalog.images(all_images=all_images)
        found = chosen(records, wanted, created=lambda name: self._catalog.get(name).created_at)
        return [self._info(record) for record in found]

    def pull(
        self,
        name: str,
        *,
        tag: str = "",
        auth: AuthConfig | None,
        headers: Mapping[str, str] | None = None,
        progress: Sink,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Image:
        """Pull an image from its registry.

        Args:
            name: a reference; without tag and digest it means ``latest``.
            tag: a tag or digest that takes the place of the name's.
            auth: credentials, None for anonymous.
            headers: of the request; those that begin with ``X-Meta-`` go to the registry.
            progress: is told how far it is, in this thread.
            cancelled: asked five times a second, in this thread.

        Raises:
            InvalidInput, TooLarge, NotSupported: a bad name, or the image is hostile, damaged or not for this host.
            ImageNotFound, Unauthorized, Forbidden, RegistryError, Timeout: the registry's part.
            OutOfSpace, HostFault: this host's part.
            Cancelled: ``cancelled`` said yes.

        """
        reference = self._catalog.parse(name)
        if tag or reference.digest:  # beside a digest a tag means nothing, as for Docker
            reference = reference.with_tag(tag or reference.digest)
        image_id = self._puller.pull(
            reference, auth=auth, headers=headers or {}, progress=progress, cancelled=cancelled
        )
        image = self.get(image_id)
        self._events.publish("image", "pull", image_id, name=reference.with_default_tag().familiar, size=image.size)
        return image

    def pull_all(
        self,
        name: str,
        *,
        auth: AuthConfig | None,
        headers: Mapping[str, str] | None = None,
        progress: Sink,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Sequence[Image]:
        """Pull all tags of a repository, one after the other; what was pulled before a failure stays.

        Arguments and errors: as for ``pull``; InvalidInput also for a name with a tag or digest.
        """
        reference = self._catalog.parse(name)
        if reference.tag or reference.digest:
            raise InvalidInput("tag can't be used with --all-tags/-a", details=name[:300])
        tags = self._puller.tags(reference, auth=auth, cancelled=cancelled)
        if not tags:
            raise ImageNotFound(f"{reference.familiar} has no tags in its registry")
        return [
            self.pull(name, tag=tag, auth=auth, headers=headers, progress=progress, cancelled=cancelled) for tag in tags
        ]

    def distribution(
        self, name: str, *, auth: AuthConfig | None, cancelled: Callable[[], bool] = lambda: False
    ) -> Distribution:
        """Return what a registry has under a name, without pulling it.

        Raises:
            InvalidInput: a bad name.
            ImageNotFound, Unauthorized, Forbidden, RegistryError, NotSupported, Timeout: the registry's part.
            Cancelled: ``cancelled`` said yes.

        """
        return self._puller.distribution(self._catalog.parse(name), auth=auth, cancelled=cancelled)

    def names_one(self, name: str) -> bool:
        """Tell whether a name has a tag or a digest. Errors: InvalidInput."""
        reference = self._catalog.parse(name)
        return bool(reference.tag or reference.digest)

    def push(
        self,
        name: str,
        *,
        tag: str = "",
        auth: AuthConfig | None,
        headers: Mapping[str, str] | None = None,
        progress: Sink,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Push an image to its registry.

        Args:
            name: a repository, or a name with a tag; of a repository without a tag all tags are pushed.
            tag: takes the place of the name's.
            auth: credentials, None for anonymous.
            headers: of the request; those that begin with ``X-Meta-`` go to the registry.
            progress: is told how far it is, in this thread.
            cancelled: asked five times a second, in this thread.

        Raises:
            InvalidInput: a bad name, or one with a digest.
            ImageNotFound: there is no such image.
            Unauthorized, Forbidden, RegistryError, Timeout: the registry's part.
            OutOfSpace, HostFault: this host's part.
            Cancelled: ``cancelled`` said yes.

        """
        reference = self._catalog.parse(name)
        if reference.digest:
            raise InvalidInput("cannot push a digest reference")
        reference = reference.with_tag(tag) if tag else reference
        if reference.digest:
            raise InvalidInput("cannot push a digest reference")
        tags = [reference.tag] if reference.tag else self._catalog.tags(reference.repository)
        if not tags:
            raise ImageNotFound(f"An image does not exist locally with the tag: {reference.repository}")
        for one in tags:
            target = reference.with_tag(one)
            image_id, _ = self._catalog.find(target.familiar)
            self._pusher.push(
                target,
                image_id,
                auth=auth,
                headers=meta_headers(headers or {}),
                progress=progress,
                cancelled=cancelled,
            )
            self._events.publish("image", "push", image_id, name=target.familiar)

    def save(
        self,
        names: Sequence[str],
        *,
        oci: bool = False,
        references: Mapping[str, str] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[bytes]:
        """Yield images as one tar, see ``Saver.save``."""
        return self._saver.save(names, oci=oci, references=references or {}, cancelled=cancelled)

    def load(
        self,
        chunks: Iterator[bytes],
        *,
        name: str = "",
        references: Mapping[str, str] | None = None,
        progress: Sink = _ignored,
    ) -> Sequence[Loaded]:
        """Load the images of an archive, see ``Loader.load``."""
        images = self._loader.load(chunks, name=name, references=references, sink=progress)
        for image in images:
            self._events.publish("image", "load", image.id, name=", ".join(image.names))
        return images

    @contextmanager
    def download(self, url: str, *, cancelled: Callable[[], bool]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Open a file of the web: its size (-1 when the server does not say) and its bytes.

        Raises:
            InvalidInput: not http(s), or the server does not give it.
            RegistryError, Timeout: the server cannot be reached.
            Cancelled: ``cancelled`` said yes.

        """
        if not url.startswith(("http://", "https://")):
            raise InvalidInput(f"unsupported URL {url[:200]!r}", resolution="use http or https")
        with self._transport.request("GET", url, stop=Stop()) as response:
            if response.status != 200:
                raise InvalidInput(f"{url[:200]} cannot be had", details=f"status code {response.status}")
            size = response.headers.get("Content-Length", "")
            pace = Pace(self._transport.config, url.split("/")[2])
            yield int(size) if size.isdigit() else -1, watched(response, cancelled, pace)

    def adding(self, *, keep_unused: bool = False) -> Intake:
        """Return a ``with`` block in which layers and then images of them are added; half of it does not stay.

        Args:
            keep_unused: keep layers of which the block has made no image (for a day).

        """
        return Intake(
            store=self._store,
            catalog=self._catalog,
            provenance=self._provenance,
            trimmer=self._trimmer,
            layers=self._layers,
            keep_unused=keep_unused,
        )

    def add_layer(self, open_chunks: Callable[[], Iterator[bytes]]) -> AddedLayer:
        """Convert one layer and keep its data, see ``Intake.add_layer``; for several use ``adding``.

        Args:
            open_chunks: starts the stream of a tar in the form of an OCI layer, compressed or not; called once.

        Raises:
            InvalidInput, TooLarge: it is hostile or damaged.
            OutOfSpace, HostFault: this host's part.
            Whatever the stream raises; nothing stays then.

        """
        with self.adding(keep_unused=True) as intake:
            return intake.add_layer(open_chunks)

    def add_image(
        self,
        config: Mapping[str, Any],
        layers: Sequence[AddedLayer | str],
        *,
        tags: Sequence[str] = (),
        parent: str = "",
    ) -> Image:
        """Register an image of layers that are there.

        Args:
            config: its configuration (OCI image-spec, config.md); ``rootfs`` is written from ``layers``.
            layers: bottom first; a diff_id alone means a layer that is in the store.
            tags: names it gets, without a tag ``latest``; other images lose them.
            parent: id of the image it was built from here.

        Raises:
            InvalidInput, TooLarge, NotSupported: a bad name; the configuration is nonsense or for another system.
            Conflict: a layer is missing.

        """
        names = [self.taggable(tag) for tag in tags]
        with self.adding() as intake:
            image_id, _ = intake.add_image(config, layers, tags=names, parent=parent)
        for name in names:
            self._events.publish("image", "tag", image_id, name=name.familiar)
        return self.get(image_id)

    def layer_path(self, diff_id: str) -> Path:
        """Return the squashfs file of a layer that is in the store."""
        return self._store.layer_path(diff_id)

    def taggable(self, name: str) -> Reference:
        """Read a name that an image can be given, ``latest`` by default.

        Raises:
            InvalidInput: it is no name, or one with a digest.

        """
        reference = self._catalog.parse(name)
        if reference.digest:
            raise InvalidInput(f"refusing to create a tag with a digest reference: {name[:300]!r}")
        return reference.with_default_tag()

    def remove(self, name: str, *, force: bool = False, noprune: bool = False) -> Sequence[Removal]:
        """Take a name from an image, and remove the image with its last name.

        An image that containers use loses its names by force only, and stays until the containers are gone.

        Args:
            name: as for ``get``; by id all names go.
            force: also when containers use it or several repositories name it.
            noprune: keep nameless images that it was built from.

        Returns:
            What was removed, in the order in which it happened.

        Raises:
            InvalidInput: a blank name.
            ImageNotFound: there is none.
            Conflict: containers or other images need it, or several repositories name it.

        """
        return self._keeper.remove(name, force=force, noprune=noprune)

    def prune(self, wanted: ImageFilter = ImageFilter(dangling=True)) -> Pruned:  # noqa: B008
        """Remove images that no container uses and no other image was built from.

        Args:
            wanted: which of them; with ``dangling`` true only nameless ones.

        """
        return self._keeper.prune(wanted)

    def tag(self, name: str, target: str) -> Tagged:
        """Give an image a further name; another image loses it.

        Args:
            name: as for ``get``.
            target: ``repository[:tag]``, without a tag ``latest``.

        Raises:
            InvalidInput: the target is no name.
            ImageNotFound: there is no such image.

        """
        reference = self.taggable(target)
        with self._store.lock:
            image_id, _ = self._catalog.find(name)
            before = self._catalog.image_of_tag(reference.repository, reference.tag)
            self._catalog.set_name(reference, image_id)
            failpoint("image.tag.named")
        self._events.publish("image", "tag", image_id, name=reference.familiar)
        taken = before if before != image_id else ""
        return Tagged(image_id=image_id, name=reference.familiar, taken_from=taken)

    def authenticate(self, auth: AuthConfig) -> None:
        """Show credentials to their registry.

        Raises:
            Unauthorized: they are wrong.
            RegistryError, Timeout: the registry cannot be asked.

        """
        if not auth.has_credentials:
            raise Unauthorized("no credentials were given")
        client = RegistryClient(
            transport=self._transport,
            tokens=TokenCache(),  # a token from before would prove nothing
            host=host_of(auth.serveraddress),
            path="",
            auth=auth,
            stop=Stop(),
        )
        client.check_login()

    def totals(self) -> StoreTotals:
        """Return counts and sizes of all that is stored."""
        return self._catalog.totals()

    def count(self) -> int:
        """Return the number of images."""
        return self._catalog.totals().images

    def _info(self, record: ImageRecord) -> Image:
        return Image(
            id=record.id,
            config=record.config,
            layers=tuple(LayerRef(diff_id, self._store.layer_path(diff_id)) for diff_id in record.attached),
            created_at=record.created_at,
            size=record.size,
            tags=record.tags,
            digests=record.digests,
            parent=record.parent,
            diff_ids=record.diff_ids,
        )
