"""What containers use: CPU, memory and network, read from the engines while somebody looks at it.

Every ``INTERVAL`` each engine that answers is asked for the counters of its running containers, one after the other, by
one thread. An engine that is slow gets fewer readings and makes no other wait. When nobody looks, nothing is asked, and
nothing is kept.
"""

from __future__ import annotations

import contextlib
import threading
import time
from array import array
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import structlog

from hypercloud.engine.machines import Machines
from hypercloud.engine.monitor import EngineMonitor
from hypercloud.errors import CloudError, EngineUnreachable

log = structlog.get_logger(__name__)

INTERVAL = 2.0  # seconds between two readings
SOON = 0.5  # seconds until the second reading: rates need two
LINGER = 60.0  # seconds that they are still taken when the last who looked has gone: people reload pages
KEPT = 150  # readings that are kept of each engine and container
THREADS = 16  # engines that are asked at the same time
_FIELDS = 5


class Point(NamedTuple):
    """A reading."""

    time: float  # seconds since the epoch
    cpu: float  # percent of one CPU
    memory: float  # bytes, without files that are only cached
    received: float  # bytes a second
    sent: float  # bytes a second


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What an engine says of a container: nanoseconds of CPU time, and bytes."""

    time: float  # of the reading, in seconds
    cpu: int
    memory: int
    received: int
    sent: int


class Series:
    """The last readings of one thing, in little memory."""

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, point: Point) -> None:
        """Keep a reading; the oldest goes when there are more than ``KEPT``."""
        self._values.extend(point)
        if len(self._values) > KEPT * _FIELDS:
            del self._values[:_FIELDS]

    def after(self, when: float) -> list[Point]:
        """Return the readings later than a time, the oldest first."""
        values = self._values[:]
        found = [Point(*values[at : at + _FIELDS]) for at in range(0, len(values), _FIELDS)]
        return [one for one in found if one.time > when]


class ReadingService:
    """Keeps the last readings of all engines and containers.

    Args:
        engines: who is asked.
        interval: seconds between two readings.

    """

    def __init__(self, engines: Machines, interval: float = INTERVAL) -> None:
        self._engines = engines
        self._interval = interval
        self._changed = threading.Condition()
        self._turn = 0
        self._watchers = 0
        self._left = 0.0  # when the last one has gone
        self._running = False
        self._closed = threading.Event()
        self._series: dict[str, Series] = {}  # by the id of an engine or container
        self._counters: dict[str, dict[str, Counters]] = {}  # engine -> container -> the last ones

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Have readings taken while the block runs."""
        with self._changed:
            self._watchers += 1
            if not self._running:
                self._running = True
                threading.Thread(target=self._read_always, name="readings", daemon=True).start()
        try:
            yield
        finally:
            with self._changed:
                self._watchers -= 1
                self._left = time.monotonic()

    def wait(self, turn: int, timeout: float) -> int:
        """Wait until there is more than there was at a turn, or a time is over; return the turn of now.

        Args:
            turn: what ``wait`` returned last; -1 returns at once.
            timeout: seconds.

        """
        with self._changed:
            self._changed.wait_for(lambda: self._turn != turn or self._closed.is_set(), timeout)
            return self._turn

    def after(self, key: str, when: float) -> list[Point]:
        """Return the readings of an engine or container, by its id, that are later than a time."""
        series = self._series.get(key)
        return series.after(when) if series is not None else []

    def _read_always(self) -> None:
        reading: dict[str, Future[None]] = {}
        pause = SOON
        with ThreadPoolExecutor(THREADS, "readings") as pool:
            while not self._closed.is_set():
                monitors = self._engines.monitors()
                if not self._go_on({one.spec.id for one in monitors}):
                    return
                for monitor in monitors:
                    before = reading.get(monitor.spec.id)
                    if before is None or before.done():
                        reading[monitor.spec.id] = pool.submit(self._read, monitor)
                self._closed.wait(min(pause, self._interval))
                pause = self._interval

    def _go_on(self, engines: set[str]) -> bool:
        """Forget engines that are no longer registered; say whether anybody looks, else forget all."""
        with self._changed:
            self._running = self._watchers > 0 or time.monotonic() - self._left < LINGER
            if not self._running:
                self._counters, self._series = {}, {}
            for engine in self._counters.keys() - engines:
                for key in (engine, *self._counters.pop(engine)):
                    self._series.pop(key, None)
            return self._running

    def _read(self, monitor: EngineMonitor) -> None:
        """Read an engine's running containers."""
        try:
            self._read_engine(monitor)
        except Exception:
            log.exception("readings.failed", engine=monitor.spec.name)

    def _read_engine(self, monitor: EngineMonitor) -> None:
        engine, before = monitor.spec.id, self._counters.get(monitor.spec.id)
        now: dict[str, Counters] = {}
        points: dict[str, Point] = {}
        running = [one for one in monitor.containers() if one.running]
        for one in running:
            try:
                found = counters(monitor.client.stats(one.id))
            except EngineUnreachable:
                return
            except CloudError:
                continue  # it has ended meanwhile, or the engine cannot tell of it
            if found is None or self._closed.is_set():
                continue
            now[one.id] = found
            last = (before or {}).get(one.id)
            if last is not None and (point := rates(last, found)) is not None:
                points[one.id] = point
        self._keep(engine, {one.id for one in running}, now, points, first=before is None and bool(running))

    def _keep(
        self, engine: str, running: set[str], now: dict[str, Counters], points: Mapping[str, Point], *, first: bool
    ) -> None:
        with self._changed:
            for gone in self._counters.get(engine, {}).keys() - running:
                self._series.pop(gone, None)
            self._counters[engine] = now
            for key, point in points.items():
                self._series.setdefault(key, Series()).add(point)
            if first:
                return  # an engine's sum begins when there are rates
            values = list(zip(*points.values(), strict=True))[1:] or [()] * (_FIELDS - 1)
            self._series.setdefault(engine, Series()).add(Point(time.time(), *(float(sum(one)) for one in values)))
            self._turn += 1
            self._changed.notify_all()


def counters(stats: Mapping[str, Any]) -> Counters | None:
    """Return what an engine's answer says; None when the container does not run."""
    usage = _number(_map(_map(stats, "cpu_stats"), "cpu_usage"), "total_usage")
    memory = _map(stats, "memory_stats")
    if not memory:
        return None
    details = _map(memory, "stats")
    cached = _number(details, "inactive_file") or _number(details, "total_inactive_file")
    networks = [one for one in _map(stats, "networks").values() if isinstance(one, Mapping)]
    return Counters(
        time=_time(stats.get("read")),
        cpu=usage,
        memory=max(0, _number(memory, "usage") - cached),
        received=sum(_number(one, "rx_bytes") for one in networks),
        sent=sum(_number(one, "tx_bytes") for one in networks),
    )


def rates(before: Counters, now: Counters) -> Point | None:
    """Return the reading that two counters make; None when the container was started anew between them."""
    passed = now.time - before.time
    cpu, received, sent = now.cpu - before.cpu, now.received - before.received, now.sent - before.sent
    if passed <= 0 or min(cpu, received, sent) < 0:
        return None
    return Point(time.time(), cpu / passed / 1e7, float(now.memory), received / passed, sent / passed)


def _map(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _number(value: Mapping[str, Any], key: str) -> int:
    found = value.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def _time(text: Any) -> float:
    """Return when an engine has read its counters; now when it does not say."""
    with contextlib.suppress(ValueError):
        if isinstance(text, str):
            return datetime.fromisoformat(text).timestamp()
    return time.time()
