"""Named volumes: list, create, inspect, remove, prune; what everything takes of the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flask import Response, request

from hyperd.api.context import engine
from hyperd.api.docker import answers, image_views, params, policy, schema, versions
from hyperd.api.docker.container_views import row
from hyperd.api.docker.lookup import Lookup
from hyperd.api.docker.mounts import check_driver, check_volume_name
from hyperd.api.docker.params import Filters
from hyperd.api.docker.routes import blueprint
from hyperd.errors import Conflict, InvalidInput, NotFound, NotSupported
from hyperd.volume.model import NamedVolume as Volume
from hyperd.volume.model import NamedVolumeSpec

_CREATE = schema.VolumeCreate()
_LIST_KEYS = ("dangling", "driver", "label", "name")
_PRUNE_KEYS = ("all", "label", "label!")


def volume_object(volume: Volume) -> dict[str, Any]:
    """Return a volume."""
    return {
        "CreatedAt": volume.created_at.isoformat().replace("+00:00", "Z"),
        "Driver": volume.driver,
        "Labels": dict(volume.labels) or None,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }


def _find(name: str) -> Volume:
    try:
        return engine().volumes.get(name)
    except NotFound as error:
        raise NotFound(f"get {name[:200]}: no such volume") from error


@blueprint.get("/volumes")
def list_volumes() -> Response:
    """List volumes."""
    filters = params.filters(_LIST_KEYS)
    found = [one for one in engine().volumes.all() if _passes(one, filters)]
    return answers.as_json({"Volumes": [volume_object(one) for one in found], "Warnings": None})


def _passes(volume: Volume, filters: Filters) -> bool:
    return all(_fits(volume, key, values) for key, values in filters.items())


def _fits(volume: Volume, key: str, values: Sequence[str]) -> bool:
    if key == "dangling":
        return str(not volume.used_by).lower() in values or str(int(not volume.used_by)) in values
    if key == "driver":
        return volume.driver in values
    if key == "label":
        return params.has_labels(volume.labels, values)
    return any(value in volume.name for value in values)


@blueprint.post("/volumes/create")
def create_volume() -> Response:
    """Make a volume; one that is there already is given back as it is."""
    given = schema.load(_CREATE, params.body_object(optional=True))
    try:
        check_driver(given["Driver"])
    except NotSupported as error:
        raise NotFound(error.brief) from error
    name = given["Name"]
    if name:
        check_volume_name(name)
        with contextlib.suppress(NotFound):
            return answers.as_json(volume_object(engine().volumes.get(name)), 201)
    spec = NamedVolumeSpec(name=name, labels=given["Labels"], options=given["DriverOpts"], anonymous=not name)
    made = engine().volumes.create(spec)
    return answers.as_json(volume_object(made), 201)


@blueprint.get("/volumes/<name>")
def inspect_volume(name: str) -> Response:
    """Describe a volume."""
    return answers.as_json(volume_object(_find(name)))


@blueprint.delete("/volumes/<name>")
def remove_volume(name: str) -> Response:
    """Remove a volume that no container uses."""
    try:
        found = _find(name)
    except NotFound:
        if params.flag("force"):
            return answers.empty()
        raise
    try:
        engine().volumes.remove(found.name)
    except Conflict as error:
        users = ", ".join(found.used_by)
        raise Conflict(f"remove {found.name}: volume is in use - [{users}]") from error
    return answers.empty()


@blueprint.post("/volumes/prune")
def prune_volumes() -> Response:
    """Remove the volumes that no container uses; without ``all`` only those without a name of their own."""
    filters = params.filters(_PRUNE_KEYS)
    everything = params.truth(filters, "all") is True or versions.requested() < (1, 42)

    def chosen(volume: Volume) -> bool:
        return (
            (everything or volume.anonymous)
            and params.has_labels(volume.labels, filters.get("label", ()))
            and not any(params.has_labels(volume.labels, (entry,)) for entry in filters.get("label!", ()))
        )

    removed = engine().volumes.prune(chosen)
    return answers.as_json({"VolumesDeleted": list(removed) or None, "SpaceReclaimed": sum(removed.values())})


_DISK_KINDS = ("container", "image", "volume", "build-cache")


@blueprint.get("/system/df")
def disk_usage() -> Response:
    """Tell what images, containers and volumes take of the disk; with ``type`` only of those kinds."""
    wanted = set(request.args.getlist("type")) or set(_DISK_KINDS)
    if wanted - set(_DISK_KINDS):
        raise InvalidInput(f"unknown object type: {min(wanted - set(_DISK_KINDS))[:40]!r}")
    running, spoken = engine(), versions.requested()
    found: dict[str, Any] = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None}
    if "image" in wanted:
        usage = running.images.reports.usage()
        found["LayersSize"] = usage.totals.layer_bytes + usage.totals.blob_bytes
        # Clients take the sizes of images in use from that of all layers: both are those of this host's disk.
        found["Images"] = [
            {**image_views.row(one.image, spoken, usage=one), "Size": one.disk_size} for one in usage.images
        ]
    if "container" in wanted:
        every = Lookup(running).all()
        found["Containers"] = [row(replace(one, sizes=policy.sizes(one.container)), spoken) for one in every]
    if "volume" in wanted:
        found["Volumes"] = [
            {
                **volume_object(volume),
                "UsageData": {"Size": running.volumes.size(volume.name), "RefCount": len(volume.used_by)},
            }
            for volume in running.volumes.all()
        ]
    if "build-cache" in wanted:
        found["BuildCache"] = []
    return answers.as_json(found)
