"""Waiting in tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T], seconds: float = 90.0, *, tell: Callable[[], object] = lambda: "did not happen in time"
) -> T:
    """Wait until something is true; give it. ``tell``: what to say when it is not.

    The time is for machines that have much else to do: nothing that comes is waited for longer than it takes.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, tell()
        time.sleep(0.02)
    return found
