"""Extensions of Shipyard: containers that are kept running, on one engine or on each."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import structlog
from sqlalchemy import select

from hypercloud.db.models import ExtensionRow
from hypercloud.db.session import Database
from hypercloud.engine.machines import Machines
from hypercloud.engine.model import Engine, PortMap
from hypercloud.errors import CloudError, Conflict, InvalidInput, NotFound, NotSupported
from hypercloud.event.bus import Record
from hypercloud.event.journal import Journal
from hypercloud.fleet import translate
from hypercloud.fleet.contract import Fleet
from hypercloud.fleet.model import Extension, Image

log = structlog.get_logger(__name__)

HEAL = 5.0  # seconds between looks
LONGEST_WAIT = 600.0  # seconds between attempts to deploy what fails
VARIABLE = "_SHIPYARD_EXTENSION"


class ExtensionService:
    """Adds, keeps and removes extensions.

    Args:
        database: where they are kept.
        engines: where they run.
        fleet: runs them.
        journal: is told.

    """

    def __init__(self, database: Database, engines: Machines, fleet: Fleet, journal: Journal) -> None:
        self._database = database
        self._engines = engines
        self._fleet = fleet
        self._journal = journal
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}  # how many, and when to try again

    def open(self) -> None:
        """Begin to heal."""
        threading.Thread(target=self._heal_always, name="extensions", daemon=True).start()

    def close(self) -> None:
        """Stop healing."""
        self._closed.set()

    def extensions(self) -> list[Extension]:
        """Return all extensions by name."""
        with self._database.reading() as session:
            rows = session.scalars(select(ExtensionRow).order_by(ExtensionRow.name)).all()
        return [_extension(row.id, row.name, row.spec) for row in rows]

    def extension(self, extension_id: str) -> Extension:
        """Return an extension. Errors: NotFound."""
        for one in self.extensions():
            if one.id == extension_id:
                return one
        raise NotFound("the extension does not exist", details=extension_id[:100])

    def add(self, extension: Extension) -> Extension:
        """Keep an extension running from now on. Errors: InvalidInput, Conflict, NotSupported."""
        if self._engines.indirect:
            raise NotSupported("there are no extensions with this back end", details=self._engines.indirect)
        if not extension.name or not extension.image:
            raise InvalidInput("an extension needs a name and an image")
        made = dataclasses.replace(extension, id=str(uuid.uuid4()))
        spec = {key: value for key, value in dataclasses.asdict(made).items() if key not in {"id", "name"}}
        with self._database.session() as session:
            if session.scalar(select(ExtensionRow.id).where(ExtensionRow.name == made.name)) is not None:
                raise Conflict("an extension of this name exists", details=made.name)
            session.add(ExtensionRow(id=made.id, name=made.name, spec=spec))
        self._journal.add(Record(type="add-extension", tags=("cluster",), message=f"name={made.name}"))
        self.heal()
        return made

    def remove(self, extension_id: str) -> None:
        """Remove an extension and its containers. Errors: NotFound, EngineError."""
        extension = self.extension(extension_id)
        with self._lock, self._database.session() as session:
            row = session.get(ExtensionRow, extension_id)
            if row is not None:
                session.delete(row)
        for one in self._engines.containers():
            if one.labels.get(translate.EXTENSION) == extension_id:
                self._fleet.remove(one.id)
        self._journal.add(Record(type="remove-extension", tags=("cluster",), message=f"name={extension.name}"))

    def heal(self) -> None:
        """Start what is missing, remove what belongs to extensions that are gone."""
        if self._engines.indirect:
            return
        with self._lock:
            known = {one.id: one for one in self.extensions()}
            containers = self._engines.containers()
            for one in containers:
                owner = one.labels.get(translate.EXTENSION)
                if owner is not None and owner not in known:
                    with contextlib.suppress(CloudError):
                        self._fleet.remove(one.id)
            engines = self._engines.engines()
            for extension in known.values():
                there = {one.engine for one in containers if one.labels.get(translate.EXTENSION) == extension.id}
                for place in self._places(extension, engines, there):
                    self._try(extension, place)

    def _places(self, extension: Extension, engines: Sequence[Engine], there: Collection[str]) -> list[str]:
        """Return the names of engines on which an extension is missing; "" = on one of them."""
        up = [one.spec for one in engines if one.up]
        if extension.deploy_per_engine:
            return [one.name for one in up if one.id not in there]
        if there:
            self._remember(extension, min(there))
            return []
        away = any(one.spec.id == extension.engine and not one.up for one in engines)
        return [""] if up and not away else []  # what runs on an engine that is away is not missing

    def _remember(self, extension: Extension, engine: str) -> None:
        """Note where an extension's one container is."""
        if engine == extension.engine:
            return
        with self._database.session() as session:
            row = session.get(ExtensionRow, extension.id)
            if row is not None:
                row.spec = {**row.spec, "engine": engine}

    def _try(self, extension: Extension, engine: str) -> None:
        """Deploy an extension, unless that failed a short while ago: each failure doubles the time to wait."""
        key = (extension.id, engine)
        failures, until = self._failures.get(key, (0, 0.0))
        if time.monotonic() < until:
            return
        if self._deploy(extension, engine):
            self._failures.pop(key, None)
        else:
            wait = min(HEAL * 2 ** min(failures, 20), LONGEST_WAIT)
            self._failures[key] = (failures + 1, time.monotonic() + wait)

    def _deploy(self, extension: Extension, engine: str) -> bool:
        """Run a container of an extension; say whether it runs."""
        image = Image(
            name=extension.image,
            container_name="" if extension.deploy_per_engine else extension.container_name,
            cpus=extension.cpus,
            memory=extension.memory,
            environment={**extension.environment, VARIABLE: extension.id},
            links=extension.links,
            args=extension.args,
            volumes=extension.volumes,
            bind_ports=extension.ports,
            restart="on-failure",
            restart_max=10,
            type="host" if engine else "service",
            labels=(f"host:{engine}",) if engine else (),
        )
        try:
            made = self._fleet.run_labelled(image, {translate.EXTENSION: extension.id})
        except CloudError as error:
            log.warning("extension.not_started", extension=extension.name, engine=engine, error=str(error))
            return False
        if not extension.deploy_per_engine:
            self._remember(extension, made.engine.spec.id)
        return True

    def _heal_always(self) -> None:
        while not self._closed.wait(HEAL):
            try:
                if self.extensions():
                    self.heal()
            except Exception:
                log.exception("extension.heal_failed")


def _extension(extension_id: str, name: str, spec: dict[str, Any]) -> Extension:
    values = dict(spec)
    for key in ("args", "volumes"):
        values[key] = tuple(values.get(key) or ())
    values["ports"] = tuple(PortMap(**port) for port in values.get("ports") or ())
    return Extension(id=extension_id, name=name, **values)
