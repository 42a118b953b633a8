"""Triggers: addresses that redeploy or scale a service for whoever knows them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from enum import StrEnum

from sqlalchemy import select

from hypercloud.action.service import ActionService, Caller, Request
from hypercloud.db.models import ActionRow, ServiceRow, TriggerRow
from hypercloud.errors import Conflict, InvalidInput, NotFound
from hypercloud.workload.model import State
from hypercloud.workload.service import WorkloadService
from hypercloud.workload.store import Store

LARGEST_BODY = 32 * 2**10  # bytes of a call that the containers get to see


class Operation(StrEnum):
    """What a trigger does."""

    REDEPLOY = "REDEPLOY"
    SCALEUP = "SCALEUP"


class TriggerService:
    """Keeps and calls triggers.

    Args:
        store: where they are kept.
        actions: each change is one.
        workloads: does what they say.

    """

    def __init__(self, store: Store, actions: ActionService, workloads: WorkloadService) -> None:
        self._store = store
        self._actions = actions
        self._workloads = workloads

    def triggers(self, namespace: str, service: str) -> Sequence[TriggerRow]:
        """Return a service's triggers. Errors: NotFound."""
        with self._store.reading() as tx:
            tx.service(service, namespace)
            return tx.session.scalars(
                select(TriggerRow).where(TriggerRow.service == service).order_by(TriggerRow.created)
            ).all()

    def trigger(self, namespace: str, service: str, trigger: str) -> TriggerRow:
        """Return a trigger. Errors: NotFound."""
        for one in self.triggers(namespace, service):
            if one.uuid == trigger:
                return one
        raise NotFound("the trigger does not exist", details=trigger[:100])

    def add(self, caller: Caller, service: str, name: str, operation: str) -> tuple[TriggerRow, ActionRow]:
        """Make a trigger. Errors: InvalidInput, NotFound, Conflict."""
        if operation not in set(Operation):
            raise InvalidInput("operation must be REDEPLOY or SCALEUP", details=operation[:40])
        row = TriggerRow(
            uuid=str(uuid.uuid4()), service=service, name=name[:255], operation=operation, created=time.time()
        )
        with self._store.writing() as tx:
            owner = tx.service(service, caller.namespace)
            if owner.state == State.TERMINATED:
                raise Conflict("the service is terminated", details=owner.name)
            tx.session.add(row)
            action = self._actions.add(
                tx.session, caller, Request(name="Service Trigger Create", kind="service", object=service)
            )
        self._actions.announce(action, "create")
        return row, action

    def remove(self, caller: Caller, service: str, trigger: str) -> ActionRow:
        """Remove a trigger. Errors: NotFound."""
        self.trigger(caller.namespace, service, trigger)
        with self._store.writing() as tx:
            tx.session.delete(tx.session.get_one(TriggerRow, trigger))
            action = self._actions.add(
                tx.session, caller, Request(name="Service Trigger Delete", kind="service", object=service)
            )
        self._actions.announce(action, "create")
        return action

    def call(
        self, caller: Caller, *, namespace: str, service: str, trigger: str, number: int, body: str
    ) -> tuple[ServiceRow, ActionRow]:
        """Do what a trigger says.

        Args:
            caller: nobody in particular; the service's namespace is what counts.
            namespace: as the address says, "" = any.
            service: as the address says.
            trigger: the secret.
            number: of containers to add.
            body: what was sent along; containers see it as ``DOCKERCLOUD_TRIGGER_BODY``.

        Errors: NotFound, Conflict.

        """
        with self._store.reading() as tx:
            row = tx.session.get(TriggerRow, trigger)
            owner = tx.session.get(ServiceRow, row.service) if row is not None else None
        if row is None or owner is None or owner.uuid != service or namespace not in {"", owner.namespace}:
            raise NotFound("the trigger does not exist")
        who = Caller(
            namespace=owner.namespace,
            user=owner.namespace,
            method=caller.method,
            path=caller.path,
            agent=caller.agent,
            ip=caller.ip,
            base_url=caller.base_url,
            is_user=False,
        )
        text = body[:LARGEST_BODY].replace("\0", "\ufffd")  # as other bytes that are no text; no variable holds it
        env = {"DOCKERCLOUD_TRIGGER_BODY": text} if text else {}
        if row.operation == Operation.SCALEUP:
            return self._workloads.operate_service(who, service, "scale", add=number, env=env)
        return self._workloads.operate_service(who, service, "redeploy", env=env)
