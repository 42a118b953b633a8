"""Streams of containers: attach, logs, wait, the size of terminals."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

from flask import Response

from hyperd.api import takeover
from hyperd.api.background import SEND_TIMEOUT, has_left
from hyperd.api.context import engine
from hyperd.api.docker import answers, params, versions
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.container.model import Container
from hyperd.container.process import AttachOptions
from hyperd.container.waits import Wait, WaitCondition
from hyperd.errors import Conflict, HyperError, InvalidInput, NotSupported
from hyperd.stream.frames import LAST_CHUNK, STDERR, STDOUT, chunk
from hyperd.stream.logread import LogQuery

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
        since=(params.moment(since) or None) if since not in ("", "0") else None,
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
    running = engine()
    options = attach_options(found)
    if params.flag("logs"):
        if options.stdin:
            raise NotSupported("logs=1 cannot be had together with stdin=1", resolution="ask for the logs first")
        query = LogQuery(stdout=params.flag("stdout"), stderr=params.flag("stderr"), follow=params.flag("stream"))
        past = running.containers.streams.logs(found.id, query)
        return takeover.upgrade(past, stream_type(tty=past.tty))
    session = running.containers.streams.attach(found.id, options)
    return takeover.upgrade(session, stream_type(tty=session.tty))


@blueprint.route("/containers/<name>/attach/ws", methods=["GET"], websocket=True)
@blueprint.get("/containers/<name>/attach/ws")  # for those that ask for no WebSocket, who are told so
def attach_websocket(name: str) -> Response:
    """Join a WebSocket to a container's terminal or standard streams: messages both ways, outputs not told apart."""
    found = container(name)
    if found.paused:
        raise Conflict(f"Container {found.name} is paused, unpause the container before attach")
    session = engine().containers.streams.attach(found.id, attach_options(found))
    return takeover.websocket(session, text=versions.requested() < (1, 28))


def attach_options(found: Container) -> AttachOptions:
    """Return what a client wants of a container. Errors: InvalidInput."""
    wanted = {number for number, key in ((STDOUT, "stdout"), (STDERR, "stderr")) if params.flag(key)}
    streaming = params.flag("stream")
    return AttachOptions(
        stdin=params.flag("stdin") and streaming and found.spec.open_stdin,
        streams=frozenset(wanted) if streaming else frozenset(),
        detach_keys=params.text("detachKeys"),
        leaves_input_ended=found.spec.stdin_once,
    )


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
    wait = engine().containers.waits.register(container(name).id, WaitCondition(condition or "not-running"))
    return _Answer(wait).respond()


class _Answer:
    """Sends the head of the answer at once; clients start the container only after they have seen it."""

    def __init__(self, wait: Wait) -> None:
        self._wait = wait

    def respond(self) -> Response:
        """Take the connection over and answer from a thread."""
        chunked = takeover.speaks_chunks()
        try:
            taken = takeover.take(takeover.stream_head("application/json", chunked=chunked))
        except BaseException:
            self._wait.close()
            raise
        threading.Thread(target=self._run, args=(taken,), name="wait", daemon=True).start()
        return takeover.gone()

    def _run(self, taken: takeover.Taken) -> None:
        body: dict[str, object]
        with taken.sock as sock, contextlib.suppress(OSError):
            try:
                body = {"StatusCode": self._wait.result(cancelled=lambda: has_left(sock)).exit_code}
            except HyperError as error:
                body = {"StatusCode": -1, "Error": {"Message": str(error)}}
            data = json.dumps(body, separators=(",", ":")).encode() + b"\n"
            sock.settimeout(SEND_TIMEOUT)
            sock.sendall(chunk(data) + LAST_CHUNK if taken.chunked else data)
            sock.shutdown(socket.SHUT_RDWR)
