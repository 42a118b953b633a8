"""Errors in the Docker API's words: the class decides the status, the body is ``{"message": ...}``."""

from __future__ import annotations

import json
from http import HTTPStatus

import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from hyperd import errors
from hyperd.api.docker.versions import is_legacy
from hyperd.errors import HyperError

log = structlog.get_logger(__name__)

# The first class that fits decides, from the most special to the most general.
STATUSES: tuple[tuple[type[HyperError], HTTPStatus], ...] = (
    (errors.InvalidInput, HTTPStatus.BAD_REQUEST),
    (errors.Unauthorized, HTTPStatus.UNAUTHORIZED),
    (errors.Forbidden, HTTPStatus.FORBIDDEN),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.Conflict, HTTPStatus.CONFLICT),
    (errors.NotAlive, HTTPStatus.CONFLICT),
    (errors.TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.NotSupported, HTTPStatus.NOT_IMPLEMENTED),
    (errors.Busy, HTTPStatus.SERVICE_UNAVAILABLE),
    (HyperError, HTTPStatus.INTERNAL_SERVER_ERROR),
)


class NotModified(Exception):
    """The object is in the wanted state already: 304 without a body."""


def status_of(error: HyperError) -> HTTPStatus:
    """Return the status of an error."""
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def register(app: Flask) -> None:
    """Let the application answer every exception through this module."""
    app.register_error_handler(HyperError, _hyper_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(NotModified, lambda _error: Response(status=HTTPStatus.NOT_MODIFIED))
    app.register_error_handler(Exception, _unexpected)


def answer(status: int, message: str) -> Response:
    """Return an error's answer: JSON, or plain text for clients before 1.24."""
    if is_legacy():
        return Response(f"{message}\n".encode("utf-8", "replace"), status, content_type="text/plain; charset=utf-8")
    return Response(json.dumps({"message": message}) + "\n", status, content_type="application/json")


def _hyper_error(error: HyperError) -> Response:
    status = status_of(error)
    # Users' mistakes and limits that are reached are no errors of the daemon.
    faulty = isinstance(error, errors.HostFault) or type(error) is HyperError
    write, event = (log.error, "api.failed") if faulty else (log.info, "api.refused")
    write(event, path=request.path, status=status.value, error=str(error))
    return answer(status, str(error))


def _http_error(error: HTTPException) -> Response:
    """Answer what Flask itself refuses; a wrong method is an unknown route to this API's clients."""
    if error.code in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return answer(HTTPStatus.NOT_FOUND, "page not found")
    return answer(error.code or HTTPStatus.INTERNAL_SERVER_ERROR, (error.description or error.name).rstrip("."))


def _unexpected(error: Exception) -> Response:
    name = g.get("request_id", "")
    log.error("api.internal_error", request=name, path=request.path, exc_info=error)
    return answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"internal error (see the daemon's log, request {name})")
