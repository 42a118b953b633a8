"""Extensions of Shipyard: containers that are kept running, on one engine or on each."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import uuid
from typing import Any

import structlog
from sqlalchemy import select

from hypercloud.db.models import ExtensionRow
from hypercloud.db.session import Database
from hypercloud.engine.model import PortMap
from hypercloud.engine.service import EngineService
from hypercloud.errors import CloudError, Conflict, InvalidInput, NotFound
from hypercloud.event.bus import Record
from hypercloud.event.journal import Journal
from hypercloud.fleet import translate
from hypercloud.fleet.model import Extension, Image
from hypercloud.fleet.service import FleetService

log = structlog.get_logger(__name__)

HEAL = 5.0  # seconds between looks
VARIABLE = "_SHIPYARD_EXTENSION"


class ExtensionService:
    """Adds, keeps and removes extensions.

    Args:
        database: where they are kept.
        engines: where they run.
        fleet: runs them.
        journal: is told.

    """

    def __init__(self, database: Database, engines: EngineService, fleet: FleetService, journal: Journal) -> None:
        self._database = database
        self._engines = engines
        self._fleet = fleet
        self._journal = journal
        self._closed = threading.Event()
        self._lock = threading.Lock()

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
        """Keep an extension running from now on. Errors: InvalidInput, Conflict."""
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
        with self._lock:
            known = {one.id: one for one in self.extensions()}
            containers = self._engines.containers()
            for one in containers:
                owner = one.labels.get(translate.EXTENSION)
                if owner is not None and owner not in known:
                    with contextlib.suppress(CloudError):
                        self._fleet.remove(one.id)
            engines = [engine.spec for engine in self._engines.engines() if engine.up]
            for extension in known.values():
                there = {one.engine for one in containers if one.labels.get(translate.EXTENSION) == extension.id}
                places = [e.name for e in engines if e.id not in there] if extension.deploy_per_engine else []
                if not extension.deploy_per_engine and not there and engines:
                    places = [""]
                for place in places:
                    self._deploy(extension, place)

    def _deploy(self, extension: Extension, engine: str) -> None:
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
            self._fleet.run_labelled(image, {translate.EXTENSION: extension.id})
        except CloudError as error:
            log.warning("extension.not_started", extension=extension.name, engine=engine, error=str(error))

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
