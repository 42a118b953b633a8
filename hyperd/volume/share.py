"""Host directories and single files as something that QEMU can share: a directory it reaches through a descriptor.

QEMU opens the directory through ``/proc/PID/fd/N`` of a process that holds it open (``Holder``): no name of the host is
looked up a second time. That process must not have more capabilities than QEMU, or the kernel refuses (ptrace(2),
access mode checking); so it is not the daemon.

9p shares directories only. A single file gets a directory of its own: a tmpfs with one entry, on which the file is
bind-mounted. The tree is cloned off (open_tree(2)) at once, so it is in no mount table and ends with the last process
that has it open; directories are never bind-mounted at all, so no clean-up can ever reach their content.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
from pathlib import Path

from hyperd.errors import HostFault, NotSupported
from hyperd.volume.hostpath import HostObject

ENTRY = "f"  # the file's name in its directory
_STAGE = "stage-"
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND = 2, 4, 8, 0x1000
_MNT_DETACH = 2
_SYS_OPEN_TREE = 428  # the same on every architecture since Linux 5.2
_AT_FDCWD, _OPEN_TREE_CLONE, _AT_RECURSIVE, _CLOEXEC = -100, 1, 0x8000, os.O_CLOEXEC


def shareable(source: HostObject, directory: Path) -> HostObject:
    """Return the directory to share for a directory or file; the caller closes it and ``source``.

    Args:
        source: what is shared.
        directory: where a mount may be made for a moment.

    Errors: NotSupported (a single file without root; neither file nor directory), HostFault.

    """
    if source.is_directory:
        return HostObject(path=source.path, fd=os.dup(source.fd), mode=source.mode)
    if not source.is_file:
        raise NotSupported(f"{source.path} is neither a file nor a directory and cannot be shared")
    if os.geteuid() != 0:
        raise NotSupported(
            "single files can be shared by a daemon that runs as root only", resolution="share the file's directory"
        )
    stage = directory / f"{_STAGE}{secrets.token_hex(6)}"
    stage.mkdir(parents=True, mode=0o700)
    try:
        fd = _stage(source, stage)
    except OSError as error:
        raise HostFault(f"cannot share the file {source.path}", details=error.strerror or str(error)) from error
    finally:
        _clean(stage)
    return HostObject(path=source.path, fd=fd, mode=os.fstat(fd).st_mode)


def clean_up(directory: Path) -> None:
    """Remove what a daemon that was killed in the middle has left."""
    for stage in directory.glob(f"{_STAGE}*"):
        _clean(stage)


def _stage(source: HostObject, stage: Path) -> int:
    _mount("hyperd", str(stage), "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "size=64k,mode=0755")
    (stage / ENTRY).touch()
    _mount(f"/proc/self/fd/{source.fd}", str(stage / ENTRY), "", _MS_BIND, "")
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | _CLOEXEC
    fd = _libc().syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(stage), flags)
    if fd < 0:
        raise _error()
    return int(fd)


def _clean(stage: Path) -> None:
    """Take the mounts away; only then an empty directory is left to remove."""
    for path in (stage / ENTRY, stage):
        _libc().umount2(os.fsencode(path), _MNT_DETACH)
    with contextlib.suppress(OSError):
        stage.rmdir()


def _mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    words = [os.fsencode(text) for text in (source, target, fstype)]
    if _libc().mount(*words, ctypes.c_ulong(flags), os.fsencode(data)) != 0:
        raise _error()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
