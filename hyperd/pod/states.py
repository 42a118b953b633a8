"""States of a pod: the table of allowed changes is data."""

from __future__ import annotations

from enum import StrEnum

from hyperd.errors import Conflict


class PodState(StrEnum):
    """What a pod is doing; what is persisted."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    REMOVING = "removing"


ALLOWED: dict[PodState, frozenset[PodState]] = {
    PodState.PENDING: frozenset({PodState.STARTING, PodState.REMOVING}),
    PodState.STARTING: frozenset({PodState.RUNNING, PodState.PENDING, PodState.STOPPED, PodState.REMOVING}),
    PodState.RUNNING: frozenset({PodState.PAUSED, PodState.STOPPING, PodState.STOPPED, PodState.REMOVING}),
    PodState.PAUSED: frozenset({PodState.RUNNING, PodState.STOPPING, PodState.STOPPED, PodState.REMOVING}),
    PodState.STOPPING: frozenset({PodState.STOPPED, PodState.REMOVING}),
    PodState.STOPPED: frozenset({PodState.STARTING, PodState.REMOVING}),
    PodState.REMOVING: frozenset(),
}

WITH_VM = (PodState.RUNNING, PodState.PAUSED)


def check(pod_id: str, current: PodState, wanted: PodState) -> None:
    """Refuse a change the table does not have. Errors: Conflict."""
    if wanted not in ALLOWED[current]:
        raise Conflict(f"the pod {pod_id} is {current} and cannot become {wanted}")
