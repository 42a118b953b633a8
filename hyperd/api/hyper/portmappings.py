"""Published ports of a pod."""

from __future__ import annotations

from flask import Response

from hyperd.api import answers, params
from hyperd.api.context import engine
from hyperd.api.hyper.pod_spec import parse_portmappings
from hyperd.api.hyper.routes import blueprint
from hyperd.errors import InvalidInput


@blueprint.get("/pod/<pod_id>/portmappings")
def list_portmappings(pod_id: str) -> Response:
    """List the mappings of a pod."""
    rows = [
        {
            "containerPort": port.container_port,
            "hostPort": port.host_port,
            "protocol": port.protocol,
            **({"hostIP": port.host_ip} if port.host_ip else {}),
        }
        for port in engine().pods.net.portmappings(pod_id)
    ]
    return answers.plain_json({"portMappings": rows})


@blueprint.put("/pod/<pod_id>/portmappings/<action>")
def change_portmappings(pod_id: str, action: str) -> Response:
    """Publish more ports of a running pod, or take published ones back."""
    if action not in {"add", "delete"}:
        raise InvalidInput("Only add or delete operation are permitted")
    network = engine().pods.net
    network.portmappings(pod_id)  # an unknown pod is told before a bad body
    rules = parse_portmappings(params.body_json("the port mappings"))
    if action == "add":
        network.add_ports(pod_id, rules)
    else:
        network.delete_ports(pod_id, rules)
    return answers.empty()
