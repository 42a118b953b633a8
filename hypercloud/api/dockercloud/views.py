"""How Docker Cloud writes stacks, services, containers, triggers and actions."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hypercloud.action.service import OPEN, OVER
from hypercloud.api.dockercloud.uris import date, uri
from hypercloud.db.models import ActionRow, ContainerRow, ServiceRow, StackRow, TriggerRow
from hypercloud.workload import links
from hypercloud.workload.model import Goal, ServiceSpec, State, decode

_WEB = {80: "http", 443: "https", 8080: "http", 8443: "https"}


@cache
def port_name(inner: int) -> str:
    """Return the name of a port's service, such as ``http``."""
    try:
        return socket.getservbyport(inner)
    except OSError:
        return str(inner)


def action(row: ActionRow) -> dict[str, Any]:
    """Return an action."""
    return {
        "action": row.name,
        "body": "",
        "can_be_canceled": row.state in OPEN[:2],
        "can_be_retried": row.state in OVER and bool(row.operation),
        "end_date": date(row.end),
        "ip": row.ip,
        "is_user_action": row.is_user,
        "location": "",
        "method": row.method,
        "object": uri(row.kind, row.object, row.namespace),
        "path": row.path,
        "resource_uri": uri("action", row.uuid),
        "start_date": date(row.start),
        "state": row.state,
        "user": row.user,
        "user_agent": row.user_agent,
        "uuid": row.uuid,
    }


def stack(row: StackRow, services: Sequence[ServiceRow], *, synchronized: bool) -> dict[str, Any]:
    """Return a stack."""
    return {
        "deployed_datetime": date(row.deployed),
        "destroyed_datetime": date(row.destroyed),
        "name": row.name,
        "nickname": row.nickname,
        "resource_uri": uri("stack", row.uuid, row.namespace),
        "services": [uri("service", one.uuid, row.namespace) for one in services],
        "state": "Not Running" if row.state == State.NOT_RUNNING else row.state,  # the document spells it so
        "synchronized": synchronized,
        "uuid": row.uuid,
    }


def host_name(name: str, uuid: str, kind: str, domain: str, stack_name: str = "") -> str:
    """Return the name that a service (``svc``, in addresses ``srv``) or a container (``cont``) is shown with."""
    middle = f".{stack_name}" if stack_name else ""
    return f"{name}{middle}.{uuid[:8]}.{kind}.{domain}"


def is_synchronized(row: ServiceRow, containers: Sequence[ContainerRow]) -> bool:
    """Say whether the containers are what the service says."""
    return all(one.revision == row.revision for one in containers)


def _common(spec: ServiceSpec) -> dict[str, Any]:
    """Return what services and containers have in common."""
    return {
        "autodestroy": str(spec.autodestroy),
        "autorestart": str(spec.autorestart),
        "cap_add": list(spec.cap_add),
        "cap_drop": list(spec.cap_drop),
        "cpu_shares": spec.cpu_shares or None,
        "cpuset": spec.cpuset or None,
        "cgroup_parent": spec.cgroup_parent or None,
        "devices": list(spec.devices),
        "dns": list(spec.dns),
        "dns_search": list(spec.dns_search),
        "domainname": spec.domainname,
        "entrypoint": spec.entrypoint,
        "extra_hosts": list(spec.extra_hosts),
        "hostname": spec.hostname,
        "image_name": spec.image,
        "labels": dict(spec.labels),
        "mac_address": spec.mac_address or None,
        "memory": spec.memory or None,
        "memory_swap": spec.memory_swap or None,
        "net": spec.net,
        "pid": spec.pid,
        "privileged": spec.privileged,
        "read_only": spec.read_only,
        "roles": list(spec.roles),
        "run_command": spec.command,
        "security_opt": list(spec.security_opt),
        "stdin_open": spec.stdin_open,
        "tty": spec.tty,
        "user": spec.user,
        "working_dir": spec.working_dir,
    }


def service(
    row: ServiceRow,
    containers: Sequence[ContainerRow],
    *,
    envvars: Mapping[str, str],
    domain: str,
    base_url: str,
    stack_name: str = "",
    linked_from: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Return a service.

    Args:
        row: the service.
        containers: its own that are not terminated.
        envvars: of the first of them.
        domain: of the names.
        base_url: of this server.
        stack_name: of its stack.
        linked_from: the services that are linked to it, and by what name.

    """
    spec = decode(row.spec)
    here = row.namespace
    me = uri("service", row.uuid, here)
    public = host_name(row.name, row.uuid, "svc", domain, stack_name)
    served = host_name(row.name, row.uuid, "srv", domain, stack_name)  # the document has another word in addresses
    return {
        **_common(spec),
        **_counted(row, containers),
        **_linked(row, spec, linked_from),
        "autoredeploy": spec.autoredeploy,
        "bindings": _service_bindings(spec, here),
        "calculated_envvars": _calculated(spec, containers, envvars),
        "container_envvars": [{"key": key, "value": value} for key, value in spec.env.items()],
        "container_ports": _service_ports(spec, served),
        "containers": [uri("container", one.uuid, here) for one in containers],
        "deployed_datetime": date(row.deployed),
        "deployment_strategy": spec.strategy,
        "destroyed_datetime": date(row.destroyed),
        "link_variables": links.variables(
            row.name,
            [_public_target(one, domain) for one in containers if one.state == State.RUNNING],
            base_url + me,
        ),
        "name": row.name,
        "nickname": row.nickname,
        "public_dns": public,
        "resource_uri": me,
        "sequential_deployment": spec.sequential,
        "stack": uri("stack", row.stack, here) if row.stack else None,
        "started_datetime": date(row.started),
        "state": row.state,
        "stopped_datetime": date(row.stopped),
        "synchronized": is_synchronized(row, containers),
        "tags": [{"name": one} for one in spec.tags],
        "uuid": row.uuid,
    }


def _counted(row: ServiceRow, containers: Sequence[ContainerRow]) -> dict[str, int]:
    """Return how many containers a service has, by state."""
    return {
        "current_num_containers": sum(one.goal != Goal.GONE for one in containers),
        "running_num_containers": sum(one.state == State.RUNNING for one in containers),
        "stopped_num_containers": sum(one.state == State.STOPPED for one in containers),
        "target_num_containers": row.target,
    }


def _linked(row: ServiceRow, spec: ServiceSpec, linked_from: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return a service's links in both directions."""
    here = row.namespace
    me = uri("service", row.uuid, here)
    return {
        "linked_from_service": [
            {"from_service": uri("service", one, here), "name": name, "to_service": me} for one, name in linked_from
        ],
        "linked_to_service": [
            {"from_service": me, "name": one.name, "to_service": uri("service", one.to, here)} for one in spec.links
        ],
    }


def container(row: ContainerRow, *, domain: str, stack_name: str = "", synchronized: bool = True) -> dict[str, Any]:
    """Return a container."""
    spec = decode(row.spec)
    here = row.namespace
    public = host_name(row.name, row.uuid, "cont", domain, stack_name)
    target = links.Target(
        uuid=row.uuid,
        name=row.name,
        endpoints=tuple(
            links.Endpoint(inner=one["inner"], protocol=one["protocol"], host=row.private_ip, port=one["inner"])
            for one in row.ports
            if row.private_ip
        ),
        env={**links.pairs(row.image_env), **spec.env},
    )
    prefix = links.variable(row.name.rpartition("-")[0] or row.name)
    return _common(spec) | {
        "bindings": _container_bindings(spec, row),
        "container_envvars": [{"key": key, "value": value} for key, value in row.envvars.items() if _shown(key)],
        "container_ports": _container_ports(row, public),
        "deployed_datetime": date(row.deployed),
        "destroyed_datetime": date(row.destroyed),
        "exit_code": row.exit_code,
        "exit_code_msg": row.exit_msg,
        "linked_to_container": [
            {
                "endpoints": one["endpoints"],
                "from_container": uri("container", one["from"], here),
                "name": one["name"],
                "to_container": uri("container", one["to"], here),
            }
            for one in row.links
        ],
        "link_variables": links.of_target(f"{prefix}_{row.number}", target) | links.of_target(prefix, target),
        "name": row.name,
        "node": uri("node", row.engine, here) if row.engine else None,
        "private_ip": row.private_ip,
        "public_dns": public,
        "resource_uri": uri("container", row.uuid, here),
        "service": uri("service", row.service, here),
        "started_datetime": date(row.started),
        "state": row.state,
        "stopped_datetime": date(row.stopped),
        "synchronized": synchronized,
        "uuid": row.uuid,
    }


def trigger(row: TriggerRow, namespace: str) -> dict[str, Any]:
    """Return a trigger."""
    me = f"{uri('service', row.service, namespace)}trigger/{row.uuid}/"
    return {
        "url": f"{me}call/",
        "operation": row.operation,
        "name": row.name,
        "resource_uri": me,
        "uuid": row.uuid,
    }


def _shown(key: str) -> bool:
    return key != "DOCKERCLOUD_AUTH"  # a token with all rights is for the container alone


def _public_target(row: ContainerRow, domain: str) -> links.Target:
    host = host_name(row.name, row.uuid, "cont", domain)
    return links.Target(
        uuid=row.uuid,
        name=row.name,
        endpoints=tuple(
            links.Endpoint(inner=one["inner"], protocol=one["protocol"], host=host, port=one["outer"])
            for one in row.ports
            if one["outer"]
        ),
        env={**links.pairs(row.image_env), **row.spec.get("env", {})},  # decoding it all takes too long in lists
    )


def _calculated(
    spec: ServiceSpec, containers: Sequence[ContainerRow], envvars: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return all variables with where each is from."""
    found: dict[str, tuple[str, str]] = {}
    for one in containers[:1]:
        found |= {key: (value, "image") for key, value in links.pairs(one.image_env).items()}
        found |= {key: (value, "tutum") for key, value in envvars.items() if _shown(key)}
    found |= {key: (value, "user") for key, value in spec.env.items()}
    return [{"key": key, "value": value, "origin": origin} for key, (value, origin) in found.items()]


def _endpoint(host: str, inner: int, outer: int) -> str | None:
    return f"{_WEB.get(inner, 'tcp')}://{host}:{outer}/" if outer else None


def _service_bindings(spec: ServiceSpec, here: str) -> list[dict[str, Any]]:
    return [
        {
            "host_path": one.host_path or None,
            "container_path": one.container_path or None,
            "rewritable": one.writable,
            "volumes_from": uri("service", one.volumes_from, here) if one.volumes_from else None,
        }
        for one in spec.bindings
    ]


def _service_ports(spec: ServiceSpec, served: str) -> list[dict[str, Any]]:
    return [
        {
            "endpoint_uri": _endpoint(served, one.inner, one.outer) if one.published else None,
            "inner_port": one.inner,
            "outer_port": one.outer or None,
            "port_name": port_name(one.inner),
            "protocol": one.protocol,
            "published": one.published,
        }
        for one in spec.ports
    ]


def _container_bindings(spec: ServiceSpec, row: ContainerRow) -> list[dict[str, Any]]:
    return [
        {
            "volume": None
            if one.host_path or one.volumes_from
            else f"/api/infra/v1/{row.namespace}/volume/{row.volumes_of}/",
            "host_path": one.host_path or None,
            "container_path": one.container_path or None,
            "rewritable": one.writable,
        }
        for one in spec.bindings
    ]


def _container_ports(row: ContainerRow, public: str) -> list[dict[str, Any]]:
    return [
        {
            "endpoint_uri": _endpoint(public, one["inner"], one["outer"]) if one["published"] else None,
            "inner_port": one["inner"],
            "outer_port": one["outer"] or None,
            "port_name": port_name(one["inner"]),
            "protocol": one["protocol"],
            "published": one["published"],
            "uri_protocol": _WEB.get(one["inner"], one["protocol"]),
        }
        for one in row.ports
    ]
