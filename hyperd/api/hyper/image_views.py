"""Images as objects of the hyper API; inspection, history and use of the disk have Docker's field names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hyperd.image.model import (
    HistoryStep,
    Image,
    ImageDetails,
    ImageUsage,
    Pruned,
    Removal,
    RemovalKind,
    StoreUsage,
    mapping_of,
    text_of,
)
from hyperd.registry.search import SearchResult

_EPOCH = "1970-01-01T00:00:00Z"
_KINDS = {RemovalKind.UNTAGGED: "untaged", RemovalKind.DELETED: "deleted"}  # the API's spelling


def rows(image: Image) -> list[str]:
    """Return an image's rows in a list, one a tag: repository, tag, id, time of creation, size."""
    end = f"{image.id.removeprefix('sha256:')}:{int(image.created_at)}:{image.size}"
    return [f"{tag}:{end}" for tag in image.tags or ("<none>:<none>",)]


def removals(steps: Iterable[Removal]) -> list[dict[str, str]]:
    """Return what was removed, in the order in which it happened."""
    return [{_KINDS[step.kind]: step.name} for step in steps]


def pruned(found: Pruned) -> dict[str, Any]:
    """Return what a clean-up did."""
    return {"ImagesDeleted": removals(found.removed), "SpaceReclaimed": found.freed}


def details(found: ImageDetails) -> dict[str, Any]:
    """Return everything that is known of an image."""
    image = found.image
    return {
        "Id": image.id,
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Parent": image.parent,
        "Comment": found.comment,
        "Created": found.created or _EPOCH,
        "Container": text_of(image.config, "container"),
        "ContainerConfig": mapping_of(image.config, "container_config"),
        "DockerVersion": found.builder,
        "Author": found.author,
        "Config": mapping_of(image.config, "config"),
        "Architecture": found.architecture,
        "Variant": found.variant,
        "Os": found.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "DiskSize": found.disk_size,
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
    }


def history(steps: Iterable[HistoryStep]) -> list[dict[str, Any]]:
    """Return the steps an image was made in, the newest first."""
    return [
        {
            "Id": step.image_id or "<missing>",
            "Created": int(step.created_at),
            "CreatedBy": step.created_by,
            "Tags": list(step.tags),
            "Size": step.size,
            "Comment": step.comment,
        }
        for step in steps
    ]


def usage(found: StoreUsage) -> dict[str, Any]:
    """Return what all images take of the disk."""
    return {
        "LayersSize": found.totals.layer_bytes,
        "BlobsSize": found.totals.blob_bytes,
        "Reclaimable": found.reclaimable,
        "Images": [_usage(one) for one in found.images],
    }


def _usage(one: ImageUsage) -> dict[str, Any]:
    return {
        "Id": one.image.id,
        "RepoTags": list(one.image.tags),
        "Created": int(one.image.created_at),
        "Size": one.image.size,
        "DiskSize": one.disk_size,
        "SharedSize": one.shared,
        "UniqueSize": one.unique,
        "Containers": one.containers,
    }


def found(repository: SearchResult) -> dict[str, Any]:
    """Return a repository that a search found."""
    return {
        "name": repository.name,
        "description": repository.description,
        "star_count": repository.stars,
        "is_official": repository.official,
        "is_automated": repository.automated,
    }
