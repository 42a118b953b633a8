"""The blueprint: who asks and in which namespace, how errors look, and how routes with a namespace are mounted."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import structlog
from flask import Blueprint, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from hypercloud import errors
from hypercloud.account.model import Identity
from hypercloud.action.service import ActionState, Caller, Request
from hypercloud.api.context import address, base_url, cloud, identity
from hypercloud.api.session import identity_of_session
from hypercloud.db.models import ActionRow
from hypercloud.workload.drafts import Check, check_host_access

log = structlog.get_logger(__name__)

# By class, the most special first; these are the codes of the document.
STATUSES: tuple[tuple[type[errors.CloudError], int], ...] = (
    (errors.InvalidInput, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.NotSupported, 405),
    (errors.Conflict, 409),
    (errors.UnsupportedMedia, 415),
    (errors.TooManyRequests, 429),
    (errors.EngineUnreachable, 503),
    (errors.NoEngine, 409),
)
SUBSYSTEMS = ("app", "infra", "repo", "audit")
JSON_TYPES = ("application/json", "*/*", "application/*")
CALL = "/trigger/<trigger>/call"  # a trigger's address is its own secret
DOCUMENT = "/openapi/dockercloud.json"


def make() -> Blueprint:
    """Make the blueprint without its routes."""
    blueprint = Blueprint("dockercloud", __name__)
    blueprint.before_request(before)
    blueprint.after_request(_action_header)
    blueprint.register_error_handler(errors.CloudError, _error)
    blueprint.register_error_handler(HTTPException, _http_error)
    blueprint.register_error_handler(Exception, _fault)
    return blueprint


def route(blueprint: Blueprint, path: str, view: Callable[..., Any], method: str) -> None:
    """Mount a route of ``/api/SUBSYSTEM/v1/`` with and without a namespace before the resource.

    Args:
        blueprint: where.
        path: such as ``app service/<uuid>/``.
        view: the function.
        method: of HTTP.

    """
    subsystem, _, rest = path.partition(" ")
    name = f"{view.__module__.rpartition('.')[2]}_{view.__name__}"
    for number, prefix in enumerate((f"/api/{subsystem}/v1/", f"/api/{subsystem}/v1/<namespace>/")):
        blueprint.add_url_rule(prefix + rest, f"{name}_{method}_{number}", view, methods=[method])


def before() -> None:
    """Find out who asks, in which namespace, and whether our kind of answer is wanted."""
    view = request.view_args or {}
    g.namespace = view.pop("namespace", "")
    rule = request.url_rule.rule if request.url_rule is not None else ""
    if CALL in rule or rule == DOCUMENT or request.method == "OPTIONS":
        return
    g.identity = who()
    if not g.identity.has_rights:
        raise errors.Forbidden("access denied", details="the account's role has no rights")
    _check_media()
    allowed = cloud().accounts.namespaces(g.identity)
    g.namespace = g.namespace or g.identity.namespace or g.identity.username
    if g.namespace not in allowed:
        raise errors.NotFound("the namespace does not exist, or is not yours", details=g.namespace[:80])


def who() -> Identity:
    """Return who asks: ``Basic base64(user:key)``, or ``ApiKey user:key``. Errors: Unauthorized."""
    if "Authorization" not in request.headers and (signed_in := identity_of_session()) is not None:
        return signed_in
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    text = value
    if kind.lower() == "basic":
        try:
            text = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            text = ""
    elif kind.lower() != "apikey":
        text = ""
    username, colon, secret = text.partition(":")
    if not colon:
        raise errors.Unauthorized("the request is not authorized", resolution="send Authorization: Basic USER:APIKEY")
    return cloud().accounts.basic(username, secret, address())


def _check_media() -> None:
    accept = request.headers.get("Accept", "*/*")
    kinds = [one.partition(";")[0].strip() for one in accept.split(",")]
    if not any(kind in JSON_TYPES for kind in kinds) and not request.headers.get("Upgrade"):
        raise errors.UnsupportedMedia("answers are application/json", details=accept[:100])
    if request.method in {"POST", "PATCH"} and request.content_length:
        kind = request.mimetype
        if kind and kind != "application/json":
            raise errors.UnsupportedMedia("the Content-Type must be application/json", details=kind[:100])


def caller() -> Caller:
    """Return who asks, for the record of an action."""
    made: Identity | None = getattr(g, "identity", None)
    return Caller(
        namespace=g.namespace,
        user=made.username if made is not None else "",
        account=made.account if made is not None else "",
        method=request.method,
        path=request.path,
        agent=request.headers.get("User-Agent", ""),
        ip=address(),
        base_url=base_url(),
    )


def namespace() -> str:
    """Return the namespace of the request."""
    return str(g.namespace)


def allowed() -> Check:
    """Return the check of what the caller may ask of a node."""
    if identity().is_admin or cloud().config.engines.user_host_access:
        return lambda _spec: None
    return check_host_access


def admin_only() -> None:
    """Refuse changes of what all accounts share. Errors: Forbidden."""
    if not identity().is_admin:
        raise errors.Forbidden("only administrators may change nodes")


def acting(kind: str, name: str) -> None:
    """Note what a request is about to do to an object, so that a failure is kept as an action, too."""
    g.acting = (kind, name)


def answer(body: dict[str, Any] | None, action: ActionRow | None = None, status: int = 200) -> Response:
    """Return an answer; one of an action names it in a header."""
    response = Response(status=204) if body is None else jsonify(body)
    response.status_code = 204 if body is None else status
    if action is not None:
        g.action = action.uuid
    return response


def _action_header(response: Response) -> Response:
    if action := getattr(g, "action", None):
        response.headers["X-DockerCloud-Action-URI"] = f"/api/audit/v1/action/{action}/"
    return response


def _error(error: errors.CloudError) -> Response:
    status = next((code for kind, code in STATUSES if isinstance(error, kind)), 500)
    about = getattr(g, "acting", None)
    if about is not None and getattr(g, "identity", None) is not None:
        kind, name = about
        made = Request(name=name, kind=kind, object=str((request.view_args or {}).get("uuid", "")))
        g.action = cloud().actions.record(caller(), made, state=ActionState.FAILED).uuid
    if status >= 500:
        log.warning("dockercloud.failed", path=request.path, error=str(error), client=address())
    response = jsonify({"error": str(error)})
    response.status_code = status
    if isinstance(error, errors.TooManyRequests):
        response.headers["Retry-After"] = str(int(error.after) + 1)
    if status == 401 and "X-CSRF-Token" not in request.headers:  # a browser would ask for a password of its own
        response.headers["WWW-Authenticate"] = 'Basic realm="Docker Cloud"'
    return response


def _http_error(error: HTTPException) -> Response:
    response = jsonify({"error": str(error.description or error.name)})
    response.status_code = error.code or 500
    return response


def _fault(error: Exception) -> Response:
    log.error("dockercloud.fault", path=request.path, exc_info=error)
    response = jsonify({"error": "internal error; the server's log says more"})
    response.status_code = 500
    return response
