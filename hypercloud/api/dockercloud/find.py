"""Reading what the views need: rows of a page with those that belong to them, in a few queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from hypercloud.api.context import base_url, cloud
from hypercloud.api.dockercloud import views
from hypercloud.db.models import ContainerRow, ServiceRow, StackRow
from hypercloud.workload.model import State
from hypercloud.workload.store import Transaction


def stack_names(tx: Transaction, namespace: str) -> dict[str, str]:
    """Return the names of a namespace's stacks by uuid."""
    query = select(StackRow.uuid, StackRow.name).where(StackRow.namespace == namespace)
    return {row.uuid: row.name for row in tx.session.execute(query)}


def services(tx: Transaction, rows: Sequence[ServiceRow]) -> list[dict[str, Any]]:
    """Return services as they are shown."""
    if not rows:
        return []
    namespace = rows[0].namespace
    names = stack_names(tx, namespace)
    containers: dict[str, list[ContainerRow]] = {}
    query = (
        select(ContainerRow)
        .where(ContainerRow.service.in_([one.uuid for one in rows]), ContainerRow.state != State.TERMINATED)
        .order_by(ContainerRow.number, ContainerRow.created)
    )
    for one in tx.session.scalars(query):
        containers.setdefault(one.service, []).append(one)
    linked: dict[str, list[tuple[ServiceRow, str]]] = {}
    alive = select(ServiceRow).where(ServiceRow.namespace == namespace, ServiceRow.state != State.TERMINATED)
    for other in tx.session.scalars(alive):
        for link in other.spec.get("links", ()):
            linked.setdefault(link["to"], []).append((other, link["name"]))
    return [
        views.service(
            row,
            containers.get(row.uuid, []),
            domain=cloud().config.domain,
            base_url=base_url(),
            stack_name=names.get(row.stack or "", ""),
            linked_from=linked.get(row.uuid, []),
        )
        for row in rows
    ]


def containers(tx: Transaction, rows: Sequence[ContainerRow]) -> list[dict[str, Any]]:
    """Return containers as they are shown."""
    owners = {
        one.uuid: one
        for one in tx.session.scalars(select(ServiceRow).where(ServiceRow.uuid.in_({one.service for one in rows})))
    }
    names = stack_names(tx, rows[0].namespace) if rows else {}
    return [
        views.container(
            row,
            domain=cloud().config.domain,
            stack_name=names.get(owners[row.service].stack or "", ""),
            synchronized=row.revision == owners[row.service].revision,
        )
        for row in rows
    ]


def stacks(tx: Transaction, rows: Sequence[StackRow]) -> list[dict[str, Any]]:
    """Return stacks as they are shown."""
    found = []
    for row in rows:
        mine = tx.services(row.uuid)
        synchronized = all(views.is_synchronized(one, tx.containers(one.uuid)) for one in mine)
        found.append(views.stack(row, mine, synchronized=synchronized))
    return found
