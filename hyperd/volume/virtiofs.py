"""Sharing a directory over virtiofs: one virtiofsd for each share, for guest kernels that have no 9p.

The program is the one of QEMU 7 (Debian 12's qemu-system-common). It is started before the VM, with the directory and
a listening socket already open, confines itself to the directory, and ends when its QEMU ends; so it outlives this
daemon together with the VM and nobody has to look after it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import struct
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from hyperd.errors import HostFault, NotSupported
from hyperd.volume.hostpath import HostObject

PROGRAM = Path("/usr/lib/qemu/virtiofsd")
_SYS_OPEN_TREE, _SYS_MOUNT_SETATTR = 428, 442  # the same on every architecture
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_EMPTY_PATH = 1, 0x8000, 0x1000
_ATTR_RDONLY = 1


class Server:
    """A virtiofsd that waits for its QEMU at ``socket``; the block's failure ends it.

    Args:
        source: the directory.
        directory: where the socket is made; only QEMU's start needs it.
        readonly: every change is refused by the host's kernel.

    Errors: NotSupported (no virtiofsd, not root), HostFault.

    """

    def __init__(self, source: HostObject, directory: Path, *, readonly: bool) -> None:
        self.socket = directory / f"fs-{secrets.token_hex(6)}.sock"
        self._source = source
        self._readonly = readonly
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id, in the block. Errors: HostFault."""
        if self._process is None:
            raise HostFault("no virtiofsd was started")
        return self._process.pid

    def __enter__(self) -> Self:
        if not PROGRAM.is_file() or os.geteuid() != 0:
            raise NotSupported(
                "this guest kernel can share host directories over virtiofs only",
                details=f"that needs root and {PROGRAM}",
                resolution="build the minimal kernel: scripts/build-kernel",
            )
        tree = _read_only_tree(self._source.fd) if self._readonly else os.dup(self._source.fd)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(self.socket))
                listener.listen(1)
                self._process = _start(listener.fileno(), tree)
        except OSError as error:
            raise HostFault("cannot start virtiofsd", details=error.strerror or str(error)) from error
        finally:
            os.close(tree)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.unlink(missing_ok=True)
        if self._process is not None:
            if kind is not None:
                self._process.kill()
            # It ends with its QEMU; somebody has to take note.
            threading.Thread(target=self._process.wait, name="virtiofsd", daemon=True).start()


def clean_up(directory: Path) -> None:
    """Remove sockets that a killed daemon has left."""
    for path in directory.glob("fs-*.sock"):
        path.unlink(missing_ok=True)


def _start(listener: int, tree: int) -> subprocess.Popen[bytes]:
    # timeout=0: what the host changes is seen at once. Device nodes are nothing that a guest may make here.
    options = f"source=/proc/self/fd/{tree}/.,sandbox=chroot,modcaps=-mknod,cache=auto,timeout=0"
    return subprocess.Popen(
        [PROGRAM, f"--fd={listener}", "-o", options],
        pass_fds=[listener, tree],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _read_only_tree(fd: int) -> int:
    """Clone a mount tree and make the clone read-only (open_tree(2), mount_setattr(2)). Errors: HostFault."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | _AT_EMPTY_PATH | os.O_CLOEXEC
    tree = int(libc.syscall(_SYS_OPEN_TREE, fd, b"", flags))
    attributes = struct.pack("=QQQQ", _ATTR_RDONLY, 0, 0, 0)
    where = _AT_RECURSIVE | _AT_EMPTY_PATH
    if tree < 0 or libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", where, attributes, len(attributes)) != 0:
        reason = os.strerror(ctypes.get_errno())
        if tree >= 0:
            os.close(tree)
        raise HostFault(
            "cannot share a directory read-only", details=reason, resolution="Linux 5.12 or newer is needed"
        )
    return tree
