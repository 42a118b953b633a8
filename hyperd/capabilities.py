"""What programs that a thread starts may do: its capability bounding set (capabilities(7)).

A bounding set belongs to a thread, and programs that the thread executes can never have more. So each VM's QEMU gets
what it needs and no more, although it runs as root; libvirt's own switch is one for all VMs.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hyperd.errors import HostFault

PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24  # linux/prctl.h
LAST = 63
# chown, dac_override, fowner, fsetid: reading and changing files of all owners, owners and modes included. Not mknod:
# a guest must not make device nodes in a directory of the host.
FOREIGN_FILES = frozenset({0, 1, 3, 4})


def restrict_thread(keep: Collection[int] = ()) -> None:
    """Take all capabilities but some from what this thread (which must end soon) executes.

    Nothing to do for who is not root: there is nothing to take. Errors: HostFault.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(LAST + 1):
        if number in keep or libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) != 1:
            continue
        if libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise HostFault("cannot limit what a program may do", details=f"capability {number}: {reason}")


class Holder:
    """A process without any capability that holds descriptors open; it ends with the block, or with this daemon.

    Who opens what it holds must be the same user, with no fewer capabilities (ptrace(2), access mode checking).

    Args:
        descriptors: to hold.
        user: ids of user and group that it runs as; None = the daemon's.

    """

    def __init__(self, descriptors: Sequence[int], *, user: tuple[int, int] | None = None) -> None:
        self._descriptors = list(descriptors)
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._start, name="holder")
        thread.start()
        thread.join()
        if self._process is None:
            raise HostFault("cannot hold the volumes of the host open", details=str(self._error)) from self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def path(self, descriptor: int) -> Path:
        """Return the way to one of the descriptors."""
        if self._process is None:
            raise HostFault("the volumes of the host are not held open")
        return Path(f"/proc/{self._process.pid}/fd/{descriptor}")

    def _start(self) -> None:
        """Start it from a thread whose programs have no capabilities."""
        try:
            restrict_thread()
            # cat ends when this daemon does: its standard input is a pipe from here.
            uid, gid = self._user or (None, None)
            self._process = subprocess.Popen(
                ["/bin/cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=self._descriptors,
                user=uid,
                group=gid,
                extra_groups=None if gid is None else (),
            )
        except (OSError, HostFault) as error:
            self._error = error
