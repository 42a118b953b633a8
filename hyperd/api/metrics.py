"""Numbers for Prometheus: what has happened, counted when it happens.

``hyperd.api.exposition`` makes a text of them. It is imported by the first who asks: Prometheus's library brings an
HTTP server and a client, a megabyte that a daemon which nobody watches does without.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyperd.event.bus import Event

if TYPE_CHECKING:
    from hyperd.engine import Engine

BOOT_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class Spread:
    """How many values lay below each of some bounds, and their sum (a histogram); not safe for threads by itself."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value; one that equals a bound lies below it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[float, int]]:
        """Return each bound, the last one infinite, with the number of values up to it."""
        below, found = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            below += count
            found.append((float(bound), below))
        return found


class Metrics:
    """The metrics of one daemon; observing costs microseconds.

    ``requests`` (by method, route and code), ``boots``, ``events`` (by type and action), ``restarts``, ``pulls`` and
    ``pulled`` (bytes) are changed by ``observe`` and by events only, always under ``lock``.
    """

    def __init__(self, engine: Engine) -> None:
        self.lock = threading.Lock()
        self.requests: dict[tuple[str, str, int], Spread] = {}
        self.boots = Spread(BOOT_BUCKETS)
        self.events: Counter[tuple[str, str]] = Counter()
        self.restarts = self.pulls = self.pulled = 0
        engine.events.subscribe(self._on_event)
        self.own_listeners = engine.events.listeners  # those that are no client's

    def observe(self, *, method: str, route: str, code: int, seconds: float) -> None:
        """Count a request; ``route`` is the pattern that matched, never a path."""
        with self.lock:
            spread = self.requests.get((method, route, code))
            if spread is None:
                spread = self.requests[method, route, code] = Spread(REQUEST_BUCKETS)
            spread.add(seconds)

    def _on_event(self, event: Event) -> None:
        kind = (event.type, event.action)
        with self.lock:
            self.events[kind] += 1
            if kind == ("vm", "boot"):
                milliseconds = int(event.attributes["create_ms"]) + int(event.attributes["ready_ms"])
                self.boots.add(milliseconds / 1000)
            elif kind == ("container", "restart") and event.attributes.get("by") == "policy":
                self.restarts += 1
            elif kind == ("image", "pull"):
                self.pulls += 1
                self.pulled += int(event.attributes.get("size", "0"))
