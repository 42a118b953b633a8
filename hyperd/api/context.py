"""What a view may reach: the engine of this application."""

from __future__ import annotations

import itertools
import secrets
import time
from typing import TYPE_CHECKING, cast

from flask import current_app, g, request

if TYPE_CHECKING:
    from hyperd.api.lists import ListBodies
    from hyperd.api.metrics import Metrics
    from hyperd.engine import Engine

EXTENSION = "hyperd"
METRICS = "hyperd-metrics"
LISTS = "hyperd-lists"
# Key of the WSGI environment: the listener that accepted the connection (hyperd.server.listeners.Listener).
LISTENER = "hyperd.listener"
# Names of requests in the log: the daemon's part and a number.
_NAME, _NUMBERS = secrets.token_hex(3), itertools.count(1)


def engine() -> Engine:
    """Return the engine that the application was made with."""
    return cast("Engine", current_app.extensions[EXTENSION])


def begin_request() -> None:
    """Give the request a name for the log (``g.request_id``) and note when it began (``g.started``)."""
    g.request_id = f"{_NAME}-{next(_NUMBERS)}"
    g.started = time.monotonic()


def is_local() -> bool:
    """Return whether the caller is on a unix socket of this host."""
    listener = request.environ.get(LISTENER)
    return listener is not None and bool(listener.local)


def may_fetch() -> bool:
    """Return whether the caller may let this host fetch files: on a unix socket, or where the configuration allows."""
    return is_local() or engine().config.api.fetch_over_tcp


def metrics() -> Metrics:
    """Return the metrics of this application."""
    return cast("Metrics", current_app.extensions[METRICS])


def lists() -> ListBodies:
    """Return the lists of this application."""
    return cast("ListBodies", current_app.extensions[LISTS])
