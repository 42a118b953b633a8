"""Named volumes: made, listed, removed."""

from __future__ import annotations

from typing import Any, cast

from flask import Response

from hyperd.api import answers, params
from hyperd.api.context import engine
from hyperd.api.hyper.pod_schema import Table, Text, Wire
from hyperd.api.hyper.pod_spec import load
from hyperd.api.hyper.routes import blueprint
from hyperd.volume.model import NamedVolume, NamedVolumeSpec


class NamedVolumeSchema(Wire):
    """A volume to be made."""

    builds = NamedVolumeSpec
    name = Text(limit=255)
    driver = Text(limit=64)
    labels = Table()
    options = Table()


_VOLUME = NamedVolumeSchema()


def volume_object(volume: NamedVolume) -> dict[str, Any]:
    """Return a volume as the API shows it."""
    return {
        "name": volume.name,
        "driver": volume.driver,
        "kind": volume.kind.value,
        "mountpoint": volume.mountpoint,
        "anonymous": volume.anonymous,
        "created": volume.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "labels": dict(volume.labels),
        "options": dict(volume.options),
        "containers": list(volume.used_by),
    }


@blueprint.get("/volume/list")
def list_volumes() -> Response:
    """List the named volumes."""
    return answers.plain_json([volume_object(volume) for volume in engine().volumes.all()])


@blueprint.get("/volume/info")
def show_volume() -> Response:
    """Show a volume and the containers that use it."""
    return answers.plain_json(volume_object(engine().volumes.get(_name())))


@blueprint.post("/volume/create")
def create_volume() -> Response:
    """Make a volume; one of this name and kind that exists is fine."""
    spec = cast("NamedVolumeSpec", load(_VOLUME, params.body_json("the volume")))
    return answers.plain_json(volume_object(engine().volumes.create(spec)), 201)


@blueprint.delete("/volume")
def remove_volume() -> Response:
    """Remove a volume that no container uses, with its files."""
    engine().volumes.remove(_name())
    return answers.code(_name())


@blueprint.post("/volume/prune")
def prune_volumes() -> Response:
    """Remove the volumes that no container uses: those without a name of their own, with ``all`` every one."""
    everything = params.flag("all")
    return answers.plain_json(engine().volumes.prune(lambda volume: everything or volume.anonymous))


def _name() -> str:
    return params.needed("volume")
