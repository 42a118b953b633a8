"""What every call gets: the engine, and what this dialect must know beyond it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from hyperd.api.cri.streaming import StreamingServer
    from hyperd.engine import Engine


API_VERSIONS = ("v1", "v1alpha2")  # of kubelet since 1.23, and up to 1.25: the same messages


class SandboxLock:
    """A lock that goes with its last user."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


@dataclass(frozen=True, kw_only=True)
class Room:
    """The state of this dialect.

    Args:
        engine: what it serves. streaming: offers streams.
        creating: held while a sandbox is made, so that its metadata is checked and noted in one step.
        adding: the same for the containers of one sandbox; see ``sandbox_lock``.
        booting: ids of sandboxes that are being made; kubelet would take one for dead that is not ready yet.
        closing: the daemon ends, and endless answers with it.

    """

    engine: Engine
    streaming: StreamingServer
    creating: threading.Lock = field(default_factory=threading.Lock)
    booting: set[str] = field(default_factory=set)
    closing: threading.Event = field(default_factory=threading.Event)
    adding: WeakValueDictionary[str, SandboxLock] = field(default_factory=WeakValueDictionary)

    def sandbox_lock(self, ident: str) -> SandboxLock:
        """Return the lock under which containers are added to a sandbox."""
        with self.creating:
            return self.adding.setdefault(ident, SandboxLock())


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a client.

    Args:
        active: whether the client still waits. seconds_left: until its deadline, None without one.
        api_version: that the client speaks, one of API_VERSIONS.

    """

    room: Room
    active: Callable[[], bool]
    seconds_left: Callable[[], float | None]
    api_version: str

    @property
    def engine(self) -> Engine:
        """Return the engine."""
        return self.room.engine


Method = Callable[[Call, Any], Any]
