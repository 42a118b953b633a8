"""Docker Cloud's dialect: its REST and stream APIs (``docs/hypercloud.md``)."""

from __future__ import annotations

import re

from flask import Flask, Response
from flask_sock import Sock

from hypercloud.api import describe
from hypercloud.api.dockercloud import apps, audit, containers, infra, repo, stacks, streams, triggers
from hypercloud.api.dockercloud.blueprint import DOCUMENT, make

ADDRESSES = re.compile(r"/api/(?:app|infra|repo|audit)/")


def install(app: Flask, sock: Sock) -> None:
    """Mount the dialect's routes.

    Args:
        app: the application.
        sock: makes websockets.

    """
    blueprint = make()
    for room in (audit, infra, repo, stacks, apps, containers, triggers):
        room.add_routes(blueprint)
    streams.add_routes(blueprint, sock)
    blueprint.add_url_rule(DOCUMENT, view_func=openapi, methods=["GET"])
    app.register_blueprint(blueprint)


def openapi() -> Response:
    """Describe this API as an OpenAPI document."""
    from hypercloud.api.dockercloud.described import DIALECT  # few servers are ever asked for it

    return describe.served(DIALECT)
