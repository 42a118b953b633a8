"""What clients ask of stacks, services and containers: checked, written down, and left to the reconciler."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import select

from hypercloud import placement
from hypercloud.action.service import ActionService, Caller, Request
from hypercloud.db.models import ActionRow, ContainerRow, ServiceRow, StackRow
from hypercloud.errors import CloudError, Conflict, InvalidInput
from hypercloud.workload import drafts, states
from hypercloud.workload.carrier import Carrier
from hypercloud.workload.drafts import Check, Draft
from hypercloud.workload.model import Goal, State, decode, encode, needs_redeploy
from hypercloud.workload.repositories import repository_of
from hypercloud.workload.store import Store, Transaction

log = structlog.get_logger(__name__)


class WorkloadService:
    """Takes orders.

    Args:
        store: where they are written.
        actions: one for each.
        carrier: refuses what its back end cannot do.
        wake: tells the reconciler.

    """

    def __init__(self, store: Store, actions: ActionService, carrier: Carrier, wake: Callable[[], None]) -> None:
        self._store = store
        self._actions = actions
        self._carrier = carrier
        self._wake = wake

    def _done(self, row: ActionRow) -> ActionRow:
        self._actions.announce(row, "create")
        if row.operation:
            self._wake()
        return row

    # -- services ----------------------------------------------------------------------------------------------------

    def create_service(self, caller: Caller, draft: Draft, allowed: Check) -> tuple[ServiceRow, ActionRow]:
        """Make a service; nothing runs yet. Errors: InvalidInput, NotFound for a link, Conflict for the name."""
        with self._store.writing() as tx:
            row = self._add_service(tx, caller.namespace, draft, None)
            self._set_spec(tx, row, draft, allowed)
            action = self._actions.add(
                tx.session, caller, Request(name="Service Create", kind="service", object=row.uuid)
            )
        return row, self._done(action)

    def update_service(
        self, caller: Caller, service: str, draft: Draft, allowed: Check
    ) -> tuple[ServiceRow, ActionRow]:
        """Change a service; its containers follow at the next redeploy, their number at once.

        Errors: InvalidInput, NotFound, Conflict.
        """
        with self._store.writing() as tx:
            row = tx.service(service, caller.namespace)
            action = self._actions.add(
                tx.session, caller, Request(name="Service Update", kind="service", object=row.uuid)
            )
            further = self._change(tx, caller, row, draft, allowed)
        for one in further:
            self._done(one)
        return row, self._done(action)

    def operate_service(
        self, caller: Caller, service: str, operation: str, **arguments: Any
    ) -> tuple[ServiceRow, ActionRow]:
        """Have a service started, stopped, scaled, redeployed or terminated. Errors: NotFound, Conflict."""
        with self._store.writing() as tx:
            row = tx.service(service, caller.namespace)
            action = self._operate_service(tx, caller, row, operation, arguments)
        return row, self._done(action)

    def _add_service(self, tx: Transaction, namespace: str, draft: Draft, stack: str | None) -> ServiceRow:
        image = str(draft.values.get("image") or "")
        name = drafts.check_name("service", draft.name or drafts.default_name(image))
        same = select(ServiceRow.uuid).where(
            ServiceRow.namespace == namespace,
            ServiceRow.name == name,
            ServiceRow.stack == stack if stack else ServiceRow.stack.is_(None),
            ServiceRow.state != State.TERMINATED,
        )
        if tx.session.scalar(same) is not None:
            raise Conflict("a service of this name exists", details=name)
        row = ServiceRow(
            uuid=str(uuid.uuid4()),
            namespace=namespace,
            name=name,
            nickname=draft.nickname or name,
            stack=stack,
            spec={},
            target=1,
            revision=1,
            generation=1,
            state=State.NOT_RUNNING,
            created=time.time(),
            deployed=None,
            started=None,
            stopped=None,
            destroyed=None,
        )
        tx.session.add(row)
        tx.session.flush()
        tx.set_service(row, State.NOT_RUNNING, verb="create")
        return row

    def _set_spec(self, tx: Transaction, row: ServiceRow, draft: Draft, allowed: Check) -> None:
        """Give a new service its specification, when all that it may name exist."""
        spec = drafts.apply(tx, draft, None, row.namespace, row.stack)
        allowed(spec)
        self._carrier.check(spec)
        row.target = drafts.check_target(draft.target if draft.target is not None else 1, spec)
        row.spec = encode(spec)

    def _change(
        self, tx: Transaction, caller: Caller, row: ServiceRow, draft: Draft, allowed: Check
    ) -> list[ActionRow]:
        """Change a service; return the actions that follow from it."""
        if row.state in {State.TERMINATED, State.TERMINATING}:
            raise Conflict("the service is terminated", details=row.name)
        old = decode(row.spec)
        new = drafts.apply(tx, draft, old, row.namespace, row.stack)
        allowed(new)
        self._carrier.check(new)
        if needs_redeploy(old, new):
            row.revision += 1
        row.spec = encode(new)
        row.nickname = draft.nickname if draft.nickname is not None else row.nickname
        if draft.target is None or draft.target == row.target:
            return []
        row.target = drafts.check_target(draft.target, new)
        if row.state in states.SERVICE["scale"] and row.state != State.NOT_RUNNING:
            return [self._operate_service(tx, caller, row, "scale", {})]
        return []

    def _operate_service(
        self, tx: Transaction, caller: Caller, row: ServiceRow, operation: str, arguments: dict[str, Any]
    ) -> ActionRow:
        states.check(states.SERVICE, "service", row.name, row.state, operation)
        now = time.time()
        if operation == "scale":
            if decode(row.spec).strategy == placement.EVERY_NODE:
                raise Conflict("a service with the strategy EVERY_NODE cannot be scaled", details=row.name)
            if add := arguments.pop("add", 0):
                row.target = drafts.check_target(row.target + add, decode(row.spec))
        elif operation == "redeploy":
            row.generation += 1
            row.deployed = now
        elif operation == "start":
            row.started = now
            row.deployed = row.deployed or now
        elif operation == "stop":
            row.stopped = now
        tx.set_service(row, states.DURING[operation])
        return self._actions.add(
            tx.session,
            caller,
            Request(
                name=f"Service {operation.capitalize()}",
                kind="service",
                object=row.uuid,
                operation=f"service.{operation}",
                arguments=arguments,
            ),
        )

    # -- stacks ------------------------------------------------------------------------------------------------------

    def create_stack(
        self, caller: Caller, name: str, nickname: str, services: Sequence[Draft], allowed: Check
    ) -> tuple[StackRow, ActionRow]:
        """Make a stack with its services; nothing runs yet. Errors: as create_service."""
        drafts.check_name("stack", name)
        with self._store.writing() as tx:
            same = select(StackRow.uuid).where(
                StackRow.namespace == caller.namespace, StackRow.name == name, StackRow.state != State.TERMINATED
            )
            if tx.session.scalar(same) is not None:
                raise Conflict("a stack of this name exists", details=name)
            row = StackRow(
                uuid=str(uuid.uuid4()),
                namespace=caller.namespace,
                name=name,
                nickname=nickname or name,
                state=State.NOT_RUNNING,
                created=time.time(),
                deployed=None,
                destroyed=None,
            )
            tx.session.add(row)
            tx.session.flush()
            tx.set_stack(row, State.NOT_RUNNING, verb="create")
            made = [(self._add_service(tx, row.namespace, one, row.uuid), one) for one in services]
            for service, draft in made:
                self._set_spec(tx, service, draft, allowed)
            action = self._actions.add(tx.session, caller, Request(name="Stack Create", kind="stack", object=row.uuid))
        return row, self._done(action)

    def update_stack(
        self, caller: Caller, stack: str, services: Sequence[Draft] | None, nickname: str | None, allowed: Check
    ) -> tuple[StackRow, ActionRow]:
        """Change a stack: services of the same name are changed, new ones made, those not named terminated.

        Errors: as update_service.
        """
        further: list[ActionRow] = []
        with self._store.writing() as tx:
            row = tx.stack(stack, caller.namespace)
            if row.state in {State.TERMINATED, State.TERMINATING}:
                raise Conflict("the stack is terminated", details=row.name)
            row.nickname = nickname if nickname is not None else row.nickname
            action = self._actions.add(tx.session, caller, Request(name="Stack Update", kind="stack", object=row.uuid))
            if services is not None:
                further = self._replace_services(tx, caller, row, services, allowed)
            tx.settle_stack(row.uuid)
        for one in further:
            self._done(one)
        return row, self._done(action)

    def _replace_services(
        self, tx: Transaction, caller: Caller, row: StackRow, services: Sequence[Draft], allowed: Check
    ) -> list[ActionRow]:
        known = {one.name: one for one in tx.services(row.uuid)}
        names = [one.name or drafts.default_name(str(one.values.get("image") or "")) for one in services]
        if len(set(names)) != len(names):
            raise InvalidInput("two services of the stack have one name")
        made = {
            name: self._add_service(tx, row.namespace, draft, row.uuid)
            for name, draft in zip(names, services, strict=True)
            if name not in known
        }
        further = []
        for name, draft in zip(names, services, strict=True):
            if name in made:
                self._set_spec(tx, made[name], draft, allowed)
            else:
                further += self._change(tx, caller, known[name], draft, allowed)
        for name, service in known.items():
            if name not in names:
                further.append(self._operate_service(tx, caller, service, "terminate", {}))
        return further

    def operate_stack(self, caller: Caller, stack: str, operation: str, **arguments: Any) -> tuple[StackRow, ActionRow]:
        """Have a stack started, stopped, redeployed or terminated. Errors: NotFound, Conflict."""
        with self._store.writing() as tx:
            row = tx.stack(stack, caller.namespace)
            states.check(states.STACK, "stack", row.name, row.state, operation)
            now = time.time()
            touched = []
            for service in tx.services(row.uuid):
                if not states.in_stack(service.state, operation):
                    continue
                touched.append(service.uuid)
                if operation == "redeploy":
                    service.generation += 1
                if operation in {"start", "redeploy"}:
                    service.deployed = service.started = row.deployed = now
                if operation == "stop":
                    service.stopped = now
                tx.set_service(service, states.DURING[operation])
            tx.set_stack(row, states.DURING[operation])
            action = self._actions.add(
                tx.session,
                caller,
                Request(
                    name=f"Stack {operation.capitalize()}",
                    kind="stack",
                    object=row.uuid,
                    operation=f"stack.{operation}",
                    arguments={**arguments, "services": touched},
                ),
            )
        return row, self._done(action)

    # -- containers --------------------------------------------------------------------------------------------------

    def operate_container(
        self, caller: Caller, container: str, operation: str, **arguments: Any
    ) -> tuple[ContainerRow, ActionRow]:
        """Have a container started, stopped, redeployed or terminated. Errors: NotFound, Conflict, NotSupported."""
        with self._store.writing() as tx:
            row = tx.container(container, caller.namespace)
            self._carrier.check_container(operation)
            states.check(states.CONTAINER, "container", row.name, row.state, operation)
            if operation == "start":
                row.goal = Goal.RUNNING
                tx.set_container(row, State.STARTING)
            elif operation == "stop":
                row.goal = Goal.STOPPED
                tx.set_container(row, State.STOPPING)
            elif operation == "terminate":
                row.goal = Goal.GONE
                tx.set_container(row, State.TERMINATING)
            action = self._actions.add(
                tx.session,
                caller,
                Request(
                    name=f"Container {operation.capitalize()}",
                    kind="container",
                    object=row.uuid,
                    operation=f"container.{operation}",
                    arguments={**arguments, "service": row.service},
                ),
            )
        return row, self._done(action)

    def autoredeploy(self, caller: Caller, repository: str) -> int:
        """Redeploy all services with ``autoredeploy`` whose image is in a repository; return how many.

        Those that cannot be redeployed now, or are gone since, do not keep the others from it.
        """
        count = 0
        with self._store.reading() as tx:
            rows = tx.session.scalars(select(ServiceRow).where(ServiceRow.state.in_(states.SERVICE["redeploy"]))).all()
        for row in rows:
            spec = decode(row.spec)
            if spec.autoredeploy and repository_of(spec.image) == repository:
                owner = dataclasses.replace(caller, namespace=row.namespace, is_user=False)
                try:
                    self.operate_service(owner, row.uuid, "redeploy")
                    count += 1
                except CloudError as error:
                    log.warning("workload.not_redeployed", service=row.uuid, error=str(error))
        return count
