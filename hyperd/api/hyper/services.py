"""Load-balanced services of a pod."""

from __future__ import annotations

from flask import Response

from hyperd.api import answers, params
from hyperd.api.context import engine
from hyperd.api.hyper.pod_spec import dump_services, parse_services
from hyperd.api.hyper.routes import blueprint
from hyperd.spec.model import ServiceSpec


def _asked() -> tuple[str, tuple[ServiceSpec, ...]]:
    """Return pod and services of a request; an unknown pod is told before bad services."""
    pod_id = params.needed("podId", "podName", "pod")
    engine().pods.net.services(pod_id)
    return pod_id, parse_services(params.json_text(params.needed("services"), "services"))


@blueprint.get("/service/list")
def list_services() -> Response:
    """List the services of a pod."""
    services = engine().pods.net.services(params.needed("podId", "podName", "pod"))
    return answers.plain_json(dump_services(services))


@blueprint.post("/service/add")
def add_services() -> Response:
    """Add services to a pod."""
    engine().pods.net.add_services(*_asked())
    return _done()


@blueprint.post("/service/update")
def update_services() -> Response:
    """Replace the services of a pod."""
    engine().pods.net.update_services(*_asked())
    return _done()


@blueprint.delete("/service")
def delete_services() -> Response:
    """Take services out of a pod."""
    engine().pods.net.delete_services(*_asked())
    return _done()


def _done() -> Response:
    return answers.env({"Result": "success"})
