"""The table of actions, their logs and their events.

An action with an operation is work for the reconciler; it is taken in order of its number. One without was done within
the request and is only kept for the record.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from hypercloud.db.models import ActionLogRow, ActionRow
from hypercloud.db.session import Database
from hypercloud.errors import Conflict, NotFound
from hypercloud.event.bus import Bus, Change, Ref

LONGEST_LINE = 4000  # characters of a log line


class ActionState(StrEnum):
    """How far an action has come."""

    PENDING = "Pending"
    IN_PROGRESS = "In progress"
    CANCELING = "Canceling"
    CANCELED = "Canceled"
    SUCCESS = "Success"
    FAILED = "Failed"


OPEN = (ActionState.PENDING, ActionState.IN_PROGRESS, ActionState.CANCELING)
OVER = (ActionState.SUCCESS, ActionState.FAILED, ActionState.CANCELED)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Where a request comes from. ``base_url``: how the caller reached this server."""

    namespace: str
    user: str
    account: str = ""
    method: str = ""
    path: str = ""
    agent: str = ""
    ip: str = ""
    base_url: str = ""
    is_user: bool = True


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line of an action's log."""

    id: int
    time: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for: its name for people, the object, and what the reconciler shall do ("" = nothing more)."""

    name: str
    kind: str
    object: str
    operation: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Canceled(Exception):  # it is no error
    """The action was canceled while it was carried out."""


class ActionService:
    """Keeps actions.

    Args:
        database: where they are kept.
        bus: is told of every change.

    """

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus

    # -- making ------------------------------------------------------------------------------------------------------

    def add(self, session: Session, caller: Caller, request: Request, *, state: ActionState | None = None) -> ActionRow:
        """Add an action to a transaction; it is announced by ``announce`` once that is committed.

        Args:
            session: the transaction.
            caller: who asks.
            request: what for.
            state: of one that is over already; None = Success, or Pending when there is an operation.

        """
        now = time.time()
        made = state or (ActionState.PENDING if request.operation else ActionState.SUCCESS)
        row = ActionRow(
            uuid=str(uuid.uuid4()),
            namespace=caller.namespace,
            name=request.name,
            operation=request.operation,
            arguments={"base_url": caller.base_url, "account": caller.account, **request.arguments},
            kind=request.kind,
            object=request.object,
            method=caller.method,
            path=caller.path[:500],
            user=caller.user,
            user_agent=caller.agent[:500],
            ip=caller.ip,
            start=now,
            end=None if made in OPEN else now,
            state=made,
            is_user=caller.is_user,
        )
        session.add(row)
        session.flush()
        return row

    def record(self, caller: Caller, request: Request, *, state: ActionState | None = None) -> ActionRow:
        """Add an action in a transaction of its own, and announce it."""
        with self._database.session() as session:
            row = self.add(session, caller, request, state=state)
        self.announce(row, "create")
        return row

    def announce(self, row: ActionRow, verb: str = "update") -> None:
        """Tell the watchers how an action stands."""
        self._bus.publish(
            Change(
                kind="action",
                action=verb,
                uuid=row.uuid,
                state=row.state,
                namespace=row.namespace,
                parents=(Ref(kind=row.kind, uuid=row.object),),
            )
        )

    # -- looking -----------------------------------------------------------------------------------------------------

    def get(self, action: str, namespaces: set[str]) -> ActionRow:
        """Return an action that somebody may see. Errors: NotFound."""
        with self._database.reading() as session:
            row = session.scalar(select(ActionRow).where(ActionRow.uuid == action))
        if row is None or row.namespace not in namespaces:
            raise NotFound("the action does not exist", details=action[:100])
        return row

    def logs(self, action: str, *, after: int = 0, tail: int = 0) -> list[LogLine]:
        """Return an action's log: the last ``tail`` lines, or (0) all after a line."""
        query = select(ActionLogRow).where(ActionLogRow.action == action, ActionLogRow.id > after)
        with self._database.reading() as session:
            if tail:
                rows = session.scalars(query.order_by(ActionLogRow.id.desc()).limit(tail)).all()[::-1]
            else:
                rows = session.scalars(query.order_by(ActionLogRow.id)).all()
        return [LogLine(id=row.id, time=row.time, text=row.text) for row in rows]

    # -- carrying out ------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Take what was in progress when this program ended for pending: every operation can be begun again.

        What was to be canceled stays so: the reconciler puts right what it was about.
        """
        with self._database.session() as session:
            session.execute(
                update(ActionRow)
                .where(ActionRow.state == ActionState.IN_PROGRESS, ActionRow.operation != "")
                .values(state=ActionState.PENDING)
            )

    def pending(self) -> list[ActionRow]:
        """Return what waits, oldest first: to be carried out, or to be put right because it was canceled."""
        waiting = (ActionState.PENDING, ActionState.CANCELING)
        with self._database.reading() as session:
            return list(
                session.scalars(select(ActionRow).where(ActionRow.state.in_(waiting)).order_by(ActionRow.number))
            )

    def set_state(self, action: str, state: ActionState, *, unless: tuple[ActionState, ...] = ()) -> ActionRow:
        """Give an action a state, unless it has one of others; return how it is then."""
        with self._database.session() as session:
            row = session.scalars(select(ActionRow).where(ActionRow.uuid == action)).one()
            if row.state not in unless:
                row.state = state
                if state in OVER:
                    row.end = time.time()
        self.announce(row)
        return row

    def log(self, action: str, text: str) -> None:
        """Add a line to an action's log."""
        with self._database.session() as session:
            session.add(ActionLogRow(action=action, time=time.time(), text=text[:LONGEST_LINE]))

    def check(self, action: str) -> None:
        """Raise Canceled when an action is to be canceled; asked between steps."""
        with self._database.reading() as session:
            state = session.scalar(select(ActionRow.state).where(ActionRow.uuid == action))
        if state == ActionState.CANCELING:
            raise Canceled

    def cancel(self, row: ActionRow) -> ActionRow:
        """Have an action canceled: it is not begun, or ends at its next step. Errors: Conflict.

        The reconciler ends it, because it puts right what the action was to change.
        """
        with self._database.session() as session:
            found = session.scalars(select(ActionRow).where(ActionRow.uuid == row.uuid)).one()
            if found.state not in {ActionState.PENDING, ActionState.IN_PROGRESS}:
                raise Conflict("the action cannot be canceled", details=f"its state is {found.state}")
            found.state = ActionState.CANCELING
        self.announce(found)
        return found

    def purge(self, before: float) -> None:
        """Remove actions that were over before a time."""
        with self._database.session() as session:
            session.execute(delete(ActionRow).where(ActionRow.end < before))
