"""``PodStats``: what the hypervisor counts of a VM and what its agent counts inside."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from hyperd.container.names import ident
from hyperd.container.records import ContainerRecords
from hyperd.container.states import LIVE
from hyperd.container.stats import (
    VM_SCOPE,
    Counters,
    block_object,
    container_object,
    cpu_object,
    guest_counters,
    memory_object,
    network_object,
)
from hyperd.errors import HyperError, NotAlive
from hyperd.pod.records import PodRecords
from hyperd.stream.logs import now_text
from hyperd.vm.driver import VmStats
from hyperd.vm.model import PAUSED, SCRATCH_LUN, Vm
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)


class PodStats:
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

    def get(self, pod_id: str) -> dict[str, Any]:
        """Give ``PodStats`` of a running or paused pod; of a paused one only what the hypervisor knows.

        Errors: NotFound, NotAlive, DriverError.
        """
        row = self._pods.get(pod_id)
        vm = self._vms.of_pod(row.id)
        if vm is None:
            raise NotAlive(f"Can not get pod stats for non-running pod ({pod_id})")
        outer = self._counters(vm.id)
        inner = self._inner(vm)
        when = now_text(time.time_ns())
        guest = inner.get(VM_SCOPE, {})
        return {
            "cpu": cpu_object(
                total=outer.cpu_total,
                user=outer.cpu_user,
                system=outer.cpu_system,
                load=guest.get("load.1", 0) * 10,
                per_cpu=outer.per_cpu or None,
            ),
            "block": block_object(_disks(vm, outer)),
            "memory": _memory(guest, outer),
            "network": network_object(_interfaces(guest) or outer.network, guest),
            "filesystem": _filesystem(vm, outer),
            "timestamp": when,
            "container_stats": [
                container_object(container.id, container.name, inner[name], when, cpus=guest.get("cpu.count", 0))
                for container in self._containers.of_pod(pod_id)
                if container.state in LIVE and (name := ident(container.id, container.run_count)) in inner
            ],
        }

    def _inner(self, vm: Vm) -> dict[str, dict[str, int]]:
        if vm.state == PAUSED:
            return {}
        try:
            return guest_counters(vm.agent)
        except HyperError as error:
            log.warning("stats.no_guest", vm=vm.id, error=str(error))
            return {}


def _disks(vm: Vm, outer: VmStats) -> list[dict[str, Any]]:
    """Give the VM's disks by their SCSI address, which is what host and guest agree on."""
    paths = {str(lun): path for path, lun in vm.disks.items()}
    return [
        {
            "name": f"0:0:0:{lun}",
            "source": paths.get(lun, ""),
            "read_bytes": counters.get("read_bytes", 0),
            "write_bytes": counters.get("write_bytes", 0),
            "reads": counters.get("read_ops", 0),
            "writes": counters.get("write_ops", 0),
        }
        for lun, counters in sorted(outer.block.items(), key=lambda item: int(item[0]))
    ]


def _memory(guest: Counters, outer: VmStats) -> dict[str, Any]:
    if "memory.total" not in guest:
        return memory_object(usage=outer.memory_rss, working_set=outer.memory_rss)
    # A small guest counts less as available than is free.
    total = guest["memory.total"]
    usage = max(0, total - guest.get("memory.free", 0))
    return memory_object(usage=usage, working_set=max(0, min(usage, total - guest.get("memory.available", 0))))


def _interfaces(guest: Counters) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, value in guest.items():
        if name.startswith("net."):
            device, _, counter = name.removeprefix("net.").rpartition(".")
            if device.startswith("eth"):  # the NICs; not lo, nor what carries the addresses of services
                found.setdefault(device, {})[counter] = value
    return found


def _filesystem(vm: Vm, outer: VmStats) -> list[dict[str, Any]]:
    """Give the pod's writable disk as the host sees it: sparse, so ``usage`` is what it takes now."""
    path = next((path for path, lun in vm.disks.items() if lun == SCRATCH_LUN), "")
    try:
        status = Path(path).stat() if path else None
    except OSError:
        status = None
    if status is None:
        return []
    counters = outer.block.get(str(SCRATCH_LUN), {})
    usage = status.st_blocks * 512
    return [
        {
            "device": path,
            "capacity": status.st_size,
            "usage": usage,
            "available": max(0, status.st_size - usage),
            "reads_completed": counters.get("read_ops", 0),
            "reads_merged": 0,
            "sectors_read": counters.get("read_bytes", 0) // 512,
            "read_time": 0,
            "writes_completed": counters.get("write_ops", 0),
            "writes_merged": 0,
            "sectors_written": counters.get("write_bytes", 0) // 512,
            "write_time": 0,
            "io_in_progress": 0,
            "io_time": 0,
            "weighted_io_time": 0,
        }
    ]
