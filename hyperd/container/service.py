"""Containers: create, start, stop, watch. A container lives in a pod, which gives it its VM."""

from __future__ import annotations

import contextlib
import errno
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

import structlog

from hyperd.agent.client import ProcessState
from hyperd.agent.plan import Plan
from hyperd.config.model import Config
from hyperd.container import isolation, names, pidns
from hyperd.container.contents import ContainerContents
from hyperd.container.discarded import Discarded
from hyperd.container.files import Files
from hyperd.container.locks import PodLocks
from hyperd.container.logconf import LogSettings, check_receiver, log_settings
from hyperd.container.logdrivers import remove_log
from hyperd.container.model import ContainerUpdate
from hyperd.container.observers import ContainerObservers
from hyperd.container.plan import RootFs, cgroup_dir, container_plan, merge_program
from hyperd.container.process import GuestProcess
from hyperd.container.processes import ProcessTable
from hyperd.container.queries import ContainerQueries
from hyperd.container.records import ContainerRecords
from hyperd.container.restart import ENDING, Restarts, decide
from hyperd.container.signals import RTMAX, stop_signal
from hyperd.container.states import KILLED, LIVE, SETUP_FAILED, ContainerState
from hyperd.container.streams import ContainerStreams
from hyperd.container.top import ContainerTop
from hyperd.container.volumes import PodVolumes
from hyperd.container.waits import Waits
from hyperd.db import spec_codec
from hyperd.db.models import ContainerRow
from hyperd.errors import AgentError, Cancelled, Conflict, HyperError, InvalidInput, NotAlive, NotFound
from hyperd.event.bus import EventBus
from hyperd.failpoint import failpoint
from hyperd.image.service import ImageService
from hyperd.network.driver import NetworkDriver
from hyperd.spec.model import ContainerSpec, PodSpec
from hyperd.stream.relay import Relay
from hyperd.vm.entry import Entry
from hyperd.vm.model import Vm, require_running
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)

SIGKILL = 9
KILL_WAIT = 10.0
NOTE_PAUSE, LONGEST_NOTE_PAUSE = 1.0, 30.0  # seconds until a beginning or end that could not be noted is noted again
VM_LOOK = 0.5  # seconds between two looks whether a VM is still there
_STEP = 0.01  # the same, while one seems to end
MAX_ERROR = 500  # characters
_Note = Callable[[str, int, GuestProcess, float], None]  # of container, run, process and pause


class ContainerService:
    """See the module's docstring.

    Its parts: ``queries`` looks and changes nothing, ``streams`` has the clients, ``waits`` those who wait,
    ``contents`` the files, ``top`` the processes in the guest,
    ``restarts`` starts again what its policy wants; ``observers`` are told what happens. ``locks`` are shared with the
    pod service.
    """

    def __init__(
        self,
        *,
        config: Config,
        records: ContainerRecords,
        relay: Relay,
        images: ImageService,
        network: NetworkDriver,
        vms: VmService,
        locks: PodLocks,
        events: EventBus,
        volumes: PodVolumes,
    ) -> None:
        self._config = config
        self.records = records
        self.files = Files(config)
        self.discarded = Discarded(config.root / "pods")
        self.volumes = volumes
        self._images = images
        self._vms = vms
        self._locks = locks
        self._events = events
        self._workers = ThreadPoolExecutor(8, thread_name_prefix="container")
        self._stoppers = ThreadPoolExecutor(16, thread_name_prefix="stop")  # they wait for the workers
        self.processes = ProcessTable(relay, settings=self._log_settings, on_finished=self._submit)
        self.queries = ContainerQueries(
            config=config,
            records=records,
            images=images,
            network=network,
            vms=vms,
            processes=self.processes.by_container,
        )
        self.streams = ContainerStreams(
            records=records, queries=self.queries, processes=self.processes, relay=relay, vms=vms
        )
        self.contents = ContainerContents(
            config=config,
            records=records,
            queries=self.queries,
            processes=self.processes,
            images=images,
            vms=vms,
            volumes=volumes,
            locks=locks,
        )
        self.top = ContainerTop(records=records, vms=vms)
        self.waits = Waits(records)
        self.observers = ContainerObservers()
        self.observers.add(self.waits)
        self.restarts = Restarts(
            records=records,
            relay=relay,
            vms=vms,
            locks=locks,
            events=events,
            start=lambda vm, container_id: self.start_in(vm, container_id, again=True),
            stop=lambda container_id: self._stop(container_id, grace=None),
            settled=self.observers.settled,
        )

    def reconfigure(self, config: Config) -> None:
        """Use other defaults (grace, logs) from now on."""
        self._config = config
        self.queries.reconfigure(config)

    def close(self) -> None:
        """Wait for what is being settled."""
        self.restarts.close()
        self._stoppers.shutdown(wait=True)
        self._workers.shutdown(wait=True, cancel_futures=False)

    # -- creating and removing

    def insert(self, pod_id: str, spec: ContainerSpec, *, position: int) -> str:
        """Add a container to a pod (which need not run); give its id. Errors: ImageNotFound, Conflict."""
        image = self._images.usable(spec.image)
        row = self.records.insert(pod_id, spec, position=position, image_id=image.id)
        failpoint("container.create.row_written")
        unknown = stop_signal(spec, image.config).unknown
        if unknown:
            log.warning("container.stop_signal_unknown", container=row.id, name=row.name, signal=unknown)
        try:
            self.volumes.note(self.records.pod_spec(pod_id), row.id, spec)
            failpoint("container.create.volumes_noted")
        except BaseException:
            self.records.delete(row.id)
            raise
        self.tell("create", row)
        return row.id

    def check(self, pod: PodSpec, spec: ContainerSpec, *, may_fetch: bool) -> None:
        """Check what can be checked before a container is made.

        Errors: ImageNotFound, Conflict, InvalidInput, NotSupported, TooLarge, Forbidden.
        """
        _check_restart(spec, pod)
        check_receiver(log_settings(self._config, pod, pod.id, "check", spec))
        self.files.check(spec, pod.files, may_fetch=may_fetch)
        isolation.check(spec)
        self._images.usable(spec.image)

    def create(self, pod_id: str, spec: ContainerSpec, *, may_fetch: bool = True) -> str:
        """Add a container to a pod; give its id. It is not started.

        ``may_fetch``: whether the caller may let this host fetch files. Errors: ImageNotFound, Conflict, InvalidInput,
        NotSupported, NotAlive (no such pod), TooLarge, Forbidden, Timeout.
        """
        with self._locks.locked(pod_id, "create a container"):
            try:
                pod = self.records.pod_spec(pod_id)
            except NotFound as error:
                raise NotAlive(str(error)) from error  # 404 of this call means a missing image and nothing else
            if not spec.name:
                spec = names.named(spec, names.made_up(pod_id, spec.image))
            self.check(pod, spec, may_fetch=may_fetch)
            self.volumes.check(pod, [*self.records.specs(pod_id), spec], vm=self._vms.of_pod(pod_id))
            self.files.fetch(pod_id, spec, pod.files)
            position = max((row.position for row in self.records.of_pod(pod_id)), default=-1) + 1
            return self.insert(pod_id, spec, position=position)

    def remove(self, name: str, *, volumes: bool = False, signal: int = 0) -> None:
        """Remove a container; a running one is stopped first, by ``signal`` or (0) its own.

        ``volumes``: with the volumes without a name of their own that no other container uses.

        Errors: NotFound, NotAlive (it is paused).
        """
        row = self.records.find(name)
        used = self.volumes.named.used_by(row.id) if volumes else ()
        with self._locks.locked(row.pod_id, "remove a container"):
            self._stop(row.id, grace=None, signal=signal)
            vm = self._vms.of_pod(row.pod_id)
            self.discarded.remove(vm, row.pod_id, row.id)
            failpoint("container.delete.files_discarded")
            self.discard(self.records.get(row.id))
            if vm is not None:
                with contextlib.suppress(HyperError):  # its next container, or its end, takes them away
                    self.volumes.release(vm, row.pod_id)
        self.volumes.named.drop_anonymous(used)

    def discard(self, row: ContainerRow) -> None:
        """Forget a container and its log; its VM is gone or it is stopped."""
        process = self.processes.drop(row.id)
        if process is not None:
            self.processes.let_go(process)
            self.processes.abandon(process, KILLED)
        settings = self.queries.log_settings(row)
        remove_log(self._config, settings)  # before the row: nobody would know of it after a kill in between
        failpoint("container.delete.log_removed")
        self.records.delete(row.id)
        failpoint("container.delete.row_deleted")
        self.tell("destroy", row)
        self.observers.removed(row)

    def amend(self, name: str, change: Callable[[ContainerSpec], ContainerSpec]) -> None:
        """Change the specification of a container that never ran.

        Errors: NotFound, Conflict (it has run), InvalidInput, NotSupported, HostFault.
        """
        row = self.records.find(name)
        with self._locks.locked(row.pod_id, "change a container"):
            row = self.records.get(row.id)
            if row.run_count:
                raise Conflict(f"the container {row.name} has run: its settings are fixed")
            pod, spec = self.records.pod_spec(row.pod_id), change(self.records.spec(row))
            self.check(pod, spec, may_fetch=False)
            others = [self.records.spec(one) for one in self.records.of_pod(row.pod_id) if one.id != row.id]
            self.volumes.check(pod, [*others, spec], vm=self._vms.of_pod(row.pod_id))
            self.volumes.note(pod, row.id, spec)
            self.records.update(row.id, spec=spec_codec.dump(spec))

    def rename(self, old: str, new: str) -> None:
        """Give a container another name. Errors: NotFound, Conflict, InvalidInput."""
        new = names.checked(new)
        row = self.records.find(old)
        with self._locks.locked(row.pod_id, "rename a container"):
            row = self.records.get(row.id)  # what else of it is changed must not be lost
            spec = names.named(self.records.spec(row), new)
            self.records.update(row.id, name=new, spec=spec_codec.dump(spec))
            self.tell("rename", self.records.get(row.id), oldName=row.name)

    def update(self, name: str, update: ContainerUpdate) -> None:
        """Change a container, running or not; limits of a running one hold at once.

        On failure nothing has changed. Errors: NotFound, InvalidInput, NotAlive (paused), AgentError.
        """
        row = self.records.find(name)
        with self._locks.locked(row.pod_id, "update a container"):
            row = self.records.get(row.id)
            before = self.records.spec(row)
            changes: dict[str, Any] = {
                key: getattr(update, key)
                for key in ("restart_policy", "restart_max", "labels")
                if getattr(update, key) is not None
            }
            after = replace(before, limits=replace(before.limits, **cast("Any", update.limits)), **changes)
            isolation.check(after)
            _check_restart(after, self.records.pod_spec(row.pod_id))
            self.records.update(row.id, spec=spec_codec.dump(after))
            try:
                if row.state in LIVE and after.limits != before.limits:
                    self._change_limits(row, after)
            except BaseException:
                self.records.update(row.id, spec=spec_codec.dump(before))
                raise
            if update.restart_policy == "never" and row.restart_at is not None:
                self._end_restarts(row.id, killed=row.killed)
            self.tell("update", self.records.get(row.id))

    def _change_limits(self, row: ContainerRow, spec: ContainerSpec) -> None:
        vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
        group = cgroup_dir(names.ident(row.id, row.run_count))
        vm.agent.run(isolation.change_limits(Plan(), group, spec.limits, memory=vm.memory))

    # -- running

    def start(self, name: str) -> None:
        """Start a container; a running one is left alone. Errors: NotFound, NotAlive, AgentError, DriverError."""
        row = self.records.find(name)
        with self._locks.locked(row.pod_id, "start a container"):
            vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
            self.start_in(vm, row.id)

    def start_in(self, vm: Vm, container_id: str, *, again: bool = False, entry: Entry | None = None) -> None:
        """Start a container in its pod's VM (its lock is held).

        Args:
            vm: the VM. container_id: the container.
            again: by its policy.
            entry: what is left to do in a guest that is the pod's only now; it is sent with the container's own steps.

        Errors: as for start.

        """
        try:
            self._start_in(vm, container_id, again=again, entry=entry)
        except BaseException:
            self.volumes.started(container_id, good=False)
            raise

    def _start_in(self, vm: Vm, container_id: str, *, again: bool, entry: Entry | None) -> None:
        row = self.records.get(container_id)
        if row.state in LIVE:
            return
        spec, pod, image = self.records.spec(row), self.records.pod_spec(row.pod_id), self._images.get(row.image_id)
        program = merge_program(spec, image.config, hostname=pod.hostname, pod_tty=pod.tty)
        program = self.queries.links.added(program, pod, row.name)
        paths = [layer.path for layer in image.layers]
        if entry is not None and (spec.volumes or spec.files):
            entry.run()  # they are brought into the guest by plans of their own
        self._vms.plugs.plug(vm, layers=paths)
        rootfs = RootFs(
            container_id=row.id,
            layers=self._vms.plugs.mount_layers(vm, paths, entry=entry),
            volumes=self.volumes.prepare(vm, row.id, image.config),
        )
        files = self.files.send(vm, row.pod_id, row.id, spec, pod.files)
        pids_of = self._pids_of(vm, row, spec)
        base = vm.agent.new_base()
        run = row.run_count + 1
        process = self.processes.of_run(row, run, tty=program.tty)
        self.processes.place(vm, process)
        process.again = again
        size = process.size
        try:
            plan = container_plan(
                process=process.ident,
                base=base,
                spec=spec,
                program=program,
                rootfs=rootfs,
                files=files,
                size=size,
                before=entry.take() if entry is not None else None,
                memory=vm.memory,
                pids_of=pids_of,
            )
            self.records.starting(row, run=run, base=base, again=again)
        except BaseException:  # its clients are let go, as those of a start that fails in the guest
            self.processes.drop(row.id)
            self.processes.abandon(process, SETUP_FAILED)
            raise
        failpoint("container.start.row_starting")
        try:
            process.start(vm.agent, base, plan, size)
            failpoint("container.start.sent")
        except HyperError as error:
            process.set_up = False
            self.processes.abandon(process, SETUP_FAILED)  # also when the guest has not answered
            process.finished.wait(KILL_WAIT)
            self._start_failed(row.id, run, error, again=again)
            raise
        self.volumes.started(row.id, good=not process.failure)
        self.files.forget(vm, row.id, files)
        self._note_started(row.id, run, process)
        failpoint("container.start.row_running")
        self.tell("start", row)
        self.observers.started(row)
        log.info("container.started", container=row.id, name=row.name, vm=vm.id)

    def _pids_of(self, vm: Vm, row: ContainerRow, spec: ContainerSpec) -> str:
        """Return the agent's name of the process whose namespace a container is in. Errors: Conflict, AgentError."""
        if spec.pid_namespace == pidns.OF_POD:
            return pidns.of_pod(vm.agent)
        if not spec.pid_namespace:
            return ""
        target = self.records.find(spec.pid_namespace)
        if target.pod_id != row.pod_id or target.id == row.id or target.state != ContainerState.RUNNING:
            raise Conflict(
                f"container {row.name} cannot see the processes of {spec.pid_namespace}",
                details="that is no container of the same pod that is running",
            )
        return names.ident(target.id, target.run_count)

    def stop(self, name: str, *, grace: float | None = None, signal: int = 0) -> None:
        """Stop a container: its stop signal, then SIGKILL after the grace.

        Args:
            name: name, id or unique beginning of an id.
            grace: seconds; below 0 = without end, None = the container's own, else the daemon's.
            signal: instead of its stop signal, 0 = that.

        A VM that goes meanwhile has ended it. Errors: NotFound, NotAlive, Conflict (it survives SIGKILL).

        """
        row = self.records.find(name)
        with self._locks.locked(row.pod_id, "stop a container"):
            require_running(self._vms.of_pod(row.pod_id), row.pod_id)
            ending = self._ask_to_end(row.id, grace=grace, signal=signal)
            failpoint("container.stop.signalled")
        if ending is not None:
            self._await_end(ending)  # others may use the pod meanwhile, and its VM may go
        self.tell("stop", row)

    def stop_all(self, pod_id: str, *, grace: float | None = None) -> None:
        """Stop every container of a pod at the same time; ``grace`` as for ``stop``."""
        rows = [row for row in self.records.of_pod(pod_id) if row.state in LIVE]
        list(self._stoppers.map(lambda row: self._stop(row.id, grace=grace), rows))

    def kill(self, name: str, signal: int) -> None:
        """Send a signal to a container's main process; one that does not run is left alone. Errors: NotFound."""
        if not 1 <= signal <= RTMAX:
            raise InvalidInput(f"{signal} is no signal", resolution="use a number from 1 to 64")
        row = self.records.find(name)
        if row.state in LIVE:
            require_running(self._vms.of_pod(row.pod_id), row.pod_id)
        if signal in ENDING or signal == self.queries.stop_signal(row).number:
            self._end_restarts(row.id)
        if row.state in LIVE:
            self._signal(row.id, signal)
            self.tell("kill", row, signal=signal)

    def wait(self, name: str, *, cancelled: Callable[[], bool] = lambda: False) -> int:
        """Wait until a container does not run and return its exit code; 0 for one that never ran. Errors: NotFound.

        ``cancelled`` is asked every second; when it says so the wait ends early, with 0.
        """
        with contextlib.suppress(Cancelled):
            return self.waits.register(name).result(cancelled=cancelled).exit_code
        return 0

    def process_ident(self, row: ContainerRow) -> str:
        """Return the agent's name of a running container; a start under way is waited for. Errors: NotAlive."""
        if row.state != ContainerState.RUNNING:
            # A pod is running before all of its containers are: its start holds the lock until they are.
            with self._locks.locked(row.pod_id, "see whether a container runs"):
                row = self.records.get(row.id)
        process = self.processes.get(row.id)
        if process is None or row.state != ContainerState.RUNNING:
            raise NotAlive(f"the container {row.name} is not running")
        return process.ident

    # -- what the guest tells

    def exited(self, vm_id: str, ident: str, code: int) -> bool:
        """Take an EXITED event (loop's thread); False when it is no container's."""
        return self.processes.exited(vm_id, ident, code)

    def ran_out(self, vm_id: str, ident: str) -> None:
        """Take an OOM event (loop's thread): the kernel killed something in a container for want of memory."""
        container_id = self.processes.owner(vm_id, ident)
        if container_id:
            with contextlib.suppress(RuntimeError):  # shutting down
                self._workers.submit(self._note_oom, container_id, ident)

    def _note_oom(self, container_id: str, ident: str) -> None:
        with contextlib.suppress(NotFound):
            row = self.records.get(container_id)
            if names.ident(row.id, row.run_count) == ident:
                self.records.update(container_id, oom_killed=True)
            self.tell("oom", row)

    def vm_gone(self, vm_id: str, pod_id: str, *, code: int = KILLED, by_itself: bool = False) -> None:
        """Settle the containers of a VM that is gone: they ended with this code unless they had ended before.

        ``by_itself``: nobody wanted that; their policies decide whether they run again. Else nothing does.
        """
        for process in self.processes.of_vm(vm_id):
            if not by_itself:
                self.processes.let_go(process)
            self.processes.abandon(process, code)
            process.finished.wait(KILL_WAIT)
        for row in self.records.of_pod(pod_id):
            ended = row
            if row.state in LIVE:
                decision = decide if by_itself else None
                own, at = self._known_end(row)
                found = code if own is None else own
                finished = self.records.finish(row.id, run=row.run_count, exit_code=found, decide=decision, at=at)
                ended = finished or row
                if finished is not None:
                    self._tell_ended(finished)
            if not by_itself or ended.restart_at is None:
                self._end_restarts(row.id, killed=row.killed)
                if self.processes.has_ended(row):  # else clients are there for its next start
                    self.processes.drop(row.id)

    def _known_end(self, row: ContainerRow) -> tuple[int | None, float | None]:
        """Return exit code and time of an end that its guest told and no row has yet; None = there was none."""
        process = self.processes.get(row.id)
        if process is None or process.ident != names.ident(row.id, row.run_count):
            return None, None
        return process.exit_code, process.ended_at

    def end_restarts(self, pod_id: str) -> None:
        """Let nothing of a pod be started again by its policy until the API does."""
        for row in self.records.of_pod(pod_id):
            if row.restart_at is not None:
                self._end_restarts(row.id)

    def adopt(self, vm: Vm, states: dict[str, ProcessState]) -> None:
        """Join the containers of a VM that outlived the last daemon."""
        for row in self.records.of_pod(vm.pod_id):
            if row.state not in LIVE:
                continue
            ident = names.ident(row.id, row.run_count)
            state = states.get(ident)
            if state is None:
                finished = self.records.finish(row.id, run=row.run_count, exit_code=SETUP_FAILED, decide=decide)
                if finished is not None:
                    self._tell_ended(finished)
                    self.restarts.schedule(finished)
                continue
            process = self.processes.of_run(row, row.run_count, tty=self.queries.program(row).tty)
            self.records.started(row.id, run=row.run_count)
            self.processes.resume(vm, process, state)
            if not state.running:
                self.processes.ended(process, state.exit_code, state.finished_at)

    # -- inside

    def _submit(self, container_id: str, run: int, process: GuestProcess) -> None:
        self._work(self._finished, container_id, run, process, NOTE_PAUSE)

    def _work(self, work: _Note, container_id: str, run: int, process: GuestProcess, pause: float) -> None:
        try:
            self._workers.submit(work, container_id, run, process, pause)
        except RuntimeError:
            log.info("container.settled_later", container=container_id)  # shutting down: the next start finds it

    def _put_off(self, work: _Note, container_id: str, run: int, process: GuestProcess, pause: float) -> None:
        """Do something again in so many seconds; the next pause is longer."""
        later = (work, container_id, run, process, min(2 * pause, LONGEST_NOTE_PAUSE))
        process.relay.soon(process.relay.loop.call_later, pause, self._work, *later)

    def _note_started(self, container_id: str, run: int, process: GuestProcess, pause: float = NOTE_PAUSE) -> None:
        """Note that a program runs, or why it could not be executed; ``pause`` as for ``_finished``."""
        try:
            self.records.started(container_id, run=run, ids=process.ids, error=process.failure[:MAX_ERROR])
        except HyperError as error:  # it runs, whatever its row says
            log.warning("container.start_put_off", container=container_id, seconds=pause, error=str(error))
            self._put_off(self._note_started, container_id, run, process, pause)

    def _finished(self, container_id: str, run: int, process: GuestProcess, pause: float) -> None:
        """Note the end of a run; ``pause``: seconds until that is tried again when it cannot be noted now."""
        try:
            code, again = process.exit_code or 0, process.hub.keeping and (process.set_up or process.again)
            try:
                row = self.records.finish(
                    container_id, run=run, exit_code=code, decide=decide if again else None, at=process.ended_at
                )
            except HyperError as error:  # a full or locked database: clients wait, and the guest still knows it
                log.warning("container.end_put_off", container=container_id, seconds=pause, error=str(error))
                self._put_off(self._finished, container_id, run, process, pause)
                return
            failpoint("container.exit.row_written")
            if row is None or row.restart_at is None:
                self.processes.let_go(process)
            self.processes.forget(process)
            failpoint("container.exit.forgotten")
            if row is not None:
                log.info("container.finished", container=container_id, name=row.name, code=code)
                self._tell_ended(row)
            if row is not None and row.restart_at is not None:
                self.restarts.schedule(row)
        except Exception:
            log.exception("container.settle_failed", container=container_id)
            self.processes.let_go(process)
        finally:
            process.finished.set()

    def _tell_ended(self, row: ContainerRow) -> None:
        """Tell that a run has ended, once."""
        self.tell("die", row, exitCode=row.exit_code or 0)
        self.observers.ended(row)
        if row.restart_at is None:
            self.observers.settled(row)

    def _start_failed(self, container_id: str, run: int, error: HyperError, *, again: bool) -> None:
        """Note why a start failed, and its end where that is not noted yet."""
        choose = decide if again else None
        try:
            finished = self.records.finish(container_id, run=run, exit_code=SETUP_FAILED, decide=choose)
            self.records.update(container_id, error=str(error)[:MAX_ERROR])
        except HyperError as fault:  # its end is noted later, as every one
            log.warning("container.failure_not_noted", container=container_id, error=str(fault))
            return
        if finished is not None:
            self._tell_ended(finished)
            self.restarts.schedule(finished)

    def _stop(self, container_id: str, *, grace: float | None, signal: int = 0) -> None:
        ending = self._ask_to_end(container_id, grace=grace, signal=signal)
        if ending is not None:
            self._await_end(ending)

    def _ask_to_end(self, container_id: str, *, grace: float | None, signal: int = 0) -> _Ending | None:
        """Send the signal that stops a container; None when it does not run, or its VM has ended.

        Errors: NotAlive, AgentError.
        """
        row = self.records.get(container_id)
        vm = self._vms.of_pod(row.pod_id)
        if row.state in LIVE and vm is not None:
            require_running(vm, row.pod_id)
        self._end_restarts(container_id)
        row, process = self.records.get(container_id), self.processes.get(container_id)
        if row.state not in LIVE or process is None or vm is None:
            return None
        if grace is None:
            own = self.records.spec(row).stop_timeout
            grace = self._config.stop_grace if own is None else own
        try:
            self._signal(container_id, signal or self.queries.stop_signal(row).number)
        except AgentError:
            if self._goes(vm, row.pod_id):
                return None
            raise
        return _Ending(row=row, process=process, vm=vm, grace=math.inf if grace < 0 else grace)

    def _goes(self, vm: Vm, pod_id: str) -> bool:
        """Return whether a VM that does not answer has ended, which may be heard of a moment later."""
        until = time.monotonic() + VM_LOOK
        while not vm.ending and self._vms.of_pod(pod_id) is vm:
            if time.monotonic() >= until:
                return False
            time.sleep(_STEP)  # several threads tell of it, and none can be waited for
        return True

    def _await_end(self, ending: _Ending) -> None:
        """Wait for an end, which SIGKILL brings after the grace; return when the VM is gone. Errors: Conflict."""
        if self._ended_within(ending, ending.grace):
            return
        require_running(ending.vm, ending.row.pod_id)
        _send(ending.process, SIGKILL)
        if not self._ended_within(ending, KILL_WAIT):
            raise Conflict(f"the container {ending.row.name} does not end", details="it survived SIGKILL for 10 s")

    def _ended_within(self, ending: _Ending, seconds: float) -> bool:
        """Return whether a process ends in time, or its VM does; whoever cleans up after that may wait for a lock."""
        until = time.monotonic() + seconds
        while not ending.process.finished.wait(max(0.0, min(until - time.monotonic(), VM_LOOK))):
            if self._vms.of_pod(ending.row.pod_id) is not ending.vm:
                return True
            if time.monotonic() >= until:
                return False
        return True

    def _end_restarts(self, container_id: str, *, killed: bool = True) -> None:
        """Let a container's policy start it no more until the API does; nobody waits for its next run."""
        row, waited = self.records.end_restarts(container_id, killed=killed)
        process = self.processes.get(container_id)
        if row is None or row.state in LIVE:
            return
        if process is not None and self.processes.has_ended(row):
            self.processes.let_go(process)
        if waited:
            self.observers.settled(row)

    def _log_settings(self, row: ContainerRow) -> LogSettings:
        return self.queries.log_settings(row)

    def tell(self, action: str, row: ContainerRow, **more: object) -> None:
        """Publish that something has happened to a container."""
        about = {"name": row.name, "image": row.image_name}
        self._events.publish("container", action, row.id, row.pod_id, **{**row.labels, **about, **more})

    def _signal(self, container_id: str, number: int) -> None:
        process = self.processes.get(container_id)
        if process is not None:
            _send(process, number)


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """A run that has been asked to end, the VM it is in, and the seconds it has for it."""

    row: ContainerRow
    process: GuestProcess
    vm: Vm
    grace: float


def _send(process: GuestProcess, number: int) -> None:
    """Send a signal to a container's main process, SIGKILL to all of its group; one that has ended is left alone."""
    if process.agent is None:
        return
    try:
        process.agent.signal(process.ident, number, everyone=number == SIGKILL)
    except AgentError as error:
        if error.errno != errno.ESRCH:  # else its exit is on the way
            raise


def _check_restart(spec: ContainerSpec, pod: PodSpec) -> None:
    """Refuse a container that would be removed and started again when it ends. Errors: InvalidInput."""
    if spec.auto_remove and (spec.restart_policy or pod.restart_policy or "never") != "never":
        raise InvalidInput(
            f"container {spec.name} cannot be removed when it ends and be restarted then",
            resolution="give it no restart policy, or do not have it removed",
        )
