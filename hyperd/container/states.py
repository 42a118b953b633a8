"""States of a container and its exit codes."""

from __future__ import annotations

from enum import StrEnum


class ContainerState(StrEnum):
    """What a container is doing. ``exited`` keeps the exit code of the last run."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"


LIVE = (ContainerState.STARTING, ContainerState.RUNNING)

# Signal death as shells report it (POSIX 2.8.2): 128 + number.
SIGNAL_BASE = 128
KILLED = SIGNAL_BASE + 9
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SETUP_FAILED = 125
