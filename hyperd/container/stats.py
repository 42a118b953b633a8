"""Counters of a guest and of its containers, as the agent gives them (``docs/protocol.md``, STATS)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hyperd.agent.client import AgentClient
from hyperd.agent.frames import Method

VM_SCOPE = "vm"
MAX_COUNTERS = 65_536
MAX_DIGITS = 20  # of an unsigned 64-bit number
_NIC = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped")
TCP_STATES = {
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
Counters = Mapping[str, int]


def guest_counters(agent: AgentClient) -> dict[str, dict[str, int]]:
    """Ask for all counters, by scope (``vm`` or the agent's name of a process). Errors: AgentError, Timeout."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for record in agent.request(Method.STATS)[:MAX_COUNTERS]:
        if len(record.args) < 3 or not record.args[2].isdigit() or len(record.args[2]) > MAX_DIGITS:
            continue  # what a guest says is believed only where it has the right form
        scope, name = (arg.decode("utf-8", "replace")[:128] for arg in record.args[:2])
        found[scope][name] = int(record.args[2])
    return dict(found)


def cpu_object(
    *, total: int, user: int, system: int, load: int = 0, per_cpu: Sequence[int] | None = None
) -> dict[str, Any]:
    """Give ``CpuStats``: times in ns, ``load`` in thousandths; ``per_cpu`` None where nobody knows."""
    usage = {
        "total": total,
        "per_cpu_usage": None if per_cpu is None else list(per_cpu),
        "user": user,
        "system": system,
    }
    return {"usage": usage, "load_average": load}


def memory_object(*, usage: int, working_set: int, failcnt: int = 0, faults: Counters | None = None) -> dict[str, Any]:
    """Give ``MemoryStats``, bytes."""
    data = {name: (faults or {}).get(f"memory.{name}", 0) for name in ("pgfault", "pgmajfault")}
    return {
        "usage": usage,
        "working_set": working_set,
        "failcnt": failcnt,
        "container_data": data,
        "hierarchical_data": dict(data),
    }


def block_object(disks: list[dict[str, Any]]) -> dict[str, Any]:
    """Give ``BlkioStats``.

    Args:
        disks: ``name``, ``source``, ``read_bytes``, ``write_bytes``, ``reads``, ``writes`` of each.

    """

    def entries(read: str, write: str) -> list[dict[str, Any]]:
        return [
            {
                "name": disk["name"],
                "type": "file",
                "source": disk["source"],
                "major": 0,
                "minor": 0,
                "stat": {"Read": disk.get(read, 0), "Write": disk.get(write, 0)},
            }
            for disk in disks
        ]

    unknown = ("io_queue", "io_service_time", "io_wait_time", "io_merged", "io_time")
    return {
        "io_service_bytes_recursive": entries("read_bytes", "write_bytes"),
        "io_serviced_recursive": entries("reads", "writes"),
        **{f"{name}_recursive": None for name in unknown},
        "sectors_recursive": None,
    }


def network_object(interfaces: Mapping[str, Counters], guest: Counters) -> dict[str, Any]:
    """Give ``NetworkStats`` of interfaces by name, from the pod's point of view; TCP as the guest counts it."""
    rows = [
        {"name": name, **{key: counters.get(key, 0) for key in _NIC}} for name, counters in sorted(interfaces.items())
    ]
    return {"interfaces": rows, "tcp": _connections(guest, "tcp"), "tcp6": _connections(guest, "tcp6")}


def _connections(guest: Counters, family: str) -> dict[str, int] | None:
    if f"{family}.listen" not in guest:
        return None
    return {shown: guest.get(f"{family}.{name}", 0) for name, shown in TCP_STATES.items()}


def container_object(container_id: str, name: str, counters: Counters, when: str, *, cpus: int = 0) -> dict[str, Any]:
    """Give ``ContainerStats`` of a running container; ``cpus``: of its guest.

    A control group does not count by CPU, so that is known of a guest with one CPU only. The network is the pod's.
    """
    total = counters.get("cpu.usage_usec", 0) * 1000
    usage = counters.get("memory.current", 0)
    io = {key: counters.get(f"io.{key}", 0) for key in ("read_bytes", "write_bytes", "reads", "writes")}
    return {
        "id": container_id,
        "name": name,
        "cpu": cpu_object(
            total=total,
            per_cpu=[total] if cpus == 1 else None,
            user=counters.get("cpu.user_usec", 0) * 1000,
            system=counters.get("cpu.system_usec", 0) * 1000,
        ),
        "block": block_object([{"name": "", "source": "", **io}]),
        "memory": memory_object(
            usage=usage, working_set=max(0, usage - counters.get("memory.inactive_file", 0)), faults=counters
        ),
        "processes": counters.get("pids.current", 0),
        "network": None,
        "filesystem": None,
        "timestamp": when,
    }
