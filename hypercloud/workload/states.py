"""Which operation which state allows, and what state follows from the parts."""

from __future__ import annotations

from collections.abc import Iterable

from hypercloud.errors import Conflict
from hypercloud.workload.model import MOVING, State

_LIVE = {State.RUNNING, State.PARTLY_RUNNING}
_AT_REST = {State.NOT_RUNNING, State.RUNNING, State.PARTLY_RUNNING, State.STOPPED}

SERVICE = {
    "start": {State.NOT_RUNNING, State.STOPPED, State.PARTLY_RUNNING},
    "stop": _LIVE,
    # The clients change the number first, which scales, and then ask to scale.
    "scale": {*_AT_REST, State.SCALING},
    "redeploy": {State.RUNNING, State.PARTLY_RUNNING, State.STOPPED},
    "terminate": _AT_REST,
}
STACK = {
    "start": {State.NOT_RUNNING, State.STOPPED, State.PARTLY_RUNNING},
    "stop": _LIVE,
    "redeploy": {State.RUNNING, State.PARTLY_RUNNING, State.STOPPED},
    "terminate": _AT_REST,
}
CONTAINER = {
    "start": {State.STOPPED},
    "stop": {State.RUNNING},
    "redeploy": {State.RUNNING, State.STOPPED},
    "terminate": {State.RUNNING, State.STOPPED},
}
# The state while an operation is carried out.
DURING = {
    "start": State.STARTING,
    "stop": State.STOPPING,
    "scale": State.SCALING,
    "redeploy": State.REDEPLOYING,
    "terminate": State.TERMINATING,
}


def check(table: dict[str, set[State]], kind: str, name: str, state: str, operation: str) -> None:
    """Raise Conflict when an operation is not allowed in a state."""
    if State(state) in table[operation]:
        return
    allowed = ", ".join(sorted(one for one, states in table.items() if State(state) in states))
    raise Conflict(
        f"cannot {operation} the {kind} {name}",
        details=f"its state is {state}",
        resolution=f"allowed now: {allowed}" if allowed else "wait until it is at rest",
    )


def in_stack(state: str, operation: str) -> bool:
    """Say whether an operation on a stack is for a service in a state.

    One that something is being done to has its turn after that.
    """
    now = State(state)
    return now in SERVICE[operation] or (now in MOVING and (operation == "terminate" or now != State.TERMINATING))


def of_service(containers: Iterable[str], target: int) -> State:
    """Return a service's state from those of its containers that are not terminated, and how many it should have."""
    each = [State(one) for one in containers]
    found = set(each)
    if not found:
        return State.NOT_RUNNING
    if found == {State.RUNNING} and len(each) >= target:
        return State.RUNNING
    if State.RUNNING in found:
        return State.PARTLY_RUNNING
    if found & MOVING and found <= {State.STARTING, State.RUNNING}:
        return State.PARTLY_RUNNING
    return State.STOPPED


def of_stack(services: Iterable[str]) -> State:
    """Return a stack's state from those of its services that are not terminated."""
    found = {State(one) for one in services}
    if not found or found == {State.NOT_RUNNING}:
        return State.NOT_RUNNING
    if found == {State.RUNNING}:
        return State.RUNNING
    if found <= {State.STOPPED, State.NOT_RUNNING}:
        return State.STOPPED
    return State.PARTLY_RUNNING
