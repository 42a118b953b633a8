"""The writable disk of a pod: a sparse file with ext4, made with the pod, kept until the pod is removed.

The host never mounts it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hyperd.errors import HostFault, OutOfSpace
from hyperd.failpoint import failpoint

MKFS = ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard")
_DRAFT = ".new"  # ends the name of a disk that is being made
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
    with _draft(path) as draft:
        with draft.open("wb") as file:
            os.truncate(file.fileno(), size)
            failpoint("vm.disk.file_made")
        try:
            done = subprocess.run([*MKFS, str(draft)], capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise HostFault("mkfs.ext4 is missing", resolution="install e2fsprogs") from error
        if done.returncode:
            raise HostFault("the pod's disk cannot be made", details=done.stderr.strip()[-500:])


def copy_disk(source: Path, target: Path) -> None:
    """Copy a disk's file, holes as holes; the directory of the copy is made.

    A daemon that dies meanwhile leaves no half of it under this name: a disk that is there is taken as it is. On
    failure no file is left, and one that was there stays. Errors: OutOfSpace, HostFault.
    """
    check_space(target)
    with _draft(target) as draft, source.open("rb") as old, draft.open("wb") as new:
        end, at = os.fstat(old.fileno()).st_size, 0
        os.truncate(new.fileno(), end)
        while (start := _next(old.fileno(), at, os.SEEK_DATA)) is not None:
            at = _next(old.fileno(), start, os.SEEK_HOLE) or end
            while start < at:
                copied = os.copy_file_range(old.fileno(), new.fileno(), at - start, start, start)
                if not copied:
                    raise OSError(errno.EIO, f"{source} got shorter while it was copied")
                start += copied


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Yield the name of a file that the block makes, which has the path as its name when it is whole.

    Errors: OutOfSpace, HostFault, also instead of the block's OSError.
    """
    draft = path.with_suffix(_DRAFT)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield draft
        os.link(draft, path)  # which replaces nothing
    except OSError as error:
        kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else HostFault
        raise kind("the pod's disk cannot be made", details=str(error)) from error
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(directory: Path) -> None:
    """Remove the disks in a directory that a daemon was making when it died. Errors: HostFault."""
    try:
        for draft in directory.glob(f"*{_DRAFT}"):
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise HostFault("a half-made disk cannot be removed", details=str(error)) from error


def _next(file: int, at: int, what: int) -> int | None:
    """Return where the next data or hole begins, None where there is none."""
    try:
        return os.lseek(file, at, what)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def check_space(path: Path, size: int = 0) -> None:
    """Refuse to start what would fill the disk at once, by ``size`` bytes that it writes itself. Errors: OutOfSpace."""
    near = path
    while not near.exists():
        near = near.parent
    free = shutil.disk_usage(near).free
    needed = MIN_FREE + size
    if free < needed:
        raise OutOfSpace(
            "the host's disk is full",
            details=f"{free >> 20} MiB are free below {near}, a pod needs {needed >> 20}",
            resolution="remove pods or images",
        )
