"""What Docker Cloud's routes read and answer, as a table for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable

from hypercloud.api.describe import (
    COUNT,
    FLAG,
    JSON,
    TEXT,
    TEXTS,
    WHOLE,
    Dialect,
    Operation,
    Schema,
    many,
    maybe,
    q,
    ref,
    said,
    thing,
)
from hypercloud.api.dockercloud import apps, audit, containers, stacks, streams
from hypercloud.api.dockercloud.infra import ClusterSchema, NodeSchema
from hypercloud.api.dockercloud.repo import CredentialsSchema, RepositorySchema
from hypercloud.api.dockercloud.schemas import ServiceSchema
from hypercloud.api.dockercloud.stacks import StackSchema, StackUpdateSchema
from hypercloud.api.dockercloud.triggers import TriggerSchema

DESCRIPTION = (
    "The API of Docker Cloud. Paths of nodes, node clusters, registries, repositories, stacks, services, containers, "
    "triggers and events are also there with a namespace before the resource, such as /api/app/v1/exampleorg/service/; "
    "without one it is the caller's own. What takes time answers 202; what changes something names its action in the "
    "header X-DockerCloud-Action-URI. Unknown keys of JSON objects that are read are left out; services may have the "
    "keys of a stack file as well. Secure streams are websockets at the same paths."
)
DATE = said(maybe(TEXT), "such as Mon, 13 Oct 2014 11:01:43 +0000")
URI = said(TEXT, "the address of an object")
_TAGS = many(thing(name=TEXT))
_PAIRS = many(thing(key=TEXT, value=TEXT))
_META = thing(limit=COUNT, next=maybe(TEXT), offset=COUNT, previous=maybe(TEXT), total_count=COUNT)
_STATE = said(
    TEXT,
    "Not running, Starting, Running, Partly running, Scaling, Redeploying, Stopping, Stopped, Terminating, Terminated",
)
_SHARED: dict[str, Schema] = {
    "autodestroy": {"enum": ["OFF", "ON_SUCCESS", "ALWAYS"]},
    "autorestart": {"enum": ["OFF", "ON_FAILURE", "ALWAYS"]},
    **dict.fromkeys(
        ("cap_add", "cap_drop", "devices", "dns", "dns_search", "extra_hosts", "roles", "security_opt"), many(TEXT)
    ),
    **dict.fromkeys(("cpu_shares", "memory", "memory_swap"), maybe(WHOLE)),
    **dict.fromkeys(("cpuset", "cgroup_parent", "mac_address"), maybe(TEXT)),
    **dict.fromkeys(
        ("domainname", "entrypoint", "hostname", "image_name", "net", "pid", "run_command", "user", "working_dir"), TEXT
    ),
    **dict.fromkeys(("privileged", "read_only", "stdin_open", "tty"), FLAG),
    "labels": TEXTS,
}
_PORT: dict[str, Schema] = {
    "endpoint_uri": maybe(TEXT),
    "inner_port": COUNT,
    "outer_port": maybe(COUNT),
    "port_name": TEXT,
    "protocol": {"enum": ["tcp", "udp"]},
    "published": FLAG,
}
_BINDING: dict[str, Schema] = {"host_path": maybe(TEXT), "container_path": maybe(TEXT), "rewritable": FLAG}
_DATED = ("deployed_datetime", "destroyed_datetime", "started_datetime", "stopped_datetime")
_LINKED = many(thing(from_service=URI, name=TEXT, to_service=URI))
_OBJECT: dict[str, Schema] = {"resource_uri": URI, "uuid": TEXT}
_PLACE: dict[str, Schema] = {"available": FLAG, "name": TEXT, "resource_uri": URI}
OBJECTS: dict[str, Schema] = {
    "Action": thing(
        **dict.fromkeys(("action", "body", "ip", "location", "method", "path", "state", "user", "user_agent"), TEXT),
        **dict.fromkeys(("can_be_canceled", "can_be_retried", "is_user_action"), FLAG),
        start_date=DATE,
        end_date=DATE,
        object=URI,
        **_OBJECT,
    ),
    "Provider": thing(label=TEXT, regions=many(URI), **_PLACE),
    "Region": thing(availability_zones=many(URI), label=TEXT, node_types=many(URI), provider=URI, **_PLACE),
    "Zone": thing(region=URI, **_PLACE),
    "NodeType": thing(availability_zones=many(URI), label=TEXT, provider=URI, regions=many(URI), **_PLACE),
    "NodeCluster": said({"type": "object"}, "there are none"),
    "Node": thing(
        **dict.fromkeys(
            (
                "availability_zone",
                "docker_execdriver",
                "docker_graphdriver",
                "docker_version",
                "node_cluster",
                "public_ip",
                "tunnel",
            ),
            maybe(TEXT),
        ),
        cpu={"type": "number"},
        current_num_containers=COUNT,
        deployed_datetime=DATE,
        destroyed_datetime=DATE,
        disk=maybe(WHOLE),
        external_fqdn=TEXT,
        last_seen=DATE,
        memory=said(COUNT, "MiB"),
        nickname=TEXT,
        node_type=URI,
        region=URI,
        state={"enum": ["Deploying", "Deployed", "Unreachable"]},
        tags=_TAGS,
        **_OBJECT,
    ),
    "Registry": thing(host=TEXT, is_docker_registry=FLAG, is_ssl=FLAG, name=TEXT, port=COUNT, resource_uri=URI),
    "Repository": thing(in_use=FLAG, name=TEXT, registry=URI, resource_uri=URI),
    "Stack": thing(
        deployed_datetime=DATE,
        destroyed_datetime=DATE,
        name=TEXT,
        nickname=TEXT,
        services=many(URI),
        state=_STATE,
        synchronized=FLAG,
        **_OBJECT,
    ),
    "Service": thing(
        **_SHARED,
        **dict.fromkeys(
            ("current_num_containers", "running_num_containers", "stopped_num_containers", "target_num_containers"),
            COUNT,
        ),
        **dict.fromkeys(_DATED, DATE),
        **dict.fromkeys(("autoredeploy", "sequential_deployment", "synchronized"), FLAG),
        **dict.fromkeys(("name", "nickname", "public_dns"), TEXT),
        linked_from_service=_LINKED,
        linked_to_service=_LINKED,
        bindings=many(thing(**_BINDING, volumes_from=maybe(URI))),
        calculated_envvars=many(thing(key=TEXT, value=TEXT, origin={"enum": ["image", "tutum", "user"]})),
        container_envvars=_PAIRS,
        container_ports=many(thing(**_PORT)),
        containers=many(URI),
        deployment_strategy={"enum": ["EMPTIEST_NODE", "HIGH_AVAILABILITY", "EVERY_NODE"]},
        link_variables=TEXTS,
        stack=maybe(URI),
        state=_STATE,
        tags=_TAGS,
        **_OBJECT,
    ),
    "Container": thing(
        **_SHARED,
        **dict.fromkeys(_DATED, DATE),
        **dict.fromkeys(("name", "public_dns"), TEXT),
        bindings=many(thing(**_BINDING, volume=maybe(URI))),
        container_envvars=_PAIRS,
        container_ports=many(thing(**_PORT, uri_protocol=TEXT)),
        exit_code=maybe(WHOLE),
        exit_code_msg=maybe(TEXT),
        linked_to_container=many(thing(endpoints=TEXTS, from_container=URI, name=TEXT, to_container=URI)),
        link_variables=TEXTS,
        node=maybe(URI),
        private_ip=maybe(TEXT),
        service=URI,
        state=_STATE,
        synchronized=FLAG,
        **_OBJECT,
    ),
    "Trigger": thing(url=TEXT, operation={"enum": ["REDEPLOY", "SCALEUP"]}, name=TEXT, **_OBJECT),
}
ANSWERS: dict[str, Schema] = {
    **OBJECTS,
    **{f"{name}List": thing(meta=ref("Meta"), objects=many(ref(name))) for name in OBJECTS},
    "Meta": _META,
    "Error": thing(error=TEXT),
    "Identity": thing(username=TEXT, namespaces=many(TEXT)),
    "StackFile": said({"type": "object", "additionalProperties": {"type": "object"}}, "services by their names"),
    "Called": thing(name=TEXT, state=_STATE, **_OBJECT),
}
PAGE = (q("limit", "how many; 25 if not given, 0 = as many as there may be", COUNT), q("offset", "of the first", COUNT))
_REUSE = q("reuse_volumes", "containers get the volumes of those that they replace; true if not given", FLAG)
_TAIL = (q("tail", "lines of the past; 300 if not given", COUNT), q("follow", "true if not given", FLAG))
_EVENTS = (
    q("type", "only these", {"enum": list(streams.KINDS)}),
    q("object", "only of the object with this address"),
    q("parent", "only of what belongs to it"),
    q("parents", "the same, several separated by commas"),
)
_CHANGE = (404, 409)
_ONE = (404, 405, 409)  # of one container, or one node: not all back ends do it


def _list(kind: str, tag: str, filters: Iterable[str]) -> Operation:
    """Return what all lists have in common."""
    return Operation(tag=tag, query=[*PAGE, *(q(name) for name in filters)], schema=ref(f"{kind}List"))


def _one(kind: str, tag: str, note: str = "") -> Operation:
    """Return what showing an object has in common."""
    return Operation(tag=tag, schema=ref(kind), errors=[404], note=note)


def _kind(
    path: str, kind: str, tag: str, filters: Iterable[str], *, body: str, update: str, verbs: Iterable[str]
) -> dict[str, Operation]:
    """Return the operations of stacks, services or containers; those without a body cannot be made or changed."""
    shown = ref(kind)
    errors = _CHANGE if body else _ONE
    found = {
        f"GET {path}": _list(kind, tag, filters),
        f"GET {path}{{uuid}}/": _one(kind, tag),
        f"DELETE {path}{{uuid}}/": Operation(tag=tag, status=202, schema=shown, errors=errors),
    }
    if body:
        found[f"POST {path}"] = Operation(tag=tag, body=body, status=201, schema=shown, errors=_CHANGE)
        found[f"PATCH {path}{{uuid}}/"] = Operation(tag=tag, body=update, schema=shown, errors=_CHANGE)
    for verb in verbs:
        query = [_REUSE] if verb == "redeploy" else []
        found[f"POST {path}{{uuid}}/{verb}/"] = Operation(tag=tag, query=query, status=202, schema=shown, errors=errors)
    return found


def _infra() -> dict[str, Operation]:
    """Return the operations of providers, regions, zones, node types, node clusters and nodes."""
    base = "/api/infra/v1/"
    none = Operation(tag="node clusters", status=0, errors=[404], note="there are none")
    return {
        f"GET {base}provider/": _list("Provider", "providers", ["name"]),
        f"GET {base}provider/{{name}}/": _one("Provider", "providers"),
        f"GET {base}region/": _list("Region", "regions", ["name", "provider"]),
        f"GET {base}region/{{owner}}/{{name}}/": _one("Region", "regions"),
        f"GET {base}az/": _list("Zone", "availability zones", ["name", "region"]),
        f"GET {base}az/{{owner}}/{{place}}/{{name}}/": _one("Zone", "availability zones", "there are none"),
        f"GET {base}nodetype/": _list("NodeType", "node types", ["name", "regions", "availability_zones"]),
        f"GET {base}nodetype/{{owner}}/{{name}}/": _one("NodeType", "node types"),
        f"GET {base}nodecluster/": _list("NodeCluster", "node clusters", []),
        f"POST {base}nodecluster/": Operation(
            tag="node clusters", body="ClusterSpec", status=0, errors=[405], note="no machines are made here"
        ),
        f"GET {base}nodecluster/{{uuid}}/": none,
        f"PATCH {base}nodecluster/{{uuid}}/": none,
        f"DELETE {base}nodecluster/{{uuid}}/": none,
        f"POST {base}nodecluster/{{uuid}}/deploy/": none,
        f"GET {base}node/": _list(
            "Node", "nodes", ["uuid", "uuid__startswith", "nickname", "state", "node_type", "region", "docker_version"]
        ),
        f"GET {base}node/{{uuid}}/": _one("Node", "nodes"),
        f"PATCH {base}node/{{uuid}}/": Operation(tag="nodes", body="NodeSpec", schema=ref("Node"), errors=_ONE),
        f"DELETE {base}node/{{uuid}}/": Operation(tag="nodes", status=202, schema=ref("Node"), errors=_ONE),
        f"POST {base}token/": Operation(tag="nodes", status=0, errors=[405], note="nodes have no agent"),
        f"POST {base}node/{{uuid}}/deploy/": Operation(
            tag="nodes", status=0, errors=[404, 405], note="a node is an engine that runs already"
        ),
        f"POST {base}node/{{uuid}}/docker-upgrade/": Operation(
            tag="nodes", status=0, errors=[404, 405, 409], note="engines are upgraded on their hosts"
        ),
        f"POST {base}node/{{uuid}}/health-check/": Operation(
            tag="nodes", status=202, schema=ref("Node"), errors=_CHANGE
        ),
    }


def _repo() -> dict[str, Operation]:
    """Return the operations of registries and repositories."""
    base = "/api/repo/v1/"
    one = f"{base}repository/{{name}}/"
    registry = _one("Registry", "registries")
    return {
        f"GET {base}registry/": _list("Registry", "registries", ["name", "host", "is_docker_registry"]),
        f"GET {base}registry/{{host}}/": registry,
        "GET /api/v1/registry/{host}/": registry,
        f"GET {base}repository/": _list("Repository", "repositories", ["name", "registry"]),
        f"POST {base}repository/": Operation(
            tag="repositories", body="RepositorySpec", status=201, schema=ref("Repository"), errors=[409]
        ),
        f"GET {one}": _one("Repository", "repositories", "the name may have slashes"),
        f"PATCH {one}": Operation(tag="repositories", body="CredentialsSpec", schema=ref("Repository"), errors=[404]),
        f"DELETE {one}": Operation(tag="repositories", status=204, errors=[404]),
    }


def _audit() -> dict[str, Operation]:
    """Return the operations of actions, and the streams."""
    base = "/api/audit/v1/"
    change = Operation(tag="actions", status=202, schema=ref("Action"), errors=_CHANGE)
    events = Operation(tag="streams", query=_EVENTS)
    logs = Operation(tag="streams", query=_TAIL)
    return {
        f"GET {base}action/": _list("Action", "actions", [*audit.FILTERS, "object", "include_related"]),
        f"GET {base}action/{{uuid}}/": _one("Action", "actions"),
        f"POST {base}action/{{uuid}}/cancel/": change,
        f"POST {base}action/{{uuid}}/retry/": change,
        "GET /auth/": Operation(tag="actions", schema=ref("Identity")),
        f"GET {base}action/{{uuid}}/logs/": logs,
        "GET /api/app/v1/service/{uuid}/logs/": logs,
        "GET /api/app/v1/container/{uuid}/logs/": Operation(
            tag="streams", query=[*_TAIL, q("service", "the container must be of this one")]
        ),
        "GET /api/app/v1/container/{uuid}/exec/": Operation(
            tag="streams", query=[q("command", "a shell if not given")], note="what the client sends is its input"
        ),
        f"GET {base}events/": events,
        "GET /v1/events/": events,
        "GET /events/": events,
    }


def _triggers() -> dict[str, Operation]:
    """Return the operations of triggers."""
    base = "/api/app/v1/service/{uuid}/trigger/"
    called = Operation(tag="triggers", status=202, schema=ref("Called"), errors=_CHANGE, public=True)
    return {
        f"GET {base}": Operation(
            tag="triggers", query=[*PAGE, q("name"), q("operation")], schema=ref("TriggerList"), errors=[404]
        ),
        f"POST {base}": Operation(
            tag="triggers", body="TriggerSpec", body_needed=False, status=201, schema=ref("Trigger"), errors=_CHANGE
        ),
        f"GET {base}{{trigger}}/": _one("Trigger", "triggers"),
        f"DELETE {base}{{trigger}}/": Operation(tag="triggers", status=204, errors=[404]),
        f"POST {base}{{trigger}}/call/": called,
        f"POST {base}{{trigger}}/call/{{number}}/": called,
    }


_APP = "/api/app/v1/"
OPERATIONS: dict[str, Operation] = {
    **_audit(),
    **_infra(),
    **_repo(),
    **_kind(
        f"{_APP}stack/", "Stack", "stacks", stacks.FILTERS, body="StackSpec", update="StackUpdateSpec",
        verbs=("start", "stop", "redeploy"),
    ),
    f"GET {_APP}stack/{{uuid}}/export/": Operation(tag="stacks", schema=ref("StackFile"), errors=[404]),
    **_kind(
        f"{_APP}service/", "Service", "services", apps.FILTERS, body="ServiceSpec", update="ServiceSpec",
        verbs=("start", "stop", "scale", "redeploy"),
    ),
    **_kind(
        f"{_APP}container/", "Container", "containers", containers.FILTERS, body="", update="",
        verbs=("start", "stop", "redeploy"),
    ),
    **_triggers(),
    "GET /openapi/dockercloud.json": Operation(tag="server", schema={"type": "object"}, public=True),
}  # fmt: skip
DIALECT = Dialect(
    name="dockercloud",
    title="hypercloud: Docker Cloud's API",
    description=DESCRIPTION,
    operations=OPERATIONS,
    read=(
        ClusterSchema,
        NodeSchema,
        CredentialsSchema,
        RepositorySchema,
        StackSchema,
        StackUpdateSchema,
        ServiceSchema,
        TriggerSchema,
    ),
    answers=ANSWERS,
    common=(400, 401, 403, 404, 415, 429, 500, 503),
    error=(JSON, ref("Error")),
    security={"basic": {"type": "http", "scheme": "basic", "description": "a name and an API key, or the password"}},
)
