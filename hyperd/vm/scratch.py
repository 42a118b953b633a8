"""The writable disk of a pod: a sparse file with ext4, made with the pod, kept until the pod is removed.

The host never mounts it.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

from hyperd.errors import HostFault, OutOfSpace

MKFS = ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard")
MIN_FREE = 64 * 2**20  # bytes that must be free on the host for a pod to start


def make_scratch(path: Path, size: int) -> None:
    """Make the disk if it is missing.

    Args:
        path: the file; its directory is made.
        size: bytes the guest sees.

    On failure no file is left. Errors: OutOfSpace, HostFault.

    """
    check_space(path)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(".new")
    try:
        with draft.open("wb") as file:
            os.truncate(file.fileno(), size)
        done = subprocess.run([*MKFS, str(draft)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostFault("the pod's disk cannot be made", details=done.stderr.strip()[-500:])
        draft.rename(path)
    except FileNotFoundError as error:
        raise HostFault("mkfs.ext4 is missing", resolution="install e2fsprogs") from error
    finally:
        draft.unlink(missing_ok=True)


def copy_disk(source: Path, target: Path) -> None:
    """Copy a disk's file, holes as holes; the directory of the copy is made.

    On failure no file is left. Errors: OutOfSpace, HostFault.
    """
    check_space(target)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with source.open("rb") as old, target.open("xb") as new:
            end, at = os.fstat(old.fileno()).st_size, 0
            os.truncate(new.fileno(), end)
            while (start := _next(old.fileno(), at, os.SEEK_DATA)) is not None:
                at = _next(old.fileno(), start, os.SEEK_HOLE) or end
                while start < at:
                    start += os.copy_file_range(old.fileno(), new.fileno(), at - start, start, start)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise HostFault("the pod's disk cannot be made", details=str(error)) from error


def _next(file: int, at: int, what: int) -> int | None:
    """Return where the next data or hole begins, None where there is none."""
    try:
        return os.lseek(file, at, what)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def check_space(path: Path) -> None:
    """Refuse to start what would fill the host's disk at once. Errors: OutOfSpace."""
    near = path
    while not near.exists():
        near = near.parent
    free = shutil.disk_usage(near).free
    if free < MIN_FREE:
        raise OutOfSpace(
            "the host's disk is full",
            details=f"{free >> 20} MiB are free below {near}, a pod needs {MIN_FREE >> 20}",
            resolution="remove pods or images",
        )
