"""Metrics in the form of Prometheus, by cAdvisor's names: only what is counted, and nothing that stands for nothing.

Values are whole numbers, as the interface has them: seconds too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hyperd.api.cri import kept
from hyperd.api.cri.call import Call, Method
from hyperd.api.cri.sandboxes import pods
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.container.model import Container
from hyperd.container.stats import ContainerStats, InterfaceStats
from hyperd.errors import AgentError, NotAlive, NotFound
from hyperd.pod.model import Pod
from hyperd.pod.states import PodState

_LEFT = (NotFound, NotAlive, AgentError)  # it ended while it was looked at
_NS = 1_000_000_000
_LABELS = ("id", "name", "image", "namespace", "pod", "container")


@dataclass(frozen=True)
class _Kind:
    """A metric: its name, what it says, whether it can fall, further labels."""

    name: str
    help: str
    gauge: bool = False
    labels: tuple[str, ...] = ()


_CONTAINER = (
    _Kind("container_cpu_usage_seconds_total", "CPU time used, in seconds"),
    _Kind("container_cpu_user_seconds_total", "CPU time of programs, in seconds"),
    _Kind("container_cpu_system_seconds_total", "CPU time of the kernel for them, in seconds"),
    _Kind("container_memory_usage_bytes", "Memory in use with the cache of files, in bytes", True),
    _Kind("container_memory_working_set_bytes", "Memory in use that cannot be dropped at once, in bytes", True),
    _Kind("container_memory_rss", "Memory of programs without files, in bytes", True),
    _Kind("container_memory_cache", "Cache of files, in bytes", True),
    _Kind("container_memory_max_usage_bytes", "Most memory that was ever in use, in bytes", True),
    _Kind("container_threads", "Threads of all processes", True),
    _Kind("container_start_time_seconds", "When it was started, in seconds since 1970", True),
    _Kind("container_last_seen", "When it was last counted, in seconds since 1970", True),
    _Kind("container_spec_cpu_period", "Period of the CPU limit, in microseconds; 0 = there is none", True),
    _Kind("container_spec_cpu_quota", "CPU time in a period, in microseconds; 0 = there is no limit", True),
    _Kind("container_spec_cpu_shares", "Weight among others; 0 = the usual one", True),
    _Kind("container_spec_memory_limit_bytes", "Limit of memory; 0 = there is none", True),
    _Kind("container_spec_memory_reservation_limit_bytes", "Memory that is kept for it; 0 = none", True),
)
_FAILURES = _Kind("container_memory_failures_total", "Page faults", labels=("failure_type",))
_NETWORK = {
    f"{way}_{counter}": _Kind(
        f"container_network_{verb}_{what}_total", f"{text} that the pod has {done}", labels=("interface",)
    )
    for way, verb, done in (("rx", "receive", "received"), ("tx", "transmit", "sent"))
    for counter, what, text in (
        ("bytes", "bytes", "Bytes"),
        ("packets", "packets", "Packets"),
        ("errors", "errors", "Errors of the packets"),
        ("dropped", "packets_dropped", "Dropped ones of the packets"),
    )
}


def descriptors(_call: Call, _request: pb.ListMetricDescriptorsRequest) -> pb.ListMetricDescriptorsResponse:
    """Describe all metrics."""
    return pb.ListMetricDescriptorsResponse(
        descriptors=[
            pb.MetricDescriptor(name=one.name, help=one.help, label_keys=(*_LABELS, *one.labels))
            for one in (*_CONTAINER, _FAILURES, *_NETWORK.values())
        ]
    )


def listed(call: Call, _request: pb.ListPodSandboxMetricsRequest) -> pb.ListPodSandboxMetricsResponse:
    """Return the metrics of all sandboxes that are ready; each guest is asked once."""
    found = []
    for pod in pods(call.engine):
        if pod.state == PodState.RUNNING:
            with contextlib.suppress(*_LEFT):
                stats = call.engine.stats.pod(pod.id)
                by_id = {one.id: one for one in pod.containers}
                containers = [
                    pb.ContainerMetrics(container_id=one.id, metrics=of_container(pod, by_id[one.id], one))
                    for one in stats.containers
                    if one.id in by_id
                ]
                network = [*of_network(pod, stats.interfaces, stats.time_ns)]
                found.append(pb.PodSandboxMetrics(pod_sandbox_id=pod.id, metrics=network, container_metrics=containers))
    return pb.ListPodSandboxMetricsResponse(pod_metrics=found)


def of_container(pod: Pod, one: Container, stats: ContainerStats) -> list[pb.Metric]:
    """Return the metrics of a running container."""
    labels = _labels(pod, one)
    limits, cpu, memory = one.spec.limits, stats.cpu, stats.memory
    values = (
        cpu.total // _NS,
        cpu.user // _NS,
        cpu.system // _NS,
        memory.usage,
        memory.working_set,
        memory.anon,
        memory.file,
        memory.peak,
        stats.processes,
        int(one.started_at or 0),
        stats.time_ns // _NS,
        limits.cpu_period,
        limits.cpu_quota,
        limits.cpu_shares,
        limits.memory,
        limits.memory_reservation,
    )
    found = [_metric(kind, labels, value, stats.time_ns) for kind, value in zip(_CONTAINER, values, strict=True)]
    faults = (("pgfault", memory.page_faults), ("pgmajfault", memory.major_faults))
    return [*found, *(_metric(_FAILURES, (*labels, name), value, stats.time_ns) for name, value in faults)]


def of_network(pod: Pod, interfaces: Sequence[InterfaceStats], moment: int) -> Iterator[pb.Metric]:
    """Yield the metrics of a pod's NICs; ``moment``: when they were counted, ns since 1970."""
    for interface in interfaces:
        for counter, kind in _NETWORK.items():
            if counter in interface.counters:
                yield _metric(kind, (*_labels(pod), interface.name), interface.counters[counter], moment)


def _labels(pod: Pod, one: Container | None = None) -> tuple[str, ...]:
    """Return the values of the labels that every metric has; a pod's own have no container."""
    metadata = kept.sandbox(pod.spec.annotations).metadata
    image = one.image_name if one is not None else ""
    name = kept.container(one.spec.annotations).metadata.name if one is not None else ""
    ident = one.id if one is not None else pod.id
    return (ident, name or metadata.name, image, metadata.namespace, metadata.name, name)


def _metric(kind: _Kind, labels: Sequence[str], value: int, moment: int) -> pb.Metric:
    return pb.Metric(
        name=kind.name,
        timestamp=moment,
        metric_type=pb.GAUGE if kind.gauge else pb.COUNTER,
        label_values=labels,
        value=pb.UInt64Value(value=max(0, value)),
    )


METHODS: dict[str, Method] = {"ListMetricDescriptors": descriptors, "ListPodSandboxMetrics": listed}
