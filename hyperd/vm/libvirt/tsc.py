"""Measures how fast this host's time stamp counter runs.

An emulated guest reads the host's counter. Finding out its speed by itself takes the guest 10 to 30 ms of each boot.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import time
from collections.abc import Callable
from pathlib import Path

# rdtsc; shl $32,%rdx; or %rdx,%rax; ret  (System V ABI: the result is in rax)
_READ = bytes.fromhex("0f31 48c1e220 4809d0 c3")
# The kernel's names for a counter that neither changes its speed nor stops.
_STEADY = {"constant_tsc", "nonstop_tsc"}
# Seconds between the two readings: an error of a microsecond is one part in 50,000, the guest forgives one in 100.
_SPAN = 0.05
_CPUINFO = Path("/proc/cpuinfo")


class TscClock:
    """The counter's speed, from two readings: one when this is made, one when it is first asked.

    Args:
        cpuinfo: where the kernel describes the CPU (``proc(5)``).

    """

    def __init__(self, cpuinfo: Path = _CPUINFO) -> None:
        self._khz = 0
        self._read = _reader() if _is_steady(cpuinfo) else None
        self._first = self._sample() if self._read else (0, 0)

    def khz(self) -> int:
        """Return kHz, 0 when this host's counter is not steady or cannot be read. Blocks for 50 ms at most, once."""
        if self._read is None or self._khz:
            return self._khz
        passed = time.monotonic_ns() - self._first[1]
        time.sleep(max(0.0, _SPAN - passed / 1e9))
        ticks, now = self._sample()
        self._khz = (ticks - self._first[0]) * 1_000_000 // (now - self._first[1])
        return self._khz

    def _sample(self) -> tuple[int, int]:
        """Return counter and nanoseconds, read as close together as it can be had."""
        assert self._read is not None  # noqa: S101 - the callers have looked
        best = (1 << 62, 0, 0)
        for _ in range(5):
            before = time.monotonic_ns()
            ticks = self._read()
            after = time.monotonic_ns()
            best = min(best, (after - before, ticks, (before + after) // 2))
        return best[1], best[2]


def _is_steady(cpuinfo: Path) -> bool:
    if platform.machine() != "x86_64":
        return False
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return set(flags) >= _STEADY


def _reader() -> Callable[[], int] | None:
    """Return a function that reads the counter, None where the host allows no new code in a process."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(_READ)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)

    def read() -> int:
        return int(function()) if not page.closed else 0

    return read
