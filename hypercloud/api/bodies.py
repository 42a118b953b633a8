"""Reading requests: JSON bodies through marshmallow, numbers and truth values of queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import request
from marshmallow import Schema, ValidationError

from hypercloud import strict
from hypercloud.errors import InvalidInput, UnsupportedMedia

DEPTH = 40  # of nesting; deeper is no request of ours


def json_object(*, optional: bool = False) -> dict[str, Any]:
    """Return the request's JSON object, whatever its Content-Type (the examples write it without a colon).

    Errors: UnsupportedMedia when it is no JSON, InvalidInput when it is no object.
    """
    data = request.get_data(cache=True)
    if not data.strip():
        if optional:
            return {}
        raise UnsupportedMedia("the request has no body", resolution="send a JSON object")
    try:
        found = strict.loads(data)
    except ValueError as error:
        raise UnsupportedMedia("the body is not valid JSON", details=str(error)[:200]) from None
    if not isinstance(found, dict):
        raise InvalidInput("the body must be a JSON object")
    if strict.deeper(found, DEPTH):
        raise InvalidInput("the body is nested too deeply", details=f"more than {DEPTH} levels")
    return found


def load(schema: Schema, data: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """Return what a schema makes of a body. Errors: InvalidInput that names the field."""
    try:
        found: dict[str, Any] = schema.load(data, partial=partial)
    except ValidationError as error:
        raise InvalidInput("the request is not right", details=_first(error.messages)) from None
    return found


def truth(name: str, *, default: bool = False) -> bool:
    """Return a truth value of the query. Errors: InvalidInput."""
    text = request.args.get(name)
    if text is None or text == "":
        return default
    if text.lower() in {"1", "true", "yes"}:
        return True
    if text.lower() in {"0", "false", "no"}:
        return False
    raise InvalidInput(f"{name} must be true or false", details=repr(text[:40]))


def number(name: str, *, default: int, least: int, most: int) -> int:
    """Return a number of the query. Errors: InvalidInput."""
    text = request.args.get(name)
    if text is None or text == "":
        return default
    try:
        found = int(text)
    except ValueError:
        raise InvalidInput(f"{name} must be a whole number", details=repr(text[:40])) from None
    if not least <= found <= most:
        raise InvalidInput(f"{name} must be from {least} to {most}", details=str(found))
    return found


def _first(messages: Any, path: str = "") -> str:
    """Return the first message of a tree of them, with the way to it."""
    if isinstance(messages, Mapping):
        key, inner = next(iter(messages.items()))
        return _first(inner, f"{path}.{key}" if path else str(key))
    text = messages[0] if isinstance(messages, list) and messages else messages
    return f"{path}: {text}"
