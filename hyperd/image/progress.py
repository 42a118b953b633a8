"""Progress of work on images as values, and who gets it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

_INTERVAL = 0.1  # seconds between two events of one layer's transfer


class PullPhase(StrEnum):
    """Where a layer of a pull is."""

    PULLING = "pulling"  # it is known, and missing here
    EXISTS = "exists"
    WAITING = "waiting"  # for other layers
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    DOWNLOADED = "downloaded"
    EXTRACTING = "extracting"
    COMPLETE = "complete"


class PushPhase(StrEnum):
    """Where a layer of a push is."""

    PREPARING = "preparing"
    WAITING = "waiting"
    COMPRESSING = "compressing"
    PUSHING = "pushing"
    EXISTS = "exists"
    MOUNTED = "mounted"
    PUSHED = "pushed"


@dataclass(frozen=True, kw_only=True)
class PullStarted:
    """A pull has found its manifest. ``repository``: its path in the registry. ``target``: a tag or a digest."""

    repository: str
    target: str


@dataclass(frozen=True, kw_only=True)
class PullSigned:
    """The image's signature is good; ``key`` is the name of the key."""

    key: str


@dataclass(frozen=True, kw_only=True)
class LayerPull:
    """A layer of a pull. ``layer``: digest of its blob. ``current``, ``total``: bytes, 0 where they mean nothing."""

    layer: str
    phase: PullPhase
    current: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class PullFinished:
    """A pull is done. ``name``: familiar, with tag or digest. ``newer``: the name meant another image before."""

    name: str
    digest: str
    image_id: str
    newer: bool


@dataclass(frozen=True, kw_only=True)
class PushStarted:
    """A push begins. ``repository``: with its registry."""

    repository: str


@dataclass(frozen=True, kw_only=True)
class LayerPush:
    """A layer of a push. ``layer``: its diff_id. ``source``: the repository it was mounted from."""

    layer: str
    phase: PushPhase
    current: int = 0
    total: int = 0
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class PushFinished:
    """A tag is pushed. ``size``: of the manifest."""

    tag: str
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class NameMoved:
    """An image that was loaded took a name from another one; ``image_id``: of that other one."""

    name: str
    image_id: str


@dataclass(frozen=True, kw_only=True)
class ImageLoaded:
    """An image was loaded: one event for each of its names, or one without a name."""

    image_id: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportStarted:
    """An import asks a web server for ``source``."""

    source: str


@dataclass(frozen=True, kw_only=True)
class ImportProgress:
    """Bytes of an import that have come; ``total`` is -1 when the server does not say."""

    current: int
    total: int


@dataclass(frozen=True, kw_only=True)
class ImageImported:
    """An import is done."""

    image_id: str


ImageEvent = (
    PullStarted
    | PullSigned
    | LayerPull
    | PullFinished
    | PushStarted
    | LayerPush
    | PushFinished
    | NameMoved
    | ImageLoaded
    | ImportStarted
    | ImportProgress
    | ImageImported
)
Sink = Callable[[ImageEvent], None]


class _Pace:
    """Tells whether a transfer is to be told of now: at most ten times a second, and always at the end."""

    def __init__(self) -> None:
        self._next = 0.0

    def is_due(self, current: int, total: int) -> bool:
        now = time.monotonic()
        if now < self._next and current < total:
            return False
        self._next = now + _INTERVAL
        return True


class PullProgress:
    """Events of one layer of a pull.

    Args:
        sink: where they go.
        digest: of the layer's blob.

    """

    def __init__(self, sink: Sink, digest: str) -> None:
        self._sink = sink
        self._layer = digest
        self._pace = _Pace()

    def phase(self, phase: PullPhase) -> None:
        """Tell what is done with the layer now."""
        self._sink(LayerPull(layer=self._layer, phase=phase))

    def transfer(self, phase: PullPhase, current: int, total: int) -> None:
        """Tell how far it is; at most ten times a second, and always at the end."""
        if self._pace.is_due(current, total):
            self._sink(LayerPull(layer=self._layer, phase=phase, current=current, total=total))


class PushProgress:
    """Events of one layer of a push.

    Args:
        sink: where they go.
        diff_id: of the layer.

    """

    def __init__(self, sink: Sink, diff_id: str) -> None:
        self._sink = sink
        self._layer = diff_id
        self._pace = _Pace()

    def phase(self, phase: PushPhase, *, source: str = "") -> None:
        """Tell what is done with the layer now."""
        self._sink(LayerPush(layer=self._layer, phase=phase, source=source))

    def transfer(self, phase: PushPhase, current: int, total: int) -> None:
        """Tell how far it is; at most ten times a second, and always at the end."""
        if self._pace.is_due(current, total):
            self._sink(LayerPush(layer=self._layer, phase=phase, current=current, total=total))


class Flights:
    """Work that several callers want at the same time: one does it, the others wait and see its progress."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}

    def join(self, key: str) -> tuple[Flight, bool]:
        """Return the work of a key, and whether the caller is the one to do it (and to ``land`` it)."""
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
        """Send the events from now on to a further sink."""
        with self._lock:
            self._sinks.append(sink)

    def leave(self, sink: Sink) -> None:
        """End ``follow``."""
        with self._lock:
            self._sinks.remove(sink)

    def send(self, event: ImageEvent) -> None:
        """Send an event to all who follow."""
        with self._lock:
            sinks = list(self._sinks)
        for sink in sinks:
            sink(event)
