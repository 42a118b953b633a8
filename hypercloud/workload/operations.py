"""Carrying out one operation. Everything here may be cut off at any point and begun again from the top."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from sqlalchemy import select

from hypercloud import placement
from hypercloud.action.service import Canceled
from hypercloud.db.models import ContainerRow, ServiceRow
from hypercloud.engine.model import EngineContainer, Health
from hypercloud.engine.service import EngineService
from hypercloud.errors import CloudError, EngineError, NotFound
from hypercloud.workload import describe, lookup, networks, stackwise
from hypercloud.workload.carrier import dispatch
from hypercloud.workload.deployer import Deployer, Job, put_back
from hypercloud.workload.model import MOVING, Goal, ServiceSpec, State, decode
from hypercloud.workload.store import Store, Transaction

log = structlog.get_logger(__name__)

WORKERS = 4  # containers of one service that are worked on at the same time


class Operations:
    """All operations by their names, over engines; see ``hypercloud.workload.carrier.Carrier``.

    Args:
        store: what should be.
        engines: what is.
        deployer: the steps.

    """

    def __init__(self, store: Store, engines: EngineService, deployer: Deployer) -> None:
        self._store = store
        self._engines = engines
        self._deployer = deployer

    def check(self, spec: ServiceSpec) -> None:
        """Refuse nothing: engines have whatever a service can be."""

    def check_container(self, operation: str) -> None:
        """Refuse nothing: engines keep containers one by one."""

    def check_node(self, operation: str) -> None:
        """Refuse nothing."""

    def run(self, operation: str, target: str, arguments: dict[str, Any], job: Job) -> None:
        """Carry out an operation on an object. Errors: CloudError; Canceled."""
        handlers = {
            "service": self._service,
            "stack": self._stack,
            "container": self._container,
            "node": self._node,
        }
        dispatch(handlers, operation, target, arguments, job)

    def settle(self, action: str, operation: str, target: str, arguments: dict[str, Any]) -> None:
        """Let states follow from the parts again, however the operation of an action ended."""
        kind = operation.partition(".")[0]
        if kind in {"service", "container"}:
            self._put_back(str(arguments.get("service", target)), action)
        elif kind == "stack":
            for service in arguments.get("services", ()):
                self._put_back(str(service), action)
        with self._store.writing() as tx:
            if kind == "service":
                tx.settle_service(target, force=True)
            elif kind == "container":
                tx.settle_service(str(arguments["service"]))
            elif kind == "stack":
                for service in arguments.get("services", ()):
                    tx.settle_service(service, force=True)
                tx.settle_stack(target, force=True)

    def _put_back(self, service: str, action: str) -> None:
        """Have a service's containers that nobody is at work on any more be what their engines show."""
        with self._store.reading() as tx:
            if tx.is_busy(service, besides=action):
                return  # whatever comes last does it
            left = [row for row in tx.containers(service) if row.state in MOVING and row.goal != Goal.GONE]
        for row in left:
            seen, known = self._look(row)
            with self._store.writing() as tx:
                put_back(tx, tx.container(row.uuid), seen, known=known)

    def _look(self, row: ContainerRow) -> tuple[EngineContainer | None, bool]:
        """Return what a container's engine shows of it now, and whether it could be asked."""
        with contextlib.suppress(NotFound, EngineError):
            monitor = self._engines.monitor(row.engine or "")
            if row.docker_id is not None and monitor.facts.health is Health.UP:
                return monitor.refresh(row.docker_id), True
        return None, False

    # -- services ----------------------------------------------------------------------------------------------------

    def _service(self, verb: str, service: str, arguments: dict[str, Any], job: Job) -> None:
        with self._store.reading() as tx:
            if tx.service(service).state == State.TERMINATED:
                return
        reuse = bool(arguments.get("reuse_volumes", True))
        with self._store.writing() as tx:
            row = tx.service(service)
            if verb in {"start", "sync"}:
                self._want_all(tx, row)
            elif verb == "stop":
                _aim(tx, tx.containers(service), Goal.STOPPED)
            elif verb == "scale":
                self._want_number(tx, row)
            elif verb == "terminate":
                _aim(tx, tx.containers(service), Goal.GONE)
        if verb == "redeploy":
            self._pull_for(service, job)
            with self._store.writing() as tx:
                row = tx.service(service)
                self._succeed(
                    tx, row, [one for one in tx.containers(service) if one.generation < row.generation], reuse
                )
        self._drive(service, job)
        if verb == "terminate":
            with self._store.writing() as tx:
                row = tx.service(service)
                tx.terminate_service(row)

    def _want_all(self, tx: Transaction, row: ServiceRow) -> None:
        """Have the service's number of containers, or one on each node, and all of them running."""
        spec = decode(row.spec)
        live = tx.containers(row.uuid)
        if spec.strategy == placement.EVERY_NODE:
            there = {one.engine for one in live if one.goal != Goal.GONE}
            free = _free_numbers(live)
            nodes = placement.matching(lookup.candidates(tx, self._engines, row, spec), spec.tags)
            if not nodes and not live:
                placement.choose_spread([], strategy=spec.strategy, tags=spec.tags)  # raises, and says why
            for node in nodes:
                if node.id not in there:
                    tx.add_container(row, next(free), engine=node.id)
        else:
            free = _free_numbers(live)
            for _ in range(row.target - sum(one.goal != Goal.GONE for one in live)):
                tx.add_container(row, next(free))
        _aim(tx, [one for one in tx.containers(row.uuid) if one.goal != Goal.GONE], Goal.RUNNING)

    def _want_number(self, tx: Transaction, row: ServiceRow) -> None:
        """Have as many containers as the service's target says: the highest numbers go first."""
        live = [one for one in tx.containers(row.uuid) if one.goal != Goal.GONE]
        _aim(tx, live[row.target :], Goal.GONE)
        free = _free_numbers(tx.containers(row.uuid))
        for _ in range(row.target - len(live)):
            tx.add_container(row, next(free))

    def _pull_for(self, service: str, job: Job) -> None:
        """Pull before anything is taken away: a missing image leaves what runs as it is."""
        with self._store.reading() as tx:
            row = tx.service(service)
            old = [one for one in tx.containers(service) if one.generation < row.generation]
        image = decode(row.spec).image
        for engine in sorted({one.engine for one in old if one.engine and one.goal != Goal.GONE}):
            self._deployer.renew_image(engine, image, row.namespace, job)
            job.check()

    def _succeed(self, tx: Transaction, service: ServiceRow, old: Iterable[ContainerRow], reuse: bool) -> None:
        """Give each container a successor of the same number; the old one is to go. One transaction: all or nothing.

        Errors: NoEngine when there is no place for one of them; then all stay as they are.
        """
        spec = decode(service.spec)
        nodes = {node.id: node for node in lookup.candidates(tx, self._engines, service, spec)}
        for one in [row for row in old if row.goal != Goal.GONE]:
            fixed = any(port.outer for port in spec.ports) or spec.strategy == placement.EVERY_NODE
            volumes = [describe.managed_volumes(what, one.volumes_of) for what in (spec, decode(one.spec))]
            stays = fixed or (reuse and any(volumes))
            candidates = [node for node in nodes.values() if not stays or node.id == one.engine]
            chosen = placement.choose_spread(candidates, strategy=spec.strategy, tags=spec.tags)
            successor = tx.add_container(service, one.number, engine=chosen.id)
            if reuse:
                successor.volumes_of = one.volumes_of
            nodes[chosen.id] = placement.with_one_more(chosen)
            if one.engine in nodes and one.goal == Goal.RUNNING:
                nodes[one.engine] = placement.with_one_more(nodes[one.engine], running=0, of_service=-1)
            one.goal = Goal.GONE
            tx.set_container(one, State.TERMINATING)

    def _drive(self, service: str, job: Job) -> None:
        """Make every container what it is to be. Errors: the first, when all have been tried."""
        with self._store.reading() as tx:
            sequential = decode(tx.service(service).spec).sequential
            numbers: dict[int, list[str]] = {}
            for row in tx.containers(service):
                numbers.setdefault(row.number, []).append(row.uuid)
        errors: list[BaseException] = []

        def one_number(rows: Sequence[str]) -> None:
            try:
                self._drive_number(rows, job)
            except (CloudError, Canceled) as error:
                errors.append(error)

        if sequential or len(numbers) == 1:
            for rows in numbers.values():
                one_number(rows)
        elif numbers:
            with ThreadPoolExecutor(min(WORKERS, len(numbers))) as pool:
                list(pool.map(one_number, numbers.values()))
        if errors:
            raise next((one for one in errors if isinstance(one, Canceled)), errors[0])

    def _drive_number(self, containers: Sequence[str], job: Job) -> None:
        """Those that are to go go first: name and ports are free then."""
        with self._store.reading() as tx:
            rows = [tx.container(one) for one in containers]
        for row in sorted(rows, key=lambda one: one.goal != Goal.GONE):
            try:
                job.check()
                if row.goal == Goal.GONE:
                    self._deployer.take_down(row.uuid, job)
                elif row.goal == Goal.STOPPED and row.state != State.STOPPED:
                    self._deployer.stop(row.uuid, job)
                elif row.goal == Goal.RUNNING and row.state != State.RUNNING:
                    self._deployer.start(row.uuid, job)
            except (CloudError, Canceled) as error:
                job.log(f"{row.name}: {error or 'canceled'}")
                if row.goal == Goal.RUNNING:
                    self._deployer.failed(row.uuid, str(error) or "canceled")
                raise

    # -- stacks ------------------------------------------------------------------------------------------------------

    def _stack(self, verb: str, stack: str, arguments: dict[str, Any], job: Job) -> None:
        def settle(service: str) -> None:
            with self._store.writing() as tx:
                tx.settle_service(service, force=True)

        done = stackwise.run(self._store, verb, stack, arguments, job, operate=self._service, settle=settle)
        if done and verb == "terminate":
            for engine in self._engines.engines():
                if engine.up:
                    networks.remove_unused(self._store, self._engines.client(engine.spec.id))

    # -- containers --------------------------------------------------------------------------------------------------

    def _container(self, verb: str, container: str, arguments: dict[str, Any], job: Job) -> None:
        with self._store.reading() as tx:
            row = tx.container(container)
            if row.state == State.TERMINATED and verb != "redeploy":
                return
        if verb == "redeploy":
            if row.engine and row.goal != Goal.GONE:
                with self._store.reading() as tx:
                    image = decode(tx.service(row.service).spec).image
                self._deployer.renew_image(row.engine, image, row.namespace, job)
            with self._store.writing() as tx:
                row = tx.container(container)
                self._succeed(tx, tx.service(row.service), [row], bool(arguments.get("reuse_volumes", True)))
        with self._store.reading() as tx:
            same = [one.uuid for one in tx.containers(row.service) if one.number == row.number]
        self._drive_number(same, job)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _node(self, verb: str, node: str, arguments: dict[str, Any], job: Job) -> None:
        del arguments
        if verb == "health-check":
            facts = self._engines.monitor(node).check()
            job.log(f"{self._engines.client(node).name}: {facts.health} {facts.error}".strip())
            if facts.health is Health.DOWN:
                raise EngineError("the node does not answer", details=facts.error)
            return
        try:
            monitor = self._engines.monitor(node)
        except NotFound:
            return  # an earlier attempt has done it
        with self._store.reading() as tx:
            rows = tx.session.scalars(
                select(ContainerRow).where(
                    ContainerRow.engine == monitor.spec.id, ContainerRow.state != State.TERMINATED
                )
            ).all()
        for row in rows:
            if monitor.facts.health is Health.UP:
                self._deployer.take_down(row.uuid, job)
            else:
                job.log(f"{row.name} is given up: its node does not answer")
                with self._store.writing() as tx:
                    lost = tx.container(row.uuid)
                    lost.exit_msg = "its node was terminated while it did not answer"
                    tx.set_container(lost, State.TERMINATED)
        self._engines.remove(monitor.spec.id)
        with self._store.writing() as tx:
            for service in {row.service for row in rows}:
                tx.settle_service(service)


def _aim(tx: Transaction, rows: Iterable[ContainerRow], goal: Goal) -> None:
    """Set what containers are to be, and the state that shows it is being done."""
    shown = {Goal.RUNNING: State.STARTING, Goal.STOPPED: State.STOPPING, Goal.GONE: State.TERMINATING}
    reached = {Goal.RUNNING: State.RUNNING, Goal.STOPPED: State.STOPPED, Goal.GONE: State.TERMINATED}
    for row in rows:
        if row.goal == Goal.GONE and goal != Goal.GONE:
            continue
        row.goal = goal
        if row.state != reached[goal]:
            tx.set_container(row, shown[goal])


def _free_numbers(rows: Sequence[ContainerRow]) -> Any:
    used = {one.number for one in rows}
    return iter([number for number in range(1, len(used) + 2000) if number not in used])
