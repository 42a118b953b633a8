"""Reading a request: parameters of query and form, JSON bodies, in the original daemon's ways."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any, NoReturn

from flask import request

from hyperd.container.signals import parse_signal
from hyperd.errors import InvalidInput, TooLarge

MAX_JSON_BODY = 16 * 2**20
MAX_OBJECTS = 2**18  # of one JSON text; 65,535 published ports that are exposed, too, need half of them
MAX_GRACE = 3600  # seconds
FORM = "application/x-www-form-urlencoded"
FALSE = frozenset({"", "0", "no", "false", "none"})
STRICT_TRUE = frozenset({"yes", "true", "on"})
_MAX_TAIL_DIGITS = 9
_SECONDS = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")
_SURROGATES = re.compile("[\ud800-\udfff]")


def text(*names: str, default: str = "") -> str:
    """Return a parameter; the first of ``names`` that is there wins, its exact spelling before any other case."""
    values = _values(names)
    return values[0] if values else default


def texts(*names: str) -> list[str]:
    """Return every value of a repeatable parameter."""
    return _values(names)


def needed(*names: str, message: str = "") -> str:
    """Return a parameter that must not be empty. Errors: InvalidInput."""
    value = text(*names).strip()
    if not value:
        raise InvalidInput(message or f"{names[0]} is required")
    return value


def flag(*names: str, default: bool = False) -> bool:
    """Return a yes/no parameter: empty, 0, no, false and none mean no, anything else means yes."""
    values = _values(names)
    return values[0].strip().lower() not in FALSE if values else default


def strict_flag(*names: str, words: AbstractSet[str] = STRICT_TRUE) -> bool:
    """Return a parameter that only these words turn on."""
    return text(*names).strip().lower() in words


def number(*names: str, low: int, high: int, default: int | None = None) -> int:
    """Return a whole number; ``default`` None makes it required. Errors: InvalidInput."""
    raw = text(*names).strip()
    if not raw and default is not None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", raw) or not low <= int(raw) <= high:
        raise InvalidInput(f"{names[0]} must be a number from {low} to {high}", details=repr(raw[:40]))
    return int(raw)


def grace() -> float | None:
    """Return the parameter ``t``, seconds between stop signal and SIGKILL, None when it is not given.

    Errors: InvalidInput.
    """
    seconds = number("t", low=0, high=MAX_GRACE, default=-1)
    return None if seconds < 0 else float(seconds)


def moment(name: str) -> float | None:
    """Return a time as seconds since 1970; sent as such, or as RFC 3339. None when it is not given.

    Errors: InvalidInput.
    """
    raw = text(name).strip()
    return moment_of(raw, name) if raw else None


def moment_of(raw: str, name: str) -> float:
    """Read a time: seconds since 1970 or RFC 3339, of UTC where it has no zone. Errors: InvalidInput."""
    if _SECONDS.fullmatch(raw):
        return float(raw)
    try:
        when = datetime.fromisoformat(raw)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not seconds >= 0:
        raise InvalidInput(f"{name} must be seconds since 1970 or an RFC 3339 time", details=repr(raw[:40]))
    return seconds


def lines_of(tail: str) -> int | None:
    """Return how many lines of a log are asked for; None = all, as for what is no number."""
    if not (tail.isascii() and tail.isdigit()):
        return None
    return int(tail) if len(tail) <= _MAX_TAIL_DIGITS else None


def signal_number(name: str = "signal", *, default: int = signal.SIGTERM) -> int:
    """Return a signal by number or name (see ``hyperd.container.signals``). Errors: InvalidInput."""
    raw = text(name).strip()
    if not raw:
        return int(default)
    return parse_signal(raw)


def json_text(raw: str | bytes, what: str) -> Any:
    """Decode JSON. Errors: InvalidInput that names ``what``."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        return valid_text(json.loads(raw, parse_constant=refuse, object_pairs_hook=object_hook()), raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not valid JSON", details=str(error)[:200]) from None


def valid_text(value: Any, raw: str | bytes) -> Any:
    """Return decoded JSON with U+FFFD in the place of lone surrogates, as Go does: no file and no database takes them.

    ``raw``: what it was decoded from. Errors: RecursionError.
    """
    data = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")
    plain = data.isascii() and b"\\u" not in data and b"\0" not in data  # NUL: it is UTF-16
    return value if plain else _valid(value)


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_valid(key): _valid(item) for key, item in value.items()}
    return [_valid(item) for item in value] if isinstance(value, list) else value


def object_hook() -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Return what makes the objects of one JSON text.

    Its errors: ValueError for a key that comes twice, and for more objects than anybody needs: each takes the schemas
    so long that a text full of them would keep the daemon busy for minutes.
    """
    left = MAX_OBJECTS

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"there are over {MAX_OBJECTS} objects")
        return unique_keys(pairs)

    return make


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the dictionary of a JSON object. Errors: ValueError for a key that comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} comes twice in one object")
            seen.add(key)
    return found


def body() -> bytes:
    """Return the request's body. Errors: TooLarge."""
    data = request.get_data(cache=True)
    # A body without a length is cut at the limit, not refused.
    if len(data) >= MAX_JSON_BODY:
        raise TooLarge(f"the request is larger than {MAX_JSON_BODY} bytes")
    return data


def body_json(what: str) -> Any:
    """Decode the request's body. Errors: InvalidInput (also for another content type and for no body), TooLarge."""
    data = body()
    if not data:
        raise InvalidInput(f"{what} is missing: the body is empty")
    if request.mimetype != "application/json":
        given = request.headers.get("Content-Type", "")
        raise InvalidInput(f"Content-Type specified ({given[:100]}) must be 'application/json'")
    return json_text(data, what)


def json_words(name: str) -> list[str]:
    """Return a parameter that is a JSON array of strings. Errors: InvalidInput."""
    value = json_text(needed(name), name)
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise InvalidInput(f"{name} must be a JSON array of strings")
    return [_clean(word, name) for word in value]


def json_map(name: str) -> dict[str, str]:
    """Return a parameter that is a JSON object of strings. Errors: InvalidInput."""
    value = json_text(needed(name), name)
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidInput(f"{name} must be a JSON object of strings")
    return {_clean(key, name): _clean(item, name) for key, item in value.items()}


def _clean(word: str, name: str) -> str:
    if "\0" in word:
        raise InvalidInput(f"{name} contains a NUL character")
    return _SURROGATES.sub("\ufffd", word)


def _values(names: Iterable[str]) -> list[str]:
    for source in (request.form if request.mimetype == FORM else None, request.args):
        if source is None:
            continue
        for name in names:
            found = source.getlist(name)
            if found:
                return [_clean(value, name) for value in found]
        folded = {name.lower() for name in names}
        for key in source:
            if key.lower() in folded:
                return [_clean(value, key) for value in source.getlist(key)]
    return []
