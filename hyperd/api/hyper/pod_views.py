"""Pods in the words of hyperd's API: ``PodInfo`` and the words of lists."""

from __future__ import annotations

import socket
from functools import cache
from typing import Any

from hyperd.api.hyper import settings
from hyperd.api.hyper.container_views import container_object, container_status, phase, rfc3339
from hyperd.pod.model import Pod
from hyperd.pod.states import PodState
from hyperd.spec.model import VolumeOption, VolumeSpec

API_VERSION = "1.17"
_PHASES = {
    PodState.PENDING: "Pending",
    PodState.STARTING: "Pending",
    PodState.RUNNING: "Running",
    PodState.PAUSED: "Paused",
    PodState.STOPPING: "Running",
    PodState.REMOVING: "Running",
}


def list_word(state: PodState, outcome: str) -> str:
    """Return the word of ``GET /list``."""
    if state == PodState.STOPPED:
        return outcome or "failed"
    if state == PodState.STARTING:
        return "pending"
    if state == PodState.REMOVING:
        return "stopping"
    return str(state)


def info_phase(state: PodState, outcome: str) -> str:
    """Return the phase of ``/pod/info``."""
    if state == PodState.STOPPED:
        return "Succeeded" if outcome == "succeeded" else "Failed"
    return _PHASES[state]


def pod_info(pod: Pod) -> dict[str, Any]:
    """Return ``PodInfo``."""
    outcome = pod.outcome
    if pod.state == PodState.STOPPED and any(phase(container) == "failed" for container in pod.containers):
        outcome = "failed"
    return {
        "podID": pod.id,
        "podName": pod.id,
        "kind": "Pod",
        "apiVersion": API_VERSION,
        "vm": pod.vm_id,
        "createdAt": int(pod.created_at),
        "spec": {
            "volumes": [_volume(volume) for volume in pod.volumes],
            "containers": [container_object(container) for container in pod.containers],
            "labels": dict(pod.labels),
            "vcpu": pod.spec.resource.vcpu,
            "memory": pod.spec.resource.memory,
            "settings": settings.of_pod(pod.spec),
        },
        "status": {
            "phase": info_phase(pod.state, outcome),
            "message": pod.reason,
            "reason": "",
            "hostIP": host_address(),
            "podIP": list(pod.addresses),
            "startTime": rfc3339(pod.started_at),
            "finishTime": rfc3339(pod.finished_at),
            "containerStatus": [container_status(container) for container in pod.containers],
        },
    }


def _volume(volume: VolumeSpec) -> dict[str, Any]:
    """Return a volume; a Ceph keyring is not shown."""
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
    """Return the host's address on its default route, or loopback (nothing is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
