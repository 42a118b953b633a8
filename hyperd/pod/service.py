"""Pods: the unit that has a VM. Creates, starts, stops and removes them; every step has an undo."""

from __future__ import annotations

import contextlib
import errno
import secrets
import shutil
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from hyperd.agent.programs import sweep
from hyperd.aside import remove_empty
from hyperd.config.model import Config
from hyperd.container.execs import ExecService
from hyperd.container.locks import PodLocks
from hyperd.container.model import Container
from hyperd.container.names import image_base, named
from hyperd.container.service import ContainerService
from hyperd.container.states import LIVE, ContainerState
from hyperd.db import spec_codec
from hyperd.db.models import PodRow
from hyperd.db.spec_cache import stored_pod
from hyperd.errors import Busy, Conflict, HostFault, HyperError, InvalidInput, NotAlive, NotFound, OutOfSpace
from hyperd.event.bus import EventBus
from hyperd.failpoint import failpoint
from hyperd.guest import layout
from hyperd.image.service import ImageService
from hyperd.network.driver import NetworkDriver
from hyperd.network.model import Lease
from hyperd.network.service import NetworkService
from hyperd.pod import netplan
from hyperd.pod.model import Pod, PodBrief, PodSummary
from hyperd.pod.network import PodNetwork
from hyperd.pod.ready import ReadyVms
from hyperd.pod.records import PodRecords
from hyperd.pod.states import WITH_VM, PodState
from hyperd.spec.model import PodSpec, VolumeSpec
from hyperd.vm.entry import Entry
from hyperd.vm.model import HostFiles, Vm, require_running
from hyperd.vm.scratch import make_scratch
from hyperd.vm.service import VmService
from hyperd.volume.catalog import volumes_of

log = structlog.get_logger(__name__)

SILENT = "its guest does not answer"  # while the pod is running

SIGKILL = 9
MAX_HOSTNAME = 63


class PodService:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        config: Config,
        records: PodRecords,
        containers: ContainerService,
        execs: ExecService,
        images: ImageService,
        network: NetworkDriver,
        networks: NetworkService,
        vms: VmService,
        locks: PodLocks,
        events: EventBus,
    ) -> None:
        self._config = config
        self.records = records
        self._containers = containers
        self._execs = execs
        self._images = images
        self._network = network
        self._vms = vms
        self._locks = locks
        self._events = events
        self._unmet: set[str] = set()  # VMs that run again, whose processes are still to be joined
        containers.restarts.revive = self.revive
        self.net = PodNetwork(
            records=records,
            containers=containers.records,
            network=network,
            networks=networks,
            vms=vms,
            locks=locks,
        )
        self.ready = ReadyVms(
            config=config,
            records=containers.records,
            images=images,
            network=network,
            net=self.net,
            vms=vms,
            events=events,
        )

    def reconfigure(self, config: Config) -> None:
        """Use other defaults and limits from now on."""
        self._config = config
        self.ready.reconfigure(config)

    # -- commands

    def create(self, spec: PodSpec, *, may_fetch: bool = True) -> str:
        """Register a pod and its containers; nothing runs yet.

        ``may_fetch``: whether the caller may let this host fetch files by URI. After a failure nothing is left.
        Errors: ImageNotFound (the only 404), InvalidInput, Conflict, NotSupported, Busy, Forbidden, TooLarge, Timeout.
        """
        spec = self._complete(spec)
        for container in spec.containers:
            self._containers.check(spec, container, may_fetch=may_fetch)
        self._containers.volumes.check(spec, spec.containers)
        with self._locks.locked(spec.id, "create"):
            if self.records.count() >= self._config.max_pods:
                raise Busy(f"There have already been {self._config.max_pods} Pods", resolution="remove some")
            with self.new_directory(spec.id):
                self.records.insert(spec)
            try:
                failpoint("pod.create.row_written")
                booked = self.net.book(spec)
                failpoint("pod.create.booked")
                if booked != spec:
                    self.records.update(spec.id, spec=spec_codec.dump(booked))
                for position, container in enumerate(spec.containers):
                    self._containers.insert(spec.id, container, position=position)
                    failpoint("pod.create.container_written")
                    self._containers.files.fetch(spec.id, container, spec.files)
                    failpoint("pod.create.files_fetched")
                self.records.complete(spec.id)
                failpoint("pod.create.complete")
            except BaseException:
                self.erase(spec.id)
                raise
        log.info("pod.created", pod=spec.id)
        self._tell("create", spec.id, spec.labels)
        return spec.id

    def start(self, pod_id: str, *, vm_id: str = "", only: str = "") -> str:
        """Start a pod (or the containers of a running one that do not run); give its VM's id.

        Args:
            pod_id: the pod.
            vm_id: an idle VM to run on; empty boots a new one.
            only: id of the one container to start; empty = all.

        A start that fails leaves the pod as it was before and no VM. Errors: NotFound, NotAlive, Conflict,
        DriverError, AgentError,
        OutOfSpace, Timeout, ImageNotFound.

        """
        with self._locks.locked(pod_id, "start"):
            row = self.records.get(pod_id)
            state = PodState(row.state)
            spec = stored_pod(row.spec)
            if state == PodState.PAUSED:
                raise NotAlive(f"the pod {pod_id} is paused", resolution="unpause it")
            if state == PodState.RUNNING:
                if vm_id and self._vms.of_pod(pod_id) is not self._vms.get(vm_id):
                    raise Conflict(f"pod {pod_id} is already running")
                vm, entry = require_running(self._vms.of_pod(pod_id), pod_id), None
            else:
                vm, entry = self._raise_vm(spec, vm_id)
            self._start_containers(vm, pod_id, entry, only=only)
            if state != PodState.RUNNING:
                self._tell("start", pod_id, row.labels, vm=vm.id)
            failpoint("pod.start.told")
            return vm.id

    def start_container(self, name: str) -> None:
        """Start a container; a pod that does not run is started with this container alone. Errors: as for ``start``."""
        row = self._containers.records.find(name)
        with self._locks.locked(row.pod_id, "start a container"):
            if self.records.get(row.pod_id).state == PodState.RUNNING:
                self._containers.start(row.id)
            else:
                self.start(row.pod_id, only=row.id)

    def restart_container(self, name: str, *, grace: float | None = None, signal: int = 0) -> None:
        """Stop a container if it runs, then start it; arguments and errors as for stop and start of one."""
        row = self._containers.records.find(name)
        with self._locks.locked(row.pod_id, "restart a container"):
            if self._containers.records.get(row.id).state in LIVE:
                with contextlib.suppress(NotAlive):  # its VM has just gone
                    self._containers.stop(row.id, grace=grace, signal=signal)
            self.start_container(row.id)
            self._containers.tell("restart", row)

    def remove_container(self, name: str, *, signal: int = 0, volumes: bool = False) -> None:
        """Remove a container; a running one is stopped first. An implicit pod goes with its last.

        Args:
            name: name, id or unique beginning of an id.
            signal: instead of the stop signal, 0 = that.
            volumes: with the volumes without a name of their own that no other container uses.

        Errors: NotFound, NotAlive (paused, and others share the pod).

        """
        row = self._containers.records.find(name)
        with self._locks.locked(row.pod_id, "remove a container"):
            others = [one for one in self._containers.records.of_pod(row.pod_id) if one.id != row.id]
            if stored_pod(self.records.get(row.pod_id).spec).implicit and not others:
                if self._containers.records.get(row.id).state in LIVE:
                    with contextlib.suppress(NotAlive):  # it is paused, or its VM has just gone
                        self._containers.stop(row.id, signal=signal)
                self.remove(row.pod_id, volumes=volumes)
            else:
                self._containers.remove(row.id, signal=signal, volumes=volumes)

    def stop(self, pod_id: str, *, stop_vm: bool = True, grace: float | None = None) -> None:
        """Stop a pod: its containers' stop signals, SIGKILL after the grace, then the VM goes (or becomes idle).

        ``grace`` are seconds; None = the containers' own, else the daemon's.
        A pod that does not run is left as it is. Errors: NotFound, DriverError.
        """
        with self._locks.locked(pod_id, "stop"):
            row = self.records.get(pod_id)
            state = PodState(row.state)
            if state not in (*WITH_VM, PodState.STOPPING):
                self._containers.end_restarts(pod_id)
                return
            vm = self._vms.of_pod(pod_id)
            if state == PodState.PAUSED and vm is not None:
                try:
                    self._let_go_on(vm)
                except HyperError as error:  # its guest, or its VM, is not there any more
                    log.warning("pod.stop_hard", pod=pod_id, error=str(error))
            if state != PodState.STOPPING:  # else an earlier stop failed half-way: it is finished now
                self.records.change(pod_id, PodState.STOPPING)
            failpoint("pod.stop.state_written")
            if vm is not None:
                try:
                    self._containers.stop_all(pod_id, grace=grace)
                except HyperError as error:
                    log.warning("pod.stop_hard", pod=pod_id, error=str(error))
                failpoint("pod.stop.containers_stopped")
            self.settle_stopped(pod_id, vm, keep_vm=not stop_vm)
            self.records.sync()
            log.info("pod.stopped", pod=pod_id)
            self._tell("stop", pod_id, row.labels)

    def remove(self, pod_id: str, *, volumes: bool = False) -> None:
        """Remove a pod, running or not, with its containers, logs, disk, addresses and ports.

        ``volumes``: with the volumes without a name of their own that no other container uses. Errors: NotFound.
        """
        named, used = self._containers.volumes.named, set[str]()
        with self._locks.locked(pod_id, "remove"):
            if volumes:
                used.update(name for row in self._containers.records.of_pod(pod_id) for name in named.used_by(row.id))
            labels = self.records.get(pod_id).labels
            self.records.make_room()
            self.records.update(pod_id, state=PodState.REMOVING)
            failpoint("pod.delete.state_written")
            self.erase(pod_id)
            self._tell("destroy", pod_id, labels)
        named.drop_anonymous(sorted(used))
        log.info("pod.removed", pod=pod_id)

    def kill(self, pod_id: str, *, container: str = "", signal: int = 15) -> None:
        """Send a signal to one container or all of a pod; SIGKILL to all switches the VM off.

        Errors: NotFound, InvalidInput, AgentError.
        """
        rows = self._containers.records.of_pod(self.records.get(pod_id).id)
        if container:
            found = self._containers.records.find(container)
            if found.pod_id != pod_id:
                raise NotFound(f"can not get container {container} in pod {pod_id}")
            self._containers.kill(found.id, signal)
        elif signal == SIGKILL:
            self._hard_stop(pod_id)
        else:
            for row in rows:
                if row.state in LIVE:
                    self._containers.kill(row.id, signal)

    def pause(self, pod_id: str) -> None:
        """Stop the pod's CPUs; on failure they run. Errors: NotFound, Conflict, DriverError, OutOfSpace."""
        with self._locks.locked(pod_id, "pause"):
            self._expect(pod_id, PodState.RUNNING, "pause")
            vm = require_running(self._vms.of_pod(pod_id), pod_id)
            try:
                self._vms.pause(vm)
                failpoint("pod.pause.vm_paused")
                self.records.change(pod_id, PodState.PAUSED)
            except BaseException:
                with contextlib.suppress(HyperError):
                    self._vms.unpause(vm)
                raise
            self._tell("pause", pod_id, self.records.get(pod_id).labels)

    def unpause(self, pod_id: str) -> None:
        """Let a paused pod go on. Errors: NotFound, Conflict, DriverError."""
        with self._locks.locked(pod_id, "unpause"):
            self._expect(pod_id, PodState.PAUSED, "unpause")
            vm = self._vms.of_pod(pod_id)
            if vm is None:
                raise NotAlive(f"the pod {pod_id} has no VM")
            self._let_go_on(vm)
            self.records.change(pod_id, PodState.RUNNING)
            failpoint("pod.unpause.row_written")
            self._tell("unpause", pod_id, self.records.get(pod_id).labels)

    def _let_go_on(self, vm: Vm) -> None:
        """Let a paused pod's VM run; what runs in one that this daemon has not met is joined.

        Errors: DriverError, AgentError; what is left is done by the next call.
        """
        if not vm.connected:
            self._unmet.add(vm.id)
        self._vms.unpause(vm)
        if vm.id in self._unmet:
            self.adopt(vm)
            self._unmet.discard(vm.id)

    def set_labels(self, pod_id: str, labels: dict[str, str], *, override: bool) -> None:
        """Merge labels; an existing key needs ``override``, or nothing is changed. Errors: NotFound, Conflict."""
        with self._locks.locked(pod_id, "set labels"):
            spec = stored_pod(self.records.get(pod_id).spec)
            old = spec.labels
            taken = sorted(key for key in labels if key in old)
            if taken and not override:
                raise Conflict(f"Can't update label {taken[0]} without override flag")
            spec = replace(spec, labels={**old, **labels})
            self.records.update(pod_id, spec=spec_codec.dump(spec))
            self._tell("update", pod_id, spec.labels)

    # -- looking

    def summaries(self, *, pod_id: str = "", vm_id: str = "") -> list[PodSummary]:
        """List pods with little of each, by id or VM where given."""
        vms = {view.pod_id: view.id for view in self._vms.views() if view.pod_id}
        return [
            PodSummary(id=row.id, vm_id=vms.get(row.id, ""), state=PodState(row.state), outcome=row.outcome)
            for row in self.records.listed()
            if (not pod_id or row.id == pod_id) and (not vm_id or vms.get(row.id) == vm_id)
        ]

    def briefs(self, owner: str) -> tuple[PodBrief, ...]:
        """List the pods that an API has made, oldest first."""
        return self.records.briefs(owner)

    def inspect(self, pod_id: str) -> Pod:
        """Return a pod. Errors: NotFound."""
        row = self.records.get(pod_id)
        vm = self._vms.of_pod(pod_id)
        spec = stored_pod(row.spec)
        containers = tuple(self._containers.queries.of_pod(pod_id))
        return Pod(
            id=row.id,
            spec=spec,
            state=PodState(row.state),
            outcome=row.outcome,
            reason=row.reason,
            vm_id=vm.id if vm else "",
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            labels=dict(row.labels),
            addresses=tuple(cidr for lease in self._network.leases(pod_id) for cidr in lease.cidrs) if vm else (),
            ports=tuple(self._network.mappings(pod_id)),
            containers=containers,
            volumes=_volumes(spec, containers),
        )

    # -- what happens by itself

    def vm_gone(self, vm: Vm, by_itself: bool) -> None:
        """A pod's VM ended: the pod is stopped and failed; if it did so by itself the containers' policies count."""
        self._unmet.discard(vm.id)
        self._execs.vm_gone(vm)
        if not vm.pod_id:
            return
        with self._locks.locked(vm.pod_id, "clean up after its VM"):
            if self._vms.of_pod(vm.pod_id) is not None:
                return  # the pod has got another one meanwhile
            try:
                state = PodState(self.records.get(vm.pod_id).state)
            except NotFound:
                return
            self._containers.vm_gone(vm.id, vm.pod_id, by_itself=by_itself)
            if state in WITH_VM:
                reason = "the VM ended by itself" if by_itself else "the VM was removed"
                try:
                    self._network.release(vm.pod_id)
                except HyperError as error:  # tried again when the pod is removed or started
                    log.error("pod.network_not_released", pod=vm.pod_id, error=str(error))
                now = time.time()
                self.records.change(vm.pod_id, PodState.STOPPED, outcome="failed", reason=reason, finished_at=now)
                self._tell("die", vm.pod_id, self.records.get(vm.pod_id).labels, reason=reason)

    def vm_silent(self, vm: Vm, silent: bool) -> None:
        """Note whether the guest of a pod answers: a pod whose guest does not is running, and says why it is deaf."""
        if vm.pod_id:
            self.records.update(vm.pod_id, reason=SILENT if silent else "")

    def revive(self, pod_id: str) -> Vm | None:
        """Give a stopped pod a VM again for a container whose policy wants it (the lock is held); None = no more.

        Errors: as for ``start``; the pod is stopped as before then.
        """
        row = self.records.get(pod_id)
        if row.state != PodState.STOPPED:
            return None
        vm, entry = self._raise_vm(stored_pod(row.spec), "")
        with self._failing(pod_id, vm):
            entry.run()
        log.info("pod.revived", pod=pod_id, vm=vm.id)
        self._tell("start", pod_id, row.labels, vm=vm.id, by="policy")
        return vm

    def adopt(self, vm: Vm) -> None:
        """Join a pod whose VM outlived the last daemon. Errors: AgentError."""
        states = {state.ident: state for state in vm.agent.processes()}
        sweep(vm.agent, states.values())
        self._containers.adopt(vm, states)
        self._execs.adopt(vm, states)
        self.net.adopt(vm)

    def settle_stopped(self, pod_id: str, vm: Vm | None, *, keep_vm: bool = False) -> None:
        """Take the VM away and note the pod as stopped (the lock is held)."""
        if vm is not None:
            self._execs.vm_gone(vm)
            if not (keep_vm and self._release(vm)):
                self._vms.shutdown(vm)
                failpoint("pod.stop.vm_gone")
        self._containers.vm_gone(vm.id if vm is not None else "", pod_id)
        self._network.release(pod_id)
        failpoint("pod.stop.network_released")
        rows = self._containers.records.of_pod(pod_id)
        failed = any(row.state == ContainerState.EXITED and row.exit_code for row in rows)
        self.records.change(
            pod_id, PodState.STOPPED, outcome="failed" if failed else "succeeded", finished_at=time.time()
        )
        failpoint("pod.stop.row_written")

    def _release(self, vm: Vm) -> bool:
        """Make the VM idle again; False when the guest does not let go of the pod's disks or has the host's files."""
        if vm.shares and not vm.shared:
            return False
        try:
            self.net.leave(vm)
            self._vms.plugs.release(vm)
        except HyperError as error:
            log.warning("vm.not_released", vm=vm.id, error=str(error))
            return False
        return True

    def scratch(self, pod_id: str) -> Path:
        """Return the path of the pod's writable disk."""
        return self._config.root / "pods" / pod_id / "scratch.img"

    # -- inside

    @contextmanager
    def new_directory(self, pod_id: str) -> Iterator[None]:
        """Make the pod's directory for the block; it stays when the block succeeds. Errors: OutOfSpace, HostFault."""
        directory = self._config.root / "pods" / pod_id
        before = directory.is_dir()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            failpoint("pod.create.directory_made")
        except OSError as error:
            kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else HostFault
            raise kind("the pod's directory cannot be made", details=str(error)) from error
        try:
            yield
        except BaseException:
            if not before:
                remove_empty(directory)
            raise

    def _complete(self, spec: PodSpec) -> PodSpec:
        """Fill in what the caller left open: id, hostname, names of containers; ports of containers go to the pod."""
        pod_id = spec.id or "pod-" + "".join(secrets.choice(string.ascii_letters) for _ in range(10))
        containers = tuple(
            container if container.name else named(container, f"{pod_id}-{image_base(container.image)}-{index}")
            for index, container in enumerate(spec.containers)
        )
        names = [container.name for container in containers]
        if len(set(names)) != len(names):
            raise InvalidInput("the containers' names are not unique", details=", ".join(names))
        ports = (*spec.portmappings, *(port for container in containers for port in container.ports if port.host_port))
        hostname = spec.hostname or pod_id[:MAX_HOSTNAME]
        return replace(spec, id=pod_id, hostname=hostname, containers=containers, portmappings=ports)

    @contextmanager
    def _starting(self, spec: PodSpec) -> Iterator[ExitStack]:
        """Note the pod as starting; on a failure run the undo steps and put the state back."""
        before = self.records.change(spec.id, PodState.STARTING)
        with ExitStack() as undo:
            try:
                failpoint("pod.start.state_written")
                yield undo
            except BaseException:
                undo.close()
                if before == PodState.PENDING:
                    self.net.book_again(spec)
                self.records.change(spec.id, before)
                raise
            undo.pop_all()

    def _raise_vm(self, spec: PodSpec, vm_id: str) -> tuple[Vm, Entry]:
        """Bring the pod's VM up, network and disks included; what is left to do in the guest comes with it."""
        with self._starting(spec) as undo:
            undo.callback(self._network.release, spec.id)
            noted, spec = spec, self.net.choose(spec)  # rules may have been added since the pod was made
            scratch = self.scratch(spec.id)
            rows = self._containers.records.of_pod(spec.id)
            layers = [layer.path for row in rows for layer in self._images.get(row.image_id).layers]
            if rows:
                self.ready.note(rows[-1].image_id)
            with self._containers.volumes.opened(spec) as files:
                found = None if vm_id else self.ready.take(spec, files, scratch=scratch, layers=layers)
                if found is not None:
                    vm, leases, entry = found
                    undo.callback(self._vms.destroy, vm)
                    failpoint("pod.start.vm_taken")
                else:
                    leases = self.net.reserve(spec)
                    failpoint("pod.start.reserved")
                    vm = self._new_vm(spec, files, vm_id=vm_id, scratch=scratch, layers=layers, leases=leases)
                    undo.callback(self._vms.destroy, vm)
                    failpoint("pod.start.vm_made")
                    setup = self.net.attachments.setup(spec, leases)
                    entry = Entry(vm, layout.enter(setup, mounted=vm.mounted))
            self._network.plugged(spec.id)
            failpoint("pod.start.plugged")
            self.net.attachments.tell_links(spec.id)
            if self._containers.discarded.noted(spec.id, [row.id for row in rows]):
                entry.run()
                self._containers.discarded.clear(vm, [row.id for row in rows])
            if spec.services:
                entry.run()
                self.net.balance(vm, spec, leases)
            news = {} if spec == noted else {"spec": spec_codec.dump(spec)}
            self.records.change(
                spec.id, PodState.RUNNING, started_at=time.time(), finished_at=None, outcome="", reason="", **news
            )
            failpoint("pod.start.row_running")
            return vm, entry

    def _new_vm(
        self,
        spec: PodSpec,
        files: HostFiles,
        *,
        vm_id: str,
        scratch: Path,
        layers: Sequence[Path],
        leases: Sequence[Lease],
    ) -> Vm:
        """Return the idle VM that the caller named, or boot one; on failure neither is left."""
        size, nics = spec.resource, netplan.nic_specs(leases)
        if not vm_id:
            return self._vms.boot(
                vcpu=size.vcpu,
                memory=size.memory,
                pod_id=spec.id,
                disks=layers,
                scratch=scratch,
                nics=nics,
                files=files,
                group=spec.cgroup_parent,
            )
        files.require_none()
        netplan.check_pluggable(nics)
        make_scratch(scratch, self._config.scratch_size)
        vm = self._vms.claim(vm_id, spec.id, vcpu=size.vcpu, memory=size.memory)
        try:
            self._vms.regroup(vm, spec.cgroup_parent)
            self._vms.plugs.plug(vm, scratch=scratch, layers=layers, nics=nics)
        except BaseException:
            self._vms.destroy(vm)
            raise
        return vm

    def _start_containers(self, vm: Vm, pod_id: str, entry: Entry | None, *, only: str = "") -> None:
        """Start the containers; ``entry`` is that of a VM that is the pod's only now, which goes when one fails."""
        with self._failing(pod_id, vm if entry is not None else None):
            for row in self._containers.records.of_pod(pod_id):
                if not only or row.id == only:
                    self._containers.start_in(vm, row.id, entry=entry)
                    failpoint("pod.start.container_started")
            if entry is not None:
                entry.run()  # of a pod without containers

    @contextmanager
    def _failing(self, pod_id: str, fresh: Vm | None) -> Iterator[None]:
        """Log what fails in a start; a pod whose VM is fresh is stopped again then."""
        try:
            yield
        except BaseException as error:
            log.warning("pod.start_failed", pod=pod_id, error=str(error))
            if fresh is not None:
                self.records.change(pod_id, PodState.STOPPING)
                self.settle_stopped(pod_id, fresh)
                self.records.update(pod_id, outcome="failed", reason=str(error)[:500])
            raise

    def _hard_stop(self, pod_id: str) -> None:
        with self._locks.locked(pod_id, "kill"):
            if PodState(self.records.get(pod_id).state) not in WITH_VM:
                self._containers.end_restarts(pod_id)
                return
            vm = self._vms.of_pod(pod_id)
            self.records.change(pod_id, PodState.STOPPING)
            if vm is not None:
                self._vms.destroy(vm)
                self._execs.vm_gone(vm)
                self._containers.vm_gone(vm.id, pod_id)
            self.settle_stopped(pod_id, None)
            self._tell("kill", pod_id, self.records.get(pod_id).labels, signal=SIGKILL)

    def erase(self, pod_id: str) -> None:
        """Remove everything of a pod (the lock is held); fine for what does not exist."""
        self.records.make_room()
        vm = self._vms.of_pod(pod_id)
        if vm is not None:
            self._vms.destroy(vm)
            self._execs.vm_gone(vm)
            self._containers.vm_gone(vm.id, pod_id)
        self._network.release(pod_id)
        failpoint("pod.delete.network_released")
        for row in self._containers.records.of_pod(pod_id):
            self._containers.discard(row)
            failpoint("pod.delete.container_discarded")
        shutil.rmtree(self._config.root / "pods" / pod_id, ignore_errors=True)
        failpoint("pod.delete.disk_removed")
        self.records.delete(pod_id)
        self.records.sync()
        failpoint("pod.delete.row_deleted")

    def _tell(self, action: str, pod_id: str, labels: Mapping[str, str], **more: object) -> None:
        self._events.publish("pod", action, pod_id, **{**labels, "name": pod_id, **more})

    def _expect(self, pod_id: str, wanted: PodState, verb: str) -> PodRow:
        row = self.records.get(pod_id)
        if row.state != wanted:
            raise Conflict(f"{verb}: pod state is not valid: {row.state}")
        return row


def _volumes(spec: PodSpec, containers: Sequence[Container]) -> tuple[VolumeSpec, ...]:
    """Return every volume of a pod, those of images included."""
    found = volumes_of(spec.volumes, [container.spec for container in containers])
    for container in containers:
        for mount in container.mounts:
            found.setdefault(mount.volume, VolumeSpec(name=mount.volume))
    return tuple(found.values())
