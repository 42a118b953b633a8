"""Triggers of services."""

from __future__ import annotations

import re

from flask import Blueprint, Response, g, request
from marshmallow import fields, validate

from hypercloud.api.bodies import json_object, load
from hypercloud.api.context import cloud
from hypercloud.api.dockercloud import find, lists, views
from hypercloud.api.dockercloud.blueprint import answer, caller, namespace, route
from hypercloud.api.dockercloud.schemas import Loose
from hypercloud.errors import InvalidInput

_NUMBER = re.compile(r"[0-9]{1,4}")


class TriggerSchema(Loose):
    """A trigger of a service."""

    name = fields.String(load_default="", allow_none=True, validate=validate.Length(max=255))
    operation = fields.String(load_default="REDEPLOY", allow_none=True)


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    base = "app service/<uuid>/trigger/"
    route(blueprint, base, triggers, "GET")
    route(blueprint, base, create, "POST")
    route(blueprint, f"{base}<trigger>/", trigger_, "GET")
    route(blueprint, f"{base}<trigger>/", remove, "DELETE")
    route(blueprint, f"{base}<trigger>/call/", call, "POST")
    route(blueprint, f"{base}<trigger>/call/<number>/", call_with_number, "POST")


def triggers(uuid: str) -> Response:
    """List a service's triggers."""
    found = cloud().triggers.triggers(namespace(), uuid)
    rows = [one for one in found if lists.matches({"uuid": one.uuid, "name": one.name, "operation": one.operation})]
    return lists.page(rows, lambda one: views.trigger(one, namespace()))


def create(uuid: str) -> Response:
    """Make a trigger."""
    data = load(TriggerSchema(), json_object(optional=True))
    operation = (data["operation"] or "REDEPLOY").upper()
    row, action = cloud().triggers.add(caller(), uuid, data["name"] or "", operation)
    return answer(views.trigger(row, namespace()), action, 201)


def trigger_(uuid: str, trigger: str) -> Response:
    """Show a trigger."""
    return answer(views.trigger(cloud().triggers.trigger(namespace(), uuid, trigger), namespace()))


def remove(uuid: str, trigger: str) -> Response:
    """Remove a trigger."""
    return answer(None, cloud().triggers.remove(caller(), uuid, trigger))


def call(uuid: str, trigger: str, number: int = 1) -> Response:
    """Do what a trigger says; its address is all that is needed."""
    body = request.get_data(cache=True)[: 32 * 2**10].decode("utf-8", "replace")
    row, action = cloud().triggers.call(
        caller(), namespace=g.namespace, service=uuid, trigger=trigger, number=number, body=body
    )
    g.namespace = row.namespace
    with cloud().store.reading() as tx:
        shown = find.services(tx, [row])[0]
    # Whoever knows a trigger's address is not to see the service's variables.
    return answer({key: shown[key] for key in ("uuid", "name", "state", "resource_uri")}, action, 202)


def call_with_number(uuid: str, trigger: str, number: str) -> Response:
    """Do what a trigger says, so many containers more."""
    if not _NUMBER.fullmatch(number) or not 1 <= int(number) <= 1000:
        raise InvalidInput("the number of containers must be from 1 to 1000", details=number[:40])
    return call(uuid, trigger, int(number))
