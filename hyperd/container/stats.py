"""Counters of a guest and of its containers, as the agent gives them (``docs/protocol.md``, STATS)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from hyperd.agent.client import AgentClient
from hyperd.agent.frames import Method

VM_SCOPE = "vm"
MAX_COUNTERS = 65_536
MAX_DIGITS = 20  # of an unsigned 64-bit number
NIC_COUNTERS = (
    *("rx_bytes", "rx_packets", "rx_errors", "rx_dropped"),
    *("tx_bytes", "tx_packets", "tx_errors", "tx_dropped"),
)
Counters = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class CpuStats:
    """CPU time in ns; ``per_cpu`` None where nobody knows. ``load``: load average in thousandths."""

    total: int
    user: int
    system: int
    per_cpu: tuple[int, ...] | None = None
    load: int = 0


@dataclass(frozen=True, kw_only=True)
class MemoryStats:
    """Memory in bytes; ``limit`` 0 = not known. ``working_set``: without what can be given up at once."""

    usage: int
    working_set: int
    limit: int = 0
    peak: int = 0
    anon: int = 0
    file: int = 0
    inactive_file: int = 0
    page_faults: int = 0
    major_faults: int = 0


@dataclass(frozen=True, kw_only=True)
class DiskStats:
    """What was read and written, in bytes and in operations; ``source``: the image file, empty of all disks."""

    name: str = ""
    source: str = ""
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True, kw_only=True)
class InterfaceStats:
    """Counters of a NIC by the names of NIC_COUNTERS, from the pod's point of view."""

    name: str
    counters: Counters


@dataclass(frozen=True, kw_only=True)
class ContainerStats:
    """Counters of a running container, from its control group.

    Args:
        time_ns: when they were taken, ns since 1970.
        cpus: number of CPUs of its VM, 0 = not known.
        processes: how many there are. processes_limit: 0 = no limit of its own.
        interfaces: of its pod, whose network it shares.

    """

    id: str
    name: str
    pod_id: str
    time_ns: int
    cpu: CpuStats
    memory: MemoryStats
    disk: DiskStats
    processes: int = 0
    processes_limit: int = 0
    cpus: int = 0
    interfaces: tuple[InterfaceStats, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FilesystemStats:
    """The pod's writable disk as the host sees it: sparse, so ``usage`` is what it takes now. Bytes."""

    device: str
    capacity: int
    usage: int
    disk: DiskStats = field(default_factory=DiskStats)


def guest_counters(agent: AgentClient) -> dict[str, dict[str, int]]:
    """Ask for all counters, by scope (``vm`` or the agent's name of a process). Errors: AgentError, Timeout."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for record in agent.request(Method.STATS)[:MAX_COUNTERS]:
        if len(record.args) < 3 or not record.args[2].isdigit() or len(record.args[2]) > MAX_DIGITS:
            continue  # what a guest says is believed only where it has the right form
        scope, name = (arg.decode("utf-8", "replace")[:128] for arg in record.args[:2])
        found[scope][name] = int(record.args[2])
    return dict(found)


def interfaces(guest: Counters) -> tuple[InterfaceStats, ...]:
    """Return the NICs a guest counts; neither lo nor what carries the addresses of services."""
    found: dict[str, dict[str, int]] = {}
    for name, value in guest.items():
        if name.startswith("net."):
            device, _, counter = name.removeprefix("net.").rpartition(".")
            if device.startswith("eth"):
                found.setdefault(device, {})[counter] = value
    return tuple(InterfaceStats(name=name, counters=counters) for name, counters in sorted(found.items()))


def container_stats(
    container_id: str, name: str, pod_id: str, counters: Counters, *, time_ns: int, guest: Counters
) -> ContainerStats:
    """Return a running container's counters.

    Args:
        counters: of its scope. guest: of the scope ``vm``. time_ns: when they were taken.

    A control group does not count by CPU, so that is known of a guest with one CPU only.

    """
    total = counters.get("cpu.usage_usec", 0) * 1000
    usage = counters.get("memory.current", 0)
    inactive = counters.get("memory.inactive_file", 0)
    limit = counters.get("memory.max", 0)
    whole = guest.get("memory.total", 0)
    cpus = guest.get("cpu.count", 0)
    return ContainerStats(
        id=container_id,
        name=name,
        pod_id=pod_id,
        time_ns=time_ns,
        cpu=CpuStats(
            total=total,
            user=counters.get("cpu.user_usec", 0) * 1000,
            system=counters.get("cpu.system_usec", 0) * 1000,
            per_cpu=(total,) if cpus == 1 else None,
        ),
        memory=MemoryStats(
            usage=usage,
            working_set=max(0, usage - inactive),
            limit=min(limit, whole) if limit and whole else limit or whole,
            peak=counters.get("memory.peak", 0),
            anon=counters.get("memory.anon", 0),
            file=counters.get("memory.file", 0),
            inactive_file=inactive,
            page_faults=counters.get("memory.pgfault", 0),
            major_faults=counters.get("memory.pgmajfault", 0),
        ),
        disk=DiskStats(
            read_bytes=counters.get("io.read_bytes", 0),
            write_bytes=counters.get("io.write_bytes", 0),
            reads=counters.get("io.reads", 0),
            writes=counters.get("io.writes", 0),
        ),
        processes=counters.get("pids.current", 0),
        processes_limit=counters.get("pids.max", 0),
        cpus=cpus,
        interfaces=interfaces(guest),
    )
