"""What Shipyard's API asks for, whichever back end stands behind."""

from __future__ import annotations

from typing import Protocol

from hypercloud.fleet.model import ClusterInfo, Container, Image


class Fleet(Protocol):
    """All containers of all machines. What a back end cannot do raises NotSupported, with the reason."""

    def containers(self) -> list[Container]:
        """Return every container, newest first."""

    def container(self, prefix: str) -> Container:
        """Return a container by the beginning of its id, or its name. Errors: NotFound, Conflict."""

    def info(self) -> ClusterInfo:
        """Return the sums over all machines that answer; every registered one is counted."""

    def logs(self, prefix: str) -> bytes:
        """Return what a container has written so far. Errors: NotFound, EngineError."""

    def deploy(self, image: Image, *, count: int = 1, pull: bool = False) -> list[Container]:
        """Run containers; with an error none of them stays. Errors: InvalidInput, NoEngine, EngineError, Conflict."""

    def run_labelled(self, image: Image, labels: dict[str, str]) -> Container:
        """Run one container with labels of ours. Errors: as deploy."""

    def start(self, prefix: str) -> None:
        """Start a stopped container."""

    def stop(self, prefix: str) -> None:
        """Stop a container."""

    def restart(self, prefix: str) -> None:
        """Stop and start a container."""

    def remove(self, prefix: str) -> None:
        """Kill and remove a container."""

    def scale(self, prefix: str, count: int) -> None:
        """Have as many containers like this one."""

    def redeploy(self, image: str) -> list[str]:
        """Pull an image where containers of it run, and replace each of them; return their ids."""
