"""The page's websockets: events, readings, logs that follow, and a terminal that can be resized."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Container, Mapping
from functools import lru_cache
from typing import Any

import structlog
from flask import Blueprint
from flask_sock import Sock
from simple_websocket import ConnectionClosed

from hypercloud.api.context import cloud, forget_input, identity, say, watch, watch_from_the_start
from hypercloud.api.web.blueprint import admin_only
from hypercloud.engine.machines import Session
from hypercloud.errors import CloudError
from hypercloud.event.bus import Change, Record

log = structlog.get_logger(__name__)

GATHERED = 0.05  # seconds between two messages to one browser
MOST = 200  # events in a message


def add_routes(blueprint: Blueprint, sock: Sock) -> None:
    """Mount the routes."""
    sock.route("/web/events", blueprint, endpoint="ws_events")(events)
    watch_from_the_start(blueprint, {"ws_events"})
    sock.route("/web/readings", blueprint, endpoint="ws_readings")(readings)
    sock.route("/web/containers/<prefix>/readings", blueprint, endpoint="ws_container_readings")(container_readings)
    sock.route("/web/containers/<prefix>/logs", blueprint, endpoint="ws_logs")(logs)
    sock.route("/web/containers/<prefix>/exec", blueprint, endpoint="ws_exec")(terminal)


def events(socket: Any) -> None:
    """Send what happens: changes of one's own objects, and to administrators the engines' events.

    A message is one event as JSON, or several, one a line: what happens within ``GATHERED`` of a message goes into the
    next one, so that much that happens costs little, however many look.
    """
    allowed, admin = frozenset(cloud().accounts.namespaces(identity()) | {""}), identity().is_admin
    seen = watch()
    while socket.connected and not seen.lost:
        event = seen.get(timeout=1.0)
        try:
            forget_input(socket)
            if event is None:
                continue
            told = [_text(one) for one in (event, *seen.more(MOST)) if _concerns(one, allowed, admin=admin)]
            if told:
                say(socket, "\n".join(told))
                time.sleep(GATHERED)  # the thread is this connection's own; what comes meanwhile waits in ``seen``
        except ConnectionClosed:
            return


def _concerns(event: Change | Record, allowed: Container[str], *, admin: bool) -> bool:
    return event.namespace in allowed if isinstance(event, Change) else admin


@lru_cache(1024)  # all who look are told the same
def _text(event: Change | Record) -> str:
    if isinstance(event, Change):
        text = {"what": event.kind, "action": event.action, "name": event.uuid, "state": event.state}
    else:
        name = event.container[:12] or event.message
        text = {"what": event.engine or "cluster", "action": event.type, "name": name, "state": event.image}
    return json.dumps({**text, "time": event.time})


def readings(socket: Any) -> None:
    """Send what the containers of each engine use, whenever there is more: ``[{"of": ENGINE, "points": [...]}]``."""
    _send_readings(socket, lambda: {one.spec.id: one.spec.name for one in cloud().engines.engines() if one.up})


def container_readings(socket: Any, prefix: str) -> None:
    """Send what a container uses, as ``readings`` does for engines."""
    try:
        seen = _container(prefix)
    except CloudError as error:
        say(socket, json.dumps({"error": str(error)}))
        return
    _send_readings(socket, lambda: {seen.id: seen.name})


def _send_readings(socket: Any, wanted: Callable[[], Mapping[str, str]]) -> None:
    """Send readings of things, given by id and name; a point is time, CPU, memory, bytes received and sent a second.

    Where there are none, one message says why: ``{"error": ...}``.
    """
    if cloud().engines.unread:
        say(socket, json.dumps({"error": cloud().engines.unread}))
        return
    service, turn, sent = cloud().readings, -1, dict[str, float]()
    with service.watching():
        while socket.connected:
            turn = service.wait(turn, 1.0)
            try:
                forget_input(socket)
                news = []
                for key, name in wanted().items():
                    points = service.after(key, sent.get(key, 0.0))
                    if points:
                        sent[key] = points[-1].time
                        news.append({"of": name, "points": points})
                if news:
                    say(socket, json.dumps(news))
            except ConnectionClosed:
                return


def logs(socket: Any, prefix: str) -> None:
    """Send a container's output as it comes."""
    try:
        seen = _container(prefix)
        stream = cloud().engines.output(seen.engine, seen.id, tty=seen.tty, tail=300, follow=True)
    except CloudError as error:
        say(socket, f"{error}\n")
        return

    def pump() -> None:
        try:
            for line in stream:
                say(socket, line.text)
        except ConnectionClosed:
            pass

    sender = threading.Thread(target=pump, daemon=True)
    sender.start()
    try:
        while sender.is_alive():
            socket.receive(timeout=0.5)
    except ConnectionClosed:
        pass
    finally:
        stream.close()


def terminal(socket: Any, prefix: str) -> None:
    """Run a shell: output as binary messages; input as ``{"input": ...}``, sizes as ``{"rows": .., "cols": ..}``."""
    try:
        seen = _container(prefix)
        session = cloud().engines.session(seen.engine, seen.id, ["sh"])
    except CloudError as error:
        say(socket, f"{error}\n".encode())
        return
    log.info("web.exec", container=seen.id, user=identity().username)

    def pump() -> None:
        try:
            while data := session.read():
                say(socket, data)
            socket.close()
        except ConnectionClosed:
            pass

    threading.Thread(target=pump, daemon=True).start()
    try:
        while (text := socket.receive()) is not None:
            _take(session, json.loads(text))
    except (ConnectionClosed, ValueError, CloudError):
        pass
    finally:
        session.close()


def _take(session: Session, message: Any) -> None:
    if isinstance(message, dict) and isinstance(message.get("input"), str):
        session.write(message["input"].encode())
    elif isinstance(message, dict) and isinstance(message.get("rows"), int) and isinstance(message.get("cols"), int):
        session.resize(max(1, min(message["rows"], 1000)), max(1, min(message["cols"], 1000)))


def _container(prefix: str) -> Any:
    """Return a container that the caller may look into. Errors: NotFound, Forbidden."""
    admin_only()
    return cloud().engines.container(prefix)
