"""Images in Docker's words, of every version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperd.api.docker import words
from hyperd.api.docker.lookup import STORAGE_DRIVER
from hyperd.api.docker.versions import Version
from hyperd.image.model import HistoryStep, Image, ImageDetails, ImageUsage, Removal, RemovalKind
from hyperd.registry.search import SearchResult

LOWER_CASE_BELOW: Version = (1, 12)
BARE_IDS_BELOW: Version = (1, 22)  # ids without the algorithm before them
NO_NAME = "<none>:<none>"


def shown_id(image_id: str, version: Version) -> str:
    """Return an id as that version has it."""
    return image_id.removeprefix("sha256:") if version < BARE_IDS_BELOW else image_id


def row(image: Image, version: Version, *, usage: ImageUsage | None = None) -> dict[str, Any]:
    """Return a row of ``GET /images/json``; ``usage`` for ``system df``."""
    found: dict[str, Any] = {
        "Id": shown_id(image.id, version),
        "ParentId": shown_id(image.parent, version),
        "RepoTags": list(image.tags) or ([NO_NAME] if version < (1, 43) else []),
        "Created": int(image.created_at),
        "Size": image.size,
    }
    if version < (1, 44):
        found["VirtualSize"] = image.size
    if version >= (1, 18):
        found["Labels"] = image.labels or None
    if version >= (1, 21):
        none = ["<none>@<none>"] if version < (1, 43) else []
        found["RepoDigests"] = list(image.digests) or none
    if version >= (1, 25):
        found["Containers"] = usage.containers if usage else -1
        found["SharedSize"] = usage.shared if usage else -1
    return found


# What Docker's clients find in ``Config``, said by the image or not.
_CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def inspect(details: ImageDetails, version: Version) -> dict[str, Any]:
    """Return the object of ``GET /images/X/json``."""
    image = details.image
    config = image.config
    own = config.get("config") if isinstance(config.get("config"), dict) else {}
    if version < LOWER_CASE_BELOW:
        return {
            "id": shown_id(image.id, version),
            "parent": shown_id(image.parent, version),
            "created": details.created,
            "container": str(config.get("container") or ""),
            "container_config": config.get("container_config") or {},
            "config": own,
            "architecture": details.architecture,
            "os": details.os,
            "Size": image.size,
        }
    found: dict[str, Any] = {
        "Id": shown_id(image.id, version),
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Parent": shown_id(image.parent, version),
        "Comment": details.comment,
        "Created": details.created or words.rfc3339(image.created_at),
        "DockerVersion": details.builder,
        "Author": details.author,
        "Config": {**_CONFIG, **(own or {})},
        "Architecture": details.architecture,
        "Os": details.os,
        "Size": image.size,
        "GraphDriver": {"Data": None, "Name": STORAGE_DRIVER},
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Metadata": {"LastTagTime": words.NEVER},
    }
    if details.variant:
        found["Variant"] = details.variant
    if version < (1, 44):
        found["VirtualSize"] = image.size
    if version < (1, 45):
        found["Container"] = str(config.get("container") or "")
        found["ContainerConfig"] = config.get("container_config") or {}
    return found


def history(steps: Sequence[HistoryStep], version: Version) -> list[dict[str, Any]]:
    """Return the steps an image was made in, the newest first."""
    return [
        {
            "Id": shown_id(step.image_id, version) or "<missing>",
            "Created": int(step.created_at),
            "CreatedBy": step.created_by,
            "Tags": list(step.tags) or None,
            "Size": step.size,
            "Comment": step.comment,
        }
        for step in steps
    ]


def removals(steps: Sequence[Removal], version: Version) -> list[dict[str, str]]:
    """Return what a removal did, in order."""
    return [
        {"Untagged": step.name} if step.kind == RemovalKind.UNTAGGED else {"Deleted": shown_id(step.name, version)}
        for step in steps
    ]


def found_repository(result: SearchResult, version: Version) -> dict[str, Any]:
    """Return a row of ``GET /images/search``."""
    row: dict[str, Any] = {
        "name": result.name,
        "description": result.description,
        "star_count": result.stars,
        "is_official": result.official,
        "is_automated": result.automated,
    }
    if version < (1, 10):
        row["is_trusted"] = result.automated
    return row
