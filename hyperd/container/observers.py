"""The contract between containers and what watches them: health checks, restarts, waiting clients, their pods."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from hyperd.db.models import ContainerRow

log = structlog.get_logger(__name__)


class ContainerObserver:
    """Is told what happens to containers. Each method does nothing unless it is overridden.

    The methods are called from threads of the services, some of them while the pod's lock is held: they must return
    soon and take no lock of a pod. A container that is started again by its policy is started and ended each time.
    """

    def started(self, row: ContainerRow) -> None:
        """Take the news that a run has begun."""

    def ended(self, row: ContainerRow) -> None:
        """Take the news that a run has ended; ``row.restart_at`` tells whether its policy starts it again."""

    def settled(self, row: ContainerRow) -> None:
        """Take the news that a container has ended and nothing starts it again by itself."""

    def removed(self, row: ContainerRow) -> None:
        """Take the news that a container is gone."""


class ContainerObservers(ContainerObserver):
    """Tells several observers; one that fails is logged and hinders neither the others nor the caller."""

    def __init__(self) -> None:
        self._all: list[ContainerObserver] = []

    def add(self, observer: ContainerObserver) -> None:
        """Tell one more, before the first container is started."""
        self._all.append(observer)

    def started(self, row: ContainerRow) -> None:
        """Tell all."""
        self._tell("started", row)

    def ended(self, row: ContainerRow) -> None:
        """Tell all."""
        self._tell("ended", row)

    def settled(self, row: ContainerRow) -> None:
        """Tell all."""
        self._tell("settled", row)

    def removed(self, row: ContainerRow) -> None:
        """Tell all."""
        self._tell("removed", row)

    def _tell(self, what: str, row: ContainerRow) -> None:
        observers: Sequence[ContainerObserver] = tuple(self._all)
        for observer in observers:
            try:
                getattr(observer, what)(row)
            except Exception:
                log.exception("container.observer_failed", container=row.id, what=what)
