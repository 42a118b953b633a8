"""The console logs of VMs, which guests write without a bound: the beginning is given back when they get long."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

LIMIT = 4 << 20  # bytes on the host's disk
KEPT = 1 << 20  # of the end
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


def bound(path: Path) -> bool:
    """Make a hole of all but the end of a log that takes too much room; whether it did. A missing log is fine.

    QEMU writes on at its own offset, so the file must not get shorter.
    """
    with contextlib.suppress(OSError):
        about = path.stat()
        if about.st_blocks * 512 <= LIMIT:
            return False
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            length = max(0, about.st_size - KEPT)
            libc = ctypes.CDLL(None, use_errno=True)
            arguments = (ctypes.c_int64(0), ctypes.c_int64(length))
            return bool(libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, *arguments) == 0)
        finally:
            os.close(fd)
    return False
