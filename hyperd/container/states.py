"""States of a container and the words the API has for them."""

from __future__ import annotations

from enum import StrEnum

from hyperd.db.models import ContainerRow


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


def phase(row: ContainerRow) -> str:
    """Give the word of ``list`` and ``info``: pending, running, succeeded or failed."""
    if row.state in LIVE:
        return "running" if row.state == ContainerState.RUNNING else "pending"
    if row.state == ContainerState.CREATED:
        return "pending"
    return "succeeded" if row.exit_code == 0 else "failed"
