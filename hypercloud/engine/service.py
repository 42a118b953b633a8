"""The registered engines: adding, looking, changing, removing."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import select

from hypercloud.config.model import EnginesConfig
from hypercloud.db.models import ContainerRow, EngineRow
from hypercloud.db.session import Database
from hypercloud.engine.address import Policy
from hypercloud.engine.client import EngineClient
from hypercloud.engine.model import Engine, EngineContainer, EngineFacts, EngineSpec
from hypercloud.engine.monitor import EngineMonitor, EngineObserver
from hypercloud.engine.streams import ExecSession, LogStream
from hypercloud.errors import CloudError, Conflict, EngineError, EngineUnreachable, InvalidInput, NotFound
from hypercloud.event.bus import Record
from hypercloud.event.journal import Journal

log = structlog.get_logger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:=/-]{0,99}")
LOCAL = "local"


class _Fan(EngineObserver):
    """Hands what a monitor tells to everybody who asked, and events to the journal."""

    def __init__(self, journal: Journal) -> None:
        self.observers: list[EngineObserver] = []
        self._journal = journal

    def on_health(self, engine: EngineSpec, facts: EngineFacts) -> None:
        for one in self.observers:
            one.on_health(engine, facts)

    def on_container(self, engine: EngineSpec, container_id: str, container: EngineContainer | None) -> None:
        for one in self.observers:
            one.on_container(engine, container_id, container)

    def on_inventory(
        self, engine: EngineSpec, containers: Mapping[str, EngineContainer], unknown: Collection[str]
    ) -> None:
        for one in self.observers:
            one.on_inventory(engine, containers, unknown)

    def on_record(self, record: Record) -> None:
        self._journal.add(record)


class EngineService:
    """All engines; see ``hypercloud.engine.machines.Machines``.

    Args:
        database: where they are kept.
        config: times and addresses.
        journal: is told of what happens.

    """

    indirect = ""
    unread = ""

    def __init__(self, database: Database, config: EnginesConfig, journal: Journal) -> None:
        self._database = database
        self._config = config
        self._journal = journal
        self._policy = Policy(config)
        self._lock = threading.Lock()
        self._monitors: dict[str, EngineMonitor] = {}
        self._fan = _Fan(journal)

    def observe(self, observer: EngineObserver) -> None:
        """Have an observer told from now on."""
        self._fan.observers.append(observer)

    def open(self, *, first_start: bool) -> None:
        """Watch all engines; at the first start the local one is added."""
        if first_start and self._config.local:
            self._add_local()
        with self._database.reading() as session:
            rows = session.scalars(select(EngineRow)).all()
        for row in rows:
            try:
                self._begin(_spec(row))
            except CloudError as error:
                log.error("engine.unusable", engine=row.name, error=str(error))

    def close(self) -> None:
        """Stop watching."""
        for monitor in list(self._monitors.values()):
            monitor.close()

    # -- looking -----------------------------------------------------------------------------------------------------

    def engines(self) -> list[Engine]:
        """Return all engines by name."""
        return sorted(
            (Engine(spec=one.spec, facts=one.facts) for one in self._monitors.values()), key=lambda one: one.spec.name
        )

    def engine(self, key: str) -> Engine:
        """Return an engine by id or name. Errors: NotFound."""
        monitor = self.monitor(key)
        return Engine(spec=monitor.spec, facts=monitor.facts)

    def monitor(self, key: str) -> EngineMonitor:
        """Return what watches an engine, by id or name. Errors: NotFound."""
        monitors = self._monitors
        found = monitors.get(key) or next((one for one in monitors.values() if one.spec.name == key), None)
        if found is None:
            raise NotFound("the engine does not exist", details=key[:100])
        return found

    def monitors(self) -> list[EngineMonitor]:
        """Return what watches the engines."""
        return list(self._monitors.values())

    def client(self, key: str) -> EngineClient:
        """Return an engine's client. Errors: NotFound."""
        return self.monitor(key).client

    def containers(self) -> list[EngineContainer]:
        """Return the containers of all engines that answer."""
        return [one for monitor in list(self._monitors.values()) for one in monitor.containers()]

    def container(self, prefix: str) -> EngineContainer:
        """Return a container by id, the beginning of its id, or its name. Errors: NotFound, Conflict."""
        found = [one for one in self.containers() if prefix in (one.id, one.name)]
        if not found and prefix:
            found = [one for one in self.containers() if one.id.startswith(prefix)]
        if not found:
            raise NotFound("the container does not exist", details=prefix[:100])
        if len(found) > 1:
            raise Conflict("more than one container has an id that begins so", details=prefix[:100])
        return found[0]

    def images(self, key: str) -> list[Mapping[str, Any]]:
        """Return an engine's images. Errors: NotFound, EngineError."""
        return self.client(key).images()

    def logs(self, container: EngineContainer) -> bytes:
        """Return what a container has written so far. Errors: NotFound, EngineError."""
        return self.client(container.engine).logs(container.id)

    def output(self, engine: str, container: str, *, tty: bool, tail: int, follow: bool) -> LogStream:
        """Return a container's output: ``tail`` lines of the past, and what comes. Errors: NotFound, EngineError."""
        return LogStream(self.client(engine), container, tty=tty, tail=tail, follow=follow)

    def session(self, engine: str, container: str, command: list[str]) -> ExecSession:
        """Run a program with a terminal in a container. Errors: NotFound, Conflict, EngineError."""
        return ExecSession(self.client(engine), container, command)

    # -- changing ----------------------------------------------------------------------------------------------------

    def delete(self, container: EngineContainer) -> None:
        """Kill and remove a container with its volumes. Errors: EngineError."""
        self.client(container.engine).remove(container.id)
        self.monitor(container.engine).refresh(container.id)

    def add(self, spec: EngineSpec) -> Engine:
        """Register an engine that answers a ping.

        Errors: InvalidInput, Forbidden for its address, Conflict for its name, EngineUnreachable.
        """
        _check(spec)
        with self._lock:
            if any(one.spec.name == spec.name for one in self._monitors.values()):
                raise Conflict("an engine of this name exists", details=spec.name)
        client = EngineClient(spec, self._config, self._policy)
        try:
            client.ping()
        except EngineUnreachable:
            raise
        except EngineError as error:
            raise EngineUnreachable(
                f"engine {spec.name} does not answer as a Docker engine", details=str(error)
            ) from error
        finally:
            client.close()
        self._store(spec)
        self._begin(spec).wait_known(self._config.timeout)
        self._journal.add(Record(type="add-engine", tags=("cluster",), engine=spec.name, message=f"addr={spec.addr}"))
        return self.engine(spec.id)

    def update(self, key: str, *, nickname: str | None = None, labels: Sequence[str] | None = None) -> Engine:
        """Change an engine's nickname or labels. Errors: NotFound, InvalidInput."""
        monitor = self.monitor(key)
        for label in labels or ():
            if not _LABEL.fullmatch(label):
                raise InvalidInput("the label is not allowed", details=repr(label[:100]))
        with self._database.session() as session:
            row = session.get(EngineRow, monitor.spec.id)
            if row is None:
                raise NotFound("the engine does not exist", details=key[:100])
            if nickname is not None:
                row.nickname = nickname[:255]
            if labels is not None:
                row.labels = list(dict.fromkeys(labels))
            monitor.spec = _spec(row)
        return self.engine(monitor.spec.id)

    def remove(self, key: str) -> None:
        """Take an engine off the list; its containers run on. Errors: NotFound, Conflict while services use it."""
        monitor = self.monitor(key)
        with self._database.session() as session:
            used = session.scalars(
                select(ContainerRow.name).where(
                    ContainerRow.engine == monitor.spec.id, ContainerRow.state != "Terminated"
                )
            ).all()
            if used:
                raise Conflict(
                    "services have containers on this engine",
                    details=", ".join(used[:5]),
                    resolution="terminate or redeploy them first",
                )
            row = session.get(EngineRow, monitor.spec.id)
            if row is not None:
                session.delete(row)
        with self._lock:  # a copy: others read it without the lock
            self._monitors = {key: one for key, one in self._monitors.items() if key != monitor.spec.id}
        monitor.close()
        self._journal.add(Record(type="remove-engine", tags=("cluster",), engine=monitor.spec.name))

    def _add_local(self) -> None:
        """Register the engine on this host; it need not run yet."""
        spec = EngineSpec(
            id=str(uuid.uuid4()),
            name=LOCAL,
            addr=self._config.local,
            cpus=0,
            memory=0,
            labels=(LOCAL,),
            created=time.time(),
        )
        with self._database.reading() as session:
            if session.scalar(select(EngineRow.id).limit(1)) is not None:
                return
        self._store(spec)

    def _store(self, spec: EngineSpec) -> None:
        with self._database.session() as session:
            if session.scalar(select(EngineRow.id).where(EngineRow.name == spec.name)) is not None:
                raise Conflict("an engine of this name exists", details=spec.name)
            session.add(
                EngineRow(
                    id=spec.id,
                    name=spec.name,
                    addr=spec.addr,
                    cpus=spec.cpus,
                    memory=spec.memory,
                    labels=list(spec.labels),
                    ssl_cert=spec.ssl_cert,
                    ssl_key=spec.ssl_key,
                    ca_cert=spec.ca_cert,
                    nickname=spec.nickname,
                    created=spec.created,
                )
            )

    def _begin(self, spec: EngineSpec) -> EngineMonitor:
        client = EngineClient(spec, self._config, self._policy)
        monitor = EngineMonitor(spec, client, self._config.health_interval, self._fan)
        with self._lock:
            self._monitors = {**self._monitors, spec.id: monitor}
        monitor.open()
        return monitor


def capacity(engine: Engine) -> tuple[float, float]:
    """Return an engine's CPUs and memory in MiB: as registered, or what it says itself where that is 0."""
    spec, facts = engine.spec, engine.facts
    return spec.cpus or float(facts.cpus), spec.memory or facts.memory / 2**20


def _spec(row: EngineRow) -> EngineSpec:
    return EngineSpec(
        id=row.id,
        name=row.name,
        addr=row.addr,
        cpus=row.cpus,
        memory=row.memory,
        labels=tuple(row.labels),
        ssl_cert=row.ssl_cert,
        ssl_key=row.ssl_key,
        ca_cert=row.ca_cert,
        nickname=row.nickname,
        created=row.created,
    )


def _check(spec: EngineSpec) -> None:
    if not _NAME.fullmatch(spec.name):
        raise InvalidInput("the engine's id is not allowed", details=repr(spec.name[:80]))
    for label in spec.labels:
        if not _LABEL.fullmatch(label):
            raise InvalidInput("the label is not allowed", details=repr(label[:100]))
    if not (0 <= spec.cpus <= 65_536 and 0 <= spec.memory <= 2**30):
        raise InvalidInput("the engine's cpus and memory must be numbers from 0", details=f"{spec.cpus}, {spec.memory}")
    for text in (spec.ssl_cert, spec.ssl_key, spec.ca_cert):
        if len(text) > 100_000 or not text.isascii():
            raise InvalidInput("the engine's certificates must be PEM")
    if bool(spec.ssl_cert) != bool(spec.ssl_key):
        raise InvalidInput("ssl_cert and ssl_key are given together or not at all")
