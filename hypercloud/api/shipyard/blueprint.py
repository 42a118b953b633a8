"""The blueprint: who may do what, and how errors look (plain text, as the original's)."""

from __future__ import annotations

import structlog
from flask import Blueprint, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from hypercloud import errors
from hypercloud.account.model import USER, Identity
from hypercloud.api.context import address, cloud
from hypercloud.api.session import identity_of_session

log = structlog.get_logger(__name__)

# By class, the most special first. The original answered 500 for nearly everything; clients compare texts there.
STATUSES: tuple[tuple[type[errors.CloudError], int], ...] = (
    (errors.UnsupportedMedia, 400),
    (errors.InvalidInput, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.TooManyRequests, 429),
    (errors.NotSupported, 501),
    (errors.NoEngine, 500),
    (errors.EngineError, 500),
)
# What a token of the role "user" may use; other roles may use nothing.
FOR_USERS = ("/api/containers", "/api/cluster/info", "/api/events", "/api/engines")
PUBLIC = ("/auth/login", "/hub/webhook", "/openapi/")


def make() -> Blueprint:
    """Make the blueprint without its routes."""
    blueprint = Blueprint("shipyard", __name__)
    blueprint.before_request(_who)
    blueprint.register_error_handler(errors.CloudError, _error)
    blueprint.register_error_handler(HTTPException, _http_error)
    blueprint.register_error_handler(Exception, _fault)
    return blueprint


def text(body: str, status: int) -> Response:
    """Return an answer in plain text."""
    return Response(f"{body}\n" if body else "", status, mimetype="text/plain")


def nothing() -> Response:
    """Return 204 No Content."""
    return Response(status=204)


def _who() -> None:
    """Find out who asks, and whether they may. A service key goes before a token, and a wrong one is not rescued."""
    if request.path.startswith(PUBLIC):
        return
    g.identity = _identity()
    if g.identity.is_admin or request.path.startswith("/account/"):
        return
    allowed = any(request.path == path or request.path.startswith(f"{path}/") for path in FOR_USERS)
    if g.identity.role != USER or g.identity.namespace or not allowed:
        raise errors.Forbidden("access denied")
    if request.path.startswith("/api/engines") and request.method != "GET":
        raise errors.Forbidden("access denied")  # an engine's address makes this server connect somewhere


def _identity() -> Identity:
    key = request.headers.get("X-Service-Key")
    if key is not None:
        return cloud().keys.service_key(key)
    if "X-Access-Token" not in request.headers and (signed_in := identity_of_session()) is not None:
        return signed_in
    username, colon, token = request.headers.get("X-Access-Token", "").partition(":")
    if not colon:
        raise errors.Unauthorized("unauthorized")
    return cloud().accounts.token(username, token)


def _error(error: errors.CloudError) -> Response:
    status = next((code for kind, code in STATUSES if isinstance(error, kind)), 500)
    if status >= 500:
        log.warning("shipyard.failed", path=request.path, error=str(error), client=address())
    response = text(str(error), status)
    if isinstance(error, errors.TooManyRequests):
        response.headers["Retry-After"] = str(int(error.after) + 1)
    return response


def _http_error(error: HTTPException) -> Response:
    response = text(str(error.description or error.name), error.code or 500)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(error.valid_methods)
    return response


def _fault(error: Exception) -> Response:
    log.error("shipyard.fault", path=request.path, exc_info=error)
    return text("internal error; the server's log says more", 500)
