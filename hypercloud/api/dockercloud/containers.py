"""Containers."""

from __future__ import annotations

from flask import Blueprint, Response
from sqlalchemy import select

from hypercloud.api.bodies import truth
from hypercloud.api.context import cloud
from hypercloud.api.dockercloud import find, lists
from hypercloud.api.dockercloud.blueprint import acting, answer, caller, namespace, route
from hypercloud.api.dockercloud.uris import last_part
from hypercloud.db.models import ContainerRow, ServiceRow, StackRow
from hypercloud.workload.model import State

FILTERS: dict[str, lists.Filter] = {
    "uuid": lambda text: ContainerRow.uuid == text,
    "uuid__startswith": lambda text: ContainerRow.uuid.startswith(text, autoescape=True),
    "name": lambda text: ContainerRow.name == text,
    "state": lambda text: ContainerRow.state == text,
    "service": lambda text: ContainerRow.service == last_part(text),
    "node": lambda text: ContainerRow.engine == last_part(text),
    "service__name": lambda text: ContainerRow.service.in_(select(ServiceRow.uuid).where(ServiceRow.name == text)),
    "service__stack__name": lambda text: ContainerRow.service.in_(
        select(ServiceRow.uuid).join(StackRow, StackRow.uuid == ServiceRow.stack).where(StackRow.name == text)
    ),
}


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    route(blueprint, "app container/", containers, "GET")
    route(blueprint, "app container/<uuid>/", container, "GET")
    route(blueprint, "app container/<uuid>/", terminate, "DELETE")
    for view in (start, stop, redeploy):
        route(blueprint, f"app container/<uuid>/{view.__name__}/", view, "POST")


def containers() -> Response:
    """List containers, terminated ones of late included."""
    query = (
        select(ContainerRow)
        .where(ContainerRow.namespace == namespace())
        .order_by(ContainerRow.created, ContainerRow.uuid)
    )
    with cloud().store.reading() as tx:
        rows, total, limit, offset = lists.select_page(
            tx.session, query, FILTERS, alive=ContainerRow.state != State.TERMINATED
        )
        return lists.envelope(find.containers(tx, rows), total, limit, offset)


def container(uuid: str) -> Response:
    """Show a container."""
    with cloud().store.reading() as tx:
        return answer(find.containers(tx, [tx.container(uuid, namespace())])[0])


def terminate(uuid: str) -> Response:
    """Remove a container."""
    return _operate(uuid, "terminate")


def start(uuid: str) -> Response:
    """Start a container."""
    return _operate(uuid, "start")


def stop(uuid: str) -> Response:
    """Stop a container."""
    return _operate(uuid, "stop")


def redeploy(uuid: str) -> Response:
    """Replace a container by a new one."""
    return _operate(uuid, "redeploy", reuse_volumes=truth("reuse_volumes", default=True))


def _operate(uuid: str, operation: str, **arguments: bool) -> Response:
    acting("container", f"Container {operation.capitalize()}")
    row, action = cloud().workloads.operate_container(caller(), uuid, operation, **arguments)
    with cloud().store.reading() as tx:
        return answer(find.containers(tx, [row])[0], action, 202)
