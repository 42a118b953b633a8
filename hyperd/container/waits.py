"""Waiting for containers: until they do not run, until their next end, until they are removed.

A wait is registered first and asked for its result later, so that a caller can tell its client in between that it
waits: whatever happens after the registration is noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from hyperd.container.observers import ContainerObserver
from hyperd.container.records import ContainerRecords
from hyperd.container.states import LIVE
from hyperd.db.models import ContainerRow
from hyperd.errors import Cancelled, NotFound

_POLL = 1.0  # seconds between two looks at ``cancelled``


class WaitCondition(StrEnum):
    """What is waited for. A container between two runs that its policy makes still runs."""

    NOT_RUNNING = "not-running"  # at once for one that does not run
    NEXT_EXIT = "next-exit"  # the next end, also of one that does not run yet
    REMOVED = "removed"


_ENDS = frozenset({WaitCondition.NOT_RUNNING, WaitCondition.NEXT_EXIT})


@dataclass(frozen=True, kw_only=True)
class WaitResult:
    """How a wait ended: the exit code of the last run, 0 when there was none."""

    container_id: str
    exit_code: int
    removed: bool = False


class Wait:
    """One registered wait; made by ``Waits.register``."""

    def __init__(self, owner: Waits, container_id: str, condition: WaitCondition, *, each_run: bool = False) -> None:
        self._owner = owner
        self._done = threading.Event()
        self._result: WaitResult | None = None
        self.container_id = container_id
        self.condition = condition
        self.each_run = each_run

    def result(self, *, cancelled: Callable[[], bool] = lambda: False) -> WaitResult:
        """Wait for the end; ``cancelled`` is asked every second. Errors: Cancelled."""
        while not self._done.wait(_POLL):
            if cancelled():
                self.close()
                raise Cancelled("the wait was given up")
        if self._result is None:
            raise Cancelled("the wait was given up")
        return self._result

    def poll(self, seconds: float = 0.0) -> WaitResult | None:
        """Return the result if it comes within so many seconds."""
        self._done.wait(seconds)
        return self._result

    def close(self) -> None:
        """Give up; ``result`` raises Cancelled. Fine after the end."""
        self._owner.forget(self)
        self._done.set()

    def finish(self, result: WaitResult) -> None:
        """End the wait (``Waits``); only the first result counts."""
        if self._result is None:
            self._result = result
        self._done.set()


class Waits(ContainerObserver):
    """All registered waits; an observer of the containers."""

    def __init__(self, records: ContainerRecords) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Wait]] = {}

    def register(
        self, name: str, condition: WaitCondition = WaitCondition.NOT_RUNNING, *, each_run: bool = False
    ) -> Wait:
        """Begin to wait for a container; ``each_run``: an end after which its policy starts it again counts, too.

        Errors: NotFound, InvalidInput.
        """
        row = self._records.find(name)
        wait = Wait(self, row.id, condition, each_run=each_run)
        with self._lock:
            self._waiting.setdefault(row.id, []).append(wait)
        try:
            row = self._records.get(row.id)  # what happened before the registration
        except NotFound:
            self._finish(row, {wait.condition}, removed=True)
            return wait
        if condition == WaitCondition.NOT_RUNNING and row.state not in LIVE and row.restart_at is None:
            self.forget(wait)
            wait.finish(WaitResult(container_id=row.id, exit_code=row.exit_code or 0))
        return wait

    def forget(self, wait: Wait) -> None:
        """Drop a wait; none is fine."""
        with self._lock:
            waits = self._waiting.get(wait.container_id, [])
            if wait in waits:
                waits.remove(wait)
            if not waits:
                self._waiting.pop(wait.container_id, None)

    def ended(self, row: ContainerRow) -> None:
        """End the waits for the end of a run."""
        self._finish(row, _ENDS, each_run=True)

    def settled(self, row: ContainerRow) -> None:
        """End the waits for an end."""
        self._finish(row, _ENDS)

    def removed(self, row: ContainerRow) -> None:
        """End all waits for a container."""
        self._finish(row, set(WaitCondition), removed=True)

    def _finish(
        self,
        row: ContainerRow,
        conditions: AbstractSet[WaitCondition],
        *,
        removed: bool = False,
        each_run: bool = False,
    ) -> None:
        with self._lock:
            waits = self._waiting.pop(row.id, [])
            done = [wait for wait in waits if wait.condition in conditions and (wait.each_run or not each_run)]
            kept = [wait for wait in waits if wait not in done]
            if kept:
                self._waiting[row.id] = kept
        for wait in done:
            wait.finish(WaitResult(container_id=row.id, exit_code=row.exit_code or 0, removed=removed))
