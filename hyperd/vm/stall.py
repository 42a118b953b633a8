"""VMs that stand still because the host's disk is full.

QEMU stops a VM whose write found no room (its default for ``enospc``), so nothing the guest wrote is lost. Only the
daemon can let it go on: this thread does, as soon as there is room again.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from hyperd.errors import HyperError
from hyperd.vm.driver import PowerState, VmDriver

log = structlog.get_logger(__name__)

INTERVAL = 5.0
ROOM = 32 * 2**20  # bytes that must be free before a VM is woken; it would stop again at once with less


class StallWatch:
    """Wakes VMs that stopped without being asked to.

    Args:
        running: gives the ids of the VMs that should run.
        path: on the file system that holds the VMs' disks.

    """

    def __init__(self, driver: VmDriver, *, running: Callable[[], Collection[str]], path: Path) -> None:
        self._driver = driver
        self._running = running
        self._path = path
        self._closed = threading.Event()
        self._known: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="vm-stall", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(INTERVAL)

    def look(self) -> None:
        """Look once: tell of VMs that stand still, wake them when there is room."""
        states = self._driver.states()
        stalled = {vm_id for vm_id in self._running() if states.get(vm_id) == PowerState.PAUSED}
        room = shutil.disk_usage(self._path).free
        for vm_id in sorted(stalled - self._known):
            log.error("vm.stalled", vm=vm_id, free=room, hint="the host's disk is full; free space and it continues")
        self._known &= stalled
        for vm_id in stalled:
            # Twice seen: a VM that is being paused or resumed just now is none of ours.
            if vm_id in self._known and room >= ROOM:
                self._driver.resume(vm_id)
                log.warning("vm.goes_on", vm=vm_id)
        self._known |= stalled

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            try:
                if self._running():
                    self.look()
            except HyperError as error:
                log.warning("vm.stall_watch_failed", error=str(error))
            except Exception:
                log.exception("vm.stall_watch_failed")
