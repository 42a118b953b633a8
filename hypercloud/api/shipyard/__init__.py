"""Shipyard's dialect: its API of the 2.0 series (``docs/hypercloud.md``)."""

from __future__ import annotations

from flask import Flask

from hypercloud.api.shipyard import containers, engines, people, webhooks
from hypercloud.api.shipyard.blueprint import make


def install(app: Flask) -> None:
    """Mount the dialect's routes."""
    blueprint = make()
    for room in (people, containers, engines, webhooks):
        room.add_routes(blueprint)
    app.register_blueprint(blueprint)
