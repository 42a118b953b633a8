"""Containers, the cluster's sums, and events."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from hypercloud import __version__
from hypercloud.api.bodies import json_object, load, number, truth
from hypercloud.api.context import cloud, identity
from hypercloud.api.shipyard import views
from hypercloud.api.shipyard.blueprint import nothing, text
from hypercloud.api.shipyard.schemas import ImageSchema, image_of
from hypercloud.event.journal import LIMIT
from hypercloud.fleet.service import LARGEST, check_host_access


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    add = blueprint.add_url_rule
    add("/api/containers", view_func=containers, methods=["GET"])
    add("/api/containers", view_func=deploy, methods=["POST"])
    add("/api/containers/<prefix>", view_func=container, methods=["GET"])
    add("/api/containers/<prefix>", view_func=remove, methods=["DELETE"])
    add("/api/containers/<prefix>/stop", view_func=stop, methods=["GET"])
    add("/api/containers/<prefix>/restart", view_func=restart, methods=["GET"])
    add("/api/containers/<prefix>/scale", view_func=scale, methods=["GET"])
    add("/api/containers/<prefix>/logs", view_func=logs, methods=["GET"])
    add("/api/cluster/info", view_func=info, methods=["GET"])
    add("/api/events", view_func=events, methods=["GET"])
    add("/api/events", view_func=purge, methods=["DELETE"])


def _string_state() -> bool:
    agent = request.headers.get("User-Agent", "").lower()
    return any(name in agent for name in views.STRING_STATES)


def containers() -> Response:
    """List all containers, stopped ones included."""
    strings = _string_state()
    return jsonify([views.container(one, string_state=strings) for one in cloud().fleet.containers()])


def deploy() -> tuple[Response, int]:
    """Run containers."""
    image = image_of(load(ImageSchema(), json_object()))
    if not identity().is_admin and not cloud().config.engines.user_host_access:
        check_host_access(image)
    count = number("count", default=1, least=1, most=LARGEST)
    made = cloud().fleet.deploy(image, count=count, pull=truth("pull"))
    return jsonify([views.container(one, string_state=_string_state()) for one in made]), 201


def container(prefix: str) -> Response:
    """Show a container."""
    return jsonify(views.container(cloud().fleet.container(prefix), string_state=_string_state()))


def remove(prefix: str) -> Response:
    """Kill and remove a container."""
    cloud().fleet.remove(prefix)
    return nothing()


def stop(prefix: str) -> Response:
    """Stop a container."""
    cloud().fleet.stop(prefix)
    return nothing()


def restart(prefix: str) -> Response:
    """Restart a container."""
    cloud().fleet.restart(prefix)
    return nothing()


def scale(prefix: str) -> Response:
    """Have so many containers like this one."""
    if not request.args.get("count"):
        return text("you must specify a count", 400)
    cloud().fleet.scale(prefix, number("count", default=1, least=0, most=LARGEST))
    return nothing()


def logs(prefix: str) -> Response:
    """Return what a container has written."""
    return Response(cloud().fleet.logs(prefix), mimetype="text/plain")


def info() -> Response:
    """Return the sums over all engines."""
    return jsonify(views.cluster(cloud().fleet.info(), __version__))


def events() -> Response:
    """List events, newest first."""
    engines = {one.spec.name: one for one in cloud().engines.engines()}
    found = cloud().journal.latest(number("limit", default=LIMIT, least=0, most=LIMIT) or LIMIT)
    return jsonify([views.event(one, engines) for one in found])


def purge() -> Response:
    """Remove all events."""
    cloud().journal.purge()
    return nothing()
