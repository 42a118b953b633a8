"""The two back ends: engines with the Docker API, or a Kubernetes cluster.

A back end is three contracts: ``Machines`` (what there is), ``Carrier`` (what is done for services) and ``Fleet``
(Shipyard's containers). Everything above uses these alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select

from hypercloud.account.keys import KeyService
from hypercloud.action.service import ActionService
from hypercloud.config.model import Config
from hypercloud.db.models import ContainerRow, SettingRow
from hypercloud.db.session import Database
from hypercloud.engine.machines import Machines
from hypercloud.engine.service import EngineService
from hypercloud.errors import Conflict
from hypercloud.event.bus import Bus
from hypercloud.event.journal import Journal
from hypercloud.fleet.contract import Fleet
from hypercloud.fleet.service import FleetService
from hypercloud.workload.carrier import Carrier
from hypercloud.workload.deployer import Deployer
from hypercloud.workload.model import State
from hypercloud.workload.operations import Operations
from hypercloud.workload.repositories import RepositoryService
from hypercloud.workload.store import Store
from hypercloud.workload.watch import Watcher

SETTING = "backend"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What back ends are made from. ``wake``: tells the reconciler."""

    config: Config
    database: Database
    bus: Bus
    journal: Journal
    store: Store
    actions: ActionService
    keys: KeyService
    repositories: RepositoryService
    wake: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A back end. ``review`` is called with each service that an action was about, and whether it was a success."""

    machines: Machines
    carrier: Carrier
    fleet: Fleet
    review: Callable[[str, bool], None]


def remember(database: Database, config: Config) -> None:
    """Note which back end a database is of.

    Errors: Conflict when it is of the other one and has containers there: this one would take them for gone.
    """
    name = "kubernetes" if config.kubernetes.config is not None else "engines"
    with database.session() as session:
        row = session.get(SettingRow, SETTING)
        before = row.value if row is not None else "engines"
        live = session.scalars(select(ContainerRow.name).where(ContainerRow.state != State.TERMINATED).limit(5)).all()
        if before != name and live:
            raise Conflict(
                f"the database is of the back end {before}, and services have containers there",
                details=", ".join(live),
                resolution=f"terminate them with {before} first, or use another --root",
            )
        session.merge(SettingRow(name=SETTING, value=name))


def make(parts: Parts) -> Backend:
    """Make the back end that the configuration names. Errors: HostFault when it cannot be used."""
    return _kubernetes(parts) if parts.config.kubernetes.config is not None else _engines(parts)


def _engines(parts: Parts) -> Backend:
    engines = EngineService(parts.database, parts.config.engines, parts.journal)
    fleet = FleetService(engines, parts.journal)
    deployer = Deployer(parts.store, engines, parts.keys, parts.repositories, parts.config)
    watcher = Watcher(parts.store, engines, parts.actions, parts.bus, parts.wake)
    return Backend(
        machines=engines, carrier=Operations(parts.store, engines, deployer), fleet=fleet, review=watcher.review
    )


def _kubernetes(parts: Parts) -> Backend:
    from hypercloud.kube.client import KubeClient
    from hypercloud.kube.fleet import KubeFleet
    from hypercloud.kube.machines import KubeMachines
    from hypercloud.kube.mirror import Mirror
    from hypercloud.kube.operations import KubeOperations
    from hypercloud.kube.planner import Planner
    from hypercloud.kube.rollout import Rollout

    config = parts.config
    client = KubeClient(config.kubernetes, config.engines)
    machines = KubeMachines(client, config.engines.health_interval, parts.journal)
    mirror = Mirror(parts.store, client, nodes=machines.nodes, actions=parts.actions, bus=parts.bus, wake=parts.wake)
    machines.observe(mirror)
    machines.observe_pods(mirror)
    planner = Planner(parts.store, client, parts.keys, parts.repositories, config)
    rollout = Rollout(client, mirror, config.kubernetes.patience)
    carrier = KubeOperations(
        parts.store, client, machines=machines, mirror=mirror, planner=planner, rollout=rollout, keys=parts.keys
    )
    return Backend(machines=machines, carrier=carrier, fleet=KubeFleet(machines), review=mirror.review)
