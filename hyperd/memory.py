"""Keeping the daemon small: what glibc and Python are told about memory.

A daemon of many threads that do little would get an arena of glibc's for each thread, none of which ever gives much
back. The limits here cost nothing measurable: Python's threads take turns anyway.
"""

from __future__ import annotations

import ctypes
import gc
import sys

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
ARENAS = 1  # instead of up to eight for each CPU
LARGE = 128 * 1024  # bytes; blocks from here on are mapped for themselves and go back to the kernel when freed
# Imported by structlog for colours in tracebacks when it is there (hyperctl brings it): 4 MB the daemon has no use for.
_UNWANTED = ("rich",)


def prepare() -> None:
    """Set the limits; to be called before threads are started and the large libraries are imported."""
    for name in _UNWANTED:
        # None = there is no such module (Python's language reference, 5.3.1); typeshed does not know.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        for parameter, value in ((_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, LARGE), (_M_TRIM_THRESHOLD, LARGE)):
            libc.mallopt(parameter, value)


def settle() -> None:
    """Give back what the start has used, and let the collector leave alone what lives as long as the daemon."""
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
