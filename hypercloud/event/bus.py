"""The bus: whoever watches gets every event that happens while they do, in order.

A watcher that does not keep up is let go (its stream ends) instead of making others wait or memory grow.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from dataclasses import dataclass, field

QUEUE = 10_000  # events that a slow watcher may be behind


@dataclass(frozen=True, kw_only=True)
class Ref:
    """The name of an object: its kind (stack, service, container, node, nodecluster, action) and uuid."""

    kind: str
    uuid: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """An object was created, changed its state, or was deleted. ``namespace`` empty = all may see it."""

    kind: str
    action: str  # create | update | delete
    uuid: str
    state: str
    namespace: str = ""
    parents: tuple[Ref, ...] = ()
    time: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, kw_only=True)
class Record:
    """Something that Shipyard keeps: an event of an engine, or of the administration."""

    type: str
    tags: tuple[str, ...]
    message: str = ""
    engine: str = ""
    container: str = ""
    image: str = ""
    time: float = field(default_factory=time.time)


class Watch:
    """One watcher's queue. It ends when it is closed or was too slow."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._queue: queue.Queue[Change | Record | None] = queue.Queue(QUEUE)
        self.lost = False

    def put(self, event: Change | Record) -> None:
        """Take an event, or give up when the queue is full."""
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.lost = True
            self.close()

    def get(self, timeout: float | None = None) -> Change | Record | None:
        """Return the next event; None at the end, or after ``timeout`` seconds."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def more(self, limit: int) -> list[Change | Record]:
        """Return further events that are there already, at most so many."""
        found: list[Change | Record] = []
        with contextlib.suppress(queue.Empty):
            while len(found) < limit and (event := self._queue.get_nowait()) is not None:
                found.append(event)
        return found

    def close(self) -> None:
        """End the watch."""
        self._bus.forget(self)
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(None)


class Bus:
    """Hands events to all watchers."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a slow watcher leaves while events are handed out
        self._watches: list[Watch] = []

    def watch(self) -> Watch:
        """Begin to watch."""
        watch = Watch(self)
        with self._lock:
            self._watches = [*self._watches, watch]
        return watch

    def forget(self, watch: Watch) -> None:
        """Take a watcher off."""
        with self._lock:
            self._watches = [one for one in self._watches if one is not watch]

    def publish(self, event: Change | Record) -> None:
        """Hand an event to everybody; returns at once."""
        with self._lock:
            for watch in list(self._watches):
                watch.put(event)

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._watches)
