"""Parameters and bodies of Docker's clients."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flask import request

from hyperd.api.params import moment_of, object_hook, valid_text
from hyperd.errors import InvalidInput

MAX_BODY = 16 * 2**20
MAX_VALUES = 1024
_FALSE = frozenset({"", "0", "no", "false", "none"})
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_PART = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(f"(?:{_PART}h)?(?:{_PART}m)?(?:{_PART}s)?")
_BEFORE = re.compile(r"-[0-9]{1,18}(\.[0-9]{1,9})?|0001-01-01T00:00:00Z")
Filters = Mapping[str, tuple[str, ...]]


def text(name: str, default: str = "") -> str:
    """Return a parameter of the query."""
    value = request.args.get(name, default)
    if "\0" in value:
        raise InvalidInput(f"{name} contains a NUL character")
    return value


def flag(name: str, *, default: bool = False) -> bool:
    """Return a yes/no parameter: empty, 0, no, false and none mean no, anything else yes, as for Docker."""
    if name not in request.args:
        return default
    return request.args[name].strip().lower() not in _FALSE


def number(name: str, default: int = 0) -> int:
    """Return a whole number. Errors: InvalidInput."""
    raw = request.args.get(name, "").strip()
    if not raw:
        return default
    if not _NUMBER.fullmatch(raw):
        raise InvalidInput(f'strconv.Atoi: parsing "{raw[:40]}": invalid syntax', details=name)
    return int(raw)


def moment(raw: str) -> float:
    """Read a time: seconds since 1970, RFC 3339, or a duration before now such as ``1h30m``. Errors: InvalidInput.

    What is before 1970 (Go's zero time, which some clients send) is 1970.
    """
    raw = raw.strip()
    match = _DURATION.fullmatch(raw)
    if raw and match:
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return max(0.0, time.time() - hours * 3600 - minutes * 60 - seconds)
    return 0.0 if _BEFORE.fullmatch(raw) else moment_of(raw, "a time")


def filters(known: Sequence[str]) -> Filters:
    """Read ``filters``: ``{"label": ["a=b"]}`` or ``{"label": {"a=b": true}}``. Errors: InvalidInput."""
    raw = request.args.get("filters", "").strip()
    if not raw:
        return {}
    given = decode(raw.encode("utf-8", "surrogateescape"), "filters")
    if not isinstance(given, dict):
        raise InvalidInput("invalid filter: not a JSON object")
    found = {}
    for key, values in given.items():
        if key not in known:
            raise InvalidInput(f"invalid filter '{key[:60]}'")
        words = [name for name, on in values.items() if on] if isinstance(values, dict) else values
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or len(words) > MAX_VALUES:
            raise InvalidInput(f"invalid filter '{key}': must be a list of strings")
        if words:
            found[key] = tuple(words)
    return found


def truth(given: Filters, key: str) -> bool | None:
    """Return a filter that is yes or no; None when it is not given. Errors: InvalidInput."""
    if key not in given:
        return None
    words = {word.lower() for word in given[key]}
    if words <= {"true", "1"}:
        return True
    if words <= {"false", "0"}:
        return False
    raise InvalidInput(f"invalid filter '{key}={next(iter(given[key]))[:40]}'")


def has_labels(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """Tell whether all labels are there, each ``key`` or ``key=value``."""
    for entry in wanted:
        key, equals, value = entry.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def body(*, optional: bool = False) -> Any:
    """Return the JSON body; an empty one is None when ``optional``. Errors: InvalidInput, TooLarge."""
    data = request.get_data(cache=True)
    if not data.strip():
        if optional:
            return None
        raise InvalidInput("invalid JSON: got EOF while reading request body")
    if len(data) > MAX_BODY:
        raise InvalidInput("request body too large")
    return decode(data, "request body")


def body_object(*, optional: bool = False) -> dict[str, Any]:
    """Return the body as an object; an empty one is empty when ``optional``. Errors: InvalidInput."""
    given = body(optional=optional)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidInput("invalid JSON: the body must be an object")
    return given


def decode(data: bytes, what: str) -> Any:
    """Decode JSON. Errors: InvalidInput."""
    try:
        return valid_text(json.loads(data, object_pairs_hook=object_hook()), data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"invalid JSON: {what}", details=str(error)[:200]) from None
