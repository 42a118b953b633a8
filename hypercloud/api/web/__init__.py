"""The page: static files, and the few requests of its own. For all else it uses the two APIs with its session."""

from __future__ import annotations

from flask import Flask
from flask_sock import Sock

from hypercloud.api.web import routes, streams, transfers
from hypercloud.api.web.blueprint import make


def install(app: Flask, sock: Sock) -> None:
    """Mount the page.

    Args:
        app: the application.
        sock: makes websockets.

    """
    blueprint = make()
    routes.add_routes(blueprint)
    transfers.add_routes(blueprint)
    streams.add_routes(blueprint, sock)
    app.register_blueprint(blueprint)
