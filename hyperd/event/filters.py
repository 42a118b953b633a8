"""Which events a client wants: ``filters`` as Docker's clients write them (Docker Engine API, ``GET /events``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperd.errors import InvalidInput
from hyperd.event.bus import Event

KEYS = ("type", "event", "pod", "container", "image", "vm", "label")
MAX_VALUES = 256
Filters = Mapping[str, Sequence[str]]


def parse_filters(given: Any) -> dict[str, tuple[str, ...]]:
    """Read ``{"type": ["pod"]}`` or the older ``{"type": {"pod": true}}``. Errors: InvalidInput."""
    if not isinstance(given, dict):
        raise InvalidInput("filters must be a JSON object", resolution=f"keys: {', '.join(KEYS)}")
    found = {}
    for key, values in given.items():
        if key not in KEYS:
            raise InvalidInput(f"filters: unknown key {str(key)[:40]!r}", resolution=f"one of {', '.join(KEYS)}")
        wanted = [name for name, on in values.items() if on] if isinstance(values, dict) else values
        if not isinstance(wanted, list) or not all(isinstance(value, str) for value in wanted):
            raise InvalidInput(f"filters: {key} must be an array of strings")
        if len(wanted) > MAX_VALUES:
            raise InvalidInput(f"filters: {key} has over {MAX_VALUES} values")
        found[key] = tuple(wanted)
    return found


def matches(event: Event, filters: Filters) -> bool:
    """Tell whether an event passes: for every key one of its values must fit (``label``: all of them)."""
    return all(_fits(event, key, values) for key, values in filters.items() if values)


def _fits(event: Event, key: str, values: Sequence[str]) -> bool:
    if key == "type":
        return event.type in values
    if key == "event":
        return event.action in values
    if key == "label":
        return all(_label(event, value) for value in values)
    known = {event.attributes.get(key, ""), event.pod_id if key == "pod" else ""}
    if event.type == key:
        known |= {event.id, event.attributes.get("name", "")}
    known.discard("")
    return any(value == name or (key == "container" and _prefix(value, event)) for value in values for name in known)


def _prefix(value: str, event: Event) -> bool:
    """Tell whether a value is the beginning of a container's id."""
    return len(value) >= 4 and event.type == "container" and event.id.startswith(value)


def _label(event: Event, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in event.attributes and (not equals or event.attributes[key] == value)
