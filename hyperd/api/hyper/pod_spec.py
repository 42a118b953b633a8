"""The pod specification: read from JSON, checked, written back.

Format: hyperd's ``UserPod`` JSON. ``parse_*`` take what ``json.loads`` gave and raise InvalidInput, whose text begins
with the path of the offending field or is the original daemon's message; ``dump_*`` give JSON-able objects with the
wire's names, and ``parse_pod(dump_pod(spec)) == spec``.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from marshmallow import ValidationError

from hyperd.api.hyper.pod_checks import Verbatim
from hyperd.api.hyper.pod_schema import (
    ContainerSchema,
    ContainerUpdateSchema,
    PodSchema,
    PortSchema,
    ServiceSchema,
    Wire,
)
from hyperd.container.model import ContainerUpdate
from hyperd.errors import InvalidInput
from hyperd.spec.limits import DEFAULT_MEMORY, DEFAULT_VCPU, MAX_HOSTNAME, granted_memory
from hyperd.spec.model import (
    MAX_EXPANDED_PORTS,
    MAX_NOFILE,
    ContainerSpec,
    InterfaceSpec,
    PodSpec,
    PortSpec,
    Resource,
    ServiceSpec,
    VolumeSpec,
)

MAX_SERVICES = 256
VOLUME_FORMATS = ("", "raw", "qcow2", "vdi", "vfs", "rbd", "nas", "volume")
CACHE_MODES = ("", "off", "none", "directsync", "writeback", "unsafe", "writethrough")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_PERM = re.compile(r"0[0-7]{3,4}|0")
_POD, _CONTAINER, _UPDATE = PodSchema(), ContainerSchema(), ContainerUpdateSchema()
_PORTS, _SERVICES = PortSchema(many=True), ServiceSchema(many=True)


def parse_pod(data: object, *, default_vcpu: int = DEFAULT_VCPU, default_memory: int = DEFAULT_MEMORY) -> PodSpec:
    """Read and check a pod.

    Args:
        data: the decoded JSON.
        default_vcpu: CPUs of a pod that does not say.
        default_memory: MiB of a pod that does not say.

    Errors: InvalidInput.

    """
    spec = cast("PodSpec", load(_POD, data))
    memory = granted_memory(spec.resource.memory or default_memory)
    size = Resource(vcpu=spec.resource.vcpu or default_vcpu, memory=memory)
    spec = replace(spec, resource=size, containers=tuple(_named_volumes(container) for container in spec.containers))
    _check_pod(spec)
    return spec


def parse_container(data: object) -> ContainerSpec:
    """Read and check a container that is added to a pod, whose volumes and files it may name. Errors: InvalidInput."""
    spec = _named_volumes(cast("ContainerSpec", load(_CONTAINER, data)))
    _check_container(0, spec)
    _check_ports(spec.ports)
    return spec


def parse_update(data: object) -> ContainerUpdate:
    """Read and check what is to be changed of a container. Errors: InvalidInput."""
    return cast("ContainerUpdate", load(_UPDATE, data))


def parse_portmappings(data: object) -> tuple[PortSpec, ...]:
    """Read and check an array of port mappings. Errors: InvalidInput."""
    if not isinstance(data, list):
        raise InvalidInput("the port mappings must be an array")
    if len(data) > MAX_EXPANDED_PORTS:
        raise InvalidInput(f"over {MAX_EXPANDED_PORTS} published ports")
    mappings = tuple(cast("list[PortSpec]", load(_PORTS, data)))
    _check_ports(mappings)
    return mappings


def parse_services(data: object) -> tuple[ServiceSpec, ...]:
    """Read and check an array of services, each for itself. Errors: InvalidInput."""
    if not isinstance(data, list):
        raise InvalidInput("the services must be an array")
    if len(data) > MAX_SERVICES:
        raise InvalidInput(f"over {MAX_SERVICES} services")
    services = tuple(cast("list[ServiceSpec]", load(_SERVICES, data)))
    _check_services(services)
    return services


def dump_services(services: Sequence[ServiceSpec]) -> list[dict[str, Any]]:
    """Return services as JSON-able objects."""
    return cast("list[dict[str, Any]]", _SERVICES.dump(services))


def dump_pod(spec: PodSpec) -> dict[str, Any]:
    """Return the pod as JSON-able object."""
    return cast("dict[str, Any]", _POD.dump(spec))


def dump_container(spec: ContainerSpec) -> dict[str, Any]:
    """Return the container as JSON-able object."""
    return cast("dict[str, Any]", _CONTAINER.dump(spec))


def load(schema: Wire, data: object) -> object:
    """Read JSON with a schema. Errors: InvalidInput that names the field."""
    try:
        return schema.load(cast("Any", data))
    except ValidationError as error:
        path, message = _first(error.messages)
        if isinstance(message, Verbatim):
            raise InvalidInput(message, details=path) from None
        raise InvalidInput(f"{path}: {message}" if path else f"the specification {message}") from None


def _first(messages: object) -> tuple[str, str]:
    """Find the first message in marshmallow's nested answer and write down the way to it."""
    path = ""
    while isinstance(messages, (dict, list)) and messages:
        if isinstance(messages, list):
            messages = messages[0]
            continue
        key, messages = next(iter(messages.items()))
        if isinstance(key, int):
            path += f"[{key}]"
        elif key != "_schema":
            path += ("." if path else "") + str(key)[:80]
    return path, messages if isinstance(messages, str) else str(messages)


def _named_volumes(spec: ContainerSpec) -> ContainerSpec:
    """Return a reference with an inline volume, and the volume itself, the same name."""
    refs = []
    for ref in spec.volumes:
        name = ref.volume or (ref.detail.name if ref.detail else "")
        detail = replace(ref.detail, name=name) if ref.detail else None
        refs.append(replace(ref, volume=name, detail=detail))
    return replace(spec, volumes=tuple(refs))


def _unique(values: Iterable[Hashable], brief: str) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise InvalidInput(brief, details=f"{str(repeated[0])[:80]} is there twice")


def _check_pod(spec: PodSpec) -> None:
    # The default, the pod's id, is not checked: an id may have characters that a hostname may not.
    if spec.hostname != spec.id[:MAX_HOSTNAME]:
        _check_hostname(spec.hostname)
    _check_interfaces(spec.interfaces)
    for index, volume in enumerate(spec.volumes):
        if not volume.name:
            raise InvalidInput(f"volumes[{index}].name: is missing")
        _check_volume(index, volume)
    _unique((volume.name for volume in spec.volumes), "Volumes name does not unique")
    for index, item in enumerate(spec.files):
        if not item.name:
            raise InvalidInput(f"files[{index}].name: is missing")
    _unique((item.name for item in spec.files), "Files name does not unique")
    services = ((s.service_ip, s.service_port, s.protocol) for s in spec.services)
    _unique(services, "Services IP:Port@Protocol combination does not unique")
    _check_services(spec.services)
    for index, container in enumerate(spec.containers):
        _check_container(index, container)
        _check_references(index, container, spec)
    _unique((c.name for c in spec.containers if c.name), "containers: name is not unique")
    _check_ports((*spec.portmappings, *(port for container in spec.containers for port in container.ports)))
    for server in spec.dns:
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise InvalidInput(f"incorrect dns {server[:80]}.") from None


def _check_services(services: Sequence[ServiceSpec]) -> None:
    for at, service in enumerate(services):
        for text in (service.service_ip, *(host.host_ip for host in service.hosts)):
            address = ipaddress.ip_address(text)
            if not isinstance(address, ipaddress.IPv4Address) or address.is_multicast or address.is_unspecified:
                raise InvalidInput(f"services[{at}]: {text} cannot be an address of a service or its host")
        _unique(service.hosts, f"services[{at}].hosts: a host is there twice")


def _check_hostname(hostname: str) -> None:
    if len(hostname) > MAX_HOSTNAME:
        raise InvalidInput(f"Hostname exceeds the maximum length {MAX_HOSTNAME}", details=f"{len(hostname)} characters")
    if hostname and not all(_LABEL.fullmatch(label) for label in hostname.split(".")):
        raise InvalidInput(
            "Hostname should fullfil the pattern", details=f"{hostname!r}: {_LABEL.pattern}, joined by dots"
        )


def _check_interfaces(interfaces: Sequence[InterfaceSpec]) -> None:
    gateways = 0
    for index, nic in enumerate(interfaces):
        if nic.gateway:
            gateways += 1
        if gateways > 1 and nic.gateway:
            raise InvalidInput(f"in interface {index}, Other interface already configured Gateway")
        if nic.bridge and not nic.ip:
            raise InvalidInput(
                "if configured a bridge, must specify the IP address",
                details=f"interfaces[{index}].ip is empty",
            )
        if 0 < nic.mtu < 68:
            raise InvalidInput(f"interfaces[{index}].mtu: must be 0 or from 68 to 65535")
    _unique((nic.id for nic in interfaces if nic.id), "interfaces: id is not unique")
    _unique((nic.mac.lower() for nic in interfaces if nic.mac), "interfaces: mac is not unique")


def _check_volume(index: int, volume: VolumeSpec) -> None:
    where = f"in volume {index}"
    if volume.cache not in CACHE_MODES:
        raise InvalidInput(f"{where}, does not support cache {volume.cache[:80]}.")
    if volume.format not in VOLUME_FORMATS:
        raise InvalidInput(f"{where}, volume does not support driver {volume.format[:80]}.")
    if volume.format in {"vfs", "raw", "qcow2", "vdi"}:
        _check_host_path(where, volume.source)
    elif volume.format in {"rbd", "nas", "volume"} and not volume.source:
        raise InvalidInput(f"{where}, the source is missing")
    elif volume.format == "nas" and not re.fullmatch(r"[^\s:,/]+:/[^,]*|\[[0-9A-Fa-f:.]+\]:/[^,]*", volume.source):
        raise InvalidInput(f"{where}, the source of a nas volume is server:/export", details=volume.source[:80])


def _check_host_path(where: str, path: str) -> None:
    if not path.startswith("/") or ".." in path.split("/"):
        raise InvalidInput(
            f"{where}, the source must be an absolute path of the host without ..", details=repr(path[:80])
        )


def _check_container(index: int, spec: ContainerSpec) -> None:
    where = f"in container {index}"
    if spec.cache not in CACHE_MODES:
        raise InvalidInput(f"{where}, does not support cache {spec.cache[:80]}.")
    for at, ref in enumerate(spec.volumes):
        if not ref.volume:
            raise InvalidInput(f"containers[{index}].volumes[{at}].volume: is missing")
        if ref.path.strip("/") == "":
            raise InvalidInput(f"containers[{index}].volumes[{at}].path: a volume cannot replace /")
        if ref.detail:
            _check_volume(at, ref.detail)
    _unique((ref.volume for ref in spec.volumes), f"{where}, volume source are not unique")
    _unique((ref.path.rstrip("/") for ref in spec.volumes), f"{where}, volume paths are not unique")
    _unique((name for name, _ in spec.envs), f"{where}, environment name are not unique")
    for at, item in enumerate(spec.files):
        if not _PERM.fullmatch(item.perm):
            brief = f"{where}, the permission {item.perm[:16]} only accept Octal digital in string"
            raise InvalidInput(brief, resolution='write it as "0644"')
        if item.path.endswith("/") and (not item.filename or "/" in item.filename or item.filename in {".", ".."}):
            raise InvalidInput(f"containers[{index}].files[{at}].filename: is no file name")
    for limit in spec.ulimits:
        if limit.hard >= 0 and (limit.soft > limit.hard or limit.soft < 0):
            raise InvalidInput(f"{where}, ulimit {limit.name}: the soft limit is above the hard one")
        if limit.name == "nofile" and max(limit.hard, limit.soft) > MAX_NOFILE:
            raise InvalidInput(f"{where}, ulimit nofile: at most {MAX_NOFILE}")
    _unique((limit.name for limit in spec.ulimits), f"{where}, ulimits are not unique")


def _check_references(index: int, container: ContainerSpec, pod: PodSpec) -> None:
    """Check that files and volumes a container names are the pod's (a volume may be defined in place)."""
    files, volumes = {item.name for item in pod.files}, {volume.name for volume in pod.volumes}
    for item in container.files:
        if item.filename not in files:
            raise InvalidInput(f"in container {index}, file {item.filename} does not exist in file list.")
    for ref in container.volumes:
        if ref.volume not in volumes and ref.detail is None:
            raise InvalidInput(f"in container {index}, volume {ref.volume} does not exist in volume list.")


def _check_ports(mappings: Iterable[PortSpec]) -> None:
    """Check that ranges match and that no host port is asked for twice."""
    taken: set[tuple[str, int]] = set()
    for mapping in mappings:
        for protocol, host, _ in mapping.expand():
            if (protocol, host) in taken:
                raise InvalidInput(f"Host port {host}/{protocol} is mapped twice")
            taken.add((protocol, host))
            if len(taken) > MAX_EXPANDED_PORTS:
                raise InvalidInput(f"over {MAX_EXPANDED_PORTS} published ports")
