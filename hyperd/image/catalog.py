"""The image store's rows: which images there are, what they are called, which layers and blobs they are made of."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from hyperd.db.memo import Memo
from hyperd.db.models import BlobRow, ImageLayerRow, ImageRow, LayerRow, RepoDigestRow, TagRow
from hyperd.db.session import Database
from hyperd.errors import Conflict, HyperError, ImageNotFound, InvalidInput
from hyperd.image.layer.convert import BuiltLayer
from hyperd.image.model import StoreTotals
from hyperd.registry.reference import DEFAULT_TAG, Reference

_TABLES = ("images", "image_layers", "layers", "tags", "repo_digests")  # what a record is read from
_KNOWN = 32
_FULL_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.ASCII)
_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,63})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class NewLayer:
    """A layer of an image that is being added, bottom first."""

    diff_id: str
    blob: str = ""
    media_type: str = ""


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """An image that is being added.

    Args:
        id: ``sha256:<hex>`` of ``blob``.
        blob: the configuration as bytes.
        config: the same, read.
        created_at: seconds since the epoch.
        parent: id of the image it was built from here, empty for one from elsewhere.
        trim: diff_id of the layer that this host puts on top, empty for none.

    """

    id: str
    blob: bytes
    config: Mapping[str, Any]
    layers: Sequence[NewLayer]
    created_at: float
    parent: str = ""
    trim: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """An image as the rows have it; ``attached`` are the layers that a container gets, bottom first."""

    id: str
    config: dict[str, Any]
    diff_ids: tuple[str, ...]
    created_at: float
    size: int
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    parent: str
    attached: tuple[str, ...]


class Catalog:
    """Rows of images. Safe for threads; every method is one transaction.

    Args:
        database: where the tables are.
        default_domain: the registry that is left out of familiar names.

    """

    def __init__(self, database: Database, *, default_domain: str) -> None:
        self._database = database
        self._default_domain = default_domain
        self._known: Memo[ImageRecord] = Memo(database, *_TABLES, size=_KNOWN)

    def parse(self, name: str) -> Reference:
        """Read a name with this daemon's default registry.

        Raises:
            InvalidInput: it is no reference.

        """
        return Reference.parse(name, default_domain=self._default_domain)

    def add_layer(self, layer: BuiltLayer, *, blob: str = "", blob_size: int = 0) -> None:
        """Note a layer that is in the store, and the blob it came from."""
        row = LayerRow(diff_id=layer.diff_id, size=layer.size, image_size=layer.image_size)
        if layer.directories is not None:  # else it was only measured this time
            row.opaque_root, row.directories = layer.opaque_root, layer.directories
        with self._database.session() as session:
            session.merge(row)
            session.flush()
            if blob:
                session.merge(BlobRow(digest=blob, diff_id=layer.diff_id, size=blob_size))

    def layer_size(self, diff_id: str) -> int:
        """Return the uncompressed size of a layer in bytes, -1 when there is no such layer."""
        with self._database.reading() as session:
            row = session.get(LayerRow, diff_id)
            return -1 if row is None else row.size

    def directory_notes(self, diff_ids: Sequence[str]) -> list[bytes]:
        """Return what layers say of directories (``hyperd.image.layer.directories``), empty for what is not known."""
        wanted = select(LayerRow.diff_id, LayerRow.directories).where(LayerRow.diff_id.in_(diff_ids))
        with self._database.reading() as session:
            found = {row.diff_id: row.directories for row in session.execute(wanted)}
            return [found.get(diff_id) or b"" for diff_id in diff_ids]

    def blob_layer(self, digest: str) -> str:
        """Return the diff_id that a blob was seen to have, empty for an unknown blob."""
        with self._database.reading() as session:
            row = session.get(BlobRow, digest)
            return "" if row is None else row.diff_id

    def known(self) -> tuple[set[str], set[str]]:
        """Return all diff_ids and all blob digests that have rows."""
        with self._database.reading() as session:
            return set(session.scalars(select(LayerRow.diff_id))), set(session.scalars(select(BlobRow.digest)))

    def add_image(self, image: NewImage) -> None:
        """Add an image whose layers are there; one that exists stays as it is.

        Raises:
            Conflict: a layer is missing.

        """
        with self._database.session() as session:
            if session.get(ImageRow, image.id) is not None:
                return
            wanted = {layer.diff_id for layer in image.layers}
            sizes = {
                row.diff_id: row.size for row in session.scalars(select(LayerRow).where(LayerRow.diff_id.in_(wanted)))
            }
            if missing := wanted - sizes.keys():
                raise Conflict("an image cannot be added without its layers", details=", ".join(sorted(missing)))
            session.add(
                ImageRow(
                    id=image.id,
                    config=dict(image.config),
                    config_blob=image.blob,
                    created_at=image.created_at,
                    size=sum(sizes[layer.diff_id] for layer in image.layers),
                    parent=image.parent,
                    trim=image.trim,
                )
            )
            session.flush()
            for position, layer in enumerate(image.layers):
                session.add(
                    ImageLayerRow(
                        image_id=image.id,
                        position=position,
                        diff_id=layer.diff_id,
                        blob=layer.blob,
                        media_type=layer.media_type,
                    )
                )

    def set_name(self, reference: Reference, image_id: str, *, digest: str = "") -> None:
        """Let a reference name an image; a tag that named another one moves.

        Args:
            reference: with a tag, a digest, or both.
            image_id: an image that exists.
            digest: of the manifest it came with, empty for one made here.

        """
        with self._database.session() as session:
            if session.get(ImageRow, image_id) is None:
                raise no_such_image(image_id)
            repository = reference.repository
            if reference.tag:
                session.merge(
                    TagRow(
                        repository=repository, tag=reference.tag, image_id=image_id, digest=digest or reference.digest
                    )
                )
            for known in {digest, reference.digest} - {""}:
                session.merge(RepoDigestRow(repository=repository, digest=known, image_id=image_id))
        self._database.sync()

    def image_of_digest(self, repository: str, digest: str) -> str:
        """Return the image that a manifest of a repository named, empty when there is none."""
        with self._database.reading() as session:
            row = session.get(RepoDigestRow, (repository, digest))
            return "" if row is None else row.image_id

    def image_of_tag(self, repository: str, tag: str) -> str:
        """Return the image that a tag names, empty when there is none."""
        with self._database.reading() as session:
            row = session.get(TagRow, (repository, tag))
            return "" if row is None else row.image_id

    def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository (its familiar name)."""
        wanted = select(TagRow.tag).where(TagRow.repository == repository).order_by(TagRow.tag)
        with self._database.reading() as session:
            return list(session.scalars(wanted))

    def find(self, name: str) -> tuple[str, Reference | None]:
        """Find an image by name, ``name@digest``, id or unique beginning of an id.

        Returns:
            The id, and the reference when it was found by one.

        Raises:
            ImageNotFound: there is none, or the beginning of an id fits several.

        """
        with self._database.reading() as session:
            return self._find(session, name)

    def get(self, name: str) -> ImageRecord:
        """Return an image; as ``find``. It is shared by all who ask."""
        return self._known.get(name, lambda: self._get(name))

    def _get(self, name: str) -> ImageRecord:
        with self._database.reading() as session:
            image_id, _ = self._find(session, name)
            row = session.get(ImageRow, image_id)
            if row is None:
                raise no_such_image(name)
            return _record(session, row)

    def images(self, *, all_images: bool) -> list[ImageRecord]:
        """Return images, newest first; those without a name that others were built from only with ``all_images``."""
        with self._database.reading() as session:
            parents = set(session.scalars(select(ImageRow.parent)))
            found = []
            for row in session.scalars(select(ImageRow).order_by(ImageRow.created_at.desc(), ImageRow.id)):
                record = _record(session, row)
                if record.tags or all_images or row.id not in parents:
                    found.append(record)
            return found

    def untag(self, name: str) -> list[str]:
        """Take a name (with tag or digest) from its image; with the last tag go the repository's digests.

        Returns:
            What was taken, familiar.

        """
        with self._database.session() as session:
            _, reference = self._find(session, name)
            return [] if reference is None else _untag(session, reference)

    def untag_all(self, image_id: str) -> list[str]:
        """Take all names from an image; give what was taken, familiar."""
        with self._database.session() as session:
            record = _record(session, _row(session, image_id))
            session.execute(delete(TagRow).where(TagRow.image_id == image_id))
            session.execute(delete(RepoDigestRow).where(RepoDigestRow.image_id == image_id))
            return [*record.tags, *record.digests]

    def children(self, image_id: str) -> list[str]:
        """Return the images that were built from one here."""
        with self._database.reading() as session:
            return list(session.scalars(select(ImageRow.id).where(ImageRow.parent == image_id)))

    def delete_image(self, image_id: str, *, spare: Collection[str] = ()) -> tuple[list[str], list[str]]:
        """Delete an image without names, and the rows of layers that nothing uses then.

        Args:
            image_id: the image.
            spare: diff_ids and digests that somebody works with.

        Returns:
            The diff_ids and the blob digests whose files can go.

        """
        with self._database.session() as session:
            row = _row(session, image_id)
            used = select(ImageLayerRow.diff_id).where(ImageLayerRow.image_id == image_id)
            diff_ids = set(session.scalars(used)) | ({row.trim} - {""})
            session.delete(row)
            session.flush()
            dropped = _drop_unused(session, diff_ids, spare)
        self._database.sync()  # before the files go: rows without their files would be worse than files without rows
        return dropped

    def drop_layers(self, diff_ids: Collection[str], *, spare: Collection[str] = ()) -> tuple[list[str], list[str]]:
        """Delete the rows of those of the layers that no image uses; as ``delete_image``."""
        with self._database.session() as session:
            dropped = _drop_unused(session, set(diff_ids), spare)
        self._database.sync()
        return dropped

    def make_room(self) -> None:
        """Let the rows of what is removed be written on a disk that is full."""
        self._database.make_room()

    def unused_layers(self) -> list[str]:
        """Return the layers that no image uses."""
        used = select(ImageLayerRow.diff_id)
        with self._database.reading() as session:
            wanted = select(LayerRow.diff_id).where(
                LayerRow.diff_id.not_in(used), LayerRow.diff_id.not_in(select(ImageRow.trim))
            )
            return list(session.scalars(wanted))

    def disk_sizes(self) -> dict[str, int]:
        """Return the bytes that every layer takes on this host, with the data kept of it, by diff_id."""
        with self._database.reading() as session:
            found = {row.diff_id: row.image_size for row in session.scalars(select(LayerRow))}
            for diff_id, size in session.execute(select(BlobRow.diff_id, BlobRow.size)):
                found[diff_id] += size
            return found

    def totals(self) -> StoreTotals:
        """Return counts and sizes."""
        with self._database.reading() as session:
            layers = session.execute(select(func.count(), func.coalesce(func.sum(LayerRow.image_size), 0))).one()
            blobs = session.execute(select(func.count(), func.coalesce(func.sum(BlobRow.size), 0))).one()
            images = session.scalar(select(func.count()).select_from(ImageRow))
            return StoreTotals(
                images=images or 0, layers=layers[0], layer_bytes=layers[1], blobs=blobs[0], blob_bytes=blobs[1]
            )

    def _find(self, session: Session, name: str) -> tuple[str, Reference | None]:
        if match := _FULL_ID.fullmatch(name):
            if session.get(ImageRow, f"sha256:{match[1]}") is None:
                raise no_such_image(name)
            return f"sha256:{match[1]}", None
        try:
            reference = self.parse(name)
        except InvalidInput:
            reference = None
        if reference is not None and (image_id := _named(session, reference)):
            return image_id, reference
        if match := _PREFIX.fullmatch(name):
            wanted = select(ImageRow.id).where(ImageRow.id.startswith(f"sha256:{match[1]}")).limit(2)
            found = list(session.scalars(wanted))
            if len(found) == 1:
                return found[0], None
            if found:
                raise no_such_image(name, details="several ids begin so")
        raise no_such_image(str(reference.with_default_tag()) if reference is not None else name)


def no_such_image(name: str, *, details: str = "") -> HyperError:
    """Make the error for a name that no image has, in the words clients look for."""
    shown = name if len(name) <= 300 else f"{name[:300]}..."
    if ":" not in shown.rpartition("/")[2]:
        shown += f":{DEFAULT_TAG}"
    return ImageNotFound(f"No such image: {shown}", details=details, kind="image", name=shown)


def _named(session: Session, reference: Reference) -> str:
    if reference.digest:
        row = session.get(RepoDigestRow, (reference.repository, reference.digest))
        return "" if row is None else row.image_id
    tag = session.get(TagRow, (reference.repository, reference.tag or DEFAULT_TAG))
    return "" if tag is None else tag.image_id


def _row(session: Session, image_id: str) -> ImageRow:
    row = session.get(ImageRow, image_id)
    if row is None:
        raise no_such_image(image_id)
    return row


def _record(session: Session, row: ImageRow) -> ImageRecord:
    layers = (
        select(ImageLayerRow.diff_id, LayerRow.opaque_root)
        .join(LayerRow, LayerRow.diff_id == ImageLayerRow.diff_id)
        .where(ImageLayerRow.image_id == row.id)
        .order_by(ImageLayerRow.position)
    )
    found = session.execute(layers).all()
    # overlayfs takes no notice of an opaque root: what lies below it is left out.
    first = max((position for position, (_, opaque) in enumerate(found) if opaque), default=0)
    tags = session.scalars(select(TagRow).where(TagRow.image_id == row.id).order_by(TagRow.repository, TagRow.tag))
    digests = session.scalars(
        select(RepoDigestRow)
        .where(RepoDigestRow.image_id == row.id)
        .order_by(RepoDigestRow.repository, RepoDigestRow.digest)
    )
    return ImageRecord(
        id=row.id,
        config=row.config,
        diff_ids=tuple(diff_id for diff_id, _ in found),
        created_at=row.created_at,
        size=row.size,
        tags=tuple(f"{tag.repository}:{tag.tag}" for tag in tags),
        digests=tuple(f"{entry.repository}@{entry.digest}" for entry in digests),
        parent=row.parent,
        attached=tuple(_last_ones([*(diff_id for diff_id, _ in found[first:]), *([row.trim] if row.trim else [])])),
    )


def _last_ones(names: Sequence[str]) -> list[str]:
    """Leave out what comes again later: a layer is whole where it lies last, and overlayfs takes none twice."""
    return list(reversed(dict.fromkeys(reversed(names))))


def _untag(session: Session, reference: Reference) -> list[str]:
    repository = reference.repository
    if reference.digest:
        row = session.get(RepoDigestRow, (repository, reference.digest))
        if row is not None:
            session.delete(row)
        return [f"{repository}@{reference.digest}"]
    tag = session.get(TagRow, (repository, reference.tag or DEFAULT_TAG))
    if tag is None:
        return []
    image_id, taken = tag.image_id, [f"{repository}:{tag.tag}"]
    session.delete(tag)
    session.flush()
    mine = (TagRow.repository == repository, TagRow.image_id == image_id)
    if session.scalar(select(func.count()).select_from(TagRow).where(*mine)) == 0:
        digests = (RepoDigestRow.repository == repository, RepoDigestRow.image_id == image_id)
        taken += [f"{repository}@{d}" for d in session.scalars(select(RepoDigestRow.digest).where(*digests))]
        session.execute(delete(RepoDigestRow).where(*digests))
    return taken


def _drop_unused(session: Session, diff_ids: set[str], spare: Collection[str]) -> tuple[list[str], list[str]]:
    used = set(session.scalars(select(ImageLayerRow.diff_id).where(ImageLayerRow.diff_id.in_(diff_ids))))
    used |= set(session.scalars(select(ImageRow.trim).where(ImageRow.trim.in_(diff_ids))))
    layers, blobs = [], []
    for diff_id in sorted(diff_ids - used):
        mine = set(session.scalars(select(BlobRow.digest).where(BlobRow.diff_id == diff_id)))
        if diff_id in spare or mine & set(spare):
            continue
        session.execute(delete(LayerRow).where(LayerRow.diff_id == diff_id))
        layers.append(diff_id)
        blobs += sorted(mine)
    return layers, blobs
