"""Watching one engine: whether it answers, which containers it has, and what happens on it.

Two threads: one pings, one follows the engine's events and keeps the inventory. The inventory is read whole whenever
the events begin anew, so nothing is missed while an engine, or this program, was away.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import structlog

from hypercloud.engine.client import EngineClient, translated
from hypercloud.engine.ending import Shared, hang_up
from hypercloud.engine.model import EngineContainer, EngineFacts, EngineSpec, Health
from hypercloud.engine.streams import socket_of
from hypercloud.errors import CloudError, EngineError, EngineUnreachable, NotFound
from hypercloud.event.bus import Record

log = structlog.get_logger(__name__)

STALE = {"destroy"}
LAST = 253_402_300_800.0  # the year 10,000
QUIET = ("exec_", "top", "archive-path", "export", "attach", "detach", "resize", "health_status")


class EngineObserver:
    """What a monitor tells; the methods are called in its threads and must not block for long."""

    def on_health(self, engine: EngineSpec, facts: EngineFacts) -> None:
        """Take note that an engine's health has changed."""

    def on_container(self, engine: EngineSpec, container_id: str, container: EngineContainer | None) -> None:
        """Take note of a container's state; None = it is gone."""

    def on_inventory(
        self, engine: EngineSpec, containers: Mapping[str, EngineContainer], unknown: Collection[str]
    ) -> None:
        """Take note of all containers, after a connection was made; ``unknown`` are there, but the engine fails."""

    def on_record(self, record: Record) -> None:
        """Take note of an event of the engine."""


class EngineMonitor:
    """Keeps an eye on one engine.

    Args:
        spec: the engine.
        client: how it is reached.
        interval: seconds between pings.
        observer: is told.

    """

    def __init__(self, spec: EngineSpec, client: EngineClient, interval: float, observer: EngineObserver) -> None:
        self.spec = spec
        self.client = client
        self._interval = interval
        self._observer = observer
        self._lock = threading.Lock()
        self._facts = EngineFacts()
        self._containers: dict[str, EngineContainer] = {}
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._stream: Shared | None = None
        self._known = threading.Event()  # set when the inventory has been read once, or the engine is down

    def open(self) -> None:
        """Begin to watch."""
        for name, target in (("ping", self._ping_always), ("watch", self._watch_always)):
            threading.Thread(target=target, name=f"{name}-{self.spec.name}", daemon=True).start()

    def close(self) -> None:
        """Stop watching; the threads end by themselves."""
        self._closed.set()
        self._wake.set()
        self._cut()
        self.client.close()

    def wait_known(self, timeout: float) -> bool:
        """Wait until it is known whether the engine is up, and what it has."""
        return self._known.wait(timeout)

    @property
    def facts(self) -> EngineFacts:
        """What is known of the engine now."""
        return self._facts

    def containers(self) -> list[EngineContainer]:
        """Return the containers of an engine that is up; none of one that is not."""
        with self._lock:
            return list(self._containers.values()) if self._facts.health is Health.UP else []

    def check(self) -> EngineFacts:
        """Ping now, and return what is known then."""
        began = time.monotonic()
        try:
            self.client.ping()
        except CloudError as error:
            self._set_facts(health=Health.DOWN, error=str(error), response_time=time.monotonic() - began)
            self._cut()
        else:
            if self._facts.health is Health.DOWN:
                self._wake.set()  # the watcher shall not wait for its turn
            self._set_facts(response_time=time.monotonic() - began, last_seen=time.time())
        return self._facts

    def refresh(self, container: str) -> EngineContainer | None:
        """Look at one container now; return it, or None when it is gone. Errors: EngineError."""
        try:
            found: EngineContainer | None = self.client.inspect(container)
        except NotFound:
            found = None
        container_id = found.id if found is not None else container
        with self._lock:
            if found is None:
                self._containers.pop(container, None)
            else:
                self._containers[found.id] = found
        self._observer.on_container(self.spec, container_id, found)
        return found

    def _ping_always(self) -> None:
        while not self._closed.is_set():
            if self._facts.health is not Health.PENDING:
                with contextlib.suppress(Exception):
                    self.check()
            self._closed.wait(self._interval)

    def _watch_always(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            try:
                self._watch()
            except CloudError as error:
                self._lost(str(error))
            except Exception as error:
                if not self._closed.is_set():
                    log.exception("engine.watch_failed", engine=self.spec.name)
                self._lost(str(error))
            if not self._closed.is_set():
                self._wake.wait(self._interval)

    def _watch(self) -> None:
        self.client.ping()
        version, info = self.client.version(), self.client.info()
        with translated(self.spec.name):
            stream = self.client.docker().events(since=int(time.time()), decode=True)
        response = stream._response
        shared = self._stream = Shared(lambda: hang_up(socket_of(response)), response.close)
        try:
            containers, unknown = self._read_all()
            self._set_facts(
                health=Health.UP,
                error="",
                version=str(version.get("Version") or ""),
                api_version=str(version.get("ApiVersion") or ""),
                storage_driver=str(info.get("Driver") or ""),
                runtime=str(info.get("DefaultRuntime") or ""),
                cpus=int(info.get("NCPU") or 0),
                memory=int(info.get("MemTotal") or 0),
                last_seen=time.time(),
            )
            self._observer.on_inventory(self.spec, containers, unknown)
            self._known.set()
            with translated(self.spec.name), shared.using() as alive:
                for event in stream if alive else ():
                    if self._closed.is_set():
                        return
                    if isinstance(event, Mapping):
                        self._handle(event)
        finally:
            self._cut()
        self._lost("the engine closed the connection")

    def _read_all(self) -> tuple[dict[str, EngineContainer], set[str]]:
        """Read all containers; return them, and the ids of those that the engine cannot tell of."""
        found: dict[str, EngineContainer] = {}
        unknown: set[str] = set()
        for container_id in self.client.container_ids():
            with contextlib.suppress(NotFound), self._one_fault(container_id):
                unknown.add(container_id)
                found[container_id] = self.client.inspect(container_id)
        unknown -= found.keys()
        with self._lock:
            self._containers = {key: one for key, one in self._containers.items() if key in unknown} | found
        self._count_images()
        return found, unknown

    @contextlib.contextmanager
    def _one_fault(self, about: str) -> Iterator[None]:
        """Log an error that is about one thing: an engine that answers is up. Errors: EngineUnreachable."""
        try:
            yield
        except EngineUnreachable:
            raise
        except EngineError as error:
            log.warning("engine.fault", engine=self.spec.name, about=about, error=str(error))

    def _count_images(self) -> None:
        with self._one_fault("images"):
            tags = [tag for one in self.client.images() for tag in one.get("RepoTags") or []]
            self._set_facts(images=sum(tag != "<none>:<none>" for tag in tags))

    def _handle(self, event: Mapping[str, Any]) -> None:
        kind = str(event.get("Type") or "container")
        action = str(event.get("Action") or event.get("status") or "")
        if kind == "image":
            self._count_images()
        if kind != "container" or action.startswith(QUIET):
            return
        actor = event.get("Actor") if isinstance(event.get("Actor"), Mapping) else {}
        container = str((actor or {}).get("ID") or event.get("id") or "")
        if not container:
            return
        attributes = (actor or {}).get("Attributes") or {}
        found = None
        if action in STALE:
            with self._lock:
                self._containers.pop(container, None)
            self._observer.on_container(self.spec, container, None)
        else:
            with self._one_fault(container):
                found = self.refresh(container)
        image = str(attributes.get("image") or event.get("from") or (found.image if found else ""))
        self._observer.on_record(
            Record(
                type=action,
                tags=("docker",),
                engine=self.spec.name,
                container=container,
                image=image,
                time=_when(event),
            )
        )

    def _cut(self) -> None:
        """Close the stream of events, whoever is reading from it."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.end()

    def _lost(self, reason: str) -> None:
        if not self._closed.is_set():
            self._set_facts(health=Health.DOWN, error=reason)
        self._known.set()

    def _set_facts(self, **changes: Any) -> None:
        with self._lock:
            before = self._facts
            self._facts = dataclasses.replace(before, **changes)
            after = self._facts
        if before.health is not after.health:
            log.info("engine.health", engine=self.spec.name, health=str(after.health), reason=after.error)
            self._observer.on_health(self.spec, after)


def _when(event: Mapping[str, Any]) -> float:
    """Return an event's time; an engine's that is none, or in no calendar, is now."""
    for key, unit in (("timeNano", 1e9), ("time", 1.0)):
        value = event.get(key)
        if isinstance(value, int | float) and 0 < value / unit < LAST:
            return value / unit
    return time.time()
