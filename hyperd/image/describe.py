"""Images as people and programs want to read them: inspection, history, use of the disk (Docker's field names)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hyperd.image.catalog import ImageRecord

_EPOCH = "1970-01-01T00:00:00Z"


def inspect(record: ImageRecord, *, disk: int) -> dict[str, Any]:
    """Give everything that is known of an image.

    Args:
        record: the image.
        disk: bytes its layers take on this host.

    """
    config = record.config
    return {
        "Id": record.id,
        "RepoTags": list(record.tags),
        "RepoDigests": list(record.digests),
        "Parent": record.parent,
        "Comment": _text(config, "comment"),
        "Created": _text(config, "created") or _EPOCH,
        "Container": _text(config, "container"),
        "ContainerConfig": _mapping(config, "container_config"),
        "DockerVersion": _text(config, "docker_version"),
        "Author": _text(config, "author"),
        "Config": _mapping(config, "config"),
        "Architecture": _text(config, "architecture"),
        "Variant": _text(config, "variant"),
        "Os": _text(config, "os") or "linux",
        "Size": record.size,
        "VirtualSize": record.size,
        "DiskSize": disk,
        "RootFS": {"Type": "layers", "Layers": list(record.diff_ids)},
    }


def history(record: ImageRecord, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Give the steps an image was made in, the newest first.

    Args:
        record: the image.
        sizes: of its uncompressed layers, bottom first, bytes.

    """
    entries = record.config.get("history")
    steps = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if sum(not step.get("empty_layer") for step in steps) != len(sizes):
        steps = [{} for _ in sizes]  # what does not fit the layers tells nothing of them
    left = list(sizes)
    rows = []
    for step in steps:
        size = 0 if step.get("empty_layer") else left.pop(0)
        rows.append(
            {
                "Id": "<missing>",
                "Created": unix_time(step.get("created")),
                "CreatedBy": _text(step, "created_by"),
                "Tags": [],
                "Size": size,
                "Comment": _text(step, "comment"),
            }
        )
    rows.reverse()
    if rows:
        rows[0] |= {"Id": record.id, "Tags": list(record.tags)}
    return rows


def usage(
    records: Sequence[ImageRecord], disk: Mapping[str, int], containers: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Give what every image takes of the disk.

    Args:
        records: all images.
        disk: bytes of every layer on this host, by diff_id.
        containers: how many containers use an image, by its id.

    """
    users: dict[str, int] = {}
    for record in records:
        for diff_id in set(record.diff_ids):
            users[diff_id] = users.get(diff_id, 0) + 1
    rows = []
    for record in records:
        own = set(record.diff_ids)
        shared = sum(disk.get(diff_id, 0) for diff_id in own if users[diff_id] > 1)
        whole = sum(disk.get(diff_id, 0) for diff_id in own)
        rows.append(
            {
                "Id": record.id,
                "RepoTags": list(record.tags),
                "Created": int(record.created_at),
                "Size": record.size,
                "DiskSize": whole,
                "SharedSize": shared,
                "UniqueSize": whole - shared,
                "Containers": containers.get(record.id, 0),
            }
        )
    return rows


def unix_time(text: object) -> int:
    """Read an RFC 3339 time as seconds since the epoch; nonsense is 0."""
    try:
        when = datetime.fromisoformat(str(text))
        return max(int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()), 0)
    except (ValueError, OverflowError):
        return 0


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _mapping(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}
