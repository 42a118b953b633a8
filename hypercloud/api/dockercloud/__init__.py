"""Docker Cloud's dialect: its REST and stream APIs (``docs/hypercloud.md``)."""

from __future__ import annotations

from flask import Flask
from flask_sock import Sock

from hypercloud.api.dockercloud import apps, audit, containers, infra, repo, stacks, streams, triggers
from hypercloud.api.dockercloud.blueprint import make


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
    app.register_blueprint(blueprint)
