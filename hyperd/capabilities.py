"""What programs that a thread starts may do: its capability bounding set (capabilities(7)).

A bounding set belongs to a thread, and programs that the thread executes can never have more. So each VM's QEMU gets
what it needs and no more, although it runs as root; libvirt's own switch is one for all VMs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import subprocess
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hyperd.errors import HostFault

PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24  # linux/prctl.h
LAST = 63
_TIMEOUT = 20.0  # seconds for a process to start on a host that is busy
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

    Who opens what it holds must be the same user in the same user namespace, with no fewer capabilities (ptrace(2),
    access mode checking).

    Args:
        descriptors: to hold.
        user: ids of user and group that it runs as; None = the daemon's.
        through: a command that takes the capabilities away and becomes the process, by the words that follow; none =
            they are taken here.

    """

    def __init__(
        self, descriptors: Sequence[int], *, user: tuple[int, int] | None = None, through: Sequence[str] = ()
    ) -> None:
        self._descriptors = list(descriptors)
        self._user = user
        self._through = list(through)
        self._process: subprocess.Popen[bytes] | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._start, name="holder")  # a bounding set cannot be given back
        thread.start()
        thread.join()
        if self._process is None:
            raise HostFault("no process can be started", details=str(self._error)) from self._error
        try:
            _greet(self._process)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def path(self, descriptor: int) -> Path:
        """Return the way to one of the descriptors. Errors: HostFault outside of the block."""
        return Path(f"/proc/{self.pid}/fd/{descriptor}")

    @property
    def namespace(self) -> Path:
        """The way to its user namespace. Errors: HostFault outside of the block."""
        return Path(f"/proc/{self.pid}/ns/user")

    @property
    def pid(self) -> int:
        """Its number. Errors: HostFault outside of the block."""
        if self._process is None:
            raise HostFault("there is no process that holds descriptors open")
        return self._process.pid

    def _start(self) -> None:
        uid, gid = self._user or (None, None)
        try:
            if not self._through:
                restrict_thread()
            # cat ends when this daemon does: its standard input is a pipe from here. It says what it is told when it
            # is what it shall be.
            self._process = subprocess.Popen(
                [*self._through, "/bin/cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=self._descriptors,
                user=uid,
                group=gid,
                extra_groups=None if gid is None else (),
            )
        except (OSError, HostFault) as error:
            self._error = error


def _greet(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process gives back what it reads. Errors: HostFault."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise HostFault("a process was started without pipes")
    try:
        with contextlib.suppress(BrokenPipeError):  # it has ended: it says why
            process.stdin.write(b"\n")
            process.stdin.flush()
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN)
        if not waiting.poll(_TIMEOUT * 1000):
            raise HostFault(f"a process that holds descriptors did not start within {_TIMEOUT:g} s")
        said = os.read(process.stdout.fileno(), 1)
    except OSError as error:
        raise HostFault("no process can be started", details=str(error)) from error
    if said != b"\n":
        raise HostFault("no process can be started", details=process.stderr.read(500).decode("utf-8", "replace"))
