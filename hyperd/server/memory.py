"""Keeping the daemon small: what glibc and Python are told about memory.

A daemon of many threads that do little would get an arena of glibc's for each thread, none of which ever gives much
back. The limits here cost nothing measurable: Python's threads take turns anyway.
"""

from __future__ import annotations

import ctypes
import gc
import threading

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
ARENAS = 1  # instead of up to eight for each CPU
LARGE = 128 * 1024  # bytes; blocks from here on are mapped for themselves and go back to the kernel when freed
# Bytes that stay free at the end of the heap. With less, streams would get and give back pages all the time.
KEPT = 1 << 20
BURST = 2.0  # seconds in which what a burst of work has left is given back, once


def prepare() -> None:
    """Set the limits; to be called before threads are started and the large libraries are imported."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        for parameter, value in ((_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, LARGE), (_M_TRIM_THRESHOLD, KEPT)):
            libc.mallopt(parameter, value)


def settle() -> None:
    """Give back what the start has used, and let the collector ignore what lives as long as the daemon."""
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Give free memory back to the kernel; takes milliseconds."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class Trimmer:
    """Gives memory back after a burst of work; what libvirt had for twenty VMs would stay for the next ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def ask(self) -> None:
        """Trim soon; returns at once, and costs nothing where it has been asked for already."""
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(BURST, self._run)
                self._timer.daemon = True
                self._timer.name = "trim"
                self._timer.start()

    def close(self) -> None:
        """Forget it."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def _run(self) -> None:
        with self._lock:
            self._timer = None
        trim()
