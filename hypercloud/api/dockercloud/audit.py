"""Actions, and the address that checks credentials."""

from __future__ import annotations

import dataclasses
from typing import Any

from flask import Blueprint, Response, g, jsonify, request
from sqlalchemy import or_, select

from hypercloud.action.service import OVER
from hypercloud.api.context import cloud, identity
from hypercloud.api.dockercloud import lists, uris, views
from hypercloud.api.dockercloud.blueprint import answer, caller
from hypercloud.db.models import ActionRow, ContainerRow, ServiceRow
from hypercloud.errors import Conflict, InvalidInput
from hypercloud.workload import states
from hypercloud.workload.store import Transaction

FILTERS: dict[str, lists.Filter] = {
    "uuid": lambda text: ActionRow.uuid == text,
    "uuid__startswith": lambda text: ActionRow.uuid.startswith(text, autoescape=True),
    "state": lambda text: ActionRow.state == text,
    "action": lambda text: ActionRow.name == text,
    "start_date__gte": lambda text: ActionRow.start >= uris.seconds(text),
    "start_date__lte": lambda text: ActionRow.start <= uris.seconds(text),
    "end_date__gte": lambda text: ActionRow.end >= uris.seconds(text),
    "end_date__lte": lambda text: ActionRow.end <= uris.seconds(text),
}


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes; actions have no namespace in their addresses."""
    base = "/api/audit/v1/action/"
    blueprint.add_url_rule(base, view_func=actions, methods=["GET"])
    blueprint.add_url_rule(f"{base}<uuid>/", view_func=action, methods=["GET"])
    blueprint.add_url_rule(f"{base}<uuid>/cancel/", view_func=cancel, methods=["POST"])
    blueprint.add_url_rule(f"{base}<uuid>/retry/", view_func=retry, methods=["POST"])
    blueprint.add_url_rule("/auth/", view_func=auth, methods=["GET"])


def auth() -> Response:
    """Check credentials."""
    return jsonify({"username": identity().username, "namespaces": sorted(cloud().accounts.namespaces(identity()))})


def actions() -> Response:
    """List actions in the order they were asked for."""
    allowed = cloud().accounts.namespaces(identity())
    query = select(ActionRow).where(ActionRow.namespace.in_(allowed)).order_by(ActionRow.number)
    target = request.args.get("object")
    related = request.args.get("include_related", "false").lower()
    if related not in {"true", "false"}:
        raise InvalidInput("include_related must be true or false")
    with cloud().store.reading() as tx:
        if target is not None:
            others = set(FILTERS) & set(request.args)
            if others:
                raise InvalidInput("object can only be combined with include_related", details=", ".join(others))
            query = query.where(_about(tx, target, related=related == "true"))
        rows, total, limit, offset = lists.select_page(tx.session, query, FILTERS)
        return lists.envelope([views.action(one) for one in rows], total, limit, offset)


def _about(tx: Transaction, target: str, *, related: bool) -> Any:
    """Return the condition for an object, and what belongs to it."""
    parts = target.strip("/").split("/")
    kind, key = (parts[-2], parts[-1]) if len(parts) > 1 else ("", parts[-1])
    keys = {key}
    if related and kind == "container":
        row = tx.session.get(ContainerRow, key)
        if row is not None:
            keys |= {row.service, tx.service(row.service).stack or key}
    elif related and kind == "service":
        service = tx.session.get(ServiceRow, key)
        keys |= set(tx.session.scalars(select(ContainerRow.uuid).where(ContainerRow.service == key)))
        keys |= {service.stack} if service is not None and service.stack else set()
    elif related and kind == "stack":
        services = set(tx.session.scalars(select(ServiceRow.uuid).where(ServiceRow.stack == key)))
        keys |= services
        keys |= set(tx.session.scalars(select(ContainerRow.uuid).where(ContainerRow.service.in_(services))))
    return or_(ActionRow.object.in_(keys))


def action(uuid: str) -> Response:
    """Show an action."""
    return answer(views.action(_find(uuid)))


def cancel(uuid: str) -> Response:
    """Cancel an action."""
    row = cloud().actions.cancel(_find(uuid))
    return answer(views.action(row), row, 202)


def retry(uuid: str) -> Response:
    """Ask once more for what an action did."""
    row = _find(uuid)
    if row.state not in OVER:
        raise Conflict("the action is not over", details=f"its state is {row.state}")
    g.namespace = row.namespace
    who = dataclasses.replace(caller(), namespace=row.namespace)
    kind, _, operation = row.operation.partition(".")
    arguments = {key: row.arguments[key] for key in ("reuse_volumes", "env") if key in row.arguments}
    workloads = cloud().workloads
    if operation not in states.DURING:
        kind = ""
    if kind == "service":
        made = workloads.operate_service(who, row.object, operation, **arguments)[1]
    elif kind == "stack":
        made = workloads.operate_stack(who, row.object, operation, **arguments)[1]
    elif kind == "container":
        made = workloads.operate_container(who, row.object, operation, **arguments)[1]
    else:
        raise Conflict("the action was done within its request", details=row.name, resolution="send the request again")
    return answer(views.action(made), made, 202)


def _find(uuid: str) -> ActionRow:
    return cloud().actions.get(uuid, cloud().accounts.namespaces(identity()))
