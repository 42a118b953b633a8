"""Pods and containers as the interface shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from hyperd.api.cri import kept
from hyperd.api.cri.specs import LOG_DRIVER
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.container.brief import ContainerBrief
from hyperd.container.model import Container
from hyperd.container.states import ContainerState
from hyperd.pod.model import Pod, PodBrief
from hyperd.pod.states import WITH_VM
from hyperd.spec.model import Limits

_KEPT = 512  # lines that were written; kubelet lists everything every second
_STATES = {
    ContainerState.CREATED: pb.CONTAINER_CREATED,
    ContainerState.STARTING: pb.CONTAINER_CREATED,
    ContainerState.RUNNING: pb.CONTAINER_RUNNING,
    ContainerState.EXITED: pb.CONTAINER_EXITED,
}


def nanoseconds(moment: float | None) -> int:
    """Return a time as the interface has it; 0 = never."""
    return int(moment * 1e9) if moment else 0


def _ready(pod: Pod | PodBrief) -> pb.PodSandboxState:
    return pb.SANDBOX_READY if pod.state in WITH_VM else pb.SANDBOX_NOTREADY


@lru_cache(_KEPT)
def sandbox_item(pod: PodBrief) -> pb.PodSandbox:
    """Return the line of a list, to be read only."""
    return pb.PodSandbox(
        id=pod.id,
        metadata=kept.sandbox(pod.annotations).metadata,
        state=_ready(pod),
        created_at=nanoseconds(pod.created_at),
        labels=pod.labels,
        annotations=kept.of_client(pod.annotations),
        runtime_handler=pod.annotations.get(kept.HANDLER, ""),
    )


def sandbox_status(pod: Pod) -> pb.PodSandboxStatus:
    """Return the description of a sandbox."""
    config = kept.sandbox(pod.spec.annotations)
    addresses = [cidr.partition("/")[0] for cidr in pod.addresses]
    network = pb.PodSandboxNetworkStatus(
        ip=addresses[0] if addresses else "", additional_ips=[pb.PodIP(ip=one) for one in addresses[1:]]
    )
    options = config.linux.security_context.namespace_options
    return pb.PodSandboxStatus(
        id=pod.id,
        metadata=config.metadata,
        state=_ready(pod),
        created_at=nanoseconds(pod.created_at),
        network=network,
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=options)),
        labels=pod.labels,
        annotations=kept.of_client(pod.spec.annotations),
        runtime_handler=pod.spec.annotations.get(kept.HANDLER, ""),
    )


def sandbox_info(pod: Pod) -> str:
    """Return what is shown beside, as JSON."""
    size = pod.spec.resource
    return json.dumps({"vm": pod.vm_id, "reason": pod.reason, "vcpu": size.vcpu, "memoryMiB": size.memory})


def _image(config: pb.ContainerConfig) -> pb.ImageSpec:
    """Return the image as a person has named it: kubelet asks for it by its id."""
    if not config.image.user_specified_image:
        return config.image
    found = pb.ImageSpec()
    found.CopyFrom(config.image)
    found.image = config.image.user_specified_image
    return found


@lru_cache(_KEPT)
def container_item(one: ContainerBrief) -> pb.Container:
    """Return the line of a list, to be read only."""
    config = kept.container(one.annotations)
    return pb.Container(
        id=one.id,
        pod_sandbox_id=one.pod_id,
        metadata=config.metadata,
        image=_image(config),
        image_ref=one.image_id,
        image_id=one.image_id,
        state=_STATES[one.state],
        created_at=nanoseconds(one.created_at),
        labels=one.labels,
        annotations=kept.of_client(one.annotations),
    )


def container_status(one: Container) -> pb.ContainerStatus:
    """Return the description of a container. A log that hyperd keeps in its own form is not named."""
    config = kept.container(one.spec.annotations)
    ended = one.state == ContainerState.EXITED
    return pb.ContainerStatus(
        id=one.id,
        metadata=config.metadata,
        state=_STATES[one.state],
        created_at=nanoseconds(one.created_at),
        started_at=nanoseconds(one.started_at),
        finished_at=nanoseconds(one.finished_at) if ended else 0,
        exit_code=(one.exit_code or 0) if ended else 0,
        image=_image(config),
        image_ref=one.image_id,
        image_id=one.image_id,
        reason=_reason(one) if ended else "",
        message=one.error,
        labels=one.spec.labels,
        annotations=kept.of_client(one.spec.annotations),
        mounts=config.mounts,
        log_path=str(one.log_path) if one.log_driver == LOG_DRIVER else "",
        resources=pb.ContainerResources(linux=resources(one.spec.limits, one.spec.oom_score_adj)),
        user=_user(one.user_ids),
    )


def _user(ids: Sequence[int]) -> pb.ContainerUser | None:
    """Return whose the first process was at its beginning; None = nobody knows."""
    if not ids:
        return None
    return pb.ContainerUser(linux=pb.LinuxContainerUser(uid=ids[0], gid=ids[1], supplemental_groups=ids[2:]))


def container_info(one: Container) -> str:
    """Return what is shown beside, as JSON."""
    return json.dumps({"sandboxID": one.pod_id, "pid": one.pid, "runs": one.run_count})


def resources(limits: Limits, oom_score_adj: int) -> pb.LinuxContainerResources:
    """Return the limits that hold."""
    return pb.LinuxContainerResources(
        cpu_period=limits.cpu_period,
        cpu_quota=limits.cpu_quota,
        cpu_shares=limits.cpu_shares,
        memory_limit_in_bytes=limits.memory,
        memory_swap_limit_in_bytes=limits.memory_swap,
        cpuset_cpus=limits.cpuset,
        oom_score_adj=oom_score_adj,
    )


def _reason(one: Container) -> str:
    if one.oom_killed:
        return "OOMKilled"
    if one.error:
        return "StartError"
    return "Error" if one.exit_code else "Completed"
