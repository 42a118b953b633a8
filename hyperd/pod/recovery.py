"""What a daemon does after its start: rows say what should be, VMs and agents what is; both are brought together."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection
from pathlib import Path

import structlog

from hyperd.aside import Aside, remove_empty
from hyperd.container.execs import ExecService
from hyperd.container.service import ContainerService
from hyperd.container.states import LIVE
from hyperd.db.copies import POD_FILE
from hyperd.errors import HyperError
from hyperd.failpoint import failpoint
from hyperd.network.driver import NetworkDriver
from hyperd.pod.records import PodRecords
from hyperd.pod.service import PodService
from hyperd.pod.states import WITH_VM, PodState
from hyperd.vm.model import PAUSED, POOLED
from hyperd.vm.scratch import remove_drafts
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)

BUILD_PREFIX = "build-"  # of the names of builds, whose disks lie where those of pods do (``hyperd.build.service``)


class Recovery:
    """Runs once, before the first request. Every step can be repeated: the daemon may die in it, too."""

    def __init__(
        self,
        *,
        root: Path,
        pods: PodService,
        records: PodRecords,
        containers: ContainerService,
        execs: ExecService,
        network: NetworkDriver,
        vms: VmService,
    ) -> None:
        self._root = root
        self._pods = pods
        self._records = records
        self._containers = containers
        self._execs = execs
        self._network = network
        self._vms = vms

    def run(self) -> None:
        """Make everything right; what cannot be is logged and left stopped."""
        for row in self._records.all():
            try:
                remove_drafts(self._root / "pods" / row.id)
                self._pod(row.id, PodState(row.state))
                failpoint("restore.pod.settled")
            except HyperError as error:
                log.error("recovery.pod_failed", pod=row.id, error=str(error))
                self._give_up(row.id)
        known = {row.id for row in self._records.all()}
        for view in self._vms.views():
            if view.pod_id and view.pod_id not in known:
                self._vms.destroy(self._vms.get(view.id))
        self._network.reconcile(known | {vm.id for vm in self._vms.all() if vm.state == POOLED})
        failpoint("restore.run.network_reconciled")
        self._execs.settle_lost()
        failpoint("restore.run.execs_settled")
        self._strangers(known)
        failpoint("restore.run.strangers_removed")

    def _strangers(self, known: Collection[str]) -> None:
        """Remove what builds left in the pods' directory, and put aside the rest that no row explains.

        A copy of a pod's row may be written at the moment when the pod is removed. It goes again with the next copies,
        and is nothing that was lost.
        """
        aside, removed = Aside(self._root), self._records.removed()
        for directory in (self._root / "pods").glob("*"):
            if directory.name in known:
                continue
            of_build = directory.name.startswith(BUILD_PREFIX) and not (directory / POD_FILE).exists()
            if of_build or directory.name in removed:
                shutil.rmtree(directory, ignore_errors=True)
            elif not remove_empty(directory):
                aside.put(directory, reason="no pod of this name")
        aside.prune()

    def _pod(self, pod_id: str, state: PodState) -> None:
        vm = self._vms.of_pod(pod_id)
        if state == PodState.REMOVING or self._records.half_made(pod_id):
            self._pods.remove(pod_id)
        elif state == PodState.STARTING:
            # Half made: nobody was told that it runs.
            if vm is not None:
                self._vms.destroy(vm)
            self._containers.vm_gone("", pod_id, by_itself=True)  # a start by a policy is made again
            self._network.release(pod_id)
            self._records.change(pod_id, PodState.STOPPED, outcome="failed", reason="the daemon ended during the start")
        elif state == PodState.STOPPING:
            self._pods.settle_stopped(pod_id, vm)
        elif state in WITH_VM:
            self._running(pod_id, state)
        else:
            self._settle_containers(pod_id)

    def _running(self, pod_id: str, state: PodState) -> None:
        vm = self._vms.of_pod(pod_id)
        if vm is None:
            self._containers.vm_gone("", pod_id, by_itself=True)
            self._network.release(pod_id)
            self._records.change(pod_id, PodState.STOPPED, outcome="failed", reason="its VM ended while no daemon ran")
            return
        self._pods.vm_silent(vm, False)  # as the last daemon may have noted; this one has not asked yet
        if vm.state == PAUSED:
            if state == PodState.RUNNING:
                self._records.change(pod_id, PodState.PAUSED)
            return  # its agent is met when it is unpaused
        if state == PodState.PAUSED:
            self._records.change(pod_id, PodState.RUNNING)
        self._pods.adopt(vm)
        failpoint("restore.pod.adopted")
        log.info("recovery.pod_adopted", pod=pod_id, vm=vm.id)

    def _settle_containers(self, pod_id: str) -> None:
        if any(row.state in LIVE for row in self._containers.records.of_pod(pod_id)):
            self._containers.vm_gone("", pod_id)

    def _give_up(self, pod_id: str) -> None:
        """Leave a pod stopped whose VM cannot be joined."""
        with contextlib.suppress(HyperError):
            vm = self._vms.of_pod(pod_id)
            if vm is not None:
                self._vms.destroy(vm)
            self._containers.vm_gone("", pod_id, by_itself=True)
            with contextlib.suppress(HyperError):
                self._network.release(pod_id)
            self._records.update(
                pod_id, state=PodState.STOPPED, outcome="failed", reason="it could not be joined again"
            )
