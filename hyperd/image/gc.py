"""What goes and what stays: removal by name, pruning, layers that nobody uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from hyperd.errors import Conflict, ImageNotFound, InvalidInput
from hyperd.event.bus import EventBus
from hyperd.failpoint import failpoint
from hyperd.image.catalog import Catalog, ImageRecord
from hyperd.image.filters import chosen
from hyperd.image.model import ImageFilter, Pruned, Removal, RemovalKind
from hyperd.image.store import ImageStore, is_old

log = structlog.get_logger(__name__)


class Keeper:
    """Decides what is removed. Safe for threads.

    Args:
        store: the files.
        catalog: the rows.
        in_use: gives the names of the containers that use an image.
        events: is told what goes.

    """

    def __init__(
        self, *, store: ImageStore, catalog: Catalog, in_use: Callable[[str], Sequence[str]], events: EventBus
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._in_use = in_use
        self._events = events

    def remove(self, name: str, *, force: bool, noprune: bool) -> list[Removal]:
        """Do ``ImageService.remove``."""
        if not name.strip():
            raise InvalidInput("image name cannot be blank")
        self._catalog.make_room()
        with self._store.lock:
            image_id, reference = self._catalog.find(name)
            record = self._catalog.get(image_id)
            self._check_removal(record, name, by_name=reference is not None, force=force)
            taken = self._catalog.untag(name) if reference is not None else self._catalog.untag_all(image_id)
            failpoint("image.delete.untagged")
            done = [Removal(RemovalKind.UNTAGGED, entry) for entry in taken]
            left = self._catalog.get(image_id)
            if not (left.tags or left.digests or self._in_use(image_id) or self._catalog.children(image_id)):
                done += self._delete(image_id, noprune=noprune)
        self._tell(image_id, done)
        return done

    def prune(self, wanted: ImageFilter) -> Pruned:
        """Do ``ImageService.prune``."""
        removed: list[Removal] = []
        occupied = self._occupied()
        records = chosen(
            self._catalog.images(all_images=True), wanted, created=lambda name: self._catalog.get(name).created_at
        )
        for record in records:
            removed += self._prune_one(record.id, everything=not wanted.dangling)
        return Pruned(removed=tuple(removed), freed=max(occupied - self._occupied(), 0))

    def expire(self) -> None:
        """Remove layers of pulls that were broken off a day ago."""
        with self._store.lock:
            unused = [d for d in self._catalog.unused_layers() if is_old(self._store.layer_path(d))]
            layers, blobs = self._catalog.drop_layers(unused, spare=self._store.pins())
            self._store.remove_layers(layers, blobs)

    def _prune_one(self, image_id: str, *, everything: bool) -> list[Removal]:
        with self._store.lock:
            try:
                record = self._catalog.get(image_id)
            except ImageNotFound:  # gone with a child of it
                return []
            named = bool(record.tags or record.digests)
            if self._in_use(image_id) or self._catalog.children(image_id) or (record.tags and not everything):
                return []
            done = [Removal(RemovalKind.UNTAGGED, name) for name in self._catalog.untag_all(image_id)] if named else []
            done += self._delete(image_id, noprune=False)
        self._tell(image_id, done)
        return done

    def _occupied(self) -> int:
        totals = self._catalog.totals()
        return totals.layer_bytes + totals.blob_bytes

    def _tell(self, image_id: str, done: Sequence[Removal]) -> None:
        for what in done:
            if what.kind is RemovalKind.UNTAGGED:
                self._events.publish("image", "untag", image_id, name=what.name)
            else:
                self._events.publish("image", "delete", what.name)

    def _check_removal(self, record: ImageRecord, name: str, *, by_name: bool, force: bool) -> None:
        users = self._in_use(record.id)
        short = record.id.removeprefix("sha256:")[:12]
        last = len(record.tags) <= 1 if by_name else True
        if users and last and (not force or not (record.tags or record.digests)):
            raise Conflict(
                f"conflict: unable to remove {name!r}: image {short} is being used by {', '.join(users[:5])}",
                resolution="remove the containers first",
            )
        if by_name:
            return
        if self._catalog.children(record.id) and not (record.tags or record.digests):
            raise Conflict(f"conflict: unable to delete {short} (cannot be forced) - image has dependent child images")
        repositories = {tag.rpartition(":")[0] for tag in record.tags}
        if len(repositories) > 1 and not force:
            raise Conflict(
                f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories",
                details=", ".join(sorted(repositories)),
            )

    def _delete(self, image_id: str, *, noprune: bool) -> list[Removal]:
        done: list[Removal] = []
        while image_id:
            parent = self._catalog.get(image_id).parent
            layers, blobs = self._catalog.delete_image(image_id, spare=self._store.pins())
            failpoint("image.delete.rows_deleted")
            self._store.remove_layers(layers, blobs)
            failpoint("image.delete.files_removed")
            done.append(Removal(RemovalKind.DELETED, image_id))
            image_id = "" if noprune else self._prunable(parent)
        return done

    def _prunable(self, image_id: str) -> str:
        """Give the image back when nothing holds it: no name, no child, no container."""
        try:
            record = self._catalog.get(image_id)
        except ImageNotFound:  # also for an image that was built from none
            return ""
        held = record.tags or record.digests or self._catalog.children(image_id) or self._in_use(image_id)
        return "" if held else image_id
