"""The stream API: logs, exec and events over websockets."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import structlog
from flask import Blueprint, request
from flask_sock import Sock
from simple_websocket import ConnectionClosed

from hypercloud.action.service import OVER
from hypercloud.api.bodies import number, truth
from hypercloud.api.context import cloud, forget_input, identity, parting, say, watch, watch_from_the_start
from hypercloud.api.dockercloud import uris
from hypercloud.api.dockercloud.blueprint import namespace
from hypercloud.db.models import ContainerRow
from hypercloud.engine.machines import Lines, Session
from hypercloud.engine.streams import Line
from hypercloud.errors import CloudError, Conflict, InvalidInput
from hypercloud.event.bus import Change
from hypercloud.workload.model import State, decode

log = structlog.get_logger(__name__)

TAIL = 300
LOOK = 1.0  # seconds between looks whether the client is still there
KINDS = ("stack", "service", "container", "nodecluster", "node", "action", "error")


def add_routes(blueprint: Blueprint, sock: Sock) -> None:
    """Mount the routes."""
    app = "/api/app/v1/"
    audit = "/api/audit/v1/"
    watching = set()
    for path, view in (
        (f"{audit}action/<uuid>/logs/", action_logs),
        (f"{app}service/<uuid>/logs/", service_logs),
        (f"{app}<namespace>/service/<uuid>/logs/", service_logs),
        (f"{app}container/<uuid>/logs/", container_logs),
        (f"{app}<namespace>/container/<uuid>/logs/", container_logs),
        (f"{app}container/<uuid>/exec/", execute),
        (f"{app}<namespace>/container/<uuid>/exec/", execute),
        (f"{audit}events/", events),
        (f"{audit}<namespace>/events/", events),
        ("/v1/events/", events),  # as two samples of the document have it
        ("/events/", events),
    ):
        endpoint = f"ws_{path}".replace("/", "_").replace(".", "_")
        sock.route(path, blueprint, endpoint=endpoint)(view)
        if view is events:
            watching.add(endpoint)
    watch_from_the_start(blueprint, watching)


def _say(socket: Any, message: dict[str, Any]) -> None:
    say(socket, json.dumps(message))


def _fail(socket: Any, error: CloudError) -> None:
    _say(socket, {"type": "error", "data": {"errorMessage": str(error)}})


def action_logs(socket: Any, uuid: str) -> None:
    """Send an action's log, and what is added to it until it is over."""
    try:
        row = cloud().actions.get(uuid, cloud().accounts.namespaces(identity()))
        tail, follow = number("tail", default=TAIL, least=0, most=100_000), truth("follow", default=True)
    except CloudError as error:
        _fail(socket, error)
        return
    lines = cloud().actions.logs(uuid, tail=tail) if tail else []
    after = lines[-1].id if lines else 0
    while True:
        for one in lines:
            _say(socket, {"type": "log", "log": f"{one.text}\n", "timestamp": int(one.time)})
            after = one.id
        over = row.state in OVER
        if over or not follow:
            lines = cloud().actions.logs(uuid, after=after) if over and follow else []
            for one in lines:
                _say(socket, {"type": "log", "log": f"{one.text}\n", "timestamp": int(one.time)})
            return
        if socket.receive(timeout=0.2) is None and not socket.connected:
            return
        row = cloud().actions.get(uuid, cloud().accounts.namespaces(identity()))
        lines = cloud().actions.logs(uuid, after=after)


def service_logs(socket: Any, uuid: str) -> None:
    """Send the output of all containers of a service."""
    try:
        with cloud().store.reading() as tx:
            tx.service(uuid, namespace())
            rows = list(tx.containers(uuid))
    except CloudError as error:
        _fail(socket, error)
        return
    _send_logs(socket, rows, source=True)


def container_logs(socket: Any, uuid: str) -> None:
    """Send the output of a container."""
    try:
        with cloud().store.reading() as tx:
            row = tx.container(uuid, namespace())
        wanted = request.args.get("service")
        if wanted and uris.last_part(wanted) != row.service:
            raise InvalidInput("the container does not belong to this service", details=wanted[:200])
    except CloudError as error:
        _fail(socket, error)
        return
    _send_logs(socket, [row], source=False)


def _send_logs(socket: Any, rows: Sequence[ContainerRow], *, source: bool) -> None:
    """Send lines as they come, from one thread for each container; end when all end or the client leaves."""
    try:
        tail, follow = number("tail", default=TAIL, least=0, most=100_000), truth("follow", default=True)
        streams = [(row, _open(row, tail, follow=follow)) for row in rows if row.docker_id and row.engine]
    except CloudError as error:
        _fail(socket, error)
        return
    lock = threading.Lock()

    def pump(row: ContainerRow, lines: Lines) -> None:
        try:
            for line in lines:
                message = _log_message(line) | ({"source": row.name} if source else {})
                with lock:
                    _say(socket, message)
        except ConnectionClosed:
            lines.close()

    _run_until_gone(socket, [partial(pump, row, lines) for row, lines in streams])
    for _, lines in streams:
        lines.close()


def _open(row: ContainerRow, tail: int, *, follow: bool) -> Lines:
    tty = decode(row.spec).tty
    return cloud().engines.output(row.engine or "", row.docker_id or "", tty=tty, tail=tail, follow=follow)


def _log_message(line: Line) -> dict[str, Any]:
    return {"type": "log", "log": line.text, "streamType": line.stream, "timestamp": line.time}


def _run_until_gone(socket: Any, jobs: Sequence[Callable[[], None]]) -> None:
    """Run jobs in threads until all are done or the client has left."""
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for one in threads:
        one.start()
    try:
        while any(one.is_alive() for one in threads):
            socket.receive(timeout=0.1)
    except ConnectionClosed:
        pass


def execute(socket: Any, uuid: str) -> None:
    """Run a command in a container: its terminal's output as messages, input as it comes."""
    try:
        with cloud().store.reading() as tx:
            row = tx.container(uuid, namespace())
        if row.state != State.RUNNING or row.engine is None or row.docker_id is None:
            raise Conflict("the container does not run", details=f"its state is {row.state}")
        session = cloud().engines.session(row.engine, row.docker_id, command_of(request.args.get("command", "")))
    except CloudError as error:
        _fail(socket, error)
        return
    log.info("dockercloud.exec", container=uuid, user=identity().username)
    with parting(socket):
        for text in _conversation(socket, session):
            session.write(text if isinstance(text, bytes) else text.encode())


def _conversation(socket: Any, session: Session) -> Iterator[str | bytes]:
    """Send a program's output from a thread, and give what the client types."""

    def pump() -> None:
        try:
            while data := session.read():
                _say(socket, {"type": "exec", "streamType": "stdout", "output": data.decode("utf-8", "replace")})
            socket.close()
        except ConnectionClosed:
            pass

    threading.Thread(target=pump, daemon=True).start()
    try:
        while (text := socket.receive()) is not None:
            yield text
    except ConnectionClosed:
        pass
    finally:
        session.close()


def command_of(text: str) -> list[str]:
    """Return the words of a command; nothing is a shell. Errors: InvalidInput."""
    try:
        return shlex.split(text) or ["sh"]
    except ValueError as error:
        raise InvalidInput("the command is not one", details=f"{text[:100]}: {error}") from None


def events(socket: Any) -> None:
    """Send what happens to the namespace's objects, until the client leaves."""
    kind, target = request.args.get("type"), request.args.get("object")
    asked = f"{request.args.get('parent', '')},{request.args.get('parents', '')}"
    parents = {text.strip("/") for text in asked.split(",") if text}
    if kind is not None and kind not in KINDS:
        _fail(socket, InvalidInput("unknown type of event", details=kind[:40]))
        return
    here = namespace()
    seen = watch()
    while socket.connected:
        event = seen.get(timeout=LOOK)
        forget_input(socket)
        if event is None and seen.lost:
            return
        if not isinstance(event, Change) or event.namespace not in {"", here}:
            continue
        message = event_message(event, here)
        if kind is not None and message["type"] != kind:
            continue
        if target is not None and message["resource_uri"].strip("/") != target.strip("/"):
            continue
        if parents and not parents & {one.strip("/") for one in message["parents"]}:
            continue
        try:
            _say(socket, message)
        except ConnectionClosed:
            return


def event_message(event: Change, here: str) -> dict[str, Any]:
    """Return an event as it is sent."""
    state = "Not Running" if event.kind == "stack" and event.state == State.NOT_RUNNING else event.state
    return {
        "type": event.kind,
        "action": event.action,
        "parents": [uris.of_ref(one, here) for one in event.parents],
        "resource_uri": uris.uri(event.kind, event.uuid, here),
        "state": state,
        "uuid": event.id,
        "datetime": uris.iso(event.time),
    }
