"""Reading and writing stacks, services and containers; every change of a state becomes an event."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from hypercloud.action.service import OPEN
from hypercloud.db.models import ActionRow, ContainerRow, ServiceRow, StackRow, TriggerRow
from hypercloud.db.session import Database
from hypercloud.errors import NotFound
from hypercloud.event.bus import Bus, Change, Ref
from hypercloud.workload import states
from hypercloud.workload.model import MOVING, Goal, State


class Transaction:
    """A session that collects the events of what it changes.

    Args:
        session: the database's.

    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.changes: list[Change] = []

    # -- reading -----------------------------------------------------------------------------------------------------

    def stack(self, stack: str, namespace: str | None = None) -> StackRow:
        """Give a stack. Errors: NotFound."""
        row = self.session.get(StackRow, stack)
        if row is None or (namespace is not None and row.namespace != namespace):
            raise NotFound("the stack does not exist", details=stack[:100])
        return row

    def service(self, service: str, namespace: str | None = None) -> ServiceRow:
        """Return a service. Errors: NotFound."""
        row = self.session.get(ServiceRow, service)
        if row is None or (namespace is not None and row.namespace != namespace):
            raise NotFound("the service does not exist", details=service[:100])
        return row

    def container(self, container: str, namespace: str | None = None) -> ContainerRow:
        """Return a container. Errors: NotFound."""
        row = self.session.get(ContainerRow, container)
        if row is None or (namespace is not None and row.namespace != namespace):
            raise NotFound("the container does not exist", details=container[:100])
        return row

    def services(self, stack: str) -> Sequence[ServiceRow]:
        """Return the services of a stack that are not terminated, in order of their creation."""
        return self.session.scalars(
            select(ServiceRow)
            .where(ServiceRow.stack == stack, ServiceRow.state != State.TERMINATED)
            .order_by(ServiceRow.created, ServiceRow.name)
        ).all()

    def containers(self, service: str) -> Sequence[ContainerRow]:
        """Return the containers of a service that are not terminated, by number."""
        return self.session.scalars(
            select(ContainerRow)
            .where(ContainerRow.service == service, ContainerRow.state != State.TERMINATED)
            .order_by(ContainerRow.number, ContainerRow.created)
        ).all()

    def is_waited_for(self, row: ContainerRow) -> bool:
        """Say whether an action on a container, its service or its stack is open."""
        return self._open_action([row.uuid, row.service, self.service(row.service).stack or row.service])

    def is_busy(self, service: str, *, besides: str = "") -> bool:
        """Say whether an action on a service, one of its containers or its stack is open.

        Args:
            service: its uuid.
            besides: an action that does not count.

        """
        mine = select(ContainerRow.uuid).where(ContainerRow.service == service)
        about = [service, self.service(service).stack or service, *self.session.scalars(mine)]
        return self._open_action(about, besides)

    def _open_action(self, about: Sequence[str], besides: str = "") -> bool:
        query = select(ActionRow.object).where(ActionRow.state.in_(OPEN), ActionRow.uuid != besides)
        return not set(about).isdisjoint(self.session.scalars(query))

    # -- changing ----------------------------------------------------------------------------------------------------

    def set_stack(self, row: StackRow, state: State, *, verb: str = "update") -> None:
        """Give a stack a state."""
        if row.state != state or verb == "create":
            row.state = state
            self.changes.append(Change(kind="stack", action=verb, uuid=row.uuid, state=state, namespace=row.namespace))

    def set_service(self, row: ServiceRow, state: State, *, verb: str = "update") -> None:
        """Give a service a state."""
        if row.state != state or verb == "create":
            row.state = state
            parents = (Ref(kind="stack", uuid=row.stack),) if row.stack else ()
            self.changes.append(
                Change(
                    kind="service", action=verb, uuid=row.uuid, state=state, namespace=row.namespace, parents=parents
                )
            )

    def set_container(self, row: ContainerRow, state: State, *, verb: str = "update") -> None:
        """Give a container a state."""
        if row.state == state and verb == "update":
            return
        row.state = state
        if state == State.TERMINATED:
            row.destroyed = time.time()
            verb = "delete"
        parents = [Ref(kind="service", uuid=row.service)]
        owner = self.session.get(ServiceRow, row.service)
        if owner is not None and owner.stack:
            parents.append(Ref(kind="stack", uuid=owner.stack))
        if row.engine:
            parents.append(Ref(kind="node", uuid=row.engine))
        self.changes.append(
            Change(
                kind="container",
                action=verb,
                uuid=row.uuid,
                state=state,
                namespace=row.namespace,
                parents=tuple(parents),
            )
        )

    def settle_service(self, service: str, *, force: bool = False) -> None:
        """Derive a service's state from its containers, unless the reconciler is at work on it."""
        row = self.service(service)
        if row.state == State.TERMINATED or (row.state in MOVING and not force):
            return
        live = self.containers(service)
        self.set_service(row, states.of_service((one.state for one in live), row.target))
        if row.stack:
            self.settle_stack(row.stack)

    def settle_stack(self, stack: str, *, force: bool = False) -> None:
        """Derive a stack's state from its services, unless the reconciler is at work on it."""
        row = self.stack(stack)
        if row.state == State.TERMINATED or (row.state in MOVING and not force):
            return
        self.set_stack(row, states.of_stack(one.state for one in self.services(stack)))

    def add_container(self, service: ServiceRow, number: int, *, engine: str | None = None) -> ContainerRow:
        """Add a container that is to run."""
        made = str(uuid.uuid4())
        row = ContainerRow(
            uuid=made,
            namespace=service.namespace,
            service=service.uuid,
            number=number,
            name=f"{service.name}-{number}",
            engine=engine,
            docker_id=None,
            revision=service.revision,
            generation=service.generation,
            volumes_of=made,
            goal=Goal.RUNNING,
            state=State.STARTING,
            exit_code=None,
            exit_msg=None,
            spec=service.spec,
            envvars={},
            links=[],
            ports=[],
            image_env=[],
            private_ip=None,
            created=time.time(),
            deployed=None,
            started=None,
            stopped=None,
            destroyed=None,
        )
        self.session.add(row)
        self.session.flush()
        self.set_container(row, State.STARTING, verb="create")
        return row

    def drop_container(self, row: ContainerRow) -> None:
        """Take off a container that never came to be."""
        self.changes.append(
            Change(kind="container", action="delete", uuid=row.uuid, state=State.TERMINATED, namespace=row.namespace)
        )
        self.session.delete(row)

    def terminate_service(self, row: ServiceRow) -> None:
        """Note that a service and all its containers are gone."""
        row.destroyed = time.time()
        self.session.execute(delete(TriggerRow).where(TriggerRow.service == row.uuid))
        self.set_service(row, State.TERMINATED)


class Store:
    """Where stacks, services and containers are kept.

    Args:
        database: the tables.
        bus: is told of every change once it is committed.

    """

    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Yield a transaction; it is committed at the end and then told of."""
        with self.database.session() as session:
            transaction = Transaction(session)
            yield transaction
        for change in transaction.changes:
            self.bus.publish(change)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Yield a transaction that only reads."""
        with self.database.reading() as session:
            yield Transaction(session)
