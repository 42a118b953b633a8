"""Which containers ``docker ps`` shows: ``filters``, ``since``, ``before`` and ``limit``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hyperd.api.docker import params, patterns
from hyperd.api.docker.container_views import Shown, exposed, labels, state_word
from hyperd.api.docker.params import Filters
from hyperd.errors import InvalidInput

KEYS = (
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
)
STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
# With one of these also containers that do not run are shown.
_ALL = ("status", "exited", "before", "since")


def wants_all(given: Filters) -> bool:
    """Tell whether stopped containers are meant as well."""
    return any(key in given for key in _ALL)


def check(given: Filters) -> None:
    """Refuse values that mean nothing. Errors: InvalidInput."""
    for word in given.get("status", ()):
        if word not in STATES:
            raise InvalidInput(f"invalid filter 'status={word[:40]}'")
    for word in given.get("exited", ()):
        if not re.fullmatch(r"-?\d{1,9}", word):
            raise InvalidInput(f"invalid filter 'exited={word[:40]}'")
    for word in given.get("health", ()):
        if word not in ("starting", "healthy", "unhealthy", "none"):
            raise InvalidInput(f"invalid filter 'health={word[:40]}'")
    for word in given.get("name", ()):
        patterns.check(word)


def apply(shown: Sequence[Shown], given: Filters, *, image_ids: Callable[[str], set[str]]) -> list[Shown]:
    """Return those that pass every filter; of the values of one filter one must fit (all, for labels).

    Args:
        shown: the containers.
        given: the filters, checked.
        image_ids: gives the ids of the images that a name of ``ancestor`` means.

    """
    ancestors = set().union(*(image_ids(name) for name in given.get("ancestor", ())))
    return [one for one in shown if _passes(one, given, ancestors)]


def _passes(shown: Shown, given: Filters, ancestors: set[str]) -> bool:
    return all(_fits(shown, key, values, ancestors) for key, values in given.items() if key not in ("before", "since"))


def _fits(shown: Shown, key: str, values: Sequence[str], ancestors: set[str]) -> bool:
    container = shown.container
    if key == "ancestor":
        return container.image_id in ancestors
    if key == "label":
        return params.has_labels(labels(shown), values)
    if key == "status":
        return state_word(container) in values
    if key == "id":
        return any(container.id.startswith(value) for value in values)
    if key == "name":
        return any(_name_fits(container.name, value) for value in values)
    if key == "exited":
        return state_word(container) == "exited" and str(container.exit_code or 0) in values
    if key == "health":
        return (str(container.health.state) if container.health else "none") in values
    if key == "network":
        on = {word for one in shown.attachments for word in (one.network, one.network_id)}
        return any(value in on for value in values)
    if key == "volume":
        on = {word for mount in container.mounts for word in (mount.path, mount.source, mount.volume)}
        return any(value in on for value in values)
    if key in ("expose", "publish"):
        return _has_port(shown, key, values)
    return "false" in values or "0" in values if key == "is-task" else "default" in values


def _name_fits(name: str, value: str) -> bool:
    """``name`` is a regular expression for the name, with or without the slash before it."""
    return value == name or patterns.fits(value, "/" + name) or patterns.fits(value, name)


def _has_port(shown: Shown, key: str, values: Sequence[str]) -> bool:
    published = {f"{port.container_port}/{port.protocol}" for port in shown.container.ports}
    known = published if key == "publish" else {*published, *exposed(shown)}
    return any(_in_range(value, text) for value in values for text in known)


def _in_range(value: str, text: str) -> bool:
    ports, _, protocol = value.partition("/")
    port, _, kind = text.partition("/")
    low, _, high = ports.partition("-")
    try:
        return int(low) <= int(port) <= int(high or low) and (protocol or "tcp") == kind
    except ValueError:
        return False
