"""Published ports of a pod."""

from __future__ import annotations

from flask import Response

from hyperd.api import answers, params
from hyperd.api.context import engine
from hyperd.api.hyper.routes import blueprint
from hyperd.errors import InvalidInput, NotSupported
from hyperd.pod.spec import parse_portmappings


@blueprint.get("/pod/<pod_id>/portmappings")
def list_portmappings(pod_id: str) -> Response:
    """List the mappings of a pod."""
    rows = [
        {"containerPort": port.container_port, "hostPort": port.host_port, "protocol": port.protocol}
        for port in engine().pods.portmappings(pod_id)
    ]
    return answers.plain_json({"portMappings": rows})


@blueprint.put("/pod/<pod_id>/portmappings/<action>")
def change_portmappings(pod_id: str, action: str) -> Response:
    """Refuse what is wrong in itself, then say that it cannot be done yet."""
    if action not in {"add", "delete"}:
        raise InvalidInput("Only add or delete operation are permitted")
    engine().pods.portmappings(pod_id)
    parse_portmappings(params.body_json("the port mappings"))
    raise NotSupported("changing the port mappings of a pod is not supported yet", resolution="name them at creation")
