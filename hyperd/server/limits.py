"""How many descriptors connections may have, so that the daemon always has some left for its own work."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)

MIN_RESERVE = 64
FEW = 256  # descriptors with which a daemon can serve some pods and clients


@dataclass(frozen=True)
class Limits:
    """The numbers of descriptors that no connection gets: the kernel gives the lowest free number, so below stay free.

    Args:
        local: for callers on unix sockets.
        remote: for callers over TCP; lower, so that they never keep local ones out.

    """

    local: int
    remote: int


def raise_file_limit() -> int:
    """Allow as many descriptors as the host lets us: a stream is one, a VM is several. Return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if 0 <= soft < FEW:
        log.warning("server.few_descriptors", limit=soft, resolution=f"allow at least {FEW} open files (ulimit -n)")
    return soft


def connection_limits(files: int) -> Limits:
    """Share the descriptors out: a quarter is the daemon's, and of the rest a quarter is for local callers alone."""
    if files < 0:  # RLIM_INFINITY
        files = 2**20
    local = files - min(max(MIN_RESERVE, files // 4), files // 2)
    return Limits(local=local, remote=local * 3 // 4)


class Spare:
    """A descriptor that is held to be given up: with it a connection can be taken and closed when none is left."""

    def __init__(self) -> None:
        self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def give_up(self) -> bool:
        """Free the descriptor; return whether there was one."""
        if self._fd < 0:
            return False
        os.close(self._fd)
        self._fd = -1
        return True

    def take_back(self) -> None:
        """Hold a descriptor again, if one can be had."""
        if self._fd < 0:
            with contextlib.suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
