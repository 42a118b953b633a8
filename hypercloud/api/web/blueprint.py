"""The page's blueprint: who asks, headers of safety, errors as JSON."""

from __future__ import annotations

import structlog
from flask import Blueprint, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from hypercloud import errors
from hypercloud.api.context import identity
from hypercloud.api.session import identity_of_session

log = structlog.get_logger(__name__)

# xterm writes its cell sizes into style elements; scripts come from this server's files only.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STATUSES: tuple[tuple[type[errors.CloudError], int], ...] = (
    (errors.InvalidInput, 400),
    (errors.UnsupportedMedia, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.TooManyRequests, 429),
    (errors.NotSupported, 501),
    (errors.EngineError, 502),
)
PUBLIC = ("/web/login", "/web/static/")
OWN = ("/web/me", "/web/logout")  # for everybody who has signed in


def make() -> Blueprint:
    """Make the blueprint without its routes."""
    blueprint = Blueprint("web", __name__)
    blueprint.before_request(_who)
    blueprint.after_request(_headers)
    blueprint.register_error_handler(errors.CloudError, _error)
    blueprint.register_error_handler(HTTPException, _http_error)
    return blueprint


def admin_only() -> None:
    """Refuse what is for administrators. Errors: Forbidden."""
    if not identity().is_admin:
        raise errors.Forbidden("only administrators may do that")


def _who() -> None:
    if request.path == "/" or request.path.startswith(PUBLIC):
        return
    found = identity_of_session()
    if found is None:
        raise errors.Unauthorized("no account is signed in")
    if not found.has_rights and not request.path.startswith(OWN):
        raise errors.Forbidden("the account's role has no rights")
    g.identity = found


def _headers(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = POLICY
    return response


def _error(error: errors.CloudError) -> Response:
    response = jsonify({"error": error.brief, "details": error.details, "resolution": error.resolution})
    response.status_code = next((code for kind, code in STATUSES if isinstance(error, kind)), 500)
    return response


def _http_error(error: HTTPException) -> Response:
    response = jsonify({"error": str(error.description or error.name), "details": "", "resolution": ""})
    response.status_code = error.code or 500
    return response
