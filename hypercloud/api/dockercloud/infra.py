"""Providers, regions, node types, node clusters and nodes.

There is one provider, "byo" (bring your own): nodes are engines that somebody registers. No machines are made here, so
a node cluster cannot be; the answers say so.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response
from marshmallow import fields, validate

from hypercloud.action.service import Request
from hypercloud.api.bodies import json_object, load
from hypercloud.api.context import cloud
from hypercloud.api.dockercloud import lists
from hypercloud.api.dockercloud.blueprint import acting, admin_only, answer, caller, namespace, route
from hypercloud.api.dockercloud.schemas import Loose, tag_name
from hypercloud.api.dockercloud.uris import NODETYPE, PROVIDER, REGION, date, last_part, uri
from hypercloud.engine.model import Engine, Health
from hypercloud.engine.service import capacity
from hypercloud.errors import Conflict, InvalidInput, NotFound, NotSupported
from hypercloud.workload.lookup import host_of
from hypercloud.workload.watch import NODE_STATES

REGION_URI = uri("region", f"{PROVIDER}/{REGION}")
NODETYPE_URI = uri("nodetype", f"{PROVIDER}/{NODETYPE}")


class NodeSchema(Loose):
    """What can be changed of a node."""

    nickname = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=255))
    tags = fields.List(fields.Raw(), load_default=None, allow_none=True, validate=validate.Length(max=500))


class ClusterSchema(Loose):
    """A node cluster that somebody wants."""

    name = fields.String(required=True, validate=validate.Length(1, 255))
    node_type = fields.String(required=True)
    region = fields.String(required=True)


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes; providers and the like have no namespace in their addresses."""
    base = "/api/infra/v1/"
    for path, view in (
        ("provider/", providers),
        ("provider/<name>/", provider),
        ("region/", regions),
        ("region/<owner>/<name>/", region),
        ("az/", zones),
        ("az/<owner>/<place>/<name>/", zone),
        ("nodetype/", node_types),
        ("nodetype/<owner>/<name>/", node_type),
    ):
        blueprint.add_url_rule(base + path, view_func=view, methods=["GET"])
    route(blueprint, "infra nodecluster/", clusters, "GET")
    route(blueprint, "infra nodecluster/", create_cluster, "POST")
    for method in ("GET", "PATCH", "DELETE"):
        route(blueprint, "infra nodecluster/<uuid>/", no_cluster, method)
    route(blueprint, "infra nodecluster/<uuid>/deploy/", no_cluster, "POST")
    route(blueprint, "infra node/", nodes, "GET")
    route(blueprint, "infra node/<uuid>/", node, "GET")
    route(blueprint, "infra node/<uuid>/", update, "PATCH")
    route(blueprint, "infra node/<uuid>/", terminate, "DELETE")
    route(blueprint, "infra token/", token, "POST")
    route(blueprint, "infra node/<uuid>/deploy/", deploy, "POST")
    route(blueprint, "infra node/<uuid>/docker-upgrade/", upgrade, "POST")
    route(blueprint, "infra node/<uuid>/health-check/", health_check, "POST")


def _provider() -> dict[str, Any]:
    return {
        "available": True,
        "label": "Bring your own node",
        "name": PROVIDER,
        "regions": [REGION_URI],
        "resource_uri": uri("provider", PROVIDER),
    }


def _region() -> dict[str, Any]:
    return {
        "availability_zones": [],
        "available": True,
        "label": "Registered engines",
        "name": REGION,
        "node_types": [NODETYPE_URI],
        "provider": uri("provider", PROVIDER),
        "resource_uri": REGION_URI,
    }


def _node_type() -> dict[str, Any]:
    return {
        "availability_zones": [],
        "available": True,
        "label": "A host as it is",
        "name": NODETYPE,
        "provider": uri("provider", PROVIDER),
        "regions": [REGION_URI],
        "resource_uri": NODETYPE_URI,
    }


def _filtered(objects: list[dict[str, Any]]) -> Response:
    return lists.page([one for one in objects if lists.matches(one)], lambda one: one)


def _only(found: dict[str, Any], kind: str, *keys: tuple[str, str]) -> Response:
    if any(given != real for given, real in keys):
        given = "/".join(one for one, _ in keys)
        raise NotFound(
            f"the {kind} does not exist", details=given[:200], resolution=f"there is {found['resource_uri']}"
        )
    return answer(found)


def providers() -> Response:
    """List providers."""
    return _filtered([_provider()])


def provider(name: str) -> Response:
    """Show a provider."""
    return _only(_provider(), "provider", (name, PROVIDER))


def regions() -> Response:
    """List regions."""
    return _filtered([_region()])


def region(owner: str, name: str) -> Response:
    """Show a region."""
    return _only(_region(), "region", (owner, PROVIDER), (name, REGION))


def zones() -> Response:
    """List availability zones: there are none."""
    return _filtered([])


def zone(owner: str, place: str, name: str) -> Response:
    """Show an availability zone: there are none."""
    raise NotFound("the availability zone does not exist", details=f"{owner}/{place}/{name}"[:200])


def node_types() -> Response:
    """List node types."""
    return _filtered([_node_type()])


def node_type(owner: str, name: str) -> Response:
    """Show a node type."""
    return _only(_node_type(), "node type", (owner, PROVIDER), (name, NODETYPE))


def clusters() -> Response:
    """List node clusters: there are none."""
    return _filtered([])


def create_cluster() -> Response:
    """Say why a node cluster cannot be made."""
    data = load(ClusterSchema(), json_object())
    for key, real in (("region", REGION_URI), ("node_type", NODETYPE_URI)):
        if data[key] != real:
            raise InvalidInput(f"the {key} does not exist", details=data[key][:200], resolution=f"there is {real}")
    raise NotSupported(
        "node clusters cannot be made",
        details="no cloud provider is configured",
        resolution="register engines: POST /api/engines",
    )


def no_cluster(uuid: str) -> Response:
    """Say that a node cluster does not exist."""
    raise NotFound("the node cluster does not exist", details=uuid[:100])


def view(one: Engine) -> dict[str, Any]:
    """Return an engine as a node."""
    spec, facts = one.spec, one.facts
    cpus, memory = capacity(one)
    name = f"{spec.id[:8]}.node.{cloud().config.domain}"
    running = sum(found.engine == spec.id and found.running for found in cloud().engines.containers())
    return {
        "availability_zone": None,
        "cpu": int(cpus) if cpus == int(cpus) else cpus,
        "current_num_containers": running,
        "deployed_datetime": date(spec.created),
        "destroyed_datetime": None,
        "disk": None,
        "docker_execdriver": facts.runtime or None,
        "docker_graphdriver": facts.storage_driver or None,
        "docker_version": facts.version or None,
        "external_fqdn": name,
        "last_seen": date(facts.last_seen),
        "memory": int(memory),
        "nickname": spec.nickname or spec.name,
        "node_cluster": None,
        "node_type": NODETYPE_URI,
        "public_ip": host_of(one) or None,
        "region": REGION_URI,
        "resource_uri": uri("node", spec.id, namespace()),
        "state": NODE_STATES[facts.health],
        "tags": [{"name": label} for label in spec.labels],
        "tunnel": None,
        "uuid": spec.id,
    }


def nodes() -> Response:
    """List nodes: the registered engines; they are there for every namespace."""
    return _filtered([view(one) for one in cloud().engines.engines()])


def node(uuid: str) -> Response:
    """Show a node."""
    return answer(view(cloud().engines.engine(uuid)))


def update(uuid: str) -> Response:
    """Give a node another nickname or other tags."""
    admin_only()
    acting("node", "Node Update")
    data = load(NodeSchema(), json_object())
    labels = None if data["tags"] is None else [tag_name(one) for one in data["tags"]]
    found = cloud().engines.update(uuid, nickname=data["nickname"], labels=labels)
    return answer(view(found), cloud().actions.record(caller(), Request(name="Node Update", kind="node", object=uuid)))


def terminate(uuid: str) -> Response:
    """Take a node off: its services' containers are removed, the engine itself runs on."""
    admin_only()
    return _operate(uuid, "terminate")


def health_check(uuid: str) -> Response:
    """Ask a node whether it answers."""
    return _operate(uuid, "health-check")


def token() -> Response:
    """Say why there is no token for a node's agent (``docker-cloud node byo``)."""
    raise NotSupported(
        "nodes have no agent that would register them",
        details="an engine is registered by its address",
        resolution="POST /api/engines, or the page under Engines",
    )


def deploy(uuid: str) -> Response:
    """Say why a node is not deployed: it is a host as it is."""
    cloud().engines.engine(last_part(uuid))
    raise NotSupported("nodes are not deployed", details="a node is an engine that runs already")


def upgrade(uuid: str) -> Response:
    """Say why a node's engine is not upgraded."""
    admin_only()
    acting("node", "Node Upgrade")
    found = cloud().engines.engine(last_part(uuid))
    if found.facts.health is Health.DOWN:
        raise Conflict("the node does not answer", details=found.facts.error)
    raise NotSupported(
        "the engine of a node cannot be upgraded from here",
        details=f"{found.spec.name} runs version {found.facts.version}",
        resolution="upgrade it with its host's package manager",
    )


def _operate(uuid: str, operation: str) -> Response:
    acting("node", f"Node {operation.capitalize()}")
    found = cloud().engines.engine(uuid)
    cloud().carrier.check_node(operation)
    action = cloud().actions.record(
        caller(),
        Request(
            name=f"Node {operation.capitalize()}", kind="node", object=found.spec.id, operation=f"node.{operation}"
        ),
    )
    cloud().reconciler.wake()
    return answer(view(found), action, 202)
