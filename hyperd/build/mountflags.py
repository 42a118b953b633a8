"""The words of ``RUN --mount`` (https://docs.docker.com/reference/dockerfile/#run---mount)."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field

from hyperd.errors import InvalidInput, NotSupported

_SIZE = re.compile(r"(\d{1,15})([kmgt]?)b?", re.IGNORECASE)
_KEYS = {
    "bind": {"target", "source", "from", "rw"},
    "cache": {"target", "id", "ro", "sharing", "mode", "uid", "gid"},
    "tmpfs": {"target", "size"},
}
_OTHER_WORDS = {
    "dst": "target", "destination": "target", "src": "source", "readwrite": "rw", "readonly": "ro",
}  # fmt: skip
_TRUE = {"", "1", "true"}


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One mount: ``kind`` is bind, cache or tmpfs, ``options`` are as written, by their first names."""

    kind: str
    target: str
    read_only: bool = False
    options: dict[str, str] = field(default_factory=dict)


def parse_mount(text: str, *, line: int) -> Mount:
    """Read ``type=cache,target=/x,...``.

    Args:
        text: the flag's value, expanded.
        line: for messages.

    Raises:
        InvalidInput: nonsense.
        NotSupported: a type or an option that this builder does not know.

    """
    options = _options(text, line)
    kind = options.pop("type", "bind")
    if kind not in _KEYS:
        raise NotSupported(
            f"Dockerfile line {line}: RUN --mount=type={kind[:20]} is not supported",
            details="bind, cache and tmpfs are; no secret of a caller reaches a build",
        )
    if unknown := options.keys() - _KEYS[kind] - ({"ro"} if kind == "bind" else {"rw"} if kind == "cache" else set()):
        raise NotSupported(f"Dockerfile line {line}: RUN --mount={min(unknown)[:20]} of {kind} is not supported")
    if not options.get("target", "").strip("/") or "\0" in text:
        raise wrong_mount(line, "target is missing")
    for key, limit in (("mode", 0o7777), ("uid", 2**32 - 2), ("gid", 2**32 - 2)):
        if key in options and _number(options[key], 8 if key == "mode" else 10, line) > limit:
            raise wrong_mount(line, f"bad {key}")
    if options.get("sharing", "shared") not in ("shared", "private", "locked"):
        raise wrong_mount(line, "sharing must be shared, private or locked")
    if "size" in options and not _SIZE.fullmatch(options["size"]):
        raise wrong_mount(line, "size must be a number of bytes, such as 64m")
    writes = (
        options.get("rw", "false").lower() in _TRUE if kind == "bind" else options.get("ro", "x").lower() not in _TRUE
    )
    return Mount(kind=kind, target=options["target"], read_only=kind != "tmpfs" and not writes, options=options)


def _options(text: str, line: int) -> dict[str, str]:
    options: dict[str, str] = {}
    try:
        parts = next(csv.reader([text]), [])
    except csv.Error as error:  # a line feed, or a value of 128 KiB: variables can have them
        raise wrong_mount(line, "it has a line feed, or is far too long") from error
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        name = _OTHER_WORDS.get(name, name)
        if name in options or (not equals and name not in ("ro", "rw")):
            raise wrong_mount(line, f"bad option {part[:60]!r}")
        options[name] = value
    return options


def _number(text: str, base: int, line: int) -> int:
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if number < 0 or not text.isascii() or len(text) > 12:
        raise wrong_mount(line, f"bad number {text[:20]!r}")
    return number


def wrong_mount(line: int, what: str) -> InvalidInput:
    """Make the error for a mount that cannot be."""
    return InvalidInput(f"dockerfile parse error line {line}: RUN --mount: {what}")
