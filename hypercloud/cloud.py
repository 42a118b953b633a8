"""Wires the services: the one place that knows all of them."""

from __future__ import annotations

import structlog

from hypercloud.account.keys import KeyService
from hypercloud.account.service import AccountService
from hypercloud.action.service import ActionService
from hypercloud.config.model import Config
from hypercloud.db.migrate import migrate
from hypercloud.db.session import Database
from hypercloud.engine.readings import ReadingService
from hypercloud.engine.service import EngineService
from hypercloud.event.bus import Bus
from hypercloud.event.journal import Journal
from hypercloud.fleet.extensions import ExtensionService
from hypercloud.fleet.service import FleetService
from hypercloud.workload.deployer import Deployer
from hypercloud.workload.operations import Operations
from hypercloud.workload.reconcile import Reconciler
from hypercloud.workload.repositories import RepositoryService
from hypercloud.workload.service import WorkloadService
from hypercloud.workload.store import Store
from hypercloud.workload.triggers import TriggerService
from hypercloud.workload.watch import Watcher

log = structlog.get_logger(__name__)


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
        self.engines = EngineService(self.database, config.engines, self.journal)
        self.readings = ReadingService(self.engines)
        self.fleet = FleetService(self.engines, self.journal)
        self.extensions = ExtensionService(self.database, self.engines, self.fleet, self.journal)
        self.store = Store(self.database, self.bus)
        self.actions = ActionService(self.database, self.bus)
        self.repositories = RepositoryService(self.database)
        self._deployer = Deployer(self.store, self.engines, self.keys, self.repositories, config)
        operations = Operations(self.store, self.engines, self._deployer)
        self.reconciler = Reconciler(self.store, self.actions, operations, self.journal, config.history)
        self.workloads = WorkloadService(self.store, self.actions, self.reconciler.wake)
        self.triggers = TriggerService(self.store, self.actions, self.workloads)
        watcher = Watcher(self.store, self.engines, self.actions, self.bus, self.reconciler.wake)
        self.reconciler.review = watcher.review

    def prepare(self) -> str | None:
        """Bring the database up to date; return the administrator's password at the first start, else None."""
        migrate(self.database)
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
