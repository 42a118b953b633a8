"""Rows of containers: looking them up, making and changing them."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import String, func, select, type_coerce
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import load_only

from hyperd.container.brief import ContainerBrief
from hyperd.container.states import LIVE, ContainerState
from hyperd.db import spec_codec
from hyperd.db.memo import Memo
from hyperd.db.models import ContainerRow, PodRow
from hyperd.db.session import Database
from hyperd.db.spec_cache import marks, stored_container, stored_pod
from hyperd.errors import Conflict, InvalidInput, NotFound
from hyperd.spec.model import ContainerSpec, PodSpec

_ID = re.compile(r"[0-9a-f]{64}")
Decide = Callable[[ContainerRow, PodRow], None]


class ContainerRecords:
    """The table of containers. The rows it gives are shared by all who ask: to change one is what ``update`` is for."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._found: Memo[ContainerRow] = Memo(database, "containers")
        self._pods: Memo[PodSpec] = Memo(database, "pods")
        self._briefs: Memo[tuple[ContainerBrief, ...]] = Memo(database, "containers", "pods")

    def find(self, name: str) -> ContainerRow:
        """Look a container up: exact name, exact id, unique prefix of an id.

        Errors: InvalidInput for an empty name, NotFound for none or several.
        """
        name = name.removeprefix("/")
        if not name:
            raise InvalidInput("Empty container name")
        return self._found.get(("name", name), lambda: self._find(name))

    def _find(self, name: str) -> ContainerRow:
        with self._db.reading() as session:
            row = session.scalar(select(ContainerRow).where(ContainerRow.name == name)) or session.get(
                ContainerRow, name
            )
            if row is not None:
                return row
            found: list[ContainerRow] = []
            if all(char in "0123456789abcdef" for char in name):
                query = select(ContainerRow).where(ContainerRow.id.startswith(name)).limit(2)
                found = list(session.scalars(query))
        if len(found) == 1:
            return found[0]
        detail = "several containers have an id that begins so" if found else ""
        raise NotFound(f"Can not find container by name({name})", details=detail, kind="container", name=name)

    def get(self, container_id: str) -> ContainerRow:
        """Return a container by its whole id. Errors: NotFound."""
        return self._found.get(("id", container_id), lambda: self._get(container_id))

    def _get(self, container_id: str) -> ContainerRow:
        with self._db.reading() as session:
            row = session.get(ContainerRow, container_id)
        if row is None:
            raise NotFound(f"The container ({container_id}) can not be found", kind="container", name=container_id)
        return row

    def of_pod(self, pod_id: str) -> list[ContainerRow]:
        """Return a pod's containers in their order."""
        with self._db.reading() as session:
            query = select(ContainerRow).where(ContainerRow.pod_id == pod_id).order_by(ContainerRow.position)
            return list(session.scalars(query))

    def newest_image(self) -> str:
        """Return the id of the image of the container that was made last, empty when there is none."""
        query = select(ContainerRow.image_id).order_by(ContainerRow.created_at.desc()).limit(1)
        with self._db.reading() as session:
            return session.scalar(query) or ""

    def specs(self, pod_id: str) -> list[ContainerSpec]:
        """Return the specifications of a pod's containers in their order."""
        return [self.spec(row) for row in self.of_pod(pod_id)]

    def all(self) -> list[ContainerRow]:
        """Return every container."""
        with self._db.reading() as session:
            return list(session.scalars(select(ContainerRow).order_by(ContainerRow.created_at, ContainerRow.position)))

    def briefs(self, owner: str) -> tuple[ContainerBrief, ...]:
        """Return the containers of pods that an API has made, oldest first; not read again until one changes."""
        return self._briefs.get(owner, lambda: self._read_briefs(owner))

    def _read_briefs(self, owner: str) -> tuple[ContainerBrief, ...]:
        row = ContainerRow
        columns = select(row.id, row.pod_id, row.state, row.created_at, row.image_id, type_coerce(row.spec, String))
        of_owner = columns.join(PodRow, PodRow.id == row.pod_id).where(PodRow.owner == owner)
        with self._db.reading() as session:
            rows = session.execute(of_owner.order_by(row.created_at, row.position)).all()
        return tuple(
            ContainerBrief(
                id=ident,
                pod_id=pod_id,
                state=ContainerState(state),
                created_at=created_at,
                image_id=image_id,
                labels=labels,
                annotations=annotations,
            )
            for ident, pod_id, state, created_at, image_id, text in rows
            for labels, annotations in [marks(text)]
        )

    def live(self) -> list[ContainerRow]:
        """Return the containers that run or are being started."""
        with self._db.reading() as session:
            return list(session.scalars(select(ContainerRow).where(ContainerRow.state.in_(LIVE))))

    def to_be_removed(self) -> list[ContainerRow]:
        """Return the containers that have ended and are to be removed then."""
        over = ContainerRow.state == ContainerState.EXITED, ContainerRow.restart_at.is_(None)
        with self._db.reading() as session:
            return list(session.scalars(select(ContainerRow).where(ContainerRow.auto_remove.is_(True), *over)))

    def listed(self, pod_id: str = "") -> list[ContainerRow]:
        """Return every container (of a pod, where given) with only what a list shows."""
        columns = load_only(
            ContainerRow.id, ContainerRow.name, ContainerRow.pod_id, ContainerRow.state, ContainerRow.exit_code
        )
        query = select(ContainerRow).options(columns).order_by(ContainerRow.created_at, ContainerRow.position)
        if pod_id:
            query = query.where(ContainerRow.pod_id == pod_id)
        with self._db.reading() as session:
            return list(session.scalars(query))

    def with_volumes(self) -> list[ContainerRow]:
        """Return the containers that mount volumes of their specification; a few others may be among them."""
        text = type_coerce(ContainerRow.spec, String)
        with self._db.reading() as session:
            return list(session.scalars(select(ContainerRow).where(text.contains('"volume"'))))

    def count(self) -> int:
        """Return how many containers there are."""
        with self._db.reading() as session:
            return session.scalar(select(func.count()).select_from(ContainerRow)) or 0

    def states(self) -> dict[str, int]:
        """Count containers by state."""
        with self._db.reading() as session:
            rows = session.execute(select(ContainerRow.state, func.count()).group_by(ContainerRow.state))
            return {str(state): int(count) for state, count in rows}

    def using_image(self, image_id: str) -> Sequence[str]:
        """Return the names of containers made from an image."""
        with self._db.reading() as session:
            return list(session.scalars(select(ContainerRow.name).where(ContainerRow.image_id == image_id)))

    def insert(self, pod_id: str, spec: ContainerSpec, *, position: int, image_id: str) -> ContainerRow:
        """Add a container that was never started. Errors: Conflict when the name is taken."""
        row = ContainerRow(
            id=spec.id if _ID.fullmatch(spec.id) else secrets.token_hex(32),
            name=spec.name,
            pod_id=pod_id,
            position=position,
            state=ContainerState.CREATED,
            spec=spec_codec.dump(spec),
            auto_remove=spec.auto_remove,
            image_id=image_id,
            image_name=spec.image,
            created_at=time.time(),
            killed=False,
            stream_base=0,
            run_count=0,
        )
        try:
            with self._db.session() as session:
                session.add(row)
        except IntegrityError as error:
            raise self._taken(spec.name) from error
        return row

    def update(self, container_id: str, **values: Any) -> ContainerRow | None:
        """Change columns; None when the container is gone."""
        try:
            with self._db.session() as session:
                row = session.get(ContainerRow, container_id)
                if row is not None:
                    for key, value in values.items():
                        setattr(row, key, value)
        except IntegrityError as error:
            raise self._taken(str(values.get("name"))) from error
        return row

    def _taken(self, name: str) -> Conflict:
        """Say whose a name is, as the original did."""
        with self._db.reading() as session:
            holder = session.scalar(select(ContainerRow.pod_id).where(ContainerRow.name == name))
        return Conflict(f"container name {name} has already taken by pod {holder or '(just removed)'}")

    def starting(self, row: ContainerRow, *, run: int, base: int, again: bool) -> None:
        """Note that a run begins, whose streams have these numbers; ``again``: by the restart policy."""
        self.update(
            row.id,
            state=ContainerState.STARTING,
            run_count=run,
            stream_base=base,
            exit_code=None,
            started_at=time.time(),
            finished_at=None,
            restart_at=None,
            oom_killed=False,
            error="",
            user_ids=[],
            restart_count=row.restart_count + 1 if again else 0,
            **({} if again else {"killed": False, "restart_delay": 0.0}),
        )

    def started(self, container_id: str, *, run: int, ids: Sequence[int] = (), error: str = "") -> None:
        """Note that a run's program runs, unless it has ended already.

        ``ids``: of its user, its group and all its groups; empty = nobody knows, or they are known. ``error``: why it
        could not be executed.
        """
        with self._db.session() as session:
            row = session.get(ContainerRow, container_id)
            if row is None or row.run_count != run:
                return
            if row.state == ContainerState.STARTING:
                row.state = ContainerState.RUNNING
            if ids:
                row.user_ids = list(ids)
            if error:
                row.error = error

    def finish(
        self, container_id: str, *, run: int, exit_code: int, decide: Decide | None = None, at: float | None = None
    ) -> ContainerRow | None:
        """Note the end of a run, once; None when it was noted before or the container is gone.

        ``decide`` may change the row (when it restarts) in the same transaction; ``at``: epoch seconds, None = now.
        """
        with self._db.session() as session:
            row = session.get(ContainerRow, container_id)
            if row is None or row.run_count != run or row.state not in LIVE:
                return None
            row.state, row.exit_code, row.finished_at = ContainerState.EXITED, exit_code, at or time.time()
            pod = session.get(PodRow, row.pod_id)
            if decide is not None and pod is not None:
                decide(row, pod)
        return row

    def postpone(self, container_id: str, decide: Decide) -> ContainerRow | None:
        """Decide again when an ended container starts; None when it runs or is gone."""
        with self._db.session() as session:
            row = session.get(ContainerRow, container_id)
            pod = session.get(PodRow, row.pod_id) if row is not None else None
            if row is None or pod is None or row.state in LIVE:
                return None
            decide(row, pod)
        return row

    def end_restarts(self, container_id: str, *, killed: bool) -> tuple[ContainerRow | None, bool]:
        """Let a container's policy start it no more; return the row and whether that would have happened."""
        with self._db.session() as session:
            row = session.get(ContainerRow, container_id)
            waited = row is not None and row.restart_at is not None
            if row is not None:
                row.killed, row.restart_at = killed, None
        return row, waited

    def awaiting_restart(self) -> list[ContainerRow]:
        """Return the containers that their policy starts again at some time."""
        with self._db.reading() as session:
            return list(session.scalars(select(ContainerRow).where(ContainerRow.restart_at.is_not(None))))

    def delete(self, container_id: str) -> None:
        """Remove a container's row; none is fine."""
        with self._db.session() as session:
            row = session.get(ContainerRow, container_id)
            if row is not None:
                session.delete(row)

    def spec(self, row: ContainerRow) -> ContainerSpec:
        """Return a container's specification."""
        return stored_container(row.spec)

    def pod_spec(self, pod_id: str) -> PodSpec:
        """Return the specification of the pod a container is in. Errors: NotFound."""
        return self._pods.get(pod_id, lambda: self._pod_spec(pod_id))

    def _pod_spec(self, pod_id: str) -> PodSpec:
        with self._db.reading() as session:
            row = session.get(PodRow, pod_id)
        if row is None:
            raise NotFound(f"The pod({pod_id}) can not be found, please create it first", kind="pod", name=pod_id)
        return stored_pod(row.spec)
