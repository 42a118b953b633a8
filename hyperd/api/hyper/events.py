"""``GET /events``: what happens, one JSON object per line, in the form of Docker's events."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from flask import Response

from hyperd.api import params, takeover
from hyperd.api.context import engine
from hyperd.api.hyper.routes import blueprint
from hyperd.event.bus import Event
from hyperd.event.filters import matches, parse_filters
from hyperd.stream.follower import FeedSession

LAST = b'{"error":"this client was too slow and misses events"}\n'


def event_object(event: Event) -> dict[str, Any]:
    """Return an event as Docker's clients know it; ``id``, ``status``, ``from`` are the names of its first version."""
    attributes = dict(event.attributes)
    if event.pod_id:
        attributes["podID"] = event.pod_id
    if event.action == "commit" and "made" in attributes:
        attributes["imageID"] = attributes.pop("made")
    found: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": attributes},
        "scope": "local",
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }
    if event.type in ("container", "image"):
        found |= {"status": event.action, "id": event.id}
        if "image" in event.attributes:
            found["from"] = event.attributes["image"]
    return found


@blueprint.get("/events")
def events() -> Response:
    """Stream events; with ``until`` in the past only those of the past."""
    raw = params.text("filters").strip()
    filters = parse_filters(params.json_text(raw, "filters") if raw else {})
    since, until = params.moment("since"), params.moment("until")
    since_ns = None if since is None else int(since * 1e9)
    until_ns = None if until is None else int(until * 1e9)
    bus = engine().events

    def wanted(event: Event) -> bool:
        return (until_ns is None or event.time_ns < until_ns) and matches(event, filters)

    def subscribe(take: Callable[[bytes], None]) -> tuple[list[bytes], Callable[[], None]]:
        past, cancel = bus.subscribe(lambda event: take(_line(event)) if wanted(event) else None, since_ns=since_ns)
        return [_line(event) for event in past if wanted(event)], cancel

    left = None if until is None else max(0.0, until - time.time())
    return takeover.follow(FeedSession(engine().relay, subscribe, last=LAST, until=left), "application/json")


def _line(event: Event) -> bytes:
    return json.dumps(event_object(event), separators=(",", ":")).encode() + b"\n"
