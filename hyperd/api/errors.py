"""The one place that turns exceptions into answers: the class decides the status, never the text.

The body is plain text with a newline, as the original daemon's was; who asks for ``Accept: application/json`` gets
``{"message", "details", "resolution", "code"}``.
"""

from __future__ import annotations

import json

import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from hyperd.errors import HyperError

log = structlog.get_logger(__name__)

DRAIN_SIZE, DRAIN_READS = 2**20, 256
PAGE_NOT_FOUND = "404 page not found"


def register(app: Flask) -> None:
    """Let the application answer every exception through this module."""
    app.register_error_handler(HyperError, _hyper_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def answer(status: int, brief: str, *, details: str = "", resolution: str = "") -> Response:
    """Make an error's answer in the form that the caller wants."""
    if "application/json" in request.headers.get("Accept", ""):
        body = json.dumps({"message": brief, "details": details, "resolution": resolution, "code": status})
        response = Response(body + "\n", status, content_type="application/json")
    else:
        text = str(HyperError(brief, details=details, resolution=resolution))
        response = Response(text.encode("utf-8", "replace") + b"\n", status, content_type="text/plain; charset=utf-8")
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _hyper_error(error: HyperError) -> Response:
    if error.status >= 500:
        log.error("api.failed", path=request.path, status=error.status, error=str(error))
    else:
        log.info("api.refused", path=request.path, status=error.status, error=str(error))
    return answer(error.status, error.brief, details=error.details, resolution=error.resolution)


def _http_error(error: HTTPException) -> Response:
    """Answer what Flask itself refuses; a wrong method is an unknown route to this API's clients."""
    if error.code in {404, 405}:
        return answer(404, PAGE_NOT_FOUND)
    if error.code == 413:
        _drain()
        return answer(413, "the request is too large")
    return answer(error.code or 500, (error.description or error.name).rstrip("."))


def _drain() -> None:
    """Read what a client still sends, within bounds: most clients look at the answer only after that."""
    stream = request.environ["wsgi.input"]
    for _ in range(DRAIN_READS):
        if not stream.read(DRAIN_SIZE):
            break


def _unexpected(error: Exception) -> Response:
    log.error("api.internal_error", request=g.get("request_id", ""), path=request.path, exc_info=error)
    return answer(500, f"internal error (see the daemon's log, request {g.get('request_id', '')})")
