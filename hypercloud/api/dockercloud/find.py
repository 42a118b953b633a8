"""Reading what the views need: rows of a page with those that belong to them, in a few queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import defer

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
        .options(defer(ContainerRow.envvars), defer(ContainerRow.links))  # reading all that JSON takes most of the time
    )
    for one in tx.session.scalars(query):
        containers.setdefault(one.service, []).append(one)
    firsts = [mine[0].uuid for mine in containers.values()]
    envvars = {
        one.service: one.envvars
        for one in tx.session.execute(
            select(ContainerRow.service, ContainerRow.envvars).where(ContainerRow.uuid.in_(firsts))
        )
    }
    linked = _linked(tx, namespace)
    return [
        views.service(
            row,
            containers.get(row.uuid, []),
            envvars=envvars.get(row.uuid, {}),
            domain=cloud().config.domain,
            base_url=base_url(),
            stack_name=names.get(row.stack or "", ""),
            linked_from=linked.get(row.uuid, []),
        )
        for row in rows
    ]


def _linked(tx: Transaction, namespace: str) -> dict[str, list[tuple[str, str]]]:
    """Return the services that are linked to each service of a namespace, and by what name."""
    found: dict[str, list[tuple[str, str]]] = {}
    alive = select(ServiceRow.uuid, ServiceRow.spec["links"].label("links")).where(
        ServiceRow.namespace == namespace, ServiceRow.state != State.TERMINATED
    )
    for other in tx.session.execute(alive):
        for link in other.links or ():
            found.setdefault(link["to"], []).append((other.uuid, link["name"]))
    return found


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
    mine: dict[str, list[ServiceRow]] = {}
    query = (
        select(ServiceRow)
        .where(ServiceRow.stack.in_([one.uuid for one in rows]), ServiceRow.state != State.TERMINATED)
        .order_by(ServiceRow.created, ServiceRow.name)
        .options(defer(ServiceRow.spec))
    )
    for one in tx.session.scalars(query):
        mine.setdefault(one.stack or "", []).append(one)
    behind = set(
        tx.session.scalars(
            select(ServiceRow.stack)
            .join(ContainerRow, ContainerRow.service == ServiceRow.uuid)
            .where(
                ServiceRow.stack.in_(mine),
                ServiceRow.state != State.TERMINATED,
                ContainerRow.state != State.TERMINATED,
                ContainerRow.revision != ServiceRow.revision,
            )
            .distinct()
        )
    )
    return [views.stack(row, mine.get(row.uuid, []), synchronized=row.uuid not in behind) for row in rows]
