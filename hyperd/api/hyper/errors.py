"""The one place that turns exceptions into answers: the class decides the status, never the text.

The body is plain text with a newline, as the original daemon's was; who asks for ``Accept: application/json`` gets
``{"message", "details", "resolution", "code"}``.
"""

from __future__ import annotations

import contextlib
import errno
import json

import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from hyperd import errors
from hyperd.errors import HyperError

log = structlog.get_logger(__name__)

DRAIN_SIZE, DRAIN_READS = 2**20, 256
PAGE_NOT_FOUND = "404 page not found"
CLIENT_CLOSED_REQUEST = 499  # no status of RFC 9110; nobody is there to read it

# The first class that fits decides.
STATUSES: tuple[tuple[type[HyperError], int], ...] = (
    (errors.InvalidInput, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.NotAlive, 412),
    (errors.TooLarge, 413),
    (errors.Cancelled, CLIENT_CLOSED_REQUEST),
    (errors.NotSupported, 501),
    (errors.RegistryError, 502),
    (errors.Busy, 503),
    (errors.Timeout, 504),
    (errors.OutOfSpace, 507),
    (HyperError, 500),
)
# Faults of the host or the daemon are errors in its log, what others fail in is a warning; users' mistakes are neither.
FAULTS, FAULTS_OF_OTHERS = (errors.HostFault,), (errors.RegistryError, errors.Timeout)


def status_of(error: HyperError) -> int:
    """Return the status of an error."""
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def register(app: Flask) -> None:
    """Let the application answer every exception through this module."""
    app.register_error_handler(HyperError, _hyper_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def answer(status: int, error: HyperError) -> Response:
    """Make an error's answer in the form that the caller wants."""
    if "application/json" in request.headers.get("Accept", ""):
        found = {"message": error.brief, "details": error.details, "resolution": error.resolution, "code": status}
        if error.kind:
            found |= {"kind": error.kind, "name": error.name}
        response = Response(json.dumps(found) + "\n", status, content_type="application/json")
    else:
        text = str(error)
        response = Response(text.encode("utf-8", "replace") + b"\n", status, content_type="text/plain; charset=utf-8")
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _hyper_error(error: HyperError) -> Response:
    status = status_of(error)
    if isinstance(error, FAULTS) or type(error) is HyperError:
        log.error("api.failed", path=request.path, status=status, error=str(error))
    elif isinstance(error, FAULTS_OF_OTHERS):
        log.warning("api.failed", path=request.path, status=status, error=str(error))
    else:
        log.info("api.refused", path=request.path, status=status, error=str(error))
    return answer(status, error)


def _http_error(error: HTTPException) -> Response:
    """Answer what Flask itself refuses; a wrong method is an unknown route to this API's clients."""
    if error.code in {404, 405}:
        return answer(404, HyperError(PAGE_NOT_FOUND))
    if error.code == 413:
        _drain()
        return answer(413, HyperError("the request is too large"))
    return answer(error.code or 500, HyperError((error.description or error.name).rstrip(".")))


def _drain() -> None:
    """Read what a client still sends, within bounds: most clients look at the answer only after that."""
    stream = request.environ["wsgi.input"]
    with contextlib.suppress(HyperError):  # it has left, or says nonsense: the answer stays what it is
        for _ in range(DRAIN_READS):
            if not stream.read(DRAIN_SIZE):
                break


def _unexpected(error: Exception) -> Response:
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        log.error("api.no_descriptors", path=request.path, error=str(error))
        return answer(503, HyperError("the daemon has no file descriptors left", resolution="allow more (ulimit -n)"))
    log.error("api.internal_error", request=g.get("request_id", ""), path=request.path, exc_info=error)
    return answer(500, HyperError(f"internal error (see the daemon's log, request {g.get('request_id', '')})"))
