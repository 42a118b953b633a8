"""What the API shows of pods."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hyperd.container.states import phase
from hyperd.container.views import container_status, rfc3339
from hyperd.db.models import ContainerRow, PodRow
from hyperd.errors import Conflict
from hyperd.network.ports import PortMapping
from hyperd.pod.states import PodState, info_phase
from hyperd.spec.model import PodSpec, VolumeOption, VolumeSpec

API_VERSION = "1.17"


@dataclass(frozen=True, kw_only=True)
class PodView:
    """A pod as ``GET /list?item=pod`` shows it."""

    id: str
    name: str
    vm_id: str
    status: str


def port_mappings(spec: PodSpec) -> list[PortMapping]:
    """Give every single port the pod publishes. Errors: Conflict when it asks for one twice."""
    found: dict[tuple[str, int], PortMapping] = {}
    for port in spec.portmappings:
        for protocol, host, inner in port.expand():
            if (protocol, host) in found:
                raise Conflict(f"Host port {host}/{protocol} has aleady been used", details="by the same pod")
            found[protocol, host] = PortMapping(protocol=protocol, host_port=host, container_port=inner)
    return list(found.values())


def pod_info(
    row: PodRow,
    spec: PodSpec,
    *,
    vm_id: str,
    addresses: Sequence[str],
    containers: Sequence[tuple[ContainerRow, dict[str, Any]]],
    volumes: Sequence[VolumeSpec],
) -> dict[str, Any]:
    """Give ``PodInfo``; ``addresses`` are the pod's with prefix length, none while it has none."""
    state = PodState(row.state)
    outcome = row.outcome
    if state == PodState.STOPPED and any(phase(container) == "failed" for container, _ in containers):
        outcome = "failed"
    return {
        "podID": row.id,
        "podName": row.id,
        "kind": "Pod",
        "apiVersion": API_VERSION,
        "vm": vm_id,
        "createdAt": int(row.created_at),
        "spec": {
            "volumes": [_volume(volume) for volume in volumes],
            "containers": [described for _, described in containers],
            "labels": dict(row.labels),
            "vcpu": spec.resource.vcpu,
            "memory": spec.resource.memory,
        },
        "status": {
            "phase": info_phase(state, outcome),
            "message": row.reason,
            "reason": "",
            "hostIP": host_address(),
            "podIP": list(addresses),
            "startTime": rfc3339(row.started_at),
            "finishTime": rfc3339(row.finished_at),
            "containerStatus": [container_status(container) for container, _ in containers],
        },
    }


def _volume(volume: VolumeSpec) -> dict[str, Any]:
    """Give a volume; a Ceph keyring is nobody's to read here."""
    shown: dict[str, Any] = {"name": volume.name, "source": volume.source, "driver": volume.format}
    if volume.format == "rbd":
        pool, _, image = volume.source.removeprefix("rbd:").partition("/")
        option = volume.option or VolumeOption()
        shown["rbd"] = {
            "monitors": list(option.monitors),
            "image": image,
            "fsType": volume.fstype,
            "pool": pool,
            "user": option.user,
        }
    return shown


@cache
def host_address() -> str:
    """Give the host's address on its default route, or loopback (nothing is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
