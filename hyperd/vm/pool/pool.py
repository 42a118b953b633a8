"""A few VMs booted and paused ahead of time, so that a pod does not wait for a kernel.

A pool never delays a request: it refills in a thread of its own, some time after a VM was taken, and one VM after
the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from pathlib import Path

import structlog

from hyperd.errors import HyperError
from hyperd.vm.model import NO_FILES, HostFiles, Vm
from hyperd.vm.pool.outfit import Outfitter
from hyperd.vm.pool.refill import PooledVms

log = structlog.get_logger(__name__)

REFILL_DELAY = 0.7  # seconds after a VM was taken; the pod that took it starts meanwhile
FAILURE_DELAY = 30.0
SPARE_DISKS = "pool"  # directory of the disks of waiting VMs, below the daemon's root


class VmPool:
    """Keeps ``size`` paused VMs of one shape.

    Args:
        vms: boots them, gives them away and switches them off.
        size: how many; 0 = no pool.
        vcpu: CPUs of each. memory: MiB of each.
        boot_timeout: seconds a boot may take; ``close`` waits so long for one that is under way.

    """

    def __init__(self, vms: PooledVms, *, size: int, vcpu: int, memory: int, boot_timeout: float) -> None:
        self._vms = vms
        self._boot_timeout = boot_timeout
        self.size = size
        self.vcpu = vcpu
        self.memory = memory
        self._last_taken = 0.0
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vm-pool", daemon=True)

    def prepare_with(self, outfitter: Outfitter) -> None:
        """Let a service above prepare the VMs, before ``start``."""
        self._vms.outfitter = outfitter

    def start(self) -> None:
        """Begin to fill the pool."""
        if self.size:
            self._thread.start()

    def end(self) -> None:
        """Begin nothing more; returns at once."""
        self._closed.set()
        self._wake.set()

    def close(self) -> None:
        """Stop filling, and switch off the VMs that wait: they have no pod."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(self._boot_timeout)
        self._vms.clear()

    def check(self) -> None:
        """Look soon whether its VMs are still of use."""
        self._wake.set()

    def take(
        self, pod_id: str, *, vcpu: int, memory: int, layers: Collection[Path] = (), files: HostFiles = NO_FILES
    ) -> Vm | None:
        """Give a paused VM of the pool to a pod, or None when none has that size and fits the pod's files of the host.

        ``wake`` it then. ``layers``: one that was prepared with these is the best.

        Errors: OutOfSpace, HostFault (it cannot be noted); it waits on then.
        """
        vm = self._vms.take(pod_id, vcpu=vcpu, memory=memory, layers=layers, files=files)
        if vm is not None:
            self.taken()
        return vm

    def wake(self, vm: Vm) -> None:
        """Let a VM that was taken run, and check that its agent is well. Errors: DriverError, AgentError, Timeout."""
        self._vms.wake(vm)

    def drop(self, vm: Vm) -> None:
        """Take back what a VM that never was a pod's had been prepared with."""
        self._vms.outfitter.drop(vm.id)

    def taken(self) -> None:
        """Tell that a VM has left the pool."""
        self._last_taken = time.monotonic()
        self._wake.set()

    def _run(self) -> None:
        delay = REFILL_DELAY
        while not self._closed.wait(delay):
            delay = self._last_taken + REFILL_DELAY - time.monotonic()
            if delay > 0:
                continue  # a pod that has just taken one is starting
            delay = REFILL_DELAY
            try:
                self._vms.prune()
                if self._vms.count() < self.size:
                    self._vms.boot(vcpu=self.vcpu, memory=self.memory)
                    continue
            except HyperError as error:
                log.warning("pool.boot_failed", error=str(error), retry_in=FAILURE_DELAY)
                delay = FAILURE_DELAY
                continue
            except Exception:
                log.exception("pool.failed")
                delay = FAILURE_DELAY
                continue
            self._wake.wait()
            self._wake.clear()
