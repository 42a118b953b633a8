"""Containers: create, start, stop, watch, attach, logs. A container lives in a pod, which gives it its VM."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from hyperd.agent.client import ProcessState
from hyperd.agent.plan import Op, Plan
from hyperd.config.model import Config
from hyperd.container import names
from hyperd.container.discarded import Discarded
from hyperd.container.files import Files
from hyperd.container.locks import PodLocks
from hyperd.container.logconf import LogSettings, check_receiver, log_settings
from hyperd.container.logdrivers import log_session, open_log, remove_log
from hyperd.container.plan import RootFs, cgroup, container_plan, merge_program, stop_signal
from hyperd.container.process import AttachSession, GuestProcess
from hyperd.container.queries import ContainerQueries
from hyperd.container.records import ContainerRecords
from hyperd.container.restart import ENDING, Restarts, decide
from hyperd.container.states import KILLED, LIVE, SETUP_FAILED, ContainerState
from hyperd.container.volumes import PodVolumes
from hyperd.db.models import ContainerRow
from hyperd.errors import AgentError, Conflict, HyperError, InvalidInput, NotAlive, NotFound
from hyperd.event.bus import EventBus
from hyperd.image.service import ImageService
from hyperd.network.driver import NetworkDriver
from hyperd.spec.model import ContainerSpec, PodSpec
from hyperd.stream.logread import LogQuery, LogSession
from hyperd.stream.relay import Relay
from hyperd.vm.model import Vm, require_running
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)

SIGKILL = 9
KILL_WAIT = 10.0


class ContainerService:
    """See the module's docstring. ``locks`` are shared with the pod service; ``queries`` looks and changes nothing."""

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
        self.files = Files(config)
        self.discarded = Discarded(config.root / "pods")
        self.volumes = volumes
        self._relay = relay
        self.records = records
        self._images = images
        self._vms = vms
        self._processes: dict[str, GuestProcess] = {}
        self.queries = ContainerQueries(
            config=config, records=records, images=images, network=network, vms=vms, processes=self._processes
        )
        self._locks = locks
        self._events = events
        self._workers = ThreadPoolExecutor(8, thread_name_prefix="container")
        self._stoppers = ThreadPoolExecutor(16, thread_name_prefix="stop")  # they wait for the workers
        self._by_ident: dict[tuple[str, str], GuestProcess] = {}
        self.restarts = Restarts(
            records=records,
            relay=relay,
            vms=vms,
            locks=locks,
            events=events,
            start=lambda vm, container_id: self.start_in(vm, container_id, again=True),
            stop=lambda container_id: self._stop(container_id, grace=self._config.stop_grace),
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
        self.tell("create", row)
        return row.id

    def check(self, pod: PodSpec, spec: ContainerSpec, *, may_fetch: bool) -> None:
        """Check what can be checked before a container is made.

        Errors: ImageNotFound, Conflict, InvalidInput, NotSupported, TooLarge, Forbidden.
        """
        check_receiver(log_settings(self._config, pod, pod.id, "check", spec))
        self.files.check(spec, pod.files, may_fetch=may_fetch)
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

    def remove(self, name: str) -> None:
        """Remove a container; a running one is stopped first. Errors: NotFound."""
        row = self.records.find(name)
        with self._locks.locked(row.pod_id, "remove a container"):
            self._stop(row.id, grace=self._config.stop_grace)
            vm = self._vms.of_pod(row.pod_id)
            self.discarded.remove(vm, row.pod_id, row.id)
            self.discard(row)

    def discard(self, row: ContainerRow) -> None:
        """Forget a container and its log; its VM is gone or it is stopped."""
        process = self._processes.pop(row.id, None)
        if process is not None:
            self._let_go(process)
            self._relay.soon(process.abandon, KILLED)
        settings = self._log_settings(row)
        self.records.delete(row.id)
        self.tell("destroy", row)
        remove_log(self._config, settings)

    def rename(self, old: str, new: str) -> None:
        """Give a container another name. Errors: NotFound, Conflict, InvalidInput."""
        new = names.checked(new)
        row = self.records.find(old)
        spec = dict(row.spec)
        spec["name"] = new
        self.records.update(row.id, name=new, spec=spec)
        self.tell("rename", self.records.get(row.id), oldName=row.name)

    # -- running

    def start(self, name: str) -> None:
        """Start a container; a running one is left alone. Errors: NotFound, NotAlive, AgentError, DriverError."""
        row = self.records.find(name)
        with self._locks.locked(row.pod_id, "start a container"):
            vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
            self.start_in(vm, row.id)

    def restart(self, name: str, *, grace: float | None = None) -> None:
        """Stop a container if it runs, then start it. Errors: as for stop and start."""
        row = self.records.find(name)
        with self._locks.locked(row.pod_id, "restart a container"):
            self.stop(row.id, grace=grace)
            self.start(row.id)
            self.tell("restart", row)

    def start_in(self, vm: Vm, container_id: str, *, again: bool = False) -> None:
        """Start a container in its pod's VM (its lock is held); ``again``: by its policy. Errors: as for start."""
        row = self.records.get(container_id)
        if row.state in LIVE:
            return
        spec, pod, image = self.records.spec(row), self.records.pod_spec(row.pod_id), self._images.get(row.image_id)
        program = merge_program(spec, image.config, hostname=pod.hostname, pod_tty=pod.tty)
        paths = [layer.path for layer in image.layers]
        if spec.volumes or spec.files:
            self._vms.enter(vm)  # they are brought into the guest by plans of their own
        self._vms.plug(vm, layers=paths)
        rootfs = RootFs(
            container_id=row.id,
            layers=self._vms.mount_layers(vm, paths),
            volumes=self.volumes.prepare(vm, row.id, image.config),
        )
        files = self.files.send(vm, row.pod_id, row.id, spec, pod.files)
        base = vm.agent.new_base()
        run = row.run_count + 1
        process = self._process(row, run, tty=program.tty)
        self._by_ident[vm.id, process.ident] = process
        self.records.starting(row, run=run, base=base, again=again)
        plan = container_plan(
            process=process.ident,
            base=base,
            spec=spec,
            program=program,
            rootfs=rootfs,
            files=files,
            size=process.size,
            before=vm.entering,
        )
        vm.entering = None
        try:
            process.start(vm.agent, base, plan)
        except HyperError:
            process.finished.wait(KILL_WAIT)
            self.records.update(row.id, state=ContainerState.EXITED, exit_code=SETUP_FAILED, finished_at=time.time())
            raise
        self.files.forget(vm, row.id, files)
        self.records.started(row.id, run=run)
        self.tell("start", row)
        log.info("container.started", container=row.id, name=row.name, vm=vm.id)

    def stop(self, name: str, *, grace: float | None = None) -> None:
        """Stop a container: its stop signal, then SIGKILL after the grace (seconds). Errors: NotFound, NotAlive."""
        row = self.records.find(name)
        with self._locks.locked(row.pod_id, "stop a container"):
            require_running(self._vms.of_pod(row.pod_id), row.pod_id)
            self._stop(row.id, grace=self._config.stop_grace if grace is None else grace)
            self.tell("stop", row)

    def stop_all(self, pod_id: str, *, grace: float) -> None:
        """Stop every container of a pod at the same time."""
        rows = [row for row in self.records.of_pod(pod_id) if row.state in LIVE]
        list(self._stoppers.map(lambda row: self._stop(row.id, grace=grace), rows))

    def kill(self, name: str, signal: int) -> None:
        """Send a signal to a container's main process; one that does not run is left alone. Errors: NotFound."""
        if not 1 <= signal <= 64:
            raise InvalidInput(f"{signal} is no signal", resolution="use a number from 1 to 64")
        row = self.records.find(name)
        if row.state in LIVE:
            require_running(self._vms.of_pod(row.pod_id), row.pod_id)
        if signal in ENDING or signal == self._stop_signal(row):
            self._end_restarts(row.id)
        if row.state in LIVE:
            self._signal(row.id, signal)
            self.tell("kill", row, signal=signal)

    def wait(self, name: str, *, cancelled: Callable[[], bool] = lambda: False) -> int:
        """Wait until a container does not run and give its exit code; 0 for one that never ran. Errors: NotFound.

        ``cancelled`` is asked every second; when it says so the wait ends early, with 0.
        """
        row = self.records.find(name)
        while (row.state in LIVE or row.restart_at is not None) and not cancelled():
            process = self._processes.get(row.id)
            if process is None or not process.finished.is_set():
                time.sleep(0.05) if process is None else process.finished.wait(1.0)  # None: its start has just begun
            else:
                time.sleep(0.2)  # until it is restarted
            row = self.records.get(row.id)
        return row.exit_code or 0

    # -- looking

    def attach(self, name: str) -> AttachSession:
        """Join a client to a container, also before its start. Errors: NotFound."""
        row = self.records.find(name)
        process = self._processes.get(row.id)
        if process is None:
            process = self._process(row, row.run_count + (row.state not in LIVE), tty=self.queries.program(row).tty)
            if row.state == ContainerState.EXITED:
                self._processes.pop(row.id, None)
                self._relay.soon(process.abandon, row.exit_code or 0)
        return AttachSession(process)

    def logs(self, name: str, query: LogQuery) -> LogSession:
        """Give a session that sends the log. Errors: NotFound, InvalidInput, NotSupported (no readable log)."""
        row = self.records.find(name)
        process = self._processes.get(row.id)
        tty = process.tty if process is not None else self.queries.program(row).tty
        return log_session(
            self._relay, self._log_settings(row), query, tty=tty, current=lambda: self._processes.get(row.id)
        )

    def resize(self, name: str, rows: int, columns: int) -> None:
        """Set the window size of a container's terminal; before the start it is kept for the start.

        Errors: NotFound, NotAlive, AgentError.
        """
        row = self.records.find(name)
        process = self._processes.get(row.id)
        if process is None:
            process = self._process(row, row.run_count + 1, tty=self.queries.program(row).tty)
        if not process.tty:
            raise Conflict(f"the container {row.name} has no terminal")
        process.size = (rows, columns)
        if row.state == ContainerState.RUNNING:
            require_running(self._vms.of_pod(row.pod_id), row.pod_id).agent.resize(process.ident, rows, columns)

    def process_ident(self, row: ContainerRow) -> str:
        """Give the agent's name of a running container; a start under way is waited for. Errors: NotAlive."""
        if row.state != ContainerState.RUNNING:
            # A pod is running before all of its containers are: its start holds the lock until they are.
            with self._locks.locked(row.pod_id, "see whether a container runs"):
                row = self.records.get(row.id)
        process = self._processes.get(row.id)
        if process is None or row.state != ContainerState.RUNNING:
            raise NotAlive(f"the container {row.name} is not running")
        return process.ident

    # -- what the guest tells

    def exited(self, vm_id: str, ident: str, code: int) -> bool:
        """Take an EXITED event (loop's thread); False when it is no container's."""
        process = self._by_ident.get((vm_id, ident))
        if process is None:
            return False
        process.exited(code)
        return True

    def ran_out(self, vm_id: str, ident: str) -> None:
        """Take an OOM event (loop's thread): the kernel killed something in a container for want of memory."""
        process = self._by_ident.get((vm_id, ident))
        found = [key for key, value in tuple(self._processes.items()) if value is process]
        if process is not None and found:
            with contextlib.suppress(RuntimeError):  # shutting down
                self._workers.submit(self._tell_oom, found[0])

    def _tell_oom(self, container_id: str) -> None:
        with contextlib.suppress(NotFound):
            self.tell("oom", self.records.get(container_id))

    def vm_gone(self, vm_id: str, pod_id: str, *, code: int = KILLED, by_itself: bool = False) -> None:
        """Settle the containers of a VM that is gone: they ended with this code unless they had ended before.

        ``by_itself``: nobody wanted that; their policies decide whether they run again. Else nothing does.
        """
        for key in [key for key in tuple(self._by_ident) if key[0] == vm_id]:
            process = self._by_ident.pop(key, None)
            if process is not None:
                if not by_itself:
                    self._let_go(process)
                self._relay.soon(process.abandon, code)
                process.finished.wait(KILL_WAIT)
        for row in self.records.of_pod(pod_id):
            ended = row
            if row.state in LIVE:
                decision = decide if by_itself else None
                ended = self.records.finish(row.id, run=row.run_count, exit_code=code, decide=decision) or row
            if not by_itself or ended.restart_at is None:
                self._end_restarts(row.id, killed=row.killed)
                self._processes.pop(row.id, None)

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
                self.records.finish(row.id, run=row.run_count, exit_code=SETUP_FAILED, decide=decide)
                continue
            process = self._process(row, row.run_count, tty=self.queries.program(row).tty)
            self._by_ident[vm.id, ident] = process
            self.records.started(row.id, run=row.run_count)
            self._relay.call(process.resume(vm.agent, state), timeout=10)
            if not state.running:
                self._relay.soon(process.exited, state.exit_code)

    # -- inside

    def _process(self, row: ContainerRow, run: int, *, tty: bool) -> GuestProcess:
        """Give the process of a run, made by an attach before the start or by the start."""
        ident = names.ident(row.id, run)
        process = before = self._processes.get(row.id)
        if process is not None and process.ident == ident:
            return process
        settings = self._log_settings(row)
        process = GuestProcess(
            self._relay,
            ident=ident,
            tty=tty,
            log_file=open_log(self._relay, settings, row, run=run),
            keep_early=True,
            cut_off=False,
            on_finished=lambda ended: self._submit(row.id, run, ended),
        )
        # Clients stay until the record says that it ended, and what comes next: they ask for the exit code then.
        process.hub.keeping = True
        self._processes[row.id] = process  # before clients come over: followers of the log look here then
        if before is not None and before.hub.keeping:
            self._relay.soon(before.hand_on, process)
        return process

    def _submit(self, container_id: str, run: int, process: GuestProcess) -> None:
        try:
            self._workers.submit(self._finished, container_id, run, process)
        except RuntimeError:
            log.info("container.settled_later", container=container_id)  # shutting down: the next start finds it

    def _finished(self, container_id: str, run: int, process: GuestProcess) -> None:
        try:
            code, again = process.exit_code or 0, process.set_up and process.hub.keeping
            row = self.records.finish(container_id, run=run, exit_code=code, decide=decide if again else None)
            if row is None or row.restart_at is None:
                self._let_go(process)
            for key in [key for key, value in tuple(self._by_ident.items()) if value is process]:
                self._by_ident.pop(key, None)
                if process.agent is not None:
                    with contextlib.suppress(HyperError):
                        process.agent.forget(process.ident)
                        process.agent.run(Plan().add(Op.REMOVE, f"/sys/fs/cgroup/{cgroup(process.ident)}"))
            if row is not None:
                log.info("container.finished", container=container_id, name=row.name, code=code)
                self.tell("die", row, exitCode=code)
            if row is not None and row.restart_at is not None:
                self.restarts.schedule(row)
        except Exception:
            log.exception("container.settle_failed", container=container_id)
            self._let_go(process)
        finally:
            process.finished.set()

    def _stop(self, container_id: str, *, grace: float) -> None:
        self._end_restarts(container_id)
        row = self.records.get(container_id)
        process = self._processes.get(container_id)
        if row.state not in LIVE or process is None:
            return
        self._signal(container_id, self._stop_signal(row))
        if not process.finished.wait(grace):
            self._signal(container_id, SIGKILL)
            if not process.finished.wait(KILL_WAIT):
                raise Conflict(f"the container {row.name} does not end", details="it survived SIGKILL for 10 s")

    def _stop_signal(self, row: ContainerRow) -> int:
        return stop_signal(self.records.spec(row), self._images.get(row.image_id).config)

    def _end_restarts(self, container_id: str, *, killed: bool = True) -> None:
        """Let a container's policy start it no more until the API does; nobody waits for its next run."""
        row = self.records.update(container_id, killed=killed, restart_at=None)
        process = self._processes.get(container_id)
        if process is not None and row is not None and row.state not in LIVE:
            self._let_go(process)

    def _let_go(self, process: GuestProcess) -> None:
        process.hub.keeping = False
        self._relay.soon(process.hub.let_go)

    def tell(self, action: str, row: ContainerRow, **more: object) -> None:
        """Publish that something has happened to a container."""
        about = {"name": row.name, "podID": row.pod_id, "image": row.image_name}
        self._events.publish("container", action, row.id, **{**row.labels, **about, **more})

    def _signal(self, container_id: str, number: int) -> None:
        process = self._processes.get(container_id)
        if process is None or process.agent is None:
            return
        try:
            process.agent.signal(process.ident, number, everyone=number == SIGKILL)
        except AgentError as error:
            if error.errno != 3:  # ESRCH: it has ended, its exit is on the way
                raise

    def _log_settings(self, row: ContainerRow) -> LogSettings:
        return log_settings(self._config, self.records.pod_spec(row.pod_id), row.pod_id, row.id, self.records.spec(row))
