"""Taking note of what happens to services' containers on their engines, whoever did it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping

import structlog
from sqlalchemy import select

from hypercloud import placement
from hypercloud.action.service import ActionService, Caller, Request
from hypercloud.db.models import ContainerRow, ServiceRow
from hypercloud.engine.model import EngineContainer, EngineFacts, EngineSpec, Health
from hypercloud.engine.monitor import EngineObserver
from hypercloud.engine.service import EngineService
from hypercloud.errors import CloudError, NotFound
from hypercloud.event.bus import Bus, Change
from hypercloud.workload import describe, lookup, networks
from hypercloud.workload.deployer import put_back, settle
from hypercloud.workload.model import MOVING, Destroy, Goal, Restart, State, decode
from hypercloud.workload.store import Store, Transaction

log = structlog.get_logger(__name__)

NODE_STATES = {Health.PENDING: "Deploying", Health.UP: "Deployed", Health.DOWN: "Unreachable"}


class Watcher(EngineObserver):
    """Keeps rows true.

    Args:
        store: the rows.
        engines: what is watched.
        actions: for what must be done then.
        bus: is told of nodes.
        wake: tells the reconciler.

    """

    def __init__(
        self, store: Store, engines: EngineService, actions: ActionService, bus: Bus, wake: Callable[[], None]
    ) -> None:
        self._store = store
        self._engines = engines
        self._actions = actions
        self._bus = bus
        self._wake = wake
        engines.observe(self)

    def on_health(self, engine: EngineSpec, facts: EngineFacts) -> None:
        """Tell who watches the nodes."""
        self._bus.publish(Change(kind="node", action="update", uuid=engine.id, state=NODE_STATES[facts.health]))

    def on_container(self, engine: EngineSpec, container_id: str, container: EngineContainer | None) -> None:  # noqa: ARG002 - an EngineObserver
        """Take over what has become of one container."""
        if container is not None and describe.CONTAINER not in container.labels:
            return
        with self._store.reading() as tx:
            row = self._row(tx, container_id, container)
            if row is None or not self._differs(row, container):
                return
        with self._store.writing() as tx:
            found = self._row(tx, container_id, container)
            if found is not None:
                self._take_over(tx, found, container)
        self._wake()

    def on_inventory(
        self, engine: EngineSpec, containers: Mapping[str, EngineContainer], unknown: Collection[str]
    ) -> None:
        """Take over everything after a connection: what is gone, what ended, what should have been removed."""
        with self._store.writing() as tx:
            rows = tx.session.scalars(
                select(ContainerRow).where(
                    ContainerRow.engine == engine.id,
                    ContainerRow.state != State.TERMINATED,
                    ContainerRow.docker_id.is_not(None),
                )
            ).all()
            for row in [one for one in rows if (one.docker_id or "") not in unknown]:
                self._settle(tx, row, containers.get(row.docker_id or ""))
            self._follow_nodes(tx)
        self._remove_orphans(engine, containers)
        networks.remove_unused(self._store, self._engines.client(engine.id))
        self._wake()

    def _settle(self, tx: Transaction, row: ContainerRow, seen: EngineContainer | None) -> None:
        """Take over one container's part of an inventory."""
        if row.state in MOVING and row.goal != Goal.GONE and not tx.is_busy(row.service):
            put_back(tx, row, seen, known=True)  # its action ended while the engine was away
            tx.settle_service(row.service, force=True)
        self._take_over(tx, row, seen)
        if row.goal == Goal.GONE:
            self._ask(tx, row, "terminate")
        elif seen is not None:
            self._destroy_if_wanted(tx, row, seen)

    def review(self, service: str, succeeded: bool) -> None:
        """Look at what happened to a service's containers while an action on it was open.

        Args:
            service: its uuid.
            succeeded: the action did; after one that failed, what did not go is left until its engine is seen anew.

        """
        with self._store.writing() as tx:
            for row in tx.containers(service):
                if row.goal == Goal.GONE and succeeded:
                    self._ask(tx, row, "terminate")
                elif row.engine and row.docker_id:
                    with contextlib.suppress(NotFound):
                        self._destroy_if_wanted(tx, row, self._engines.container(row.docker_id))
        self._wake()

    def _row(self, tx: Transaction, container_id: str, container: EngineContainer | None) -> ContainerRow | None:
        if container is not None:
            return tx.session.get(ContainerRow, container.labels[describe.CONTAINER])
        return tx.session.scalar(select(ContainerRow).where(ContainerRow.docker_id == container_id))

    def _differs(self, row: ContainerRow, container: EngineContainer | None) -> bool:
        """Say whether there is anything to note; while the reconciler is at work on it there is not."""
        if row.state in MOVING or row.state == State.TERMINATED:
            return False
        if container is None:
            return row.goal != Goal.GONE
        if container.id != row.docker_id:
            return False
        return container.running != (row.state == State.RUNNING) or (
            container.running and row.private_ip not in container.addresses.values()
        )

    def _take_over(self, tx: Transaction, row: ContainerRow, container: EngineContainer | None) -> None:
        if not self._differs(row, container):
            return
        if container is None:
            row.exit_msg = "it was removed on its engine"
            tx.set_container(row, State.TERMINATED)
        else:
            settle(tx, row, container)
            self._destroy_if_wanted(tx, row, container)
        tx.settle_service(row.service)

    def _destroy_if_wanted(self, tx: Transaction, row: ContainerRow, container: EngineContainer) -> None:
        """Remove a container whose program has ended by itself for good, if its service says so.

        While an action is open it stays as it is: it is looked at again when that is over.
        """
        spec = decode(row.spec)
        ended = row.state == State.STOPPED and not container.running and not container.restarting
        if row.goal != Goal.RUNNING or spec.autodestroy is Destroy.OFF or not ended or tx.is_waited_for(row):
            return
        if spec.autorestart is Restart.ALWAYS or (spec.autorestart is Restart.ON_FAILURE and container.exit_code):
            return
        if spec.autodestroy is Destroy.ALWAYS or container.exit_code == 0:
            row.goal = Goal.GONE
            tx.set_container(row, State.TERMINATING)
            self._ask(tx, row, "terminate")

    def _ask(self, tx: Transaction, row: ContainerRow, operation: str) -> None:
        """Add an action without an account, unless one is waiting."""
        if not tx.is_waited_for(row):
            self._actions.add(
                tx.session,
                Caller(namespace=row.namespace, user=row.namespace, is_user=False),
                Request(
                    name=f"Container {operation.capitalize()}",
                    kind="container",
                    object=row.uuid,
                    operation=f"container.{operation}",
                    arguments={"service": row.service},
                ),
            )

    def _follow_nodes(self, tx: Transaction) -> None:
        """Let services that are on every node come to new nodes."""
        running = tx.session.scalars(
            select(ServiceRow).where(ServiceRow.state.in_([State.RUNNING, State.PARTLY_RUNNING]))
        ).all()
        for row in running:
            spec = decode(row.spec)
            if spec.strategy != placement.EVERY_NODE:
                continue
            there = {one.engine for one in tx.containers(row.uuid)}
            nodes = placement.matching(lookup.candidates(tx, self._engines, row, spec), spec.tags)
            if all(node.id in there for node in nodes):
                continue
            tx.set_service(row, State.SCALING)
            self._actions.add(
                tx.session,
                Caller(namespace=row.namespace, user=row.namespace, is_user=False),
                Request(name="Service Scale", kind="service", object=row.uuid, operation="service.sync"),
            )

    def _remove_orphans(self, engine: EngineSpec, containers: Mapping[str, EngineContainer]) -> None:
        """Remove containers whose row says they are gone: their engine was away when they were to go."""
        with self._store.reading() as tx:
            gone = [
                one.id
                for one in containers.values()
                if describe.CONTAINER in one.labels
                and (row := tx.session.get(ContainerRow, one.labels[describe.CONTAINER])) is not None
                and row.state == State.TERMINATED
            ]
        for one in gone:
            with contextlib.suppress(CloudError):
                self._engines.client(engine.id).remove(one)
                log.info("workload.orphan_removed", engine=engine.name, container=one)
