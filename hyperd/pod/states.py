"""States of a pod: the table of allowed changes is data; the words of the API beside it."""

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


def list_word(state: PodState, outcome: str) -> str:
    """Give the word of ``GET /list``."""
    if state == PodState.STOPPED:
        return outcome or "failed"
    if state == PodState.STARTING:
        return "pending"
    if state == PodState.REMOVING:
        return "stopping"
    return str(state)


def info_phase(state: PodState, outcome: str) -> str:
    """Give the phase of ``/pod/info``."""
    if state == PodState.STOPPED:
        return "Succeeded" if outcome == "succeeded" else "Failed"
    words = {
        PodState.PENDING: "Pending",
        PodState.STARTING: "Pending",
        PodState.RUNNING: "Running",
        PodState.PAUSED: "Paused",
        PodState.STOPPING: "Running",
        PodState.REMOVING: "Running",
    }
    return words[state]
