"""An operation on a stack is one on each of its services, in the order of their links. The same for all back ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import select

from hypercloud.db.models import ServiceRow
from hypercloud.errors import CloudError
from hypercloud.workload.deployer import Job
from hypercloud.workload.model import ServiceSpec, State, decode
from hypercloud.workload.store import Store, Transaction


def run(
    store: Store,
    verb: str,
    stack: str,
    arguments: dict[str, Any],
    job: Job,
    *,
    operate: Callable[[str, str, dict[str, Any], Job], None],
    settle: Callable[[str], None],
) -> bool:
    """Carry out an operation on a stack; say whether there was anything to do.

    Args:
        store: stacks and services.
        verb: such as ``start``.
        stack: its uuid.
        arguments: of the action; ``services`` are those that it is for.
        job: the action.
        operate: carries out the operation on one service.
        settle: lets a service's state follow from its containers.

    Errors: the first of the services', when all have been tried; Canceled.

    """
    with store.reading() as tx:
        if tx.stack(stack).state == State.TERMINATED:
            return False
        specs = {one.uuid: decode(one.spec) for one in tx.services(stack)}
    wanted = set(arguments.get("services", ()))
    order = [one for one in by_links(specs) if one in wanted]
    if verb in {"stop", "terminate"}:
        order.reverse()
    errors: list[CloudError] = []
    for service in order:
        job.check()
        try:
            operate(verb, service, arguments, job)
        except CloudError as error:
            errors.append(error)
        settle(service)
    if errors:
        raise errors[0]
    if verb == "terminate":
        with store.writing() as tx:
            row = tx.stack(stack)
            row.destroyed = max((one.destroyed or 0.0 for one in _all_services(tx, stack)), default=0.0) or None
            tx.set_stack(row, State.TERMINATED, verb="delete")
    return True


def _all_services(tx: Transaction, stack: str) -> Sequence[ServiceRow]:
    return tx.session.scalars(select(ServiceRow).where(ServiceRow.stack == stack)).all()


def by_links(specs: dict[str, ServiceSpec]) -> list[str]:
    """Return services so that those linked to come first; a circle is cut where it is met."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(one: str) -> None:
        if one in seen or one not in specs:
            return
        seen.add(one)
        for link in specs[one].links:
            visit(link.to)
        for binding in specs[one].bindings:
            visit(binding.volumes_from)
        order.append(one)

    for one in specs:
        visit(one)
    return order
