"""Containers that are removed when they have ended (``ContainerSpec.auto_remove``).

A pod all of whose containers were made so with it goes with the last of them. Volumes without a name of their own go
with the last container that uses them.

What a daemon that died had to remove is removed by the next one.
"""

from __future__ import annotations

import structlog

from hyperd.container.locks import PodLocks
from hyperd.container.observers import ContainerObserver
from hyperd.container.records import ContainerRecords
from hyperd.container.states import LIVE
from hyperd.db.models import ContainerRow
from hyperd.pod.errands import Errands
from hyperd.pod.service import PodService
from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)


class AutoRemove(ContainerObserver):
    """See the module's docstring; an observer of the containers."""

    def __init__(self, *, pods: PodService, records: ContainerRecords, locks: PodLocks, relay: Relay) -> None:
        self._pods = pods
        self._records = records
        self._locks = locks
        self._errands = Errands(relay, "auto-remove", self._remove)

    def open(self) -> None:
        """Remove what ended while no daemon ran; after recovery."""
        for row in self._records.to_be_removed():
            self.settled(row)

    def close(self) -> None:
        """Finish what is under way; the rest is the next daemon's."""
        self._errands.close()

    def settled(self, row: ContainerRow) -> None:
        """Remove the container soon, if it is to be."""
        if row.auto_remove:
            self._errands.submit(row.id)

    def _goes_whole(self, row: ContainerRow) -> bool:
        """Return whether the pod ends with this container: the last one, and all were to be removed from the start."""
        made_with_it = self._records.pod_spec(row.pod_id).containers
        if not made_with_it or not all(one.auto_remove for one in made_with_it):
            return False
        return all(one.id == row.id for one in self._records.of_pod(row.pod_id))

    def _remove(self, container_id: str) -> None:
        """Remove a container that has ended, and the volumes that were made for it alone. Errors: HyperError."""
        row = self._records.get(container_id)
        with self._locks.locked(row.pod_id, "remove a container that has ended"):
            row = self._records.get(container_id)
            if row.state in LIVE or row.restart_at is not None:
                return
            if self._goes_whole(row):
                self._pods.remove(row.pod_id, volumes=True)
            else:
                self._pods.remove_container(container_id, volumes=True)
            log.info("container.auto_removed", container=container_id, name=row.name)
