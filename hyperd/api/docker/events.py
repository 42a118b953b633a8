"""``GET /events`` in Docker's words; what happens to pods and VMs is no news to clients that know none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from flask import Response

from hyperd.api import takeover
from hyperd.api.context import engine
from hyperd.api.docker import params
from hyperd.api.docker.params import Filters
from hyperd.api.docker.routes import blueprint
from hyperd.event.bus import Event
from hyperd.stream.follower import FeedSession

LAST = b'{"error":"this client was too slow and misses events"}\n'
KEYS = (
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
)
SHOWN = ("container", "image", "network", "volume", "builder")
_OF_PODS = {"pause", "unpause"}  # of a container's own pod: the container's news
_NAMES = {("image", "remove"): "delete"}


def event_object(event: Event) -> dict[str, Any] | None:
    """Return an event as clients know it, None for one that they do not."""
    kind, attributes = event.type, dict(event.attributes)
    if kind == "pod" and event.action in _OF_PODS:
        kind = "container"
    if kind not in SHOWN:
        return None
    action = _NAMES.get((kind, event.action), event.action)
    if event.action == "commit" and "made" in attributes:
        attributes["imageID"] = attributes.pop("made")
    if kind == "network" and event.pod_id:
        attributes["container"] = event.pod_id  # a container of this API has its pod's id
    found: dict[str, Any] = {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": event.id, "Attributes": attributes},
        "scope": "local",
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }
    if kind in ("container", "image"):
        found |= {"status": action, "id": event.id}
        if "image" in attributes:
            found["from"] = attributes["image"]
    return found


def passes(found: dict[str, Any], filters: Filters) -> bool:
    """Tell whether an event passes: for every key one of its values must fit (all, for labels)."""
    return all(_fits(found, key, values) for key, values in filters.items())


def _fits(found: dict[str, Any], key: str, values: Sequence[str]) -> bool:
    attributes = found["Actor"]["Attributes"]
    if key == "type":
        return found["Type"] in values
    if key == "event":
        return any(found["Action"] == value or found["Action"].startswith(value + ":") for value in values)
    if key == "label":
        return params.has_labels(attributes, values)
    if key == "scope":
        return "local" in values
    if key == "image":
        names = {attributes.get("image", "")}
        if found["Type"] == "image":
            names |= {found["Actor"]["ID"], attributes.get("name", "")}
        return any(value in names or f"{value}:latest" in names for value in values)
    if key in ("container", "network", "volume"):
        return found["Type"] == key and any(_names_it(found, value) for value in values)
    return False


def _names_it(found: dict[str, Any], value: str) -> bool:
    ident = found["Actor"]["ID"]
    return value in (ident, found["Actor"]["Attributes"].get("name")) or (len(value) >= 4 and ident.startswith(value))


@blueprint.get("/events")
def events() -> Response:
    """Stream events; with ``until`` in the past only those of the past."""
    filters = params.filters(KEYS)
    since = params.moment(params.text("since")) if params.text("since") else None
    until = params.moment(params.text("until")) if params.text("until") else None
    until_ns = None if until is None else int(until * 1e9)
    bus = engine().events

    def line(event: Event) -> bytes | None:
        found = event_object(event)
        if found is None or (until_ns is not None and event.time_ns >= until_ns) or not passes(found, filters):
            return None
        return json.dumps(found, separators=(",", ":")).encode() + b"\n"

    def subscribe(take: Callable[[bytes], None]) -> tuple[list[bytes], Callable[[], None]]:
        def hear(event: Event) -> None:
            data = line(event)
            if data is not None:
                take(data)

        past, cancel = bus.subscribe(hear, since_ns=None if since is None else int(since * 1e9))
        return [data for data in map(line, past) if data is not None], cancel

    left = None if until is None else max(0.0, until - time.time())
    return takeover.follow(FeedSession(engine().relay, subscribe, last=LAST, until=left), "application/json")
