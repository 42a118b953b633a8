"""Docker's progress lines (jsonmessage) as dictionaries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

Line = dict[str, Any]
Sink = Callable[[Line], None]

_WIDTH = 50
_INTERVAL = 0.1  # seconds between two lines of one layer's transfer
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_size(size: float) -> str:
    """Write a number of bytes with four digits and a decimal unit, as Docker does: ``1.049 MB``."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} {_UNITS[-1]}"


def bar(current: int, total: int) -> str:
    """Draw the text bar of a transfer: ``[====>    ] 1 B/100 B``."""
    if total <= 0:
        return human_size(current)
    done = min(current * _WIDTH // total, _WIDTH)
    drawn = "=" * done + ">" if done < _WIDTH else "=" * _WIDTH + ">"
    return f"[{drawn:<{_WIDTH + 1}}] {human_size(current)}/{human_size(total)}"


class LayerProgress:
    """Lines of one layer.

    Args:
        sink: where lines go.
        digest: of the layer's blob; its first twelve digits are the line's ``id``.

    """

    def __init__(self, sink: Sink, digest: str) -> None:
        self._sink = sink
        self._id = digest.partition(":")[2][:12]
        self._next = 0.0

    def status(self, text: str) -> None:
        """Say what is done with the layer now."""
        self._sink({"status": text, "progressDetail": {}, "id": self._id})

    def transfer(self, text: str, current: int, total: int) -> None:
        """Say how far it is; at most ten times a second, and always at the end."""
        now = time.monotonic()
        if now < self._next and current < total:
            return
        self._next = now + _INTERVAL
        detail = {"current": current, "total": total}
        self._sink({"status": text, "progressDetail": detail, "progress": bar(current, total), "id": self._id})


class Flights:
    """Work that several callers want at the same time: one does it, the others wait and see its progress."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}

    def join(self, key: str) -> tuple[Flight, bool]:
        """Give the work of a key, and whether the caller is the one to do it (and to ``land`` it)."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = Flight()
            return flight, True

    def land(self, key: str) -> None:
        """End a work, well or not: those who wait look at the store and go on, or one of them takes over."""
        with self._lock:
            flight = self._flights.pop(key)
        flight.done.set()


class Flight:
    """One work in progress."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self._lock = threading.Lock()
        self._sinks: list[Sink] = []

    def follow(self, sink: Sink) -> None:
        """Send the lines from now on to a further sink."""
        with self._lock:
            self._sinks.append(sink)

    def leave(self, sink: Sink) -> None:
        """End ``follow``."""
        with self._lock:
            self._sinks.remove(sink)

    def send(self, line: Line) -> None:
        """Send a line to all who follow."""
        with self._lock:
            sinks = list(self._sinks)
        for sink in sinks:
            sink(line)
