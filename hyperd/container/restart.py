"""Restart policies: ``never``, ``onFailure``, ``always``, ``unless-stopped``; a container's own, else its pod's.

``onFailure`` may have a bound (``restart_max``). A container that was stopped stays so, also over a restart of the
daemon: ``always`` and ``unless-stopped`` mean the same here, as a restart of the daemon ends no container.

When a run ends, the time of the next one is decided in the same transaction that notes the end, so a restart that is
due while no daemon runs happens after the next start. Each restart waits twice as long as the one before, until a run
has lasted. A VM that ends by itself ends its containers: the first of them that is due brings the pod up in a new VM.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from hyperd.container.locks import PodLocks
from hyperd.container.records import ContainerRecords
from hyperd.container.states import LIVE
from hyperd.db.models import ContainerRow, PodRow
from hyperd.errors import Busy, HostFault, HyperError, NotFound, Timeout
from hyperd.event.bus import Event, EventBus
from hyperd.stream.relay import Relay
from hyperd.vm.model import PAUSED, Vm
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)

FIRST_DELAY = 0.1  # seconds
LONGEST_DELAY = 60.0
LASTED = 10.0  # a run of so many seconds makes the next delay the first again
BUSY_DELAY, FAULT_DELAY = 1.0, 10.0
# Signals of /container/kill that mean "end": after one of them (or the container's stop signal) nothing is restarted.
ENDING = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


def policy(container_spec: dict[str, Any], pod_spec: dict[str, Any]) -> str:
    """Return the policy that counts, of specifications as they are stored."""
    return str(container_spec.get("restart_policy") or pod_spec.get("restart_policy") or "never")


def next_delay(last: float, ran: float) -> float:
    """Return the seconds to wait, after a delay of ``last`` (0 = none yet) and a run of ``ran`` seconds."""
    if not last or ran >= LASTED:
        return FIRST_DELAY
    return min(2 * last, LONGEST_DELAY)


def decide(row: ContainerRow, pod: PodRow) -> None:
    """Note in the row of a container that has just ended when it starts again, if it does."""
    wanted = policy(row.spec, pod.spec)
    most = int(row.spec.get("restart_max") or 0)
    failed = wanted == "onFailure" and row.exit_code != 0 and (not most or row.restart_count < most)
    again = wanted in ("always", "unless-stopped") or failed
    if not again or row.killed or pod.state not in ("running", "paused"):
        row.restart_at = None
        return
    now = time.time()
    _put_off(row, (row.finished_at or now) - (row.started_at or now))


def decide_again(row: ContainerRow, _pod: PodRow) -> None:
    """Put a restart off that could not be made, unless somebody has ended it meanwhile."""
    if row.killed:
        row.restart_at = None
    else:
        _put_off(row, 0.0)


def _put_off(row: ContainerRow, ran: float) -> None:
    row.restart_delay = next_delay(row.restart_delay, ran)
    row.restart_at = time.time() + row.restart_delay


class Restarts:
    """Starts containers again when their time has come.

    Args:
        start: starts a container in its VM, the pod's lock is held (``ContainerService.start_in``).
        stop: ends one that was killed while it was started.
        settled: is told of a container that will not be started again although it was to be.

    ``revive`` is set by the pods' service before ``open``: it brings a pod up whose VM is gone (its lock is held) and
    gives the new VM.

    """

    def __init__(
        self,
        *,
        records: ContainerRecords,
        relay: Relay,
        vms: VmService,
        locks: PodLocks,
        events: EventBus,
        start: Callable[[Vm, str], None],
        stop: Callable[[str], None],
        settled: Callable[[ContainerRow], None],
    ) -> None:
        self._records = records
        self._relay = relay
        self._vms = vms
        self._locks = locks
        self._events = events
        self._start = start
        self._stop = stop
        self._settled = settled
        self.revive: Callable[[str], Vm | None] = lambda _pod_id: None
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="restart")
        self._cancel: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Take up what an earlier daemon left to be restarted; after recovery."""
        _, self._cancel = self._events.subscribe(self._on_event)
        for row in self._records.awaiting_restart():
            self.schedule(row)

    def close(self) -> None:
        """Start nothing more; what is due stays noted for the next daemon."""
        self._cancel()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def schedule(self, row: ContainerRow) -> None:
        """Start a container at the time its row names."""
        if row.restart_at is not None:
            self._later(row.restart_at - time.time(), row.id, row.restart_at)

    def _later(self, seconds: float, container_id: str, due: float) -> None:
        self._relay.soon(self._relay.loop.call_later, max(0.0, seconds), self._submit, container_id, due)

    def _submit(self, container_id: str, due: float) -> None:
        try:
            self._workers.submit(self._run, container_id, due)
        except RuntimeError:
            log.info("container.restarted_later", container=container_id)

    def _on_event(self, event: Event) -> None:
        """Go on after a pause, in which nothing could be started."""
        if event.type == "pod" and event.action == "unpause":
            self._workers.submit(self._resume, event.id)

    def _resume(self, pod_id: str) -> None:
        for row in self._records.awaiting_restart():
            if row.pod_id == pod_id:
                self.schedule(row)

    def _run(self, container_id: str, due: float) -> None:
        try:
            self._restart(container_id, due)
        except NotFound:
            log.debug("container.restart_too_late", container=container_id)
        except Busy:
            self._later(BUSY_DELAY, container_id, due)
        except (HostFault, Timeout) as error:  # it could not even be noted that it is put off: a full disk
            log.warning("container.restart_put_off", container=container_id, seconds=FAULT_DELAY, error=str(error))
            self._later(FAULT_DELAY, container_id, due)
        except HyperError as error:
            log.warning("container.restart_given_up", container=container_id, error=str(error))
        except Exception:
            log.exception("container.restart_broken", container=container_id)

    def _restart(self, container_id: str, due: float) -> None:
        pod_id = self._records.get(container_id).pod_id
        with self._locks.locked(pod_id, "restart a container"):
            row = self._records.get(container_id)
            if row.restart_at != due or row.state in LIVE:
                return
            vm = self._vms.of_pod(pod_id)
            if vm is not None and vm.state == PAUSED:
                return  # see _on_event
            try:
                vm = vm or self.revive(pod_id)
                if vm is None:
                    ended = self._records.update(container_id, restart_at=None)
                    if ended is not None:
                        self._settled(ended)
                    return
                self._start(vm, container_id)
            except HyperError as error:
                log.warning("container.restart_failed", container=container_id, error=str(error))
                self._try_again(row)
                return
            row = self._records.get(container_id)
            log.info("container.restarted", container=container_id, name=row.name, count=row.restart_count)
            self._events.publish(
                "container", "restart", row.id, pod_id, name=row.name, image=row.image_name, by="policy"
            )
            if row.killed:  # in the moment of its start
                self._stop(container_id)

    def _try_again(self, before: ContainerRow) -> None:
        """Put off a restart that could not be made (the pod's lock is held); the end of a run has decided already."""
        if self._records.get(before.id).run_count == before.run_count:
            row = self._records.postpone(before.id, decide_again)
            if row is not None:
                self.schedule(row)
