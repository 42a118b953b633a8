"""Networks: made, listed, removed."""

from __future__ import annotations

from flask import Response

from hyperd.api import answers, params
from hyperd.api.context import engine
from hyperd.api.hyper.network_schema import network_object, parse_connect, parse_network
from hyperd.api.hyper.routes import blueprint


@blueprint.get("/network/list")
def list_networks() -> Response:
    """List the networks."""
    return answers.plain_json([network_object(network) for network in engine().networks.all()])


@blueprint.get("/network/info")
def show_network() -> Response:
    """Show a network and the pods that are on it."""
    return answers.plain_json(network_object(engine().networks.get(_name())))


@blueprint.post("/network/create")
def create_network() -> Response:
    """Make a network."""
    made = engine().networks.create(parse_network(params.body_json("the network")))
    return answers.plain_json(network_object(made), 201)


@blueprint.delete("/network")
def remove_network() -> Response:
    """Remove a network that no pod is on."""
    return answers.code(engine().networks.remove(_name()).id)


@blueprint.post("/network/prune")
def prune_networks() -> Response:
    """Remove all networks that no pod is on."""
    return answers.plain_json([network.name for network in engine().networks.prune()])


@blueprint.post("/network/connect")
def connect_pod() -> Response:
    """Put a pod on a network."""
    pod, attachment = parse_connect(params.body_json("the connection"))
    engine().pods.net.attachments.connect(pod, attachment)
    return answers.code(pod)


@blueprint.post("/network/disconnect")
def disconnect_pod() -> Response:
    """Take a pod off a network."""
    pod, attachment = parse_connect(params.body_json("the connection"))
    engine().pods.net.attachments.disconnect(pod, attachment.network)
    return answers.code(pod)


def _name() -> str:
    return params.needed("network")
