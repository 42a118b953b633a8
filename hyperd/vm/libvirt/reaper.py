"""Waits for QEMU processes.

libvirt starts QEMU as a daemon, so it would become a child of PID 1, and libvirt's ``destroy`` polls until somebody has
reaped it. As child subreaper this process becomes the parent and reaps at once. Exactly the processes we were told of
are waited for: ``waitpid(-1)`` would steal the children of libvirt and of ``subprocess``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hyperd.errors import HyperError

log = structlog.get_logger(__name__)

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
# Seconds between looks for the pid file of a QEMU that is being started.
_LOOK = 0.02


def set_subreaper(*, on: bool) -> None:
    """Make orphans below this process its children, or PID 1's again. Errors: OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def read_pid(pidfile: Path) -> int | None:
    """Return the number in a pid file, None when there is none (yet)."""
    try:
        return int(pidfile.read_text())
    except (OSError, ValueError):
        return None


def _is_emulator(pid: int, name: str) -> bool:
    """Say whether a process is the QEMU of a VM, or a child of ours that has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return False
    return f"guest={name},".encode() in command or (state == "Z" and int(parent) == os.getpid())


@dataclass
class _Watched:
    pid: int
    fd: int
    gone: threading.Event = field(default_factory=threading.Event)


class Reaper:
    """Follows processes by pidfd, in one thread; reaps those that are our children."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, _Watched] = {}
        self._expected: dict[Path, tuple[str, Callable[[int], None] | None]] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="vm-reaper", daemon=True)
        self._thread.start()

    def watch(self, pid: int, name: str) -> bool:
        """Follow the QEMU of VM ``name``; False when ``pid`` is not (or no longer) that, nothing is followed then."""
        with self._lock:
            if pid in self._watched or self._closing:
                return True
            try:
                fd = os.pidfd_open(pid)
            except OSError:
                return False
            # Looked at after the pidfd is open: from here on the pid cannot be another process's.
            if not _is_emulator(pid, name):
                os.close(fd)
                return False
            entry = _Watched(pid=pid, fd=fd)
            self._watched[pid] = entry
            self._selector.register(fd, selectors.EVENT_READ, entry)
        self._wake()
        return True

    @contextlib.contextmanager
    def expecting(self, pidfile: Path, name: str, *, found: Callable[[int], None] | None = None) -> Iterator[None]:
        """Follow the QEMU of VM ``name`` as soon as its ``pidfile`` is there, and call ``found`` then, if it is given.

        A QEMU that dies while libvirt starts it must be reaped too, or libvirt waits 15 s for it.
        """
        with self._lock:
            self._expected[pidfile] = (name, found)
        self._wake()
        try:
            yield
        finally:
            with self._lock:
                self._expected.pop(pidfile, None)

    def kill(self, pid: int) -> bool:
        """Kill a followed process; False when it is not followed (it is gone). A recycled pid is never hit."""
        with self._lock:
            entry = self._watched.get(pid)
            if entry is None:
                return False
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(entry.fd, signal.SIGKILL)
            return True

    def lives(self, pid: int) -> bool:
        """Return whether a process is followed, and has not ended."""
        with self._lock:
            entry = self._watched.get(pid)
            if entry is None:
                return False
            try:
                signal.pidfd_send_signal(entry.fd, 0)
            except ProcessLookupError:
                return False
            return True

    def wait(self, pid: int, timeout: float) -> bool:
        """Wait until a followed process has ended (and is reaped, if it is our child); True when it has."""
        with self._lock:
            entry = self._watched.get(pid)
        return entry is None or entry.gone.wait(timeout)

    def close(self) -> None:
        """Stop following. The processes run on. Calling it twice is fine."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._wake()
        self._thread.join(5)
        with self._lock:
            for entry in self._watched.values():
                os.close(entry.fd)
            self._watched.clear()
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def _run(self) -> None:
        while not self._closing:
            self._look()
            for key, _ in self._selector.select(_LOOK if self._expected else None):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                else:
                    self._ended(key.data)

    def _look(self) -> None:
        with self._lock:
            expected = list(self._expected.items())
        for pidfile, (name, found) in expected:
            pid = read_pid(pidfile)
            if pid is not None and self.watch(pid, name):
                with self._lock:
                    self._expected.pop(pidfile, None)
                try:
                    if found is not None:
                        found(pid)
                except HyperError as error:
                    log.warning("vm.process_told", pid=pid, error=str(error))

    def _ended(self, entry: _Watched) -> None:
        status = None
        with contextlib.suppress(ChildProcessError):  # adopted from an earlier daemon: PID 1 reaps it
            status = os.waitpid(entry.pid, os.WNOHANG)[1]
        with self._lock:
            self._selector.unregister(entry.fd)
            os.close(entry.fd)
            self._watched.pop(entry.pid, None)
        entry.gone.set()
        log.debug("vm.process_ended", pid=entry.pid, status=status)
