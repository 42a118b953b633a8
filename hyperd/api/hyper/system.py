"""The daemon itself."""

from __future__ import annotations

from flask import Response, request

from hyperd.api import answers
from hyperd.api.context import engine, metrics
from hyperd.api.hyper import system_views
from hyperd.api.hyper.routes import blueprint


@blueprint.get("/info")
def system_info() -> Response:
    """Describe the daemon and what it owns."""
    return answers.env(system_views.info(engine().system.info()))


@blueprint.get("/version")
def version() -> Response:
    """Return the daemon's version."""
    return answers.env(system_views.version())


@blueprint.get("/metrics")
def prometheus() -> Response:
    """Return the daemon's metrics."""
    from hyperd.api import exposition  # a megabyte, which nobody needs who is not watched

    text, content_type = exposition.render(metrics(), engine(), accept=request.headers.get("Accept", ""))
    return Response(text, content_type=content_type)


@blueprint.get("/_ping")
def ping() -> Response:
    """Say that the daemon answers."""
    return Response("OK", content_type="text/plain; charset=utf-8")
