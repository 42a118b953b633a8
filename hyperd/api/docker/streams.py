"""Streams of containers: attach, logs, wait, the size of terminals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flask import Response

from hyperd.api import takeover
from hyperd.api.context import engine
from hyperd.api.docker import answers, params, versions
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.api.params import lines_of
from hyperd.api.waiting import HeadFirst
from hyperd.container.model import Container
from hyperd.container.process import AttachOptions
from hyperd.container.waits import WaitCondition
from hyperd.errors import Conflict, InvalidInput, NotSupported
from hyperd.stream.frames import STDERR, STDOUT
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
    query = LogQuery(
        stdout=stdout,
        stderr=stderr,
        follow=params.flag("follow"),
        timestamps=params.flag("timestamps"),
        since=_moment("since"),
        until=_moment("until"),
        tail=lines_of(params.text("tail").strip()),
        framed_lines=True,  # docker-py's clients take each frame for a line
    )
    streams = engine().containers.streams
    if not query.follow:
        streams.await_first_output(found.id)
    session = streams.logs(found.id, query)
    return takeover.follow(session, stream_type(tty=session.tty))


def _moment(name: str) -> float | None:
    """Return a time of a log; 0 is none, as for Docker."""
    raw = params.text(name).strip()
    return (params.moment(raw) or None) if raw else None


@blueprint.post("/containers/<name>/attach")
def attach(name: str) -> Response:
    """Join the client to a container's terminal or standard streams."""
    found = container(name)
    if found.paused:
        raise Conflict(f"Container {found.name} is paused, unpause the container before attach")
    running = engine()
    options = attach_options(found)
    if params.flag("logs") and found.run_count:  # else there is no log yet, and what is to come is the stream
        if options.stdin:
            raise NotSupported("logs=1 cannot be had together with stdin=1", resolution="ask for the logs first")
        query = LogQuery(
            stdout=params.flag("stdout"), stderr=params.flag("stderr"), follow=params.flag("stream"), framed_lines=True
        )
        past = running.containers.streams.logs(found.id, query)
        return takeover.upgrade(past, stream_type(tty=past.tty))
    session = running.containers.streams.attach(found.id, options, next_run=True)
    return takeover.upgrade(session, stream_type(tty=session.tty))


@blueprint.route("/containers/<name>/attach/ws", methods=["GET"], websocket=True)
@blueprint.get("/containers/<name>/attach/ws")  # for those that ask for no WebSocket, who are told so
def attach_websocket(name: str) -> Response:
    """Join a WebSocket to a container's terminal or standard streams: messages both ways, outputs not told apart."""
    found = container(name)
    if found.paused:
        raise Conflict(f"Container {found.name} is paused, unpause the container before attach")
    session = engine().containers.streams.attach(found.id, attach_options(found), next_run=True)
    return takeover.websocket(session, text=versions.requested() < (1, 28))


def attach_options(found: Container) -> AttachOptions:
    """Return what a client wants of a container. Errors: InvalidInput."""
    wanted = {number for number, key in ((STDOUT, "stdout"), (STDERR, "stderr")) if params.flag(key)}
    streaming = params.flag("stream")
    return AttachOptions(
        stdin=params.flag("stdin") and streaming and found.spec.open_stdin,
        streams=frozenset(wanted) if streaming else frozenset(),
        detach_keys=params.text("detachKeys"),
        holds_keys=True,
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


def console_size(given: Sequence[int]) -> tuple[int, int] | None:
    """Return ``ConsoleSize``: rows and columns; None without, and for 0 (the client has no terminal).

    Errors: InvalidInput.
    """
    if not given:
        return None
    if len(given) != 2 or not all(0 <= side <= MAX_SIDE for side in given):
        raise InvalidInput("invalid JSON: ConsoleSize: must be rows and columns of a terminal")
    return (given[0], given[1]) if all(given) else None


@blueprint.post("/containers/<name>/wait")
def wait(name: str) -> Response:
    """Answer the head at once and the exit code when the condition holds.

    The end of a run is one here, also when the container's policy starts it again.
    """
    condition = params.text("condition")
    if condition not in CONDITIONS:
        raise InvalidInput(f"invalid condition: {condition[:40]!r}")
    waiting = engine().containers.waits.register(
        container(name).id, WaitCondition(condition or "not-running"), each_run=True
    )

    def ask(cancelled: Callable[[], bool]) -> dict[str, Any]:
        return {"StatusCode": waiting.result(cancelled=cancelled).exit_code}

    def failed(error: Exception) -> dict[str, Any]:
        return {"StatusCode": -1, "Error": {"Message": str(error)}}

    return HeadFirst("wait", ask, failed=failed, close=waiting.close).respond()
