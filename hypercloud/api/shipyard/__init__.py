"""Shipyard's dialect: its API of the 2.0 series (``docs/hypercloud.md``)."""

from __future__ import annotations

from flask import Flask, Response

from hypercloud.api import describe
from hypercloud.api.shipyard import containers, engines, people, webhooks
from hypercloud.api.shipyard.blueprint import make


def install(app: Flask) -> None:
    """Mount the dialect's routes."""
    blueprint = make()
    for room in (people, containers, engines, webhooks):
        room.add_routes(blueprint)
    blueprint.add_url_rule("/openapi/shipyard.json", view_func=openapi, methods=["GET"])
    app.register_blueprint(blueprint)


def openapi() -> Response:
    """Describe this API as an OpenAPI document."""
    from hypercloud.api.shipyard.described import DIALECT  # few servers are ever asked for it

    return describe.served(DIALECT)
