"""The bus: services publish that something has changed, listeners and late clients are told.

The newest events are kept in memory, so that ``since`` works for what has just happened; nothing is written to disk.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)

BACKLOG = 4096  # events kept
MAX_TEXT = 256  # characters of an attribute's value


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that has happened.

    Args:
        type: kind of the object: ``pod``, ``container``, ``image``, ``vm`` or ``network``.
        action: what happened to it, such as ``start``.
        id: of the object.
        pod_id: the pod that it belongs to or that it happened to, empty = none.
        attributes: what else is worth knowing; labels of the object are among them.
        time_ns: when, ns since 1970; never the same twice and never going back, whatever the clock does.

    """

    type: str
    action: str
    id: str
    pod_id: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    time_ns: int = 0


Listener = Callable[[Event], object]


class EventBus:
    """Hands events to listeners in the order they were published; every method may be called from any thread."""

    def __init__(self, *, backlog: int = BACKLOG) -> None:
        self._lock = threading.Lock()
        self._recent: deque[Event] = deque(maxlen=backlog)
        self._listeners: dict[int, Listener] = {}
        self._next = 0
        self._last = 0

    def publish(self, kind: str, action: str, ident: str, pod_id: str = "", /, **attributes: object) -> None:
        """Tell that something has happened; never fails and never blocks for long.

        Args:
            kind: see Event.type. action: see there. ident: of the object. pod_id: see Event.
            attributes: values become text; None is left out.

        """
        values = {key: str(value)[:MAX_TEXT] for key, value in attributes.items() if value is not None}
        with self._lock:
            self._last = max(time.time_ns(), self._last + 1)
            event = Event(type=kind, action=action, id=ident, pod_id=pod_id, attributes=values, time_ns=self._last)
            self._recent.append(event)
            for listener in tuple(self._listeners.values()):
                try:
                    listener(event)
                except Exception:
                    log.exception("event.listener_failed", kind=kind, action=action)

    def subscribe(self, listener: Listener, *, since_ns: int | None = None) -> tuple[list[Event], Callable[[], None]]:
        """Tell a listener everything from now on; it must only enqueue, as it is called by whoever publishes.

        Args:
            listener: called with one event after the other, in order.
            since_ns: ns since 1970; what happened then or later is given back, None = nothing.

        Returns: events of the past, and a function that ends the subscription. Nothing falls between the two.

        """
        with self._lock:
            past = [] if since_ns is None else [event for event in self._recent if event.time_ns >= since_ns]
            number = self._next
            self._next += 1
            self._listeners[number] = listener

        def cancel() -> None:
            with self._lock:
                self._listeners.pop(number, None)

        return past, cancel

    @property
    def listeners(self) -> int:
        """Number of subscriptions."""
        with self._lock:
            return len(self._listeners)
