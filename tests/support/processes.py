"""What tests need of a process that they have started: that part of ``subprocess.Popen``."""

from __future__ import annotations

from typing import Protocol


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
