"""What tests need of a process that they have started: that part of ``subprocess.Popen``."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Protocol


def end_programs(root: Path, program: str) -> None:
    """End the programs of VMs that pretend, as the end of a real VM would: their daemon was killed.

    Args:
        root: the daemon's directory, which they work in. program: a word of their command lines.

    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                inside = (entry / "cwd").readlink().is_relative_to(root)
                if inside and program.encode() in (entry / "cmdline").read_bytes():
                    os.killpg(int(entry.name), signal.SIGKILL)  # each has a session of its own


class Process(Protocol):
    """A program that runs or has ended."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code of one that has ended; the number of a signal is negative."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait so many seconds and return the exit code. Errors: subprocess.TimeoutExpired."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal."""

    def kill(self) -> None:
        """Kill it."""
