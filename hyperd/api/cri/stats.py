"""Counters of containers and sandboxes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from hyperd.api.cri import kept
from hyperd.api.cri.call import Call, Method
from hyperd.api.cri.containers import container
from hyperd.api.cri.sandboxes import pods, sandbox_id
from hyperd.api.cri.specs import has_labels
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.container.model import Container
from hyperd.container.stats import ContainerStats, CpuStats, InterfaceStats, MemoryStats
from hyperd.errors import AgentError, NotAlive, NotFound
from hyperd.pod.model import Pod
from hyperd.pod.states import PodState
from hyperd.pod.stats import PodStats

_LEFT = (NotFound, NotAlive, AgentError)  # it ended while it was looked at


def of_container(call: Call, request: pb.ContainerStatsRequest) -> pb.ContainerStatsResponse:
    """Return the counters of a running container. Errors: NotFound, NotAlive."""
    found = container(call.engine, request.container_id)
    return pb.ContainerStatsResponse(stats=_container(found, call.engine.stats.container(found.id)))


def of_containers(call: Call, request: pb.ListContainerStatsRequest) -> pb.ListContainerStatsResponse:
    """Return the counters of all containers that run; a guest is asked once for all of its own."""
    wanted, found = request.filter, []
    for pod in pods(call.engine, wanted.pod_sandbox_id):
        chosen = {
            one.id: one
            for one in pod.containers
            if one.running and one.id.startswith(wanted.id) and has_labels(one.spec.labels, wanted.label_selector)
        }
        if chosen:
            with contextlib.suppress(*_LEFT):
                counted = call.engine.stats.pod(pod.id).containers
                found += [_container(chosen[one.id], one) for one in counted if one.id in chosen]
    return pb.ListContainerStatsResponse(stats=found)


def of_sandbox(call: Call, request: pb.PodSandboxStatsRequest) -> pb.PodSandboxStatsResponse:
    """Return the counters of a sandbox that is ready. Errors: NotFound, NotAlive, DriverError."""
    pod = call.engine.pods.inspect(sandbox_id(call.engine, request.pod_sandbox_id))
    return pb.PodSandboxStatsResponse(stats=_sandbox(pod, call.engine.stats.pod(pod.id)))


def of_sandboxes(call: Call, request: pb.ListPodSandboxStatsRequest) -> pb.ListPodSandboxStatsResponse:
    """Return the counters of all sandboxes that are ready."""
    wanted, found = request.filter, []
    for pod in pods(call.engine, wanted.id):
        if pod.state == PodState.RUNNING and has_labels(pod.labels, wanted.label_selector):
            with contextlib.suppress(*_LEFT):
                found.append(_sandbox(pod, call.engine.stats.pod(pod.id)))
    return pb.ListPodSandboxStatsResponse(stats=found)


def _container(one: Container, stats: ContainerStats) -> pb.ContainerStats:
    return pb.ContainerStats(
        attributes=pb.ContainerAttributes(
            id=one.id,
            metadata=kept.container(one.spec.annotations).metadata,
            labels=one.spec.labels,
            annotations=kept.of_client(one.spec.annotations),
        ),
        cpu=_cpu(stats.cpu, stats.time_ns),
        memory=_memory(stats.memory, stats.time_ns),
    )


def _sandbox(pod: Pod, stats: PodStats) -> pb.PodSandboxStats:
    by_id = {one.id: one for one in pod.containers}
    count = sum(one.processes for one in stats.containers)
    return pb.PodSandboxStats(
        attributes=pb.PodSandboxAttributes(
            id=pod.id,
            metadata=kept.sandbox(pod.spec.annotations).metadata,
            labels=pod.labels,
            annotations=kept.of_client(pod.spec.annotations),
        ),
        linux=pb.LinuxPodSandboxStats(
            cpu=_cpu(stats.cpu, stats.time_ns),
            memory=_memory(stats.memory, stats.time_ns),
            network=_network(stats.interfaces, stats.time_ns),
            process=pb.ProcessUsage(timestamp=stats.time_ns, process_count=_number(count)),
            containers=[_container(by_id[one.id], one) for one in stats.containers if one.id in by_id],
        ),
    )


def _number(value: int) -> pb.UInt64Value:
    return pb.UInt64Value(value=max(0, value))


def _cpu(cpu: CpuStats, moment: int) -> pb.CpuUsage:
    return pb.CpuUsage(timestamp=moment, usage_core_nano_seconds=_number(cpu.total))


def _memory(memory: MemoryStats, moment: int) -> pb.MemoryUsage:
    return pb.MemoryUsage(
        timestamp=moment,
        working_set_bytes=_number(memory.working_set),
        available_bytes=_number(memory.limit - memory.working_set) if memory.limit else None,
        usage_bytes=_number(memory.usage),
        rss_bytes=_number(memory.anon),
        page_faults=_number(memory.page_faults),
        major_page_faults=_number(memory.major_faults),
    )


def _network(interfaces: Iterable[InterfaceStats], moment: int) -> pb.NetworkUsage:
    found = [
        pb.NetworkInterfaceUsage(
            name=one.name,
            **{key: _number(one.counters.get(key, 0)) for key in ("rx_bytes", "rx_errors", "tx_bytes", "tx_errors")},
        )
        for one in interfaces
    ]
    return pb.NetworkUsage(timestamp=moment, default_interface=found[0] if found else None, interfaces=found[1:])


METHODS: dict[str, Method] = {
    "ContainerStats": of_container,
    "ListContainerStats": of_containers,
    "PodSandboxStats": of_sandbox,
    "ListPodSandboxStats": of_sandboxes,
}
