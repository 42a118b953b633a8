"""The stream of events: what happens to sandboxes and containers, each time with how all of the sandbox are then.

A sandbox counts as a container here, as kubelet expects it. What is told is read when it is sent: a status may be newer
than the event that it comes with, never older.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from queue import Empty, Full, Queue

from hyperd.api.cri import views
from hyperd.api.cri.call import Call
from hyperd.api.cri.specs import OWNER
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.engine import Engine
from hyperd.errors import Busy, NotFound, TooLarge
from hyperd.event.bus import Event

MAX_STREAMS = 16  # each holds a thread
MAX_WAITING = 4096  # events that a client has not taken yet
_LOOK = 1.0  # seconds between two looks whether the client is still there
_streams = threading.BoundedSemaphore(MAX_STREAMS)

_CONTAINER = {
    "create": pb.CONTAINER_CREATED_EVENT,
    "start": pb.CONTAINER_STARTED_EVENT,
    "restore": pb.CONTAINER_STARTED_EVENT,
    "die": pb.CONTAINER_STOPPED_EVENT,
    "destroy": pb.CONTAINER_DELETED_EVENT,
}
_SANDBOX = {
    "create": pb.CONTAINER_CREATED_EVENT,
    "start": pb.CONTAINER_STARTED_EVENT,
    "stop": pb.CONTAINER_STOPPED_EVENT,
    "kill": pb.CONTAINER_STOPPED_EVENT,
    "die": pb.CONTAINER_STOPPED_EVENT,
    "destroy": pb.CONTAINER_DELETED_EVENT,
}


def stream(call: Call, _request: pb.GetEventsRequest) -> Generator[pb.ContainerEventResponse, None, None]:
    """Return what happens from now on, until the client leaves. To be closed, whether it was iterated or not.

    Errors: Busy; from the iterator TooLarge (the client is too slow).
    """
    made = _events(call)
    next(made)  # a generator that was never begun is closed without its end
    return made


def _events(call: Call) -> Generator[pb.ContainerEventResponse, None, None]:
    """Yield something once it listens, then what happens. Errors: Busy, TooLarge."""
    waiting: Queue[Event] = Queue(MAX_WAITING)
    overrun = threading.Event()

    def enqueue(event: Event) -> None:
        if _kind(event) is not None:
            try:
                waiting.put_nowait(event)
            except Full:
                overrun.set()

    if not _streams.acquire(blocking=False):
        raise Busy(f"{MAX_STREAMS} streams of events are open")
    try:
        _, cancel = call.engine.events.subscribe(enqueue)
        try:
            yield pb.ContainerEventResponse()
            yield from _told(call, waiting, overrun.is_set)
        finally:
            cancel()
    finally:
        _streams.release()


def _told(
    call: Call, waiting: Queue[Event], overrun: Callable[[], bool]
) -> Generator[pb.ContainerEventResponse, None, None]:
    known = _Sandboxes(call.engine)
    while call.active() and not call.room.closing.is_set():
        if overrun():
            raise TooLarge("the client takes events too slowly", details=f"{MAX_WAITING} wait")
        try:
            event = waiting.get(timeout=_LOOK)
        except Empty:
            continue
        found = known.status(event.pod_id or event.id, gone=event.type == "pod" and event.action == "destroy")
        if found is None:
            continue
        status, containers = found
        yield pb.ContainerEventResponse(
            container_id=event.id,
            container_event_type=_kind(event),
            created_at=event.time_ns,
            pod_sandbox_status=status,
            containers_statuses=containers,
        )


def _kind(event: Event) -> pb.ContainerEventType | None:
    actions = {"container": _CONTAINER, "pod": _SANDBOX}.get(event.type, {})
    return actions.get(event.action)


class _Sandboxes:
    """How sandboxes are, or, of those that are gone, were."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last: dict[str, pb.PodSandboxStatus] = {}
        for one in engine.pods.briefs(OWNER):
            self.status(one.id, gone=False)

    def status(self, pod_id: str, *, gone: bool) -> tuple[pb.PodSandboxStatus, list[pb.ContainerStatus]] | None:
        """Return how a sandbox and its containers are; None for a pod that is none, or that was never seen."""
        try:
            pod = self._engine.pods.inspect(pod_id)
        except NotFound:
            last = self._last.pop(pod_id, None) if gone else self._last.get(pod_id)
            if last is None:
                return None
            last.state = pb.SANDBOX_NOTREADY
            return last, []
        if pod.spec.owner != OWNER:
            return None
        self._last[pod_id] = views.sandbox_status(pod)
        return self._last[pod_id], [views.container_status(one) for one in pod.containers]
