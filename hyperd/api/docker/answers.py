"""Answers in Docker's forms."""

from __future__ import annotations

import json
from typing import Any

from flask import Response


def as_json(value: Any, status: int = 200) -> Response:
    """Return a JSON answer; clients compare the content type with exactly ``application/json``."""
    return Response(json.dumps(value, separators=(",", ":")) + "\n", status, content_type="application/json")


def empty(status: int = 204) -> Response:
    """Return an answer without a body."""
    response = Response(status=status)
    response.headers.pop("Content-Type", None)
    return response
