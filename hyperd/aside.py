"""Where recovery puts what it cannot explain: a directory below the root, with a bound on its size and its age.

Disks, layers and volumes that no row names are not deleted at once: the row may be what was lost. They wait here, each
under the time it was put aside and its name, until a person takes them back or the bounds are reached.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

DIRECTORY = "aside"  # below the daemon's root
MAX_BYTES = 20 * 2**30  # of disk, all together
MAX_AGE = 30 * 86_400.0  # seconds
_STAMP = "%Y%m%dT%H%M%S"


class Aside:
    """See the module's docstring.

    Args:
        root: the daemon's.
        max_bytes: space on disk that everything may take; the oldest goes first.
        max_age: seconds that something is kept.

    """

    def __init__(self, root: Path, *, max_bytes: int = MAX_BYTES, max_age: float = MAX_AGE) -> None:
        self._directory = root / DIRECTORY
        self._max_bytes = max_bytes
        self._max_age = max_age

    def put(self, path: Path, *, reason: str) -> Path | None:
        """Move a file or a directory here, and say so in the log.

        Args:
            path: on the root's file system.
            reason: for the log.

        Returns:
            Where it is now; None when it cannot be moved (it stays then) or is gone.

        """
        stamp = time.strftime(_STAMP, time.gmtime())
        target = self._directory / f"{stamp}-{path.parent.name}-{path.name}"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = 0
            while os.path.lexists(target):
                number += 1
                target = target.with_name(f"{stamp}-{number}-{path.parent.name}-{path.name}")
            path.rename(target)
            os.utime(target, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("recovery.not_put_aside", path=str(path), reason=reason, error=str(error))
            return None
        log.warning("recovery.put_aside", path=str(path), to=str(target), reason=reason)
        return target

    def prune(self) -> None:
        """Delete what is too old, and the oldest while everything takes too much space."""
        try:
            entries = sorted(self._directory.iterdir(), key=lambda entry: entry.lstat().st_mtime, reverse=True)
        except FileNotFoundError:
            return
        taken = 0
        for entry in entries:
            size, age = _size(entry), time.time() - entry.lstat().st_mtime
            taken += size
            if taken <= self._max_bytes and age <= self._max_age:
                continue
            taken -= size
            log.warning("recovery.aside_deleted", path=str(entry), bytes=size, days=round(age / 86_400, 1))
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def remove_empty(directory: Path) -> bool:
    """Remove a directory that holds nothing; False when it holds something."""
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def _size(path: Path) -> int:
    """Return the bytes that a file or a directory takes on disk."""
    total = path.lstat().st_blocks * 512
    if path.is_dir() and not path.is_symlink():
        for directory, names, files in os.walk(path):
            total += sum(Path(directory, name).lstat().st_blocks * 512 for name in (*names, *files))
    return total
