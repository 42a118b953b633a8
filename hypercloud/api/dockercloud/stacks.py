"""Stacks."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response
from marshmallow import fields, validate
from sqlalchemy import select

from hypercloud.api.bodies import json_object, load, truth
from hypercloud.api.context import cloud
from hypercloud.api.dockercloud import find, lists, stackfile
from hypercloud.api.dockercloud.blueprint import acting, allowed, answer, caller, namespace, route
from hypercloud.api.dockercloud.schemas import Loose, draft
from hypercloud.db.models import ServiceRow, StackRow
from hypercloud.workload.model import State

FILTERS: dict[str, lists.Filter] = {
    "uuid": lambda text: StackRow.uuid == text,
    "uuid__startswith": lambda text: StackRow.uuid.startswith(text, autoescape=True),
    "name": lambda text: StackRow.name == text,
    "state": lambda text: StackRow.state == ("Not running" if text.lower() == "not running" else text),
}


class StackSchema(Loose):
    """A stack with its services."""

    name = fields.String(required=True, validate=validate.Length(1, 100))
    nickname = fields.String(load_default="", allow_none=True, validate=validate.Length(max=255))
    services = fields.Raw(load_default=None, allow_none=True)


class StackUpdateSchema(Loose):
    """What can be changed of a stack."""

    nickname = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=255))
    services = fields.Raw(load_default=None, allow_none=True)


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    route(blueprint, "app stack/", stacks, "GET")
    route(blueprint, "app stack/", create, "POST")
    route(blueprint, "app stack/<uuid>/", stack, "GET")
    route(blueprint, "app stack/<uuid>/", update, "PATCH")
    route(blueprint, "app stack/<uuid>/", terminate, "DELETE")
    route(blueprint, "app stack/<uuid>/export/", export, "GET")
    for view in (start, stop, redeploy):
        route(blueprint, f"app stack/<uuid>/{view.__name__}/", view, "POST")


def stacks() -> Response:
    """List stacks, terminated ones of late included."""
    query = select(StackRow).where(StackRow.namespace == namespace()).order_by(StackRow.created, StackRow.uuid)
    with cloud().store.reading() as tx:
        rows, total, limit, offset = lists.select_page(
            tx.session, query, FILTERS, alive=StackRow.state != State.TERMINATED
        )
        return lists.envelope(find.stacks(tx, rows), total, limit, offset)


def create() -> Response:
    """Make a stack with its services."""
    data = load(StackSchema(), json_object())
    drafts = [draft(one) for one in stackfile.services_of(data["services"])]
    row, action = cloud().workloads.create_stack(caller(), data["name"], data["nickname"] or "", drafts, allowed())
    return answer(_view(row), action, 201)


def stack(uuid: str) -> Response:
    """Show a stack."""
    with cloud().store.reading() as tx:
        return answer(find.stacks(tx, [tx.stack(uuid, namespace())])[0])


def export(uuid: str) -> Response:
    """Show a stack as a stack file."""
    with cloud().store.reading() as tx:
        row = tx.stack(uuid, namespace())
        mine = tx.services(row.uuid)
        names = {one.uuid: one.name for one in mine}
        others = find.stack_names(tx, namespace())
        for one in tx.session.scalars(select(ServiceRow).where(ServiceRow.namespace == namespace())):
            suffix = f".{others[one.stack]}" if one.stack in others else ""
            names.setdefault(one.uuid, f"{one.name}{suffix}")
        return answer({one.name: stackfile.export(one, names) for one in mine})


def update(uuid: str) -> Response:
    """Change a stack's services."""
    acting("stack", "Stack Update")
    data = load(StackUpdateSchema(), json_object())
    services = None if data["services"] is None else [draft(one) for one in stackfile.services_of(data["services"])]
    row, action = cloud().workloads.update_stack(
        caller(), uuid, services=services, nickname=data["nickname"], allowed=allowed()
    )
    return answer(_view(row), action)


def terminate(uuid: str) -> Response:
    """Remove a stack and its services."""
    return _operate(uuid, "terminate")


def start(uuid: str) -> Response:
    """Start a stack's services."""
    return _operate(uuid, "start")


def stop(uuid: str) -> Response:
    """Stop a stack's services."""
    return _operate(uuid, "stop")


def redeploy(uuid: str) -> Response:
    """Replace all containers of a stack by new ones."""
    return _operate(uuid, "redeploy", reuse_volumes=truth("reuse_volumes", default=True))


def _operate(uuid: str, operation: str, **arguments: bool) -> Response:
    acting("stack", f"Stack {operation.capitalize()}")
    row, action = cloud().workloads.operate_stack(caller(), uuid, operation, **arguments)
    return answer(_view(row), action, 202)


def _view(row: StackRow) -> dict[str, Any]:
    with cloud().store.reading() as tx:
        return find.stacks(tx, [tx.stack(row.uuid)])[0]
