"""Guests that do not answer: an agent that is stuck, a QEMU that was stopped, a guest that is too busy to schedule.

Every agent is asked for a sign of life at intervals. One that gives none is silent: calls to it fail at once instead of
waiting, and the service above is told. It is asked further, so a guest that comes back is as before.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait

import structlog

from hyperd.errors import HyperError
from hyperd.stream.relay import Relay
from hyperd.vm import console
from hyperd.vm.driver import CONSOLE_LOG
from hyperd.vm.model import ASSOCIATED, IDLE, Vm

log = structlog.get_logger(__name__)

INTERVAL = 10.0  # seconds between two questions
PATIENCE = 20.0  # for an answer: a guest under emulation on a busy host may take seconds


class Heartbeat:
    """See the module's docstring.

    Args:
        vms: gives the VMs there are.
        changed: called, in this object's thread, with a VM that has become silent or answers again.

    """

    def __init__(self, relay: Relay, *, vms: Callable[[], Collection[Vm]], changed: Callable[[Vm, bool], None]) -> None:
        self._relay = relay
        self._vms = vms
        self._changed = changed
        self._closed = threading.Event()
        self._silent: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="vm-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def look(self, *, patience: float = PATIENCE) -> None:
        """Ask every guest that should run once, and tell of changes."""
        asked: dict[Future[bool], Vm] = {
            asyncio.run_coroutine_threadsafe(vm.agent.probe(patience), self._relay.loop): vm
            for vm in self._vms()
            if _should_answer(vm)
        }
        wait(asked, timeout=patience + INTERVAL)
        for future, vm in asked.items():
            if not _should_answer(vm) or not future.done() or future.exception() is not None:
                continue  # it ended or was paused meanwhile
            if future.result() == (vm.id in self._silent):
                self._tell(vm, silent=not future.result())
        self._silent &= {vm.id for vm in self._vms()}

    def _tell(self, vm: Vm, *, silent: bool) -> None:
        try:
            self._changed(vm, silent)
        except HyperError as error:  # the next look tells it again
            log.warning("vm.silence_not_noted", vm=vm.id, error=str(error))
            return
        if silent:
            self._silent.add(vm.id)
            log.error("vm.silent", vm=vm.id, pod=vm.pod_id, hint="its agent does not answer; it is asked further")
        else:
            self._silent.discard(vm.id)
            log.warning("vm.answers_again", vm=vm.id, pod=vm.pod_id)

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            try:
                for vm in self._vms():
                    console.bound(vm.rundir / CONSOLE_LOG)
                self.look()
            except Exception:
                log.exception("vm.heartbeat_failed")


def _should_answer(vm: Vm) -> bool:
    return vm.state in (ASSOCIATED, IDLE) and vm.connected and not (vm.ending or vm.waking or vm.saving)
