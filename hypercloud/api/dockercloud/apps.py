"""Services."""

from __future__ import annotations

from flask import Blueprint, Response
from sqlalchemy import select

from hypercloud.api.bodies import json_object, truth
from hypercloud.api.context import cloud
from hypercloud.api.dockercloud import find, lists
from hypercloud.api.dockercloud.blueprint import acting, allowed, answer, caller, namespace, route
from hypercloud.api.dockercloud.schemas import draft
from hypercloud.api.dockercloud.uris import last_part
from hypercloud.db.models import ServiceRow, StackRow
from hypercloud.workload.model import State

FILTERS: dict[str, lists.Filter] = {
    "uuid": lambda text: ServiceRow.uuid == text,
    "uuid__startswith": lambda text: ServiceRow.uuid.startswith(text, autoescape=True),
    "name": lambda text: ServiceRow.name == text,
    "nickname": lambda text: ServiceRow.nickname == text,
    "state": lambda text: ServiceRow.state == text,
    "stack": lambda text: ServiceRow.stack == last_part(text),
    "stack__name": lambda text: ServiceRow.stack.in_(select(StackRow.uuid).where(StackRow.name == text)),
}


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    route(blueprint, "app service/", services, "GET")
    route(blueprint, "app service/", create, "POST")
    route(blueprint, "app service/<uuid>/", service, "GET")
    route(blueprint, "app service/<uuid>/", update, "PATCH")
    route(blueprint, "app service/<uuid>/", terminate, "DELETE")
    for view in (start, stop, scale, redeploy):
        route(blueprint, f"app service/<uuid>/{view.__name__}/", view, "POST")


def services() -> Response:
    """List services, terminated ones of late included."""
    query = select(ServiceRow).where(ServiceRow.namespace == namespace()).order_by(ServiceRow.created, ServiceRow.uuid)
    with cloud().store.reading() as tx:
        rows, total, limit, offset = lists.select_page(
            tx.session, query, FILTERS, alive=ServiceRow.state != State.TERMINATED
        )
        return lists.envelope(find.services(tx, rows), total, limit, offset)


def create() -> Response:
    """Make a service."""
    row, action = cloud().workloads.create_service(caller(), draft(json_object()), allowed())
    with cloud().store.reading() as tx:
        return answer(find.services(tx, [row])[0], action, 201)


def service(uuid: str) -> Response:
    """Show a service."""
    with cloud().store.reading() as tx:
        return answer(find.services(tx, [tx.service(uuid, namespace())])[0])


def update(uuid: str) -> Response:
    """Change a service."""
    acting("service", "Service Update")
    _, action = cloud().workloads.update_service(caller(), uuid, draft(json_object()), allowed())
    with cloud().store.reading() as tx:
        return answer(find.services(tx, [tx.service(uuid, namespace())])[0], action)


def terminate(uuid: str) -> Response:
    """Remove a service and its containers."""
    return _operate(uuid, "terminate")


def start(uuid: str) -> Response:
    """Start a service's containers."""
    return _operate(uuid, "start")


def stop(uuid: str) -> Response:
    """Stop a service's containers."""
    return _operate(uuid, "stop")


def scale(uuid: str) -> Response:
    """Bring the number of containers to the target."""
    return _operate(uuid, "scale")


def redeploy(uuid: str) -> Response:
    """Replace a service's containers by new ones."""
    return _operate(uuid, "redeploy", reuse_volumes=truth("reuse_volumes", default=True))


def _operate(uuid: str, operation: str, **arguments: bool) -> Response:
    acting("service", f"Service {operation.capitalize()}")
    row, action = cloud().workloads.operate_service(caller(), uuid, operation, **arguments)
    with cloud().store.reading() as tx:
        return answer(find.services(tx, [row])[0], action, 202)
