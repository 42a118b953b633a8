"""What the warm pool does with VMs: boot one and pause it, give it to a pod, wake it, switch it off."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from hyperd.agent.frames import Method
from hyperd.failpoint import failpoint
from hyperd.vm.driver import NicSpec, VmDriver
from hyperd.vm.model import ASSOCIATED, BOOTING, HEALTH_TIMEOUT, NO_FILES, POOLED, HostFiles, Vm
from hyperd.vm.pool.outfit import Outfitter, PlainOutfitter
from hyperd.vm.table import VmTable, new_id

log = structlog.get_logger(__name__)


class Boot(Protocol):
    """Boots a VM for the pool (``VmService.boot``)."""

    def __call__(
        self,
        *,
        vcpu: int,
        memory: int,
        disks: Sequence[Path] = (),
        scratch: Path | None = None,
        nics: Sequence[NicSpec] = (),
        pooled_id: str = "",
    ) -> Vm:
        """Return the VM, which is known under ``pooled_id``."""


class PooledVms:
    """See the module's docstring.

    Args:
        table: the VMs there are. driver: pauses and resumes them.
        boot: boots one. destroy: switches one off for good.

    ``outfitter`` prepares them with what only the services above know of.

    """

    def __init__(self, table: VmTable, driver: VmDriver, *, boot: Boot, destroy: Callable[[Vm], None]) -> None:
        self.outfitter: Outfitter = PlainOutfitter()
        self._table = table
        self._driver = driver
        self._boot = boot
        self._destroy = destroy

    def count(self) -> int:
        """Count the VMs that wait."""
        return sum(vm.state == POOLED for vm in self._table.all())

    def boot(self, *, vcpu: int, memory: int) -> None:
        """Boot a VM and pause it for the pool. On failure nothing is left. Errors: as for ``boot``."""
        vm_id = new_id()
        try:
            outfit = self.outfitter.make(vm_id)
            failpoint("pool.refill.outfit_made")
            vm = self._boot(
                vcpu=vcpu,
                memory=memory,
                scratch=outfit.scratch,
                disks=outfit.layers,
                nics=outfit.nics,
                pooled_id=vm_id,
            )
            failpoint("pool.refill.booted")
        except BaseException:
            self.outfitter.drop(vm_id)
            raise
        try:
            vm.spare_disk = str(outfit.scratch or "")
            self.outfitter.dress(vm)
            failpoint("pool.refill.dressed")
            self._driver.yield_cpu(vm.id, yields=False)
            self._driver.pause(vm.id)
            failpoint("pool.refill.paused")
        except BaseException:
            self._destroy(vm)
            raise
        with self._table.changing(vm):
            vm.state, vm.hidden = POOLED, False
        failpoint("pool.refill.row_written")
        log.info("vm.pooled", vm=vm.id)

    def prune(self) -> None:
        """Switch off those whose image was removed."""
        with self._table.lock:
            stale = [vm for vm in self._waiting() if not all(map(os.path.exists, vm.layers))]
            for vm in stale:
                vm.state = BOOTING  # nobody is given it any more
                vm.hidden = True
        for vm in stale:
            self._destroy(vm)

    def clear(self) -> None:
        """Switch off all that wait."""
        for vm in self._waiting():
            self._destroy(vm)

    def take(
        self, pod_id: str, *, vcpu: int, memory: int, layers: Collection[Path] = (), files: HostFiles = NO_FILES
    ) -> Vm | None:
        """Give a paused VM to a pod, or None when none fits (``VmPool.take``)."""
        wanted = {str(path) for path in layers}
        with self._table.lock:
            waiting = [vm for vm in self._waiting() if files.fits(vm)]
            fitting = [vm for vm in waiting if (vm.vcpu, vm.memory) == (vcpu, memory)]
            vm = max(fitting, key=lambda vm: vm.layers.keys() == wanted, default=None)
            if vm is None:
                return None
            vm.state, vm.waking = ASSOCIATED, True  # nobody else is given it
        try:
            with self._table.changing(vm):
                vm.pod_id = pod_id
        except BaseException:  # what no row says is not so
            with self._table.lock:
                vm.pod_id, vm.state, vm.waking = "", POOLED, False
            raise
        failpoint("pool.take.row_written")
        return vm

    def wake(self, vm: Vm) -> None:
        """Let a VM that was taken run, and check that its agent is well (``VmPool.wake``)."""
        if not vm.connected:
            vm.agent.reach()
        self._driver.resume(vm.id, timeout=HEALTH_TIMEOUT)
        failpoint("pool.take.resumed")
        if not vm.connected:
            vm.agent.connect(fresh=False, timeout=HEALTH_TIMEOUT)
            vm.connected = True
        vm.agent.request(Method.PING, timeout=HEALTH_TIMEOUT)
        vm.waking = False

    def _waiting(self) -> list[Vm]:
        return [vm for vm in self._table.all() if vm.state == POOLED]
