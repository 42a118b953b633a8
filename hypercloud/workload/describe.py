"""From a service's container to the body of ``POST /containers/create``. Pure functions."""

from __future__ import annotations

import hashlib
import posixpath
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hypercloud.errors import InvalidInput
from hypercloud.workload.model import Restart, ServiceSpec

CONTAINER = "io.hypercloud.container"  # label: the container's uuid
SERVICE = "io.hypercloud.service"
NAMESPACE = "io.hypercloud.namespace"
_RESTART = {Restart.OFF: "no", Restart.ON_FAILURE: "on-failure", Restart.ALWAYS: "always"}


def docker_name(name: str, uuid: str) -> str:
    """Return a container's name on its engine: unique, and the same whenever the step is repeated."""
    return f"{name}.{uuid[:8]}"


def network_name(namespace: str, stack: str | None) -> str:
    """Return the name of the network that a stack's containers, or those without a stack, share on an engine."""
    return f"hypercloud-{stack[:13]}" if stack else f"hypercloud-{namespace.lower()}"


def volume_name(volumes_of: str, path: str) -> str:
    """Return the name of a managed volume: it follows from its path, whatever other volumes there are."""
    digest = hashlib.sha256(posixpath.normpath("/" + path.lstrip("/")).encode()).hexdigest()
    return f"hypercloud-{volumes_of[:13]}-{digest[:8]}"


def managed_volumes(spec: ServiceSpec, volumes_of: str) -> list[tuple[str, str]]:
    """Return names and paths of a container's managed volumes."""
    return [
        (volume_name(volumes_of, one.container_path), one.container_path)
        for one in spec.bindings
        if one.container_path and not one.host_path
    ]


def words(command: str, key: str) -> list[str]:
    """Return a command's words. Errors: InvalidInput for an open quote."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InvalidInput(f"the {key} is not a command", details=f"{command[:100]}: {error}") from None


def body(
    spec: ServiceSpec,
    *,
    name: str,
    env: Mapping[str, str],
    labels: Mapping[str, str],
    volumes_of: str,
    volumes_from: Sequence[str],
    network: str,
    aliases: Sequence[str],
    links: Sequence[str],
) -> dict[str, Any]:
    """Return the description of a container.

    Args:
        spec: of its service, as it was when the container was made.
        name: ``web-1``; its host name unless the service says one.
        env: all variables, links' included.
        labels: ours, besides the service's.
        volumes_of: whose managed volumes it gets.
        volumes_from: containers on the same engine.
        network: the bridge network.
        aliases: its names there.
        links: ``container:alias`` there.

    """
    found: dict[str, Any] = {
        "Image": spec.image,
        "Hostname": spec.hostname or ("" if spec.net == "host" else name),
        "Domainname": spec.domainname,
        "User": spec.user,
        "WorkingDir": spec.working_dir,
        "Tty": spec.tty,
        "OpenStdin": spec.stdin_open,
        "Env": [f"{key}={value}" for key, value in env.items()],
        "Labels": {**spec.labels, **labels},
        "ExposedPorts": {f"{port.inner}/{port.protocol}": {} for port in spec.ports},
        "HostConfig": _host_config(spec, volumes_of, volumes_from, network),
    }
    if spec.command:
        found["Cmd"] = words(spec.command, "run_command")
    if spec.entrypoint:
        found["Entrypoint"] = words(spec.entrypoint, "entrypoint")
    if spec.mac_address:
        found["MacAddress"] = spec.mac_address
    if spec.net != "host":
        found["NetworkingConfig"] = {
            "EndpointsConfig": {network: {"Aliases": list(dict.fromkeys(aliases)), "Links": list(links) or None}}
        }
    return found


def _host_config(spec: ServiceSpec, volumes_of: str, volumes_from: Sequence[str], network: str) -> dict[str, Any]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in spec.ports:
        if port.published:
            bindings.setdefault(f"{port.inner}/{port.protocol}", []).append(
                {"HostIp": "", "HostPort": str(port.outer) if port.outer else ""}
            )
    binds = [
        f"{one.host_path}:{one.container_path}{'' if one.writable else ':ro'}" for one in spec.bindings if one.host_path
    ]
    binds += [f"{volume}:{path}" for volume, path in managed_volumes(spec, volumes_of)]
    return {
        "PortBindings": bindings,
        "Binds": binds,
        "VolumesFrom": list(volumes_from),
        "RestartPolicy": {"Name": _RESTART[spec.autorestart], "MaximumRetryCount": 0},
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "CapAdd": list(spec.cap_add),
        "CapDrop": list(spec.cap_drop),
        "Devices": [_device(one) for one in spec.devices],
        "Dns": list(spec.dns),
        "DnsSearch": list(spec.dns_search),
        "ExtraHosts": list(spec.extra_hosts),
        "SecurityOpt": list(spec.security_opt),
        "CpuShares": spec.cpu_shares,
        "CpusetCpus": spec.cpuset,
        "CgroupParent": spec.cgroup_parent,
        "Memory": spec.memory * 2**20,
        "MemorySwap": spec.memory_swap * 2**20 if spec.memory_swap > 0 else spec.memory_swap,  # -1: no limit
        "PidMode": "host" if spec.pid == "host" else "",
        "NetworkMode": "host" if spec.net == "host" else network,
    }


def _device(text: str) -> dict[str, str]:
    """``/dev/a[:/dev/b[:rwm]]`` as the API wants it."""
    host, _, rest = text.partition(":")
    inner, _, access = rest.partition(":")
    return {"PathOnHost": host, "PathInContainer": inner or host, "CgroupPermissions": access or "rwm"}
