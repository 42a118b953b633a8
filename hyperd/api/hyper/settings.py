"""What a pod and a container were asked for beyond what ``info`` always tells, in the words of ``/pod/create``."""

from __future__ import annotations

from functools import cache
from typing import Any

from marshmallow import Schema

from hyperd.api.hyper.pod_schema import ContainerSchema, PodSchema
from hyperd.spec.model import ContainerSpec, PodSpec

_OF_CONTAINER = (
    "read_only",
    "init",
    "pid_namespace",
    "limits",
    "security",
    "tmpfs",
    "devices",
    "shm_size",
    "oom_score_adj",
    "healthcheck",
    "restart_max",
    "auto_remove",
    "stop_timeout",
    "ulimits",
    "sysctl",
    "user",
    "files.path",
    "files.filename",
    "files.perm",
)
_OF_POD = (
    "hostname",
    "dns",
    "dns_options",
    "dns_search",
    "interfaces",
    "networks.network",
    "networks.names",
    "networks.ipv4",
    "networks.mac",
    "services",
)
_NOTHING: tuple[Any, ...] = (None, "", False, 0, [], {})


def of_container(spec: ContainerSpec) -> dict[str, Any]:
    """Return what differs from the defaults; of files only where they are."""
    found: dict[str, Any] = _filled(_schema(ContainerSchema, _OF_CONTAINER).dump(spec))
    if spec.stop_timeout is not None:
        found["stopTimeout"] = int(spec.stop_timeout)  # 0 is something: no time at all before SIGKILL
    return found


def of_pod(spec: PodSpec) -> dict[str, Any]:
    """Return what differs from the defaults."""
    found: dict[str, Any] = _filled(_schema(PodSchema, _OF_POD).dump(spec))
    if spec.extra_hosts:
        found["extraHosts"] = [{"name": name, "ip": address} for name, address in spec.extra_hosts]
    return found


@cache
def _schema(kind: type[Schema], fields: tuple[str, ...]) -> Schema:
    return kind(only=fields)


def _filled(value: Any) -> Any:
    """Leave out the fields that say nothing, at every depth."""
    if isinstance(value, dict):
        fields = ((name, _filled(item)) for name, item in value.items())
        return {name: item for name, item in fields if item not in _NOTHING}
    return [_filled(item) for item in value] if isinstance(value, list) else value
