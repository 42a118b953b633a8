"""The WSGI application: one Flask application for each API, chosen by the socket that the caller came through."""

from __future__ import annotations

import logging
import posixpath
import re
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from flask import Flask, Response, g, redirect, request
from werkzeug.routing import BaseConverter

from hyperd.api import takeover
from hyperd.api.context import EXTENSION, LISTENER, LISTS, METRICS, begin_request, metrics
from hyperd.api.hyper import blueprint, errors
from hyperd.api.lists import ListBodies
from hyperd.api.metrics import Metrics
from hyperd.api.origin import check_origin
from hyperd.api.params import MAX_JSON_BODY
from hyperd.errors import NotSupported
from hyperd.failpoint import failpoint

if TYPE_CHECKING:
    from hyperd.api.cri.server import CriServer
    from hyperd.engine import Engine

__all__ = ["LISTENER", "Dispatcher", "clean_path", "create_app"]

log = structlog.get_logger(__name__)
_std_log = logging.getLogger(__name__)  # behind it; asking it whether it would speak costs nothing

API_VERSION = "1.17"
PLACEHOLDER = "api_version"
VERSION_PREFIX = f"/v<version:{PLACEHOLDER}>"
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD"})


class VersionConverter(BaseConverter):
    """Any version is let through, as the original does."""

    regex = r"[0-9.]+"


# Nothing to resolve: no empty part, none that begins with a dot.
_CLEAN = re.compile(r"(?:/[^/.][^/]*)+/?|/")


class Dispatcher:
    """The WSGI application of the daemon: gives each request to the application of its listener's dialect.

    Args:
        engine: what all of them serve.
        docker: whether the Docker API is spoken, too.

    """

    def __init__(self, engine: Engine, *, docker: bool = False) -> None:
        self._apps = {"hyper": create_app(engine)}
        if docker:
            from hyperd.api.docker import create_docker_app  # the memory of its routes only where it is wanted

            self._apps["docker"] = create_docker_app(engine)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        answer = self._apps[environ[LISTENER].dialect](environ, start_response)
        failpoint("api.request.answered")
        return answer


def create_cri(
    engine: Engine, path: Path, *, mode: int, gid: int | None, secure: Callable[[socket.socket, Path], None] | None
) -> CriServer:
    """Make the server of Kubernetes' CRI, which is not HTTP's; its libraries are loaded here and nowhere before.

    Args:
        engine: what is served.
        path, mode, gid: of the socket.
        secure: puts TLS before the streams' listening socket, and leads to a unix socket; None = nothing does.

    Errors: NotSupported when the libraries are not installed.

    """
    try:
        from hyperd.api.cri.server import CriServer
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"grpc", "google", "h11"}:
            raise
        raise NotSupported(
            "the CRI's libraries are not installed",
            details=f"{error.name} is missing",
            resolution="pip install 'hyperd[cri]'",
        ) from error
    return CriServer(engine, path, mode=mode, gid=gid, secure=secure)


def create_app(engine: Engine) -> Flask:
    """Make the application that serves ``engine``; every route is there with and without a version."""
    app = Flask("hyperd", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_JSON_BODY
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.extensions[EXTENSION] = engine
    app.extensions[METRICS] = Metrics(engine)
    app.extensions[LISTS] = ListBodies(engine)
    app.url_map.converters["version"] = VersionConverter
    app.url_map.merge_slashes = False
    app.before_request(_begin)
    app.after_request(_finish)
    app.url_value_preprocessor(_drop_version)
    errors.register(app)
    app.register_blueprint(blueprint)
    app.register_blueprint(blueprint, name="versioned", url_prefix=VERSION_PREFIX)
    return app


def _begin() -> Any:
    begin_request()
    check_origin()
    path = request.path
    clean = path if _CLEAN.fullmatch(path) else clean_path(path)
    # gunicorn drops a second slash at the beginning.
    if clean != path or request.environ.get("RAW_URI", "").startswith("//"):
        query = request.query_string.decode("latin-1")
        return redirect(clean + (f"?{query}" if query else ""), 301)
    return None


def _finish(response: Response) -> Response:
    response.headers["Api-Version"] = API_VERSION
    if "started" in g:
        seconds = time.monotonic() - g.started
        method = request.method if request.method in _METHODS else "other"
        metrics().observe(method=method, route=_route(), code=response.status_code, seconds=seconds)
        if _std_log.isEnabledFor(logging.DEBUG):
            log.debug(
                "api.request",
                request=g.request_id,
                method=request.method,
                path=request.path,
                status=response.status_code,
                ms=round(seconds * 1000, 1),
            )
    return takeover.close_failed_upgrade(response)


def _route() -> str:
    """Return the pattern that matched, without the version: there must not be a metric for every path that is tried."""
    return request.url_rule.rule.removeprefix(VERSION_PREFIX) if request.url_rule is not None else "none"


def _drop_version(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    if values:
        values.pop(PLACEHOLDER, None)


def clean_path(path: str) -> str:
    """Resolve ``//``, ``.`` and ``..`` as Go's servers do; a slash at the end stays."""
    clean = posixpath.normpath(re.sub("/+", "/", f"/{path}"))
    return f"{clean}/" if path.endswith("/") and clean != "/" else clean
