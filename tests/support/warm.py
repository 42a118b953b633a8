"""Starts of a daemon that take a fraction of a second: a process that has imported the daemon forks for each of them.

Most of a start is the import of libraries. For tests that start the daemon hundreds of times only: ``warm.spawn`` is
given to the launcher. As a program (``python -m tests.support.warm``) this module is the process that forks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from werkzeug.routing.rules import Rule

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
_CRI = ("hyperd.api.cri.handlers", "hyperd.api.cri.server")


class Warm:
    """The process that forks. One daemon of it runs at a time.

    Args:
        env: more variables of the daemons.
        cwd: where they run.
        real: whether their VMs are; if not, more is imported beforehand.

    """

    def __init__(self, env: Mapping[str, str], *, cwd: Path, real: bool = True) -> None:
        words = [sys.executable, "-m", "tests.support.warm", *(() if real else ("--pretend",))]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **env}, cwd=cwd
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def spawn(self, options: Sequence[str], log: Path) -> Process:
        """Start a daemon; the one before has ended. ``log``: where what it writes is added."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"options": list(options), "log": str(log)}).encode() + b"\n")
        self._process.stdin.flush()
        return Daemon(self._process.stdout)


class Daemon:
    """A daemon that was forked, as ``subprocess.Popen`` has it.

    Args:
        answers: its process id, and its exit code when it has ended, a line each.

    """

    def __init__(self, answers: IO[bytes]) -> None:
        self._answers = answers
        self._code: int | None = None
        self.pid = int(answers.readline())

    def poll(self) -> int | None:
        """Return the exit code of a daemon that has ended; the number of a signal is negative."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait so many seconds. Errors: TimeoutExpired."""
        if self._code is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("hyperd", timeout or 0)
            self._code = int(self._answers.readline())
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def main() -> None:
    """Fork for each line of the input; a child leaves the loop and becomes a daemon."""
    for name in (*_MODULES, *(_CRI if "--pretend" in sys.argv else ())):
        importlib.import_module(name)
    _build_urls_late()
    gc.collect()
    gc.freeze()
    for line in sys.stdin.buffer:
        wanted = json.loads(line)
        pid = os.fork()
        if not pid:
            break
        os.write(1, b"%d\n" % pid)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    else:
        return
    log = os.open(wanted["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, 64)
    from hyperd.cli import main as daemon

    daemon(wanted["options"], prog_name="hyperd")


def _build_urls_late() -> None:
    """Let werkzeug make the code that writes URLs when one is written: the daemon only reads them."""
    compiled = Rule._compile_builder

    def late(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        return lambda *values: compiled(rule, append_unknown)(*values)  # noqa: PLW0108 - it is compiled when called

    Rule._compile_builder = late  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    main()
