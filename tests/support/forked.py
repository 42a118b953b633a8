"""Daemons that start in a fraction of a second: a process that has imported the daemon forks for each of them.

Most of a start is the import of libraries, and the tests start a thousand daemons. Each is a process of its own, with
the environment and the directory that ``subprocess.Popen`` would give it. As a program (``python -m
tests.support.forked``) this module is the process that forks; it ends when its standard input does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import Process

_MODULES = (
    "hyperd.engine",
    "hyperd.server.serve",
    "hyperd.vm.fake",
    "hyperd.vm.libvirt.driver",
    "hyperd.cli",
    "hyperd.config.load",
)
# gRPC among them. No QEMU starts below a fork of a process that has loaded it: the program before QEMU aborts.
CRI = ("hyperd.api.cri.handlers", "hyperd.api.cri.server")
_PROJECT = Path(__file__).parents[2]


class Forked:
    """A daemon that was forked, as ``subprocess.Popen`` has it.

    Args:
        pid: its process id.
        code: a pipe that its exit code is written to when it has ended.

    """

    def __init__(self, pid: int, code: int) -> None:
        self.pid = pid
        self._pipe = code
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code of a daemon that has ended; the number of a signal is negative."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait so many seconds. Errors: TimeoutExpired."""
        if self._code is None:
            if not select.select([self._pipe], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("hyperd", timeout or 0)
            self._code = int(os.read(self._pipe, 64))
            os.close(self._pipe)
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that forks.

    Args:
        env: more variables of its daemons.
        more: modules that it imports beside those that each daemon needs.

    """

    def __init__(self, env: Mapping[str, str] | None = None, *, more: Sequence[str] = ()) -> None:
        self._lock = threading.Lock()
        self._env = dict(env or {})
        words = [sys.executable, "-m", "tests.support.forked", *more]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **self._env}, cwd=_PROJECT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def spawn(self, options: Sequence[str], log: Path) -> Process:
        """Start a daemon. ``log``: where what it writes is added."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        mine, its = os.pipe2(os.O_CLOEXEC)
        with self._lock:
            wanted = {"options": list(options), "log": str(log), "code": f"/proc/{os.getpid()}/fd/{its}"}
            self._process.stdin.write(json.dumps({**wanted, "env": {**os.environ, **self._env}}).encode() + b"\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
        os.close(its)
        return Forked(pid, mine)

    def close(self) -> None:
        """End it; its daemons run on."""
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=60)


_shared: list[Forks] = []
_lock = threading.Lock()


def spawn(options: Sequence[str], log: Path) -> Process:
    """Start a daemon by the process that all tests of this process share."""
    with _lock:
        if not _shared:
            _shared.append(Forks())
            atexit.register(_shared[0].close)
    return _shared[0].spawn(options, log)


def main() -> None:
    """Fork for each line of the input; a child leaves the loop and becomes a daemon."""
    for name in (*_MODULES, *sys.argv[1:]):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    ended, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(told)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    codes: dict[int, int] = {}
    for line in _lines(ended, codes):
        wanted = json.loads(line)
        code = os.open(wanted["code"], os.O_WRONLY | os.O_CLOEXEC)
        pid = os.fork()
        if not pid:
            break
        codes[pid] = code
        os.write(1, b"%d\n" % pid)
    else:
        return
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _become(wanted["options"], wanted["log"], wanted["env"])


def _lines(ended: int, codes: dict[int, int]) -> Iterator[bytes]:
    """Yield the lines of the input, and tell the exit codes of daemons meanwhile."""
    rest = b""
    while True:
        ready = select.select([0, ended], [], [])[0]
        if ended in ready:
            os.read(ended, 4096)
            for pid in list(codes):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    with contextlib.suppress(BrokenPipeError):
                        os.write(codes[pid], b"%d" % os.waitstatus_to_exitcode(status))
                    os.close(codes.pop(pid))
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from lines


def _become(options: Sequence[str], log: str, env: dict[str, str]) -> None:
    """Become a daemon with these options."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(env)
    from hyperd.cli import main as daemon

    daemon(options, prog_name="hyperd")


if __name__ == "__main__":
    main()
