"""Rows that say where images came from: manifests as they were pulled or loaded, and the blobs of layers."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import delete, select

from hyperd.db.models import BlobRow, ImageLayerRow, ImageRow, LayerRow, ManifestRow, RepoDigestRow, TagRow
from hyperd.db.session import Database
from hyperd.image.catalog import NewLayer, no_such_image
from hyperd.registry.client import RawManifest
from hyperd.registry.reference import Reference


@dataclass(frozen=True)
class Blob:
    """A layer's data as it is kept: ``digest``, ``size`` in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """A layer of an image.

    Args:
        diff_id: of the uncompressed tar.
        size: of it, bytes.
        blob: the digest it came with, empty when it was made here.
        media_type: as the manifest it came with says.
        blobs: every form of it that was stored.

    """

    diff_id: str
    size: int
    blob: str
    media_type: str
    blobs: tuple[Blob, ...]


class Provenance:
    """Rows of manifests and blobs. Safe for threads; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_manifest(self, image_id: str, manifest: RawManifest) -> None:
        """Keep a manifest of an image; without the image there is nothing to keep."""
        row = ManifestRow(
            digest=manifest.digest,
            image_id=image_id,
            media_type=manifest.media_type,
            body=manifest.body,
            added_at=time.time(),
        )
        with self._database.session() as session:
            if session.get(ImageRow, image_id) is not None:
                session.merge(row)

    def manifests(self, image_id: str) -> list[RawManifest]:
        """Return the manifests an image came with, the newest first."""
        wanted = select(ManifestRow).where(ManifestRow.image_id == image_id).order_by(ManifestRow.added_at.desc())
        with self._database.reading() as session:
            return [RawManifest(row.body, row.media_type, row.digest) for row in session.scalars(wanted)]

    def config_blob(self, image_id: str) -> bytes:
        """Return an image's configuration, byte for byte.

        Raises:
            ImageNotFound: there is no such image.

        """
        with self._database.reading() as session:
            row = session.get(ImageRow, image_id)
            if row is None:
                raise no_such_image(image_id)
            return row.config_blob

    def sources(self, image_id: str) -> list[Source]:
        """Return the layers of an image with all that is known of them, bottom first."""
        wanted = select(ImageLayerRow).where(ImageLayerRow.image_id == image_id).order_by(ImageLayerRow.position)
        found = []
        with self._database.reading() as session:
            for row in session.scalars(wanted):
                layer = session.get_one(LayerRow, row.diff_id)
                blobs = session.scalars(select(BlobRow).where(BlobRow.diff_id == row.diff_id).order_by(BlobRow.digest))
                found.append(
                    Source(
                        diff_id=row.diff_id,
                        size=layer.size,
                        blob=row.blob,
                        media_type=row.media_type,
                        blobs=tuple(Blob(blob.digest, blob.size) for blob in blobs),
                    )
                )
        return found

    def blobs(self, diff_id: str) -> list[Blob]:
        """Return every form of a layer that was stored."""
        with self._database.reading() as session:
            rows = session.scalars(select(BlobRow).where(BlobRow.diff_id == diff_id).order_by(BlobRow.digest))
            return [Blob(row.digest, row.size) for row in rows]

    def origin(self, diff_id: str) -> NewLayer:
        """Describe a layer for a further image: with the blob it came with, if any image knows one."""
        wanted = select(ImageLayerRow).where(ImageLayerRow.diff_id == diff_id, ImageLayerRow.blob != "").limit(1)
        with self._database.reading() as session:
            row = session.scalars(wanted).first()
            if row is None:
                return NewLayer(diff_id=diff_id)
            return NewLayer(diff_id=diff_id, blob=row.blob, media_type=row.media_type)

    def add_blob(self, digest: str, *, diff_id: str, size: int) -> None:
        """Note a further form of a layer."""
        with self._database.session() as session:
            session.merge(BlobRow(digest=digest, diff_id=diff_id, size=size))

    def forget_blobs(self, digests: Collection[str]) -> list[str]:
        """Delete rows of blobs that no image names as the form it came with; give those that are gone."""
        named = select(ImageLayerRow.blob).where(ImageLayerRow.blob.in_(digests))
        with self._database.session() as session:
            gone = sorted(set(digests) - set(session.scalars(named)))
            session.execute(delete(BlobRow).where(BlobRow.digest.in_(gone)))
            return gone

    def repositories(self, diff_id: str) -> list[str]:
        """Return repositories that images with a layer came from or went to, familiar."""
        wanted = (
            select(RepoDigestRow.repository)
            .join(ImageLayerRow, ImageLayerRow.image_id == RepoDigestRow.image_id)
            .where(ImageLayerRow.diff_id == diff_id)
            .distinct()
            .order_by(RepoDigestRow.repository)
        )
        with self._database.reading() as session:
            return list(session.scalars(wanted))

    def note_push(self, reference: Reference, image_id: str, digest: str) -> None:
        """Note the manifest that a repository has now; the tag may name another image meanwhile."""
        with self._database.session() as session:
            if session.get(ImageRow, image_id) is None:
                return
            session.merge(RepoDigestRow(repository=reference.repository, digest=digest, image_id=image_id))
            tag = session.get(TagRow, (reference.repository, reference.tag))
            if tag is not None and tag.image_id == image_id:
                tag.digest = digest

    def tag_digest(self, repository: str, tag: str) -> str:
        """Return the digest of the manifest that a tag was pulled or pushed with, empty when there is none."""
        with self._database.reading() as session:
            row = session.get(TagRow, (repository, tag))
            return "" if row is None else row.digest
