"""What everything above asks of the machines, whichever back end stands behind: engines, or a cluster's nodes.

``EngineService`` is the one for engines with the Docker API, ``hypercloud.kube.machines.KubeMachines`` the one for
Kubernetes. What is to be done with services is the other half of a back end: ``hypercloud.workload.carrier``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from hypercloud.engine.client import EngineClient
from hypercloud.engine.model import Engine, EngineContainer, EngineSpec
from hypercloud.engine.monitor import EngineMonitor, EngineObserver
from hypercloud.engine.streams import Line


class Lines(Protocol):
    """The output of a container as it comes."""

    def __iter__(self) -> Iterator[Line]:
        """Give line after line."""

    def close(self) -> None:
        """End it, from any thread."""


class Session(Protocol):
    """A program in a container, with a terminal."""

    def read(self) -> bytes:
        """Return some output; empty at the end."""

    def write(self, data: bytes) -> None:
        """Send input."""

    def resize(self, rows: int, columns: int) -> None:
        """Tell the size of the terminal."""

    def close(self) -> None:
        """Hang up."""


class Machines(Protocol):
    """The machines of a back end, and what runs on them."""

    indirect: str
    """Why single containers cannot be made, started or stopped here; empty = they can."""
    unread: str
    """Why nobody can be asked how much containers use; empty = ``monitors`` can."""

    def observe(self, observer: EngineObserver) -> None:
        """Have an observer told from now on."""

    def open(self, *, first_start: bool) -> None:
        """Begin to watch."""

    def close(self) -> None:
        """Stop watching."""

    def engines(self) -> list[Engine]:
        """Return all machines by name."""

    def engine(self, key: str) -> Engine:
        """Return a machine by id or name. Errors: NotFound."""

    def monitors(self) -> list[EngineMonitor]:
        """Return what can be asked how much containers use; none where nobody can."""

    def containers(self) -> list[EngineContainer]:
        """Return the containers of all machines that answer."""

    def container(self, prefix: str) -> EngineContainer:
        """Return a container by id, the beginning of its id, or its name. Errors: NotFound, Conflict."""

    def client(self, key: str) -> EngineClient:
        """Return a machine's Docker API. Errors: NotFound; NotSupported where it has none."""

    def add(self, spec: EngineSpec) -> Engine:
        """Register a machine. Errors: InvalidInput, Forbidden, Conflict, EngineUnreachable; NotSupported."""

    def update(self, key: str, *, nickname: str | None = None, labels: Sequence[str] | None = None) -> Engine:
        """Change a machine's nickname or labels. Errors: NotFound, InvalidInput; NotSupported."""

    def remove(self, key: str) -> None:
        """Take a machine off the list. Errors: NotFound, Conflict; NotSupported."""

    def images(self, key: str) -> list[Mapping[str, Any]]:
        """Return a machine's images: ``RepoTags``, ``Size`` and ``Id``. Errors: NotFound, EngineError."""

    def logs(self, container: EngineContainer) -> bytes:
        """Return what a container has written so far. Errors: NotFound, EngineError."""

    def output(self, engine: str, container: str, *, tty: bool, tail: int, follow: bool) -> Lines:
        """Return a container's output: ``tail`` lines of the past, and what comes. Errors: NotFound, EngineError."""

    def session(self, engine: str, container: str, command: list[str]) -> Session:
        """Run a program with a terminal in a container. Errors: NotFound, Conflict, EngineError."""

    def delete(self, container: EngineContainer) -> None:
        """Remove a container; what keeps it may make another. Errors: EngineError."""
