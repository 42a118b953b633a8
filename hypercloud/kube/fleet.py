"""Shipyard's containers on a cluster: they can be looked at, and each belongs to a service."""

from __future__ import annotations

from typing import NoReturn

from hypercloud.errors import NotSupported
from hypercloud.fleet.model import ClusterInfo, Container, Image
from hypercloud.fleet.view import FleetView
from hypercloud.kube.machines import KubeMachines


class KubeFleet:
    """All pods of our namespace; see ``hypercloud.fleet.contract.Fleet``.

    Args:
        machines: where they run.

    """

    def __init__(self, machines: KubeMachines) -> None:
        self._machines = machines
        self._view = FleetView(machines)

    def containers(self) -> list[Container]:
        """Return every container, newest first."""
        return self._view.containers()

    def container(self, prefix: str) -> Container:
        """Return a container by the beginning of its id, or its name. Errors: NotFound, Conflict."""
        return self._view.container(prefix)

    def info(self) -> ClusterInfo:
        """Return the sums over all nodes that are ready; every node is counted."""
        return self._view.info()

    def logs(self, prefix: str) -> bytes:
        """Return what a container has written so far. Errors: NotFound, EngineError."""
        return self._view.logs(prefix)

    def deploy(self, image: Image, *, count: int = 1, pull: bool = False) -> list[Container]:
        """Say how containers are run. Errors: NotSupported."""
        del count, pull
        self._refuse(f"{image.name} is not run by itself")

    def run_labelled(self, image: Image, labels: dict[str, str]) -> Container:
        """Say how containers are run. Errors: NotSupported."""
        del labels
        self._refuse(f"{image.name} is not run by itself")

    def start(self, prefix: str) -> None:
        """Say how containers are started. Errors: NotSupported."""
        self._refuse(f"container {self._named(prefix)} is not started by itself")

    def stop(self, prefix: str) -> None:
        """Say how containers are stopped. Errors: NotSupported."""
        self._refuse(f"container {self._named(prefix)} is not stopped by itself")

    def restart(self, prefix: str) -> None:
        """Say how containers are restarted. Errors: NotSupported."""
        self._refuse(f"container {self._named(prefix)} is not restarted by itself")

    def remove(self, prefix: str) -> None:
        """Remove a pod: whatever keeps it makes another. Errors: NotFound, EngineError."""
        self._machines.delete(self._machines.container(prefix))

    def scale(self, prefix: str, count: int) -> None:
        """Say how containers are scaled. Errors: NotSupported."""
        del count
        self._refuse(f"container {self._named(prefix)} is not scaled by itself")

    def redeploy(self, image: str) -> list[str]:
        """Return that there is nothing to replace: services follow their images themselves (``autoredeploy``)."""
        del image
        return []

    def _named(self, prefix: str) -> str:
        return self._machines.container(prefix).name

    def _refuse(self, brief: str) -> NoReturn:
        raise NotSupported(
            brief,
            details=self._machines.indirect,
            resolution="use a service: /api/app/v1/service/, or the page's stacks",
        )
