"""What a view may reach: the engine of this application."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, cast

from flask import current_app, request

from hyperd.config.model import TLS_INNER_SOCKET

if TYPE_CHECKING:
    from hyperd.api.lists import ListBodies
    from hyperd.api.metrics import Metrics
    from hyperd.engine import Engine

EXTENSION = "hyperd"
METRICS = "hyperd-metrics"
LISTS = "hyperd-lists"


def engine() -> Engine:
    """Give the engine that the application was made with."""
    return cast("Engine", current_app.extensions[EXTENSION])


def may_fetch() -> bool:
    """Whether the caller may let this host fetch files: on the unix socket, or where the configuration says so."""
    sock = request.environ.get("gunicorn.socket")
    config = engine().config
    # What came over TLS comes over a unix socket, too, but over one of its own.
    local = (
        sock is not None and sock.family == socket.AF_UNIX and sock.getsockname() != str(config.run / TLS_INNER_SOCKET)
    )
    return local or config.api.fetch_over_tcp


def metrics() -> Metrics:
    """Give the metrics of this application."""
    return cast("Metrics", current_app.extensions[METRICS])


def lists() -> ListBodies:
    """Give the lists of this application."""
    return cast("ListBodies", current_app.extensions[LISTS])
