"""Descriptors of the tests' own process."""

from __future__ import annotations

import contextlib
from pathlib import Path


def descriptors() -> set[tuple[str, str]]:
    """Return what is open, as number and what it leads to.

    Compare with ``<=``: what another test has left can go meanwhile.
    """
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add((path.name, str(path.readlink())))
    return found
