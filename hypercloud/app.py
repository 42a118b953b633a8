"""The Flask application: both dialects, the page, and what they share."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flask import Flask, Response, jsonify, request
from flask.json.provider import DefaultJSONProvider
from flask_sock import Sock
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.middleware.proxy_fix import ProxyFix

from hypercloud.api import context, dockercloud, metrics, shipyard, web

if TYPE_CHECKING:
    from hypercloud.cloud import Cloud

LARGEST_BODY = 4 * 2**20  # bytes; a stack file is some KiB


def create_app(cloud: Cloud) -> Flask:
    """Make the application.

    Args:
        cloud: the services.

    """
    app = Flask("hypercloud", static_folder=None)
    app.url_map.merge_slashes = False  # Docker Cloud's client doubles them and cannot follow a redirect
    app.url_map.strict_slashes = False
    app.config.update(
        SECRET_KEY=cloud.accounts.session_secret(),
        SESSION_COOKIE_NAME="hypercloud",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=cloud.config.tls.cert is not None or cloud.config.public_url.startswith("https:"),
        # A cookie with every answer would come from requests that were under way during a sign-in or a sign-out, too.
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=timedelta(hours=cloud.config.login.session_hours),
        MAX_CONTENT_LENGTH=LARGEST_BODY,
        SOCK_SERVER_OPTIONS={"ping_interval": 25, "max_message_size": 2**20},
    )
    app.json = _json(app)
    # Flask's own way to wrap an application; mypy sees a method that is given a new value.
    if cloud.config.proxies:
        proxies = cloud.config.proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies)  # type: ignore[method-assign]
    app.wsgi_app = context.SingleSlashes(app.wsgi_app)  # type: ignore[method-assign]
    context.install(app, cloud)
    shipyard.install(app)
    sock = Sock(app)
    dockercloud.install(app, sock)
    web.install(app, sock)
    app.register_blueprint(metrics.make())
    app.register_error_handler(HTTPException, _nowhere)
    return app


def _nowhere(error: HTTPException) -> Response:
    """Answer a request for an address that is nobody's, as clients of the API that it looks like read it."""
    text = str(error.description or error.name)
    like_docker_cloud = dockercloud.ADDRESSES.match(request.path) is not None
    response = jsonify({"error": text}) if like_docker_cloud else Response(f"{text}\n", mimetype="text/plain")
    response.status_code = error.code or 500
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _json(app: Flask) -> DefaultJSONProvider:
    """Return what writes JSON: keys in the order in which the views give them, no spaces between."""
    found = DefaultJSONProvider(app)
    found.sort_keys = False
    found.compact = True
    return found
