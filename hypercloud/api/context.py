"""What all dialects share: the services of a request, its log line, headers of safety, double slashes."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import structlog
from flask import Blueprint, Flask, Response, current_app, g, request
from simple_websocket import ConnectionClosed

if TYPE_CHECKING:
    from hypercloud.account.model import Identity
    from hypercloud.cloud import Cloud
    from hypercloud.event.bus import Watch

log = structlog.get_logger(__name__)

KEY = "hypercloud"
FAREWELL = 5.0  # seconds in which a client may answer that a websocket is closed


def install(app: Flask, cloud: Cloud) -> None:
    """Give an application the services, and its requests their log line and headers."""
    app.extensions[KEY] = cloud
    app.before_request(_begin)
    app.after_request(_finish)


def cloud() -> Cloud:
    """Return the services."""
    found: Cloud = current_app.extensions[KEY]
    return found


def identity() -> Identity:
    """Return who makes the request; a dialect has found it out before."""
    found: Identity = g.identity
    return found


def watch_from_the_start(blueprint: Blueprint, endpoints: Container[str]) -> None:
    """Watch the bus for requests of some endpoints, in ``watch()``, and begin before their websocket is open.

    A client that has seen its websocket open misses nothing of what happens from then on.

    Args:
        blueprint: who makes the request is known when its requests come here.
        endpoints: their names within the blueprint.

    """

    def begin() -> None:
        if (request.endpoint or "").rpartition(".")[2] in endpoints:
            g.watch = cloud().bus.watch()

    def end(_error: BaseException | None) -> None:
        found = g.pop("watch", None)
        if found is not None:
            found.close()

    blueprint.before_request(begin)
    blueprint.teardown_request(end)


def watch() -> Watch:
    """Return the request's watch of the bus."""
    found: Watch = g.watch
    return found


def say(socket: Any, data: str | bytes) -> None:
    """Send to the client of a websocket. Errors: ConnectionClosed when it has gone, or takes nothing."""
    try:
        socket.send(data)
    except OSError:
        raise ConnectionClosed from None


def forget_input(socket: Any) -> None:
    """Take off what the client of a websocket sends to nobody: it would be kept. Errors: ConnectionClosed."""
    while socket.receive(timeout=0) is not None:
        pass


@contextlib.contextmanager
def parting(websocket: Any) -> Iterator[None]:
    """At the end, wait for a client to take what it was sent last, to answer the close, and to hang up itself.

    What a client still sends to a connection that is gone is an error to it: Docker Cloud's own sends input whenever
    there is something to read, and be it the end.
    """
    connection = socket.socket(fileno=os.dup(websocket.sock.fileno()))  # the websocket's own is closed by its thread
    try:
        yield
        websocket.thread.join(FAREWELL)
        end = time.monotonic() + FAREWELL
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                connection.settimeout(left)
                if not connection.recv(4096):
                    break
    finally:
        connection.close()


def address() -> str:
    """Return the client's address."""
    return request.remote_addr or "unix"


def base_url() -> str:
    """Return how clients reach this server: as the configuration says, or as this request did."""
    return (cloud().config.public_url or request.host_url).rstrip("/")


def _begin() -> None:
    g.began = time.perf_counter()


def _finish(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    response.headers.setdefault("X-Frame-Options", "DENY")
    response.headers.setdefault("Cache-Control", "no-store")
    who = getattr(g, "identity", None)
    log.info(
        "http.request",
        method=request.method,
        path=request.path[:300],
        status=response.status_code,
        ms=round((time.perf_counter() - g.get("began", time.perf_counter())) * 1000, 1),
        user=who.username if who is not None else "",
        client=address(),
    )
    return response


class SingleSlashes:
    """Takes ``//`` in a path for ``/``: Docker Cloud's own client sends them.

    Args:
        app: the WSGI application.

    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        while "//" in path:
            path = path.replace("//", "/")
        environ["PATH_INFO"] = path
        return self._app(environ, start_response)
