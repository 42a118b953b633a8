"""Rows of pods."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import String, func, select, type_coerce
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import load_only

from hyperd.db import spec_codec
from hyperd.db.memo import Memo
from hyperd.db.models import CopyDueRow, PodRow
from hyperd.db.session import Database
from hyperd.db.spec_cache import marks
from hyperd.errors import Conflict, NotFound
from hyperd.pod.model import PodBrief
from hyperd.pod.states import PodState, check
from hyperd.spec.model import PodSpec

CREATING = "it is being created"  # the reason of a pod's state until it is complete


class PodRecords:
    """The table of pods."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._briefs: Memo[tuple[PodBrief, ...]] = Memo(database, "pods")

    def get(self, pod_id: str) -> PodRow:
        """Return a pod. Errors: NotFound."""
        with self._db.reading() as session:
            row = session.get(PodRow, pod_id)
        if row is None:
            raise NotFound(f"The pod({pod_id}) can not be found, please create it first", kind="pod", name=pod_id)
        return row

    def all(self) -> list[PodRow]:
        """Return every pod, oldest first."""
        with self._db.reading() as session:
            return list(session.scalars(select(PodRow).order_by(PodRow.created_at)))

    def briefs(self, owner: str) -> tuple[PodBrief, ...]:
        """Return the pods that an API has made, oldest first; nothing is read again until a pod changes."""
        return self._briefs.get(owner, lambda: self._read_briefs(owner))

    def _read_briefs(self, owner: str) -> tuple[PodBrief, ...]:
        spec = type_coerce(PodRow.spec, String)
        columns = select(PodRow.id, PodRow.state, PodRow.created_at, spec).where(PodRow.owner == owner)
        with self._db.reading() as session:
            rows = session.execute(columns.order_by(PodRow.created_at)).all()
        return tuple(
            PodBrief(id=ident, state=PodState(state), created_at=created_at, labels=labels, annotations=annotations)
            for ident, state, created_at, text in rows
            for labels, annotations in [marks(text)]
        )

    def running(self) -> list[PodRow]:
        """Return the pods that run."""
        with self._db.reading() as session:
            return list(session.scalars(select(PodRow).where(PodRow.state == PodState.RUNNING)))

    def listed(self) -> list[PodRow]:
        """Return every pod, oldest first, with only what a list shows: id, state and outcome."""
        columns = load_only(PodRow.id, PodRow.state, PodRow.outcome)
        with self._db.reading() as session:
            return list(session.scalars(select(PodRow).options(columns).order_by(PodRow.created_at)))

    def count(self) -> int:
        """Count pods."""
        with self._db.reading() as session:
            return session.scalar(select(func.count()).select_from(PodRow)) or 0

    def states(self) -> dict[str, int]:
        """Count pods by state."""
        with self._db.reading() as session:
            rows = session.execute(select(PodRow.state, func.count()).group_by(PodRow.state))
            return {str(state): int(count) for state, count in rows}

    def insert(self, spec: PodSpec) -> None:
        """Add a pending pod that is half made until ``complete``. Errors: Conflict when the id is taken."""
        try:
            with self._db.session() as session:
                session.add(
                    PodRow(
                        id=spec.id,
                        state=PodState.PENDING,
                        spec=spec_codec.dump(spec),
                        owner=spec.owner,
                        created_at=time.time(),
                        outcome="",
                        reason=CREATING,
                    )
                )
        except IntegrityError as error:
            raise Conflict(f"pod name {spec.id} has already in use") from error

    def complete(self, pod_id: str) -> None:
        """Note that everything of a new pod is there; it survives a power failure from now on."""
        self.update(pod_id, reason="")
        self.sync()

    def half_made(self, pod_id: str) -> bool:
        """Tell whether a daemon was killed while it created this pod: nobody was told that it exists."""
        row = self.get(pod_id)
        return row.state == PodState.PENDING and row.reason == CREATING

    def sync(self) -> None:
        """Return when all changes by now survive a power failure. Errors: HostFault."""
        self._db.sync()

    def make_room(self) -> None:
        """Let the rows of what is removed be written on a disk that is full."""
        self._db.make_room()

    def change(self, pod_id: str, state: PodState, **values: Any) -> PodState:
        """Change the state as the table allows, and other columns; give the state before.

        Errors: NotFound, Conflict.
        """
        with self._db.session() as session:
            row = session.get(PodRow, pod_id)
            if row is None:
                raise NotFound(f"The pod({pod_id}) can not be found, please create it first", kind="pod", name=pod_id)
            before = PodState(row.state)
            check(pod_id, before, state)
            row.state = state
            for key, value in values.items():
                setattr(row, key, value)
        return before

    def update(self, pod_id: str, **values: Any) -> None:
        """Change columns but the state; a missing pod is fine."""
        with self._db.session() as session:
            row = session.get(PodRow, pod_id)
            if row is not None:
                for key, value in values.items():
                    setattr(row, key, value)

    def removed(self) -> set[str]:
        """Return the pods that were just removed: their rows are gone, the copies of these not yet."""
        with self._db.reading() as session:
            wanted = select(CopyDueRow.id).where(CopyDueRow.kind == "pod", CopyDueRow.id.not_in(select(PodRow.id)))
            return set(session.scalars(wanted))

    def delete(self, pod_id: str) -> None:
        """Remove a pod's row; none is fine."""
        with self._db.session() as session:
            row = session.get(PodRow, pod_id)
            if row is not None:
                session.delete(row)
