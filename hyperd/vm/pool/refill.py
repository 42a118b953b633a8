"""The VM service's part that fills the pool and gives its VMs away."""

from __future__ import annotations

import os
import random
import string
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

import structlog

from hyperd.agent.frames import Method
from hyperd.db.session import Database
from hyperd.vm.driver import NicSpec, VmDriver
from hyperd.vm.hotplug import Plugs
from hyperd.vm.model import ASSOCIATED, BOOTING, HEALTH_TIMEOUT, POOLED, Vm
from hyperd.vm.pool.pool import Outfitter, PlainOutfitter, VmPool

log = structlog.get_logger(__name__)


def new_id() -> str:
    """Give an id for a VM."""
    return "vm-" + "".join(random.choices(string.ascii_letters, k=10))


class Pooling(Plugs):
    """See the module's docstring. ``boot`` and ``destroy`` are the whole service's."""

    pool: VmPool

    def __init__(self, database: Database, driver: VmDriver) -> None:
        super().__init__(database, driver)
        self.outfitter: Outfitter = PlainOutfitter()
        self._vms: dict[str, Vm] = {}
        self._lock = threading.RLock()

    def boot(
        self,
        *,
        vcpu: int,
        memory: int,
        disks: Sequence[Path] = (),
        scratch: Path | None = None,
        nics: Sequence[NicSpec] = (),
        hidden: bool = False,
        pooled_id: str = "",
    ) -> Vm:
        """Boot a VM (``VmService.boot``)."""
        raise NotImplementedError

    def destroy(self, vm: Vm) -> None:
        """Switch a VM off (``VmService.destroy``)."""
        raise NotImplementedError

    def pooled(self) -> int:
        """Count the VMs of the pool."""
        with self._lock:
            return sum(vm.state == POOLED for vm in self._vms.values())

    def boot_pooled(self, *, vcpu: int, memory: int) -> None:
        """Boot a VM and pause it for the pool. On failure nothing is left. Errors: as for ``boot``."""
        vm_id = new_id()
        try:
            outfit = self.outfitter.make(vm_id)
            vm = self.boot(
                vcpu=vcpu,
                memory=memory,
                scratch=outfit.scratch,
                disks=outfit.layers,
                nics=outfit.nics,
                pooled_id=vm_id,
            )
        except BaseException:
            self.outfitter.drop(vm_id)
            raise
        try:
            vm.spare_disk = str(outfit.scratch or "")
            self.outfitter.dress(vm)
            self._driver.yield_cpu(vm.id, yields=False)
            self._driver.pause(vm.id)
        except BaseException:
            self.destroy(vm)
            raise
        vm.state, vm.hidden = POOLED, False
        self.save(vm)
        log.info("vm.pooled", vm=vm.id)

    def prune_pool(self) -> None:
        """Switch off the VMs of the pool whose image was removed."""
        with self._lock:
            stale = [vm for vm in self._vms.values() if vm.state == POOLED and not all(map(os.path.exists, vm.layers))]
            for vm in stale:
                vm.state = BOOTING  # nobody is given it any more
                vm.hidden = True
        for vm in stale:
            self.destroy(vm)

    def take(self, pod_id: str, *, vcpu: int, memory: int, layers: Collection[Path] = ()) -> Vm | None:
        """Give a paused VM of the pool to a pod, or None when none has that size.

        ``wake`` it then. ``layers``: one that was prepared with these is the best.
        """
        wanted = {str(path) for path in layers}
        with self._lock:
            fitting = [vm for vm in self._vms.values() if vm.state == POOLED and (vm.vcpu, vm.memory) == (vcpu, memory)]
            vm = max(fitting, key=lambda vm: vm.layers.keys() == wanted, default=None)
            if vm is None:
                return None
            vm.pod_id, vm.state, vm.waking = pod_id, ASSOCIATED, True
        self.pool.taken()
        self.save(vm)
        return vm

    def wake(self, vm: Vm) -> None:
        """Let a VM of the pool run and check that its agent is well. Errors: DriverError, AgentError, Timeout."""
        if not vm.connected:
            vm.agent.reach()
        self._driver.resume(vm.id, timeout=HEALTH_TIMEOUT)
        if not vm.connected:
            vm.agent.connect(fresh=False, timeout=HEALTH_TIMEOUT)
            vm.connected = True
        vm.agent.request(Method.PING, timeout=HEALTH_TIMEOUT)
        vm.waking = False
