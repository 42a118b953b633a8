"""Pods that were made for their containers (``PodSpec.implicit``): they end with the last of them.

Such a pod stops when none of its containers runs or is going to, so that no virtual machine is kept for nothing, and
is removed with the last one. What a daemon that died had to do is done by the next one.
"""

from __future__ import annotations

from collections.abc import Callable

from hyperd.container.locks import PodLocks
from hyperd.container.records import ContainerRecords
from hyperd.container.states import LIVE
from hyperd.event.bus import Event, EventBus
from hyperd.pod.errands import Errands
from hyperd.pod.records import PodRecords
from hyperd.pod.service import PodService
from hyperd.pod.states import PodState
from hyperd.stream.relay import Relay

_ENDS = frozenset({"die", "destroy", "stop"})


class PodLifetime:
    """Ends pods with their last container; open it after recovery."""

    def __init__(
        self,
        *,
        pods: PodService,
        records: PodRecords,
        containers: ContainerRecords,
        locks: PodLocks,
        events: EventBus,
        relay: Relay,
    ) -> None:
        self._pods = pods
        self._records = records
        self._containers = containers
        self._locks = locks
        self._events = events
        self._errands = Errands(relay, "pod-end", self._end)
        self._cancel: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Listen from now on, and look after pods whose last container ended while no daemon ran."""
        _, self._cancel = self._events.subscribe(self._hear)
        for row in self._records.all():
            if row.spec.get("implicit"):
                self._errands.submit(row.id)

    def close(self) -> None:
        """Finish what is under way."""
        self._cancel()
        self._errands.close()

    def _hear(self, event: Event) -> None:
        if event.type == "container" and event.action in _ENDS and event.pod_id:
            self._errands.submit(event.pod_id)

    def _end(self, pod_id: str) -> None:
        """Stop or remove a pod if it is time for that. Errors: NotFound, DriverError, Busy."""
        if not self._containers.pod_spec(pod_id).implicit:
            return
        with self._locks.locked(pod_id, "end with its last container"):
            state = PodState(self._records.get(pod_id).state)
            rows = self._containers.of_pod(pod_id)
            if not rows:
                self._pods.remove(pod_id)
            elif state == PodState.RUNNING and not any(row.state in LIVE or row.restart_at is not None for row in rows):
                self._pods.stop(pod_id)
