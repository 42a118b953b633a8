"""The reconciler: takes actions in their order, one at a time for each service, and carries them out.

Nothing is remembered outside the database. When this program ends in the middle of an action, the next one begins it
again; every operation looks at what is there before it does anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from sqlalchemy import delete, select

from hypercloud.action.service import OVER, ActionService, ActionState, Canceled
from hypercloud.config.model import HistoryConfig
from hypercloud.db.models import ActionRow, ContainerRow, ServiceRow, StackRow
from hypercloud.errors import CloudError
from hypercloud.event.journal import Journal
from hypercloud.workload.carrier import Carrier
from hypercloud.workload.deployer import Job
from hypercloud.workload.model import State
from hypercloud.workload.store import Store

log = structlog.get_logger(__name__)

WORKERS = 8  # actions at the same time
LOOK = 1.0  # seconds between looks when nobody wakes it
TIDY = 3600.0  # seconds between removals of what is old


class Reconciler:
    """Carries out actions.

    Args:
        store: what should be.
        actions: what was asked.
        operations: how it is done.
        journal: its old events are removed, too.
        history: how old.

    ``review`` is called with each service that an action was about, when it is over, and whether it was a success.

    """

    review: Callable[[str, bool], None]

    def __init__(
        self, store: Store, actions: ActionService, operations: Carrier, journal: Journal, history: HistoryConfig
    ) -> None:
        self._store = store
        self._actions = actions
        self._operations = operations
        self._journal = journal
        self._history = history
        self._awake = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="action")
        self._tidied = time.monotonic()

    def open(self) -> None:
        """Begin; what was under way when this program ended is begun again."""
        self._actions.resume()
        threading.Thread(target=self._run_always, name="reconciler", daemon=True).start()

    def close(self) -> None:
        """Begin nothing more."""
        self._closed.set()
        self._awake.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        """Look at the actions now."""
        self._awake.set()

    def _run_always(self) -> None:
        while not self._closed.is_set():
            self._awake.wait(LOOK)
            self._awake.clear()
            try:
                self._dispatch()
                if time.monotonic() - self._tidied > TIDY:
                    self._tidied = time.monotonic()
                    self.tidy()
            except Exception:
                log.exception("reconciler.failed")

    def _dispatch(self) -> None:
        """Begin what need not wait for an earlier action on the same things."""
        blocked: set[str] = set()
        for row in self._actions.pending():
            scope = self._scope(row)
            with self._lock:
                free = not scope & (self._busy | blocked) and not self._closed.is_set()
                if free:
                    self._busy |= scope
            if free:
                self._pool.submit(self._carry_out, row, scope)
            else:
                blocked |= scope

    def _scope(self, row: ActionRow) -> set[str]:
        """Return what an action needs for itself: services' and stacks' uuids."""
        if row.kind == "container":
            return {str(row.arguments.get("service", row.object))}
        if row.kind == "stack":
            with self._store.reading() as tx:
                return {row.object, *tx.session.scalars(select(ServiceRow.uuid).where(ServiceRow.stack == row.object))}
        return {row.object}

    def _services(self, row: ActionRow) -> set[str]:
        """Return the services that an action was about."""
        if row.kind == "stack":
            return {str(one) for one in row.arguments.get("services", ())}
        return self._scope(row) if row.kind in {"service", "container"} else set()

    def _carry_out(self, row: ActionRow, scope: set[str]) -> None:
        bound = log.bind(action=row.uuid, operation=row.operation, object=row.object)
        try:
            self._perform(row, bound)
        except Exception:
            bound.exception("action.broken")
        finally:
            with self._lock:
                self._busy -= scope
            self._awake.set()

    def _perform(self, row: ActionRow, bound: structlog.typing.FilteringBoundLogger) -> None:
        now = self._actions.set_state(row.uuid, ActionState.IN_PROGRESS, unless=(ActionState.CANCELING, *OVER))
        if now.state in OVER:
            return  # it was carried out after it had been found waiting
        job = Job(
            log=lambda text: self._actions.log(row.uuid, text),
            check=lambda: self._actions.check(row.uuid),
            base_url=str(row.arguments.get("base_url", "")),
            user=row.user,
            account=str(row.arguments.get("account", "")),
            extra_env={str(key): str(value) for key, value in dict(row.arguments.get("env") or {}).items()},
        )
        # What was canceled before it began is not run, but what it was to change is put right all the same.
        state = ActionState.CANCELED if now.state == ActionState.CANCELING else self._run(row, job, bound)
        self._operations.settle(row.uuid, row.operation, row.object, dict(row.arguments))
        self._actions.set_state(row.uuid, state)
        for service in self._services(row):
            self.review(service, state == ActionState.SUCCESS)
        bound.info("action.over", state=str(state))

    def _run(self, row: ActionRow, job: Job, bound: structlog.typing.FilteringBoundLogger) -> ActionState:
        """Run an operation; return the state it ends in."""
        try:
            self._operations.run(row.operation, row.object, dict(row.arguments), job)
        except Canceled:
            return ActionState.CANCELED
        except CloudError as error:
            job.log(str(error))
            return ActionState.FAILED
        except Exception as error:
            job.log(f"internal error: {type(error).__name__}")
            bound.exception("action.fault")
            return ActionState.FAILED
        return ActionState.SUCCESS

    def tidy(self) -> None:
        """Remove what was over too long ago to be looked at."""
        before = time.time() - self._history.days * 86_400
        with self._store.writing() as tx:
            for table in (ContainerRow, ServiceRow, StackRow):
                gone = select(table.uuid).where(table.state == State.TERMINATED, table.destroyed < before)
                if table is ServiceRow:
                    gone = gone.where(ServiceRow.uuid.not_in(select(ContainerRow.service)))
                if table is StackRow:
                    used = select(ServiceRow.stack).where(ServiceRow.stack.is_not(None))
                    gone = gone.where(StackRow.uuid.not_in(used))
                tx.session.execute(delete(table).where(table.uuid.in_(gone)))
        self._actions.purge(before)
        self._journal.purge(before)
