"""Counters of pods and containers: what the hypervisor counts of a VM and what its agent counts inside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from hyperd.container.names import ident
from hyperd.container.records import ContainerRecords
from hyperd.container.states import LIVE
from hyperd.container.stats import (
    VM_SCOPE,
    ContainerStats,
    Counters,
    CpuStats,
    DiskStats,
    FilesystemStats,
    InterfaceStats,
    MemoryStats,
    container_stats,
    guest_counters,
    interfaces,
)
from hyperd.db.models import ContainerRow
from hyperd.errors import HyperError, NotAlive
from hyperd.pod.records import PodRecords
from hyperd.vm.driver import VmStats
from hyperd.vm.model import PAUSED, SCRATCH_LUN, Vm, require_running
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class PodStats:
    """Counters of a running or paused pod; of a paused one only what the hypervisor knows.

    Args:
        time_ns: when they were taken, ns since 1970.
        connections: TCP connections of the guest by family (``tcp``, ``tcp6``) and state; a family that the guest
            does not tell is missing.

    """

    pod_id: str
    time_ns: int
    cpu: CpuStats
    memory: MemoryStats
    disks: tuple[DiskStats, ...]
    interfaces: tuple[InterfaceStats, ...]
    connections: Counters
    filesystem: FilesystemStats | None
    containers: tuple[ContainerStats, ...]


class StatsService:
    """See the module's docstring.

    Args:
        counters: the driver's ``stats``.

    """

    def __init__(
        self,
        *,
        pods: PodRecords,
        containers: ContainerRecords,
        vms: VmService,
        counters: Callable[[str], VmStats],
    ) -> None:
        self._pods = pods
        self._containers = containers
        self._vms = vms
        self._counters = counters

    def pod(self, pod_id: str) -> PodStats:
        """Return the counters of a pod that has a VM. Errors: NotFound, NotAlive, DriverError."""
        row = self._pods.get(pod_id)
        vm = self._vms.of_pod(row.id)
        if vm is None:
            raise NotAlive(f"Can not get pod stats for non-running pod ({pod_id})")
        outer = self._counters(vm.id)
        inner = self._inner(vm)
        now = time.time_ns()
        guest = inner.get(VM_SCOPE, {})
        outside = tuple(InterfaceStats(name=name, counters=found) for name, found in sorted(outer.network.items()))
        return PodStats(
            pod_id=pod_id,
            time_ns=now,
            cpu=CpuStats(
                total=outer.cpu_total,
                user=outer.cpu_user,
                system=outer.cpu_system,
                load=guest.get("load.1", 0) * 10,
                per_cpu=tuple(outer.per_cpu) or None,
            ),
            memory=_memory(guest, outer),
            disks=_disks(vm, outer),
            interfaces=interfaces(guest) or outside,
            connections={name: value for name, value in guest.items() if name.startswith(("tcp.", "tcp6."))},
            filesystem=_filesystem(vm, outer),
            containers=tuple(
                container_stats(found.id, found.name, pod_id, inner[name], time_ns=now, guest=guest)
                for found in self._containers.of_pod(pod_id)
                if found.state in LIVE and (name := _ident(found)) in inner
            ),
        )

    def container(self, name: str) -> ContainerStats:
        """Return the counters of a running container. Errors: NotFound, NotAlive, AgentError, Timeout."""
        row = self._containers.find(name)
        vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
        inner = guest_counters(vm.agent)
        if row.state not in LIVE or _ident(row) not in inner:
            raise NotAlive(f"the container {row.name} is not running")
        guest = inner.get(VM_SCOPE, {})
        return container_stats(row.id, row.name, row.pod_id, inner[_ident(row)], time_ns=time.time_ns(), guest=guest)

    def _inner(self, vm: Vm) -> dict[str, dict[str, int]]:
        if vm.state == PAUSED:
            return {}
        try:
            return guest_counters(vm.agent)
        except HyperError as error:
            log.warning("stats.no_guest", vm=vm.id, error=str(error))
            return {}


def _ident(row: ContainerRow) -> str:
    return ident(row.id, row.run_count)


def _disks(vm: Vm, outer: VmStats) -> tuple[DiskStats, ...]:
    """Return the VM's disks by their SCSI address, which is what host and guest agree on."""
    paths = {str(lun): path for path, lun in vm.disks.items()}
    return tuple(
        _disk(f"0:0:0:{lun}", paths.get(lun, ""), counters)
        for lun, counters in sorted(outer.block.items(), key=lambda item: int(item[0]))
    )


def _disk(name: str, source: str, counters: Counters) -> DiskStats:
    return DiskStats(
        name=name,
        source=source,
        read_bytes=counters.get("read_bytes", 0),
        write_bytes=counters.get("write_bytes", 0),
        reads=counters.get("read_ops", 0),
        writes=counters.get("write_ops", 0),
    )


def _memory(guest: Counters, outer: VmStats) -> MemoryStats:
    if "memory.total" not in guest:
        return MemoryStats(usage=outer.memory_rss, working_set=outer.memory_rss)
    # A small guest counts less as available than is free.
    total = guest["memory.total"]
    usage = max(0, total - guest.get("memory.free", 0))
    working_set = max(0, min(usage, total - guest.get("memory.available", 0)))
    return MemoryStats(usage=usage, working_set=working_set, limit=total)


def _filesystem(vm: Vm, outer: VmStats) -> FilesystemStats | None:
    path = next((path for path, lun in vm.disks.items() if lun == SCRATCH_LUN), "")
    try:
        status = Path(path).stat() if path else None
    except OSError:
        status = None
    if status is None:
        return None
    return FilesystemStats(
        device=path,
        capacity=status.st_size,
        usage=status.st_blocks * 512,
        disk=_disk("", path, outer.block.get(str(SCRATCH_LUN), {})),
    )
