"""Wires the services: the one place that knows all of them."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from hypercloud import backends
from hypercloud.account.keys import KeyService
from hypercloud.account.service import AccountService
from hypercloud.action.service import ActionService
from hypercloud.config.model import Config
from hypercloud.db.migrate import migrate
from hypercloud.db.session import Database
from hypercloud.engine.readings import ReadingService
from hypercloud.event.bus import Bus
from hypercloud.event.journal import Journal
from hypercloud.fleet.extensions import ExtensionService
from hypercloud.workload.reconcile import Reconciler
from hypercloud.workload.repositories import RepositoryService
from hypercloud.workload.service import WorkloadService
from hypercloud.workload.store import Store
from hypercloud.workload.triggers import TriggerService

log = structlog.get_logger(__name__)


class Waker:
    """Hands on to the reconciler, which is made after the back ends that wake it."""

    target: Callable[[], None]

    def wake(self) -> None:
        """Wake it."""
        self.target()


class Cloud:
    """Everything that the APIs call.

    Args:
        config: checked.

    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.database = Database(config.database_url)
        self.bus = Bus()
        self.journal = Journal(self.database, self.bus)
        self.accounts = AccountService(self.database, config, self.journal)
        self.keys = KeyService(self.database, self.accounts, self.journal)
        self.store = Store(self.database, self.bus)
        self.actions = ActionService(self.database, self.bus)
        self.repositories = RepositoryService(self.database)
        waker = Waker()
        backend = backends.make(
            backends.Parts(
                config=config,
                database=self.database,
                bus=self.bus,
                journal=self.journal,
                store=self.store,
                actions=self.actions,
                keys=self.keys,
                repositories=self.repositories,
                wake=waker.wake,
            )
        )
        self.engines, self.fleet, self.carrier = backend.machines, backend.fleet, backend.carrier
        self.readings = ReadingService(self.engines)
        self.extensions = ExtensionService(self.database, self.engines, self.fleet, self.journal)
        self.reconciler = Reconciler(self.store, self.actions, self.carrier, self.journal, config.history)
        waker.target = self.reconciler.wake
        self.workloads = WorkloadService(self.store, self.actions, self.carrier, self.reconciler.wake)
        self.triggers = TriggerService(self.store, self.actions, self.workloads)
        self.reconciler.review = backend.review

    def prepare(self) -> str | None:
        """Bring the database up to date; return the administrator's password at the first start, else None.

        Errors: HostFault; Conflict when it is of another back end.
        """
        migrate(self.database)
        backends.remember(self.database, self.config)
        return self.accounts.bootstrap()

    def open(self, *, first_start: bool) -> None:
        """Begin to work."""
        self.engines.open(first_start=first_start)
        self.extensions.open()
        self.reconciler.open()

    def close(self) -> None:
        """Stop working; containers run on."""
        self.reconciler.close()
        self.extensions.close()
        self.readings.close()
        self.engines.close()
        self.database.close()
