"""``PodStats`` and ``ContainerStats`` of hyperd's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperd.container.stats import (
    NIC_COUNTERS,
    ContainerStats,
    Counters,
    CpuStats,
    DiskStats,
    FilesystemStats,
    InterfaceStats,
    MemoryStats,
)
from hyperd.pod.stats import PodStats
from hyperd.stream.logs import now_text

_TCP_STATES: Mapping[str, str] = {
    "established": "Established",
    "syn_sent": "SynSent",
    "syn_recv": "SynRecv",
    "fin_wait1": "FinWait1",
    "fin_wait2": "FinWait2",
    "time_wait": "TimeWait",
    "close": "Close",
    "close_wait": "CloseWait",
    "last_ack": "LastAck",
    "listen": "Listen",
    "closing": "Closing",
}
_UNKNOWN_BLOCK = ("io_queue", "io_service_time", "io_wait_time", "io_merged", "io_time")


def pod_stats(stats: PodStats) -> dict[str, Any]:
    """Return ``PodStats``; times in ns, sizes in bytes."""
    return {
        "cpu": _cpu(stats.cpu),
        "block": _block(stats.disks),
        "memory": _memory(stats.memory),
        "network": _network(stats.interfaces, stats.connections),
        "filesystem": [] if stats.filesystem is None else [_filesystem(stats.filesystem)],
        "timestamp": now_text(stats.time_ns),
        "container_stats": [container_stats(one) for one in stats.containers],
    }


def container_stats(stats: ContainerStats) -> dict[str, Any]:
    """Return ``ContainerStats``; the network is the pod's."""
    return {
        "id": stats.id,
        "name": stats.name,
        "cpu": _cpu(stats.cpu),
        "block": _block([stats.disk]),
        "memory": _memory(stats.memory),
        "processes": stats.processes,
        "network": None,
        "filesystem": None,
        "timestamp": now_text(stats.time_ns),
    }


def _cpu(stats: CpuStats) -> dict[str, Any]:
    per_cpu = None if stats.per_cpu is None else list(stats.per_cpu)
    usage = {"total": stats.total, "per_cpu_usage": per_cpu, "user": stats.user, "system": stats.system}
    return {"usage": usage, "load_average": stats.load}


def _memory(stats: MemoryStats) -> dict[str, Any]:
    data = {"pgfault": stats.page_faults, "pgmajfault": stats.major_faults}
    return {
        "usage": stats.usage,
        "working_set": stats.working_set,
        "failcnt": 0,
        "container_data": data,
        "hierarchical_data": dict(data),
    }


def _block(disks: Sequence[DiskStats]) -> dict[str, Any]:
    def entries(pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        return [
            {
                "name": disk.name,
                "type": "file",
                "source": disk.source,
                "major": 0,
                "minor": 0,
                "stat": {"Read": read, "Write": written},
            }
            for disk, (read, written) in zip(disks, pairs, strict=True)
        ]

    return {
        "io_service_bytes_recursive": entries([(disk.read_bytes, disk.write_bytes) for disk in disks]),
        "io_serviced_recursive": entries([(disk.reads, disk.writes) for disk in disks]),
        **{f"{name}_recursive": None for name in _UNKNOWN_BLOCK},
        "sectors_recursive": None,
    }


def _network(interfaces: Sequence[InterfaceStats], connections: Counters) -> dict[str, Any]:
    rows = [{"name": one.name, **{key: one.counters.get(key, 0) for key in NIC_COUNTERS}} for one in interfaces]
    return {"interfaces": rows, "tcp": _connections(connections, "tcp"), "tcp6": _connections(connections, "tcp6")}


def _connections(counters: Counters, family: str) -> dict[str, int] | None:
    if f"{family}.listen" not in counters:
        return None
    return {shown: counters.get(f"{family}.{name}", 0) for name, shown in _TCP_STATES.items()}


def _filesystem(stats: FilesystemStats) -> dict[str, Any]:
    return {
        "device": stats.device,
        "capacity": stats.capacity,
        "usage": stats.usage,
        "available": max(0, stats.capacity - stats.usage),
        "reads_completed": stats.disk.reads,
        "reads_merged": 0,
        "sectors_read": stats.disk.read_bytes // 512,
        "read_time": 0,
        "writes_completed": stats.disk.writes,
        "writes_merged": 0,
        "sectors_written": stats.disk.write_bytes // 512,
        "write_time": 0,
        "io_in_progress": 0,
        "io_time": 0,
        "weighted_io_time": 0,
    }
