"""Memory of templates for VMs whose QEMU must not be able to write to it: in sealed files that have no name (memfd).

QEMU opens the file of a private mapping for writing, too (up to 8.1 there is no other way). With that descriptor a
QEMU that was taken over could change the memory that all later VMs begin with. A sealed file can be opened for
writing, but nobody can ever write to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from hyperd.errors import HostFault

# linux/fcntl.h: no more seals, no shrinking, no growing, no writing.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Memories:
    """Keeps a sealed copy of each template's memory that was used; it is in the host's memory, holes are holes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Path, tuple[tuple[int, ...], int]] = {}

    def lend(self, path: Path) -> int:
        """Return a descriptor of the copy of a template's memory, which the caller closes. Errors: HostFault."""
        try:
            return self._find(path)
        except OSError as error:
            raise HostFault("a template's memory cannot be used", details=str(error)) from error

    def close(self) -> None:
        """Let go of all copies; VMs that have them go on."""
        with self._lock:
            for _, descriptor in self._kept.values():
                os.close(descriptor)
            self._kept.clear()

    def _find(self, path: Path) -> int:
        """Return a descriptor of the copy, the caller's to close."""
        stamp = _stamp(path)
        with self._lock:
            for old in [each for each, (made, _) in self._kept.items() if _stamp_or_none(each) != made]:
                os.close(self._kept.pop(old)[1])
            if path not in self._kept:
                self._kept[path] = stamp, _sealed(path)
            return os.dup(self._kept[path][1])


def _stamp(path: Path) -> tuple[int, ...]:
    info = path.stat()
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def _stamp_or_none(path: Path) -> tuple[int, ...] | None:
    try:
        return _stamp(path)
    except FileNotFoundError:
        return None


def _sealed(path: Path) -> int:
    """Copy a file into a sealed one without a name. Errors: OSError."""
    copy = os.memfd_create("template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with path.open("rb") as file:
            os.truncate(copy, path.stat().st_size)
            for start, end in _data(file.fileno()):
                at = os.lseek(copy, start, os.SEEK_SET)
                while at < end:  # a file that got shorter gives no bytes more: the rest are zeros, and the VM unfit
                    at += os.sendfile(copy, file.fileno(), at, end - at) or end
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _data(file: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that are no holes."""
    at = 0
    while True:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(file, start, os.SEEK_HOLE)
        yield start, at
