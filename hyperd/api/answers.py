"""The forms of good answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from flask import Response


def plain_json(value: Any, status: int = 200) -> Response:
    """Return compact JSON with a newline, keys in the order they have."""
    return Response(_dump(value, sort=False), status, content_type="application/json")


def env(value: dict[str, Any], status: int = 200) -> Response:
    """Return a flat object with its keys in alphabetical order."""
    return Response(env_text(value), status, content_type="application/json")


def env_text(value: dict[str, Any]) -> str:
    """Return the text of ``env``."""
    return _dump(value, sort=True)


def text(body: bytes, status: int = 200) -> Response:
    """Return JSON that was written before."""
    return Response(body, status, content_type="application/json")


def code(ident: str, status: int = 200, *, warnings: Sequence[str] = ()) -> Response:
    """Return ``code_of``."""
    return env(code_of(ident, warnings=warnings), status)


def code_of(ident: str, *, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """``{"Cause":"","Code":0,"ID":ident}``: done; with ``Warnings`` where there are any."""
    return {"Cause": "", "Code": 0, "ID": ident, **({"Warnings": list(warnings)} if warnings else {})}


def empty(status: int = 204) -> Response:
    """Return nothing but the status."""
    response = Response(b"", status)
    response.headers.pop("Content-Type", None)
    return response


def _dump(value: Any, *, sort: bool) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=sort) + "\n"
