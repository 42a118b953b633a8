"""The routes of hyperd's own API, one module per kind of object, one blueprint for all."""

from __future__ import annotations

from hyperd.api.hyper import (
    archives,
    builds,
    checkpoints,
    containers,
    events,
    execs,
    images,
    networks,
    openapi,
    pods,
    portmappings,
    services,
    system,
    vms,
    volumes,
)
from hyperd.api.hyper.routes import blueprint

__all__ = [
    "archives",
    "blueprint",
    "builds",
    "checkpoints",
    "containers",
    "events",
    "execs",
    "images",
    "networks",
    "openapi",
    "pods",
    "portmappings",
    "services",
    "system",
    "vms",
    "volumes",
]
