"""What a view may reach: the engine of this application."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import current_app

if TYPE_CHECKING:
    from hyperd.engine import Engine

EXTENSION = "hyperd"


def engine() -> Engine:
    """Give the engine that the application was made with."""
    return cast("Engine", current_app.extensions[EXTENSION])
