"""Containers that were removed while their pod's disk could not be reached: what they wrote goes at the next start.

A note is an empty file with the container's id as its name in the pod's directory, so it goes with the pod.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import structlog

from hyperd.agent.plan import Op, Plan
from hyperd.errors import HyperError
from hyperd.guest import layout
from hyperd.vm.model import ASSOCIATED, Vm

log = structlog.get_logger(__name__)


class Discarded:
    """The notes of all pods; a pod's lock is held by whoever calls.

    Args:
        pods: directory that has one for each pod.

    """

    def __init__(self, pods: Path) -> None:
        self._pods = pods

    def remove(self, vm: Vm | None, pod_id: str, container_id: str) -> None:
        """Remove what a container has written, now if its pod runs."""
        note = self._directory(pod_id) / container_id
        if note.parent.parent.is_dir():  # else the pod was never started and has no disk
            note.parent.mkdir(exist_ok=True)
            note.touch()
        if vm is not None and vm.state == ASSOCIATED:
            self._clear(vm, [container_id])

    def noted(self, pod_id: str, existing: Collection[str]) -> list[str]:
        """Return the removed containers whose files are still on a pod's disk.

        ``existing``: containers of the pod; a daemon that was killed has noted, but not removed one of them.
        """
        directory = self._directory(pod_id)
        return sorted({path.name for path in directory.iterdir()} - set(existing)) if directory.is_dir() else []

    def clear(self, vm: Vm, existing: Collection[str]) -> None:
        """Remove what ``noted`` gives from the disk of a pod whose VM has entered it."""
        self._clear(vm, self.noted(vm.pod_id, existing))

    def _clear(self, vm: Vm, containers: list[str]) -> None:
        plan = Plan()
        for container_id in containers:
            plan.add(Op.REMOVE, layout.container_dir(container_id))
        try:
            vm.agent.run(plan)
        except HyperError as error:
            log.warning("container.files_stay", pod=vm.pod_id, containers=containers, error=str(error))
            return
        for container_id in containers:
            (self._directory(vm.pod_id) / container_id).unlink(missing_ok=True)

    def _directory(self, pod_id: str) -> Path:
        return self._pods / pod_id / "removed"
