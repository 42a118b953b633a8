"""Waiting until processes have nothing left to do, which takes as long as it takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchlib.procs import cpu_seconds, resident

WINDOW = 0.5  # seconds between two looks
ALIKE = 3  # windows in a row that must be like the one before
MOST = 20.0  # seconds; then it is measured as it is
# What still counts as alike: memory in MiB, CPU time in seconds (its clock has steps of 0.01), shares of either.
_MEMORY, _CPU, _SHARE = 0.25, 0.02, 0.2
_MEMORY_SHARE = 0.002


def alike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether two windows, each (MiB at its end, CPU seconds in it), show processes in the same state."""
    memory, cpu = abs(one[0] - other[0]), abs(one[1] - other[1])
    return memory <= max(_MEMORY, _MEMORY_SHARE * one[0]) and cpu <= max(_CPU, _SHARE * one[1])


def at_rest(pids: Sequence[int], *, most: float = MOST) -> bool:
    """Wait until the processes' memory and use of CPU stop changing.

    Args:
        pids: of processes that do not end meanwhile.
        most: seconds; False is given when they have not come to rest by then.

    """
    until = time.monotonic() + most
    spent, before, same = sum(map(cpu_seconds, pids)), None, 0
    while same < ALIKE:
        if time.monotonic() > until:
            return False
        time.sleep(WINDOW)  # a look costs CPU time itself
        now = sum(map(cpu_seconds, pids))
        window = (sum(map(resident, pids)), now - spent)
        same = same + 1 if before is not None and alike(before, window) else 0
        spent, before = now, window
    return True
