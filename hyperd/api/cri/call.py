"""What every call gets: the engine, and what this dialect must know beyond it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperd.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Room:
    """The state of this dialect.

    Args:
        engine: what it serves.
        creating: held while a sandbox is made, so that its metadata is checked and noted in one step.
        replacing: sandboxes whose VM is being booted once more, with their addresses (``containers.create``).

    """

    engine: Engine
    creating: threading.Lock = field(default_factory=threading.Lock)
    replacing: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a client.

    Args:
        active: whether the client still waits. seconds_left: until its deadline, None without one.

    """

    room: Room
    active: Callable[[], bool]
    seconds_left: Callable[[], float | None]

    @property
    def engine(self) -> Engine:
        """Return the engine."""
        return self.room.engine


Method = Callable[[Call, Any], Any]
