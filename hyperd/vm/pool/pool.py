"""A few VMs booted and paused ahead of time, so that a pod does not wait for a kernel.

A pool never delays a request: it refills in a thread of its own, some time after a VM was taken, and one VM after
the other.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

import structlog

from hyperd.errors import HyperError
from hyperd.vm.model import Outfit, Vm

log = structlog.get_logger(__name__)

REFILL_DELAY = 0.7  # seconds after a VM was taken; the pod that took it starts meanwhile
FAILURE_DELAY = 30.0
SPARE_DISKS = "pool"  # directory of the disks of waiting VMs, below the daemon's root


class PoolHost(Protocol):
    """What a pool needs of the service that boots VMs."""

    @property
    def boot_timeout(self) -> float:
        """Seconds a boot may take."""

    def pooled(self) -> int:
        """Count the VMs of the pool."""

    def boot_pooled(self, *, vcpu: int, memory: int) -> None:
        """Boot a VM and pause it for the pool."""

    def prune_pool(self) -> None:
        """Switch off the VMs of the pool that are of no use any more."""


class Outfitter(Protocol):
    """Prepares VMs for the pool with what only the services above know of."""

    def make(self, vm_id: str) -> Outfit:
        """Give what a VM shall be booted with. Errors: HyperError; ``drop`` is called then."""

    def dress(self, vm: Vm) -> None:
        """Prepare the guest, as far as that can be done without knowing its pod. Errors: AgentError, Timeout."""

    def drop(self, vm_id: str) -> None:
        """Take back what ``make`` has given, for a VM that is gone and never was a pod's; nothing is fine."""


class PlainOutfitter:
    """Prepares nothing: a VM gets everything when it is taken."""

    def make(self, vm_id: str) -> Outfit:  # noqa: ARG002
        """Give nothing."""
        return Outfit()

    def dress(self, vm: Vm) -> None:
        """Do nothing."""

    def drop(self, vm_id: str) -> None:
        """Do nothing."""


class VmPool:
    """Keeps ``size`` paused VMs of one shape.

    Args:
        vms: the service that boots and knows them.
        size: how many; 0 = no pool.
        vcpu: CPUs of each. memory: MiB of each.

    """

    def __init__(self, vms: PoolHost, *, size: int, vcpu: int, memory: int) -> None:
        self._vms = vms
        self.size = size
        self.vcpu = vcpu
        self.memory = memory
        self._last_taken = 0.0
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vm-pool", daemon=True)

    def start(self) -> None:
        """Begin to fill the pool."""
        if self.size:
            self._thread.start()

    def end(self) -> None:
        """Begin nothing more; returns at once."""
        self._closed.set()
        self._wake.set()

    def close(self) -> None:
        """Stop filling."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(self._vms.boot_timeout)

    def check(self) -> None:
        """Look soon whether its VMs are still of use."""
        self._wake.set()

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
                self._vms.prune_pool()
                if self._vms.pooled() < self.size:
                    self._vms.boot_pooled(vcpu=self.vcpu, memory=self.memory)
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
