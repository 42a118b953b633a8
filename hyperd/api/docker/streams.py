"""Streams of containers: attach, logs, wait, the size of terminals."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable

import structlog
from flask import Response

from hyperd.api import takeover
from hyperd.api.background import SEND_TIMEOUT, has_left
from hyperd.api.context import engine
from hyperd.api.docker import answers, params, policy, versions
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.container.waits import WaitCondition
from hyperd.errors import Conflict, HyperError, InvalidInput
from hyperd.stream.frames import LAST_CHUNK, chunk
from hyperd.stream.logread import LogQuery

log = structlog.get_logger(__name__)

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
CONDITIONS = ("", "not-running", "next-exit", "removed")
MAX_SIDE = 0xFFFF


def stream_type(*, tty: bool) -> str:
    """Return the content type of a stream of a container."""
    return RAW if tty or versions.requested() < (1, 42) else MULTIPLEXED


@blueprint.get("/containers/<name>/logs")
def logs(name: str) -> Response:
    """Stream the log of a container."""
    found = container(name)
    stdout, stderr = params.flag("stdout"), params.flag("stderr")
    if not stdout and not stderr:
        raise InvalidInput("Bad parameters: you must choose at least one stream")
    tail = params.text("tail").strip()
    since = params.text("since").strip()
    query = LogQuery(
        stdout=stdout,
        stderr=stderr,
        follow=params.flag("follow"),
        timestamps=params.flag("timestamps"),
        since=(policy.moment(since) or None) if since not in ("", "0") else None,
        tail=int(tail) if tail.isascii() and tail.isdigit() else None,
    )
    session = engine().containers.streams.logs(found.id, query)
    return takeover.follow(session, stream_type(tty=session.tty))


@blueprint.post("/containers/<name>/attach")
def attach(name: str) -> Response:
    """Join the client to a container's terminal or standard streams."""
    found = container(name)
    if found.paused:
        raise Conflict(f"Container {found.name} is paused, unpause the container before attach")
    session = engine().containers.streams.attach(found.id)
    return takeover.upgrade(session)


@blueprint.post("/containers/<name>/resize")
def resize(name: str) -> Response:
    """Set the size of a container's terminal."""
    rows, columns = size()
    engine().containers.streams.resize(container(name).id, rows, columns)
    return answers.empty(200)


def size() -> tuple[int, int]:
    """Return rows and columns of the request. Errors: InvalidInput."""
    rows, columns = params.number("h"), params.number("w")
    if not (0 <= rows <= MAX_SIDE and 0 <= columns <= MAX_SIDE):
        raise InvalidInput("invalid size of a terminal", details=f"{rows} rows, {columns} columns")
    return rows, columns


@blueprint.post("/containers/<name>/wait")
def wait(name: str) -> Response:
    """Answer the head at once and the exit code when the condition holds."""
    condition = params.text("condition")
    if condition not in CONDITIONS:
        raise InvalidInput(f"invalid condition: {condition[:40]!r}")
    waiting = engine().containers.waits.register(container(name).id, WaitCondition(condition or "not-running"))

    def ask(cancelled: Callable[[], bool]) -> int:
        return waiting.result(cancelled=cancelled).exit_code

    return _Wait(ask).respond()


class _Wait:
    """Sends the head of the answer at once; clients start the container only after they have seen it."""

    def __init__(self, ask: Callable[[Callable[[], bool]], int]) -> None:
        self._ask = ask

    def respond(self) -> Response:
        """Take the connection over and answer from a thread."""
        chunked = takeover.speaks_chunks()
        taken = takeover.take(takeover.stream_head("application/json", chunked=chunked))
        threading.Thread(target=self._run, args=(taken.sock, chunked), name="wait", daemon=True).start()
        return takeover.gone()

    def _run(self, sock: socket.socket, chunked: bool) -> None:
        body: dict[str, object]
        try:
            body = {"StatusCode": self._ask(lambda: has_left(sock))}
        except HyperError as error:
            body = {"StatusCode": -1, "Error": {"Message": str(error)}}
        data = json.dumps(body, separators=(",", ":")).encode() + b"\n"
        with sock:
            try:
                sock.settimeout(SEND_TIMEOUT)
                sock.sendall(chunk(data) + LAST_CHUNK if chunked else data)
                sock.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                log.debug("docker.client_left", error=str(error))
