"""What of a service a cluster cannot have, each by its name. Pure functions."""

from __future__ import annotations

import re

from hypercloud import placement
from hypercloud.errors import Conflict
from hypercloud.workload.describe import managed_volumes
from hypercloud.workload.model import Restart, ServiceSpec

_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_USER = re.compile(r"([0-9]{1,10})(:[0-9]{1,10})?")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check(spec: ServiceSpec) -> None:
    """Refuse what pods cannot be. Errors: Conflict, which names what and why."""
    reasons = [f"{name}: {why}" for name, why in _reasons(spec).items()]
    if reasons:
        raise Conflict(
            "the cluster cannot have this service",
            details="; ".join(reasons)[:2000],
            resolution="leave these fields out; docs/hypercloud.md says what Kubernetes has instead",
        )


def _reasons(spec: ServiceSpec) -> dict[str, str]:
    found = _of_fields(spec)
    if spec.strategy == placement.EVERY_NODE:
        if spec.autorestart is not Restart.ALWAYS:
            found["deployment_strategy EVERY_NODE"] = "a DaemonSet always restarts: autorestart must be ALWAYS"
        elif managed_volumes(spec, ""):
            found["bindings"] = "a DaemonSet has no volumes of its own: name a host_path"
        if spec.sequential:
            found["sequential_deployment"] = "a DaemonSet has no order"
    if any(one.volumes_from for one in spec.bindings):
        found["volumes_from"] = "a pod does not have the volumes of another"
    if spec.user and not _USER.fullmatch(spec.user):
        found["user"] = "it must be a number, or two as UID:GID"
    if spec.hostname and not _HOST.fullmatch(spec.hostname):
        found["hostname"] = "it must be lower-case letters, digits and '-'"
    if wrong := [key for key in spec.env if not _VARIABLE.fullmatch(key)]:
        found["container_envvars"] = f"names are letters, digits, '_', '-' and '.': {', '.join(sorted(wrong))[:200]}"
    if wrong := [one for one in spec.extra_hosts if ":" not in one]:
        found["extra_hosts"] = f"NAME:ADDRESS is meant: {', '.join(wrong)[:200]}"
    if [one for one in spec.ports if one.outer] and spec.net == "host":
        found["outer_port"] = "with net host a port is the node's own"
    return found


def _of_fields(spec: ServiceSpec) -> dict[str, str]:
    """Return the fields that have no counterpart at all."""
    named = {
        "domainname": spec.domainname,
        "mac_address": spec.mac_address,
        "cgroup_parent": spec.cgroup_parent,
        "devices": spec.devices,
        "security_opt": spec.security_opt,
        "cpuset": spec.cpuset,
        "memory_swap": spec.memory_swap,
    }
    return {name: "a pod has no such field" for name, value in named.items() if value}
