"""Descriptors of processes, as the kernel lists them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def descriptors(pid: int | str = "self") -> set[tuple[int, str]]:
    """Return what a process has open, as number and what it leads to.

    Compare those of this process with ``<=``: what another test has left can go meanwhile.
    """
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile, as the listing's own
            found.add((int(path.name), str(path.readlink())))
    return found
