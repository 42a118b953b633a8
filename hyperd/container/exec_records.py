"""Rows of execs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from sqlalchemy import Table, bindparam, delete, select

from hyperd.container.model import Exec, ExecState
from hyperd.container.states import KILLED
from hyperd.db import spec_codec
from hyperd.db.models import ContainerRow, ExecRow
from hyperd.db.session import Database
from hyperd.errors import NotFound
from hyperd.spec.model import ExecSpec

KEEP_SECONDS, SWEEP_SECONDS = 600.0, 60.0
KEEP_UNUSED_SECONDS = 86_400.0  # one that nobody has started
# An exec is three small writes; as statements of their own they cost a third of what objects of the ORM do.
_EXECS = cast("Table", ExecRow.__table__)
_INSERT = _EXECS.insert()
_START = _EXECS.update().where(_EXECS.c.id == bindparam("ident"), _EXECS.c.state == ExecState.CREATED)
_FINISH = _EXECS.update().where(_EXECS.c.id == bindparam("ident"))


class ExecRecords:
    """The table of execs. Those that have ended are kept for ten minutes, those that were never started for a day."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._sweep_at = 0.0

    def insert(self, exec_id: str, container_id: str, spec: ExecSpec) -> None:
        """Add an exec that was not started; old ones go."""
        made = {
            "id": exec_id,
            "container_id": container_id,
            "spec": spec_codec.dump(spec),
            "created_at": time.time(),
            "state": ExecState.CREATED,
            "stream_base": 0,
            "pid": 0,
        }
        with self._db.session() as session:
            if time.monotonic() >= self._sweep_at:
                self._sweep_at = time.monotonic() + SWEEP_SECONDS
                ended, unused = time.time() - KEEP_SECONDS, time.time() - KEEP_UNUSED_SECONDS
                session.execute(delete(ExecRow).where(ExecRow.state == ExecState.EXITED, ExecRow.finished_at < ended))
                session.execute(delete(ExecRow).where(ExecRow.state == ExecState.CREATED, ExecRow.created_at < unused))
            session.connection().execute(_INSERT, made)

    def get(self, exec_id: str) -> Exec:
        """Return an exec. Errors: NotFound."""
        with self._db.reading() as session:
            row = session.get(ExecRow, exec_id)
        if row is None:
            raise NotFound(f"cannot find exec {exec_id}", kind="exec", name=exec_id)
        return _exec(row)

    def of_container(self, container_id: str) -> list[Exec]:
        """Return a container's execs, oldest first."""
        query = select(ExecRow).where(ExecRow.container_id == container_id).order_by(ExecRow.created_at)
        with self._db.reading() as session:
            return [_exec(row) for row in session.scalars(query)]

    def running(self, pod_id: str) -> list[Exec]:
        """Return the execs of a pod that run, as far as the rows know."""
        query = select(ExecRow).join(ContainerRow, ContainerRow.id == ExecRow.container_id)
        with self._db.reading() as session:
            rows = session.scalars(query.where(ContainerRow.pod_id == pod_id, ExecRow.state == ExecState.RUNNING))
            return [_exec(row) for row in rows]

    def start(self, exec_id: str, *, base: int) -> bool:
        """Note that an exec is being started, once: False when it was before."""
        start = {"ident": exec_id, "state": ExecState.RUNNING, "stream_base": base, "started_at": time.time()}
        with self._db.session() as session:
            return bool(session.connection().execute(_START, start).rowcount == 1)

    def resize(self, exec_id: str, size: tuple[int, int]) -> None:
        """Note rows and columns of the terminal of an exec that has not started; others are left alone."""
        with self._db.session() as session:
            row = session.get(ExecRow, exec_id)
            if row is not None and row.state == ExecState.CREATED:
                row.spec = spec_codec.dump(replace(spec_codec.load(ExecSpec, row.spec), size=size))

    def finish(self, exec_id: str, exit_code: int) -> None:
        """Note the end of an exec; one without a row is fine."""
        ended = {"ident": exec_id, "state": ExecState.EXITED, "exit_code": exit_code, "finished_at": time.time()}
        with self._db.session() as session:
            session.connection().execute(_FINISH, ended)

    def settle_others(self, known: Sequence[str]) -> None:
        """Close the records of execs that do not run any more but for those that are known."""
        with self._db.session() as session:
            for row in session.scalars(select(ExecRow).where(ExecRow.state == ExecState.RUNNING)):
                if row.id not in known:
                    row.state, row.exit_code, row.finished_at = ExecState.EXITED, KILLED, time.time()


def _exec(row: ExecRow) -> Exec:
    return Exec(
        id=row.id,
        container_id=row.container_id,
        spec=spec_codec.load(ExecSpec, row.spec),
        state=ExecState(row.state),
        created_at=row.created_at,
        exit_code=row.exit_code,
        pid=row.pid,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
