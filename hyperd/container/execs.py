"""Additional processes: in a container (exec) and in the guest's own root (execvm)."""

from __future__ import annotations

import contextlib
import errno
import random
import shlex
import string
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog

from hyperd.agent.client import ProcessState
from hyperd.agent.plan import Plan
from hyperd.agent.programs import PROGRAM, new_name
from hyperd.container.capture import Capture, ExecResult
from hyperd.container.exec_records import ExecRecords
from hyperd.container.model import Exec, ExecState
from hyperd.container.plan import Program, exec_plan, vm_exec_plan
from hyperd.container.process import DEFAULT_SIZE, AttachOptions, AttachSession, GuestProcess
from hyperd.container.service import LONGEST_NOTE_PAUSE, NOTE_PAUSE, ContainerService
from hyperd.container.signals import RTMAX
from hyperd.container.states import KILLED, SETUP_FAILED
from hyperd.db.models import ContainerRow
from hyperd.db.session import Database
from hyperd.errors import AgentError, Conflict, HyperError, InvalidInput, NotAlive, NotFound, Timeout
from hyperd.failpoint import failpoint
from hyperd.spec.model import ExecSpec
from hyperd.stream.frames import STDERR, STDOUT
from hyperd.stream.relay import Relay
from hyperd.vm.model import Vm, require_running
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)

SETTLE_WAIT = 1.0
WAIT_SECONDS = 10.0
RUN_SECONDS = 30.0
RUN_LIMIT = 1 << 20  # bytes of each output
MAX_PORT = 65_535


class ExecService:
    """See the module's docstring."""

    def __init__(self, *, database: Database, relay: Relay, containers: ContainerService, vms: VmService) -> None:
        self._records = ExecRecords(database)
        self._relay = relay
        self._containers = containers
        self._vms = vms
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="exec")
        self._processes: dict[tuple[str, str], GuestProcess] = {}
        self._owners: dict[str, ContainerRow] = {}  # of execs that run, as their containers were at the start

    def close(self) -> None:
        """Wait for what is being settled."""
        self._workers.shutdown(wait=True)

    def create(self, container: str, spec: ExecSpec) -> str:
        """Prepare a process in a running container; return its id.

        Errors: NotFound, NotAlive, InvalidInput (no command, bad detach keys).
        """
        if not spec.argv or not spec.argv[0]:
            raise InvalidInput("no command given")
        row = self._containers.records.find(container)
        self._containers.process_ident(row)
        exec_id = _new_id()
        self._records.insert(exec_id, row.id, spec)
        failpoint("exec.create.row_written")
        self._containers.tell("exec_create", row, execID=exec_id, command=shlex.join(spec.argv))
        return exec_id

    def inspect(self, exec_id: str) -> Exec:
        """Return an exec; those that have ended are known for ten minutes. Errors: NotFound."""
        process = self._find(exec_id)
        if process is not None and process.hub.ended:
            process.finished.wait(SETTLE_WAIT)  # a client that has just seen the end of its output asks how it ended
        return _with_pid(self._records.get(exec_id), self._find(exec_id))

    def list(self, container: str) -> list[Exec]:
        """Return a container's execs, oldest first. Errors: NotFound."""
        row = self._containers.records.find(container)
        processes = {ident: process for (_, ident), process in tuple(self._processes.items())}
        return [_with_pid(one, processes.get(one.id)) for one in self._records.of_container(row.id)]

    def start(
        self,
        container: str,
        exec_id: str,
        *,
        size: tuple[int, int] | None = None,
        holds_keys: bool = False,
    ) -> AttachSession:
        """Return the session that starts the process for its client.

        Args:
            container: must be the exec's, where it is not empty.
            exec_id: the exec.
            size: rows and columns of its terminal, None = as asked for before.
            holds_keys: see ``AttachOptions``.

        Errors: NotFound, NotAlive, Conflict (it was started before).

        """
        execution, vm, base, plan, size = self._prepare(container, exec_id, size)
        spec = execution.spec
        streams = {number for number, wanted in ((STDOUT, spec.stdout), (STDERR, spec.stderr)) if wanted}
        options = AttachOptions(
            stdin=spec.stdin, streams=frozenset(streams), detach_keys=spec.detach_keys, holds_keys=holds_keys
        )
        return self._session(vm, exec_id, base, plan, tty=spec.tty, size=size, options=options)

    def start_detached(self, exec_id: str, *, container: str = "", size: tuple[int, int] | None = None) -> Exec:
        """Start the process with no client: its output is thrown away, its input is empty.

        A program that cannot be executed has ended then, with 126 or 127. Errors: NotFound, NotAlive, Conflict (it was
        started before), AgentError, Timeout.
        """
        execution, vm, base, plan, size = self._prepare(container, exec_id, size)
        process = self._process(vm, exec_id, tty=execution.spec.tty, size=size)
        try:
            process.start(vm.agent, base, plan, size)
            failpoint("exec.start.sent")
        finally:
            if not execution.spec.tty:
                self._relay.soon(process.input.end)
        if process.failure:
            process.finished.wait(WAIT_SECONDS)
        return self.inspect(exec_id)

    def run(
        self, container: str, spec: ExecSpec, *, timeout: float = RUN_SECONDS, limit: int = RUN_LIMIT
    ) -> ExecResult:
        """Run a program in a container and return what it said; it has no input, and no record is kept.

        Args:
            container: name, id or unique beginning of an id.
            spec: ``tty``, ``stdin`` and ``detach_keys`` do not count.
            timeout: seconds; then it is killed. limit: bytes kept of each output.

        A program that cannot be executed ends with 126 or 127. Errors: NotFound, NotAlive, InvalidInput, AgentError,
        Timeout (the guest does not answer).

        """
        if not spec.argv or not spec.argv[0]:
            raise InvalidInput("no command given")
        row = self._containers.records.find(container)
        vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
        ident, base = new_name(), vm.agent.new_base()
        plan = self._plan(row, replace(spec, tty=False), ident, base, DEFAULT_SIZE)
        return Capture(vm.agent, ident=ident, base=base, limit=limit).run(plan, timeout=timeout)

    def signal(self, exec_id: str, number: int) -> None:
        """Send a signal to the process of an exec; SIGKILL goes to its whole process group.

        Errors: NotFound, InvalidInput, NotAlive (it does not run), AgentError.
        """
        if not 1 <= number <= RTMAX:
            raise InvalidInput(f"{number} is no signal", resolution="use a number from 1 to 64")
        execution = self._records.get(exec_id)
        for (vm_id, ident), _process in tuple(self._processes.items()):
            if ident == exec_id and execution.state == ExecState.RUNNING:
                try:
                    self._vms.get(vm_id).agent.signal(exec_id, number, everyone=number == KILLED - 128)
                except AgentError as error:
                    if error.errno != errno.ESRCH:
                        raise
                else:
                    return
        raise NotAlive(f"the exec {exec_id} is not running")

    def exec_vm(self, pod_id: str, command: Sequence[str]) -> AttachSession:
        """Return the session of a process in the guest's root; raw output. Errors: NotAlive, InvalidInput."""
        if not command or not command[0]:
            raise InvalidInput("no command given")
        vm = require_running(self._vms.of_pod(pod_id), pod_id)
        base = vm.agent.new_base()
        exec_id = _new_id()
        plan = vm_exec_plan(process=exec_id, base=base, command=command)
        return self._session(vm, exec_id, base, plan, tty=False, raw=True)

    def wait(self, exec_id: str, *, seconds: float = WAIT_SECONDS) -> int:
        """Return the exit code, waiting so long at most. Errors: NotFound, Timeout."""
        deadline = time.monotonic() + seconds
        while True:
            process = self._find(exec_id)
            left = deadline - time.monotonic()
            if process is not None and left > 0 and not process.finished.wait(left):
                left = 0
            execution = self._records.get(exec_id)
            if execution.state == ExecState.EXITED:
                return execution.exit_code or 0
            if left <= 0:
                raise Timeout("wait exec exit code timeout", details=f"{exec_id} still runs")
            if process is None or process.finished.is_set():  # it has not begun, or its end could not be noted
                time.sleep(min(0.05, left))

    def connect(self, pod_id: str, port: int) -> AttachSession:
        """Return the session of a connection to a port of the pod's loopback; its stderr says why there is none.

        A client that leaves ends it. Errors: NotAlive, InvalidInput.
        """
        if not 1 <= port <= MAX_PORT:
            raise InvalidInput(f"{port} is no port")
        vm = require_running(self._vms.of_pod(pod_id), pod_id)
        base, ident = vm.agent.new_base(), new_name()
        plan = vm_exec_plan(process=ident, base=base, command=(PROGRAM, "--connect", str(port)))
        return self._session(vm, ident, base, plan, tty=False, options=AttachOptions(kills=True))

    def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Set the window size of an exec's terminal; one that has not started keeps it.

        Errors: NotFound, AgentError.
        """
        if self._records.get(exec_id).state == ExecState.CREATED:
            self._records.resize(exec_id, (rows, columns))
        for (vm_id, ident), process in tuple(self._processes.items()):
            if ident == exec_id:
                process.size = (rows, columns)
                try:
                    self._vms.get(vm_id).agent.resize(exec_id, rows, columns)
                except AgentError as error:
                    if error.errno != errno.ESRCH:  # else it is being started, or it has ended
                        raise

    # -- what the guest tells

    def exited(self, vm_id: str, ident: str, code: int) -> bool:
        """Take an EXITED event (loop's thread); False when it is no exec's."""
        process = self._processes.get((vm_id, ident))
        if process is None:
            return False
        process.exited(code)
        return True

    def vm_gone(self, vm: Vm) -> None:
        """Settle the execs of a VM that is gone."""
        for key in [key for key in tuple(self._processes) if key[0] == vm.id]:
            process = self._processes.pop(key, None)
            if process is not None:
                self._relay.soon(process.abandon, KILLED)
        if not vm.connected:  # those of an earlier daemon, which this one has not met
            for execution in self._records.running(vm.pod_id):
                self._finish(execution.id, KILLED)

    def adopt(self, vm: Vm, states: dict[str, ProcessState]) -> None:
        """Join the execs of a VM that outlived the last daemon; their clients are gone, their exit codes are not."""
        for execution in self._records.running(vm.pod_id):
            state = states.get(execution.id)
            if state is None:
                self._finish(execution.id, SETUP_FAILED)
                continue
            self._owners[execution.id] = self._containers.records.get(execution.container_id)
            process = self._process(vm, execution.id, tty=execution.spec.tty)
            self._relay.call(process.resume(vm.agent, state), timeout=10)
            self._relay.soon(process.input.end)
            if not state.running:
                self._relay.soon(process.exited, state.exit_code)

    def settle_lost(self) -> None:
        """Close the records of execs whose VM did not outlive the last daemon; those of paused pods are met later."""
        met = [ident for _, ident in self._processes]
        paused = [vm.pod_id for vm in self._vms.all() if not vm.connected]
        self._records.settle_others([*met, *(one.id for pod_id in paused for one in self._records.running(pod_id))])

    # -- inside

    def _prepare(
        self, container: str, exec_id: str, size: tuple[int, int] | None
    ) -> tuple[Exec, Vm, int, Plan, tuple[int, int]]:
        """Note that an exec is being started and return how. Errors: as for ``start``."""
        execution = self._records.get(exec_id)
        row = self._containers.records.get(execution.container_id)
        if container and self._containers.records.find(container).id != row.id:
            raise NotFound(f"the exec {exec_id} is not of container {container}")
        vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
        base = vm.agent.new_base()
        size = size or execution.spec.size or DEFAULT_SIZE
        plan = self._plan(row, execution.spec, exec_id, base, size)
        if not self._records.start(exec_id, base=base):
            raise Conflict(f"the exec {exec_id} has been started already")
        self._owners[exec_id] = row
        failpoint("exec.start.row_written")
        self._containers.tell("exec_start", row, execID=exec_id, command=shlex.join(execution.spec.argv))
        return execution, vm, base, plan, size

    def _plan(self, row: ContainerRow, spec: ExecSpec, ident: str, base: int, size: tuple[int, int]) -> Plan:
        owner = self._containers.records.spec(row)
        return exec_plan(
            process=ident,
            base=base,
            container_process=self._containers.process_ident(row),
            program=exec_program(self._containers.queries.linked_program(row), spec),
            limits=owner.ulimits,
            security=owner.security,
            privileged=spec.privileged,
            size=size,
        )

    def _find(self, exec_id: str) -> GuestProcess | None:
        return next((value for (_, ident), value in tuple(self._processes.items()) if ident == exec_id), None)

    def _session(
        self,
        vm: Vm,
        exec_id: str,
        base: int,
        plan: Plan,
        *,
        tty: bool,
        raw: bool = False,
        size: tuple[int, int] = DEFAULT_SIZE,
        options: AttachOptions | None = None,
    ) -> AttachSession:
        process = self._process(vm, exec_id, tty=tty, size=size)
        if raw:
            process.hub.mix()

        def begin() -> None:
            self._relay.task(process.start_async(vm.agent, base, plan, size))
            if options is not None and not options.stdin and not tty:
                process.input.end()

        return AttachSession(process, raw=raw, before=begin, options=options or AttachOptions())

    def _process(self, vm: Vm, exec_id: str, *, tty: bool, size: tuple[int, int] = DEFAULT_SIZE) -> GuestProcess:
        process = GuestProcess(
            self._relay,
            ident=exec_id,
            tty=tty,
            log_file=None,
            keep_early=False,
            cut_off=True,
            on_finished=lambda ended: self._settle(vm, ended),
        )
        process.size = size
        self._processes[vm.id, exec_id] = process
        return process

    def _settle(self, vm: Vm, process: GuestProcess, pause: float = NOTE_PAUSE) -> None:
        try:
            self._workers.submit(self._settled, vm, process, pause)
        except RuntimeError:
            log.info("exec.settled_later", exec=process.ident)

    def _settled(self, vm: Vm, process: GuestProcess, pause: float) -> None:
        """Note the end of an exec; ``pause``: seconds until that is tried again when it cannot be noted now."""
        try:
            try:
                self._finish(process.ident, process.exit_code or 0)
            except HyperError as error:  # a full or locked database; the guest still knows it
                log.warning("exec.end_put_off", exec=process.ident, seconds=pause, error=str(error))
                later = (vm, process, min(2 * pause, LONGEST_NOTE_PAUSE))
                self._relay.soon(self._relay.loop.call_later, pause, self._settle, *later)
                return
            process.finished.set()  # the client that waits need not wait for the guest to forget
            with contextlib.suppress(HyperError):
                vm.agent.forget(process.ident)
                failpoint("exec.end.forgotten")
        except Exception:
            log.exception("exec.settle_failed", exec=process.ident)
        finally:
            self._processes.pop((vm.id, process.ident), None)
            process.finished.set()

    def _finish(self, exec_id: str, code: int) -> None:
        """Note the end of an exec and tell of it, once; execs in the guest's own root have no record."""
        self._records.finish(exec_id, code)
        failpoint("exec.end.row_written")
        container = self._owners.pop(exec_id, None)
        if container is not None:
            self._containers.tell("exec_die", container, execID=exec_id, exitCode=code)


def _with_pid(execution: Exec, process: GuestProcess | None) -> Exec:
    return execution if process is None or not execution.running else replace(execution, pid=process.pid)


def exec_program(program: Program, spec: ExecSpec) -> Program:
    """Return what an exec runs: the container's program with what the exec says otherwise."""
    env = {**({"TERM": "xterm"} if spec.tty else {}), **program.env}
    env = {**{key: value for key, value in env.items() if key not in spec.unset_envs}, **dict(spec.envs)}
    user, groups = program.user, program.groups
    if spec.user.name:
        user = spec.user.name + (f":{spec.user.group}" if spec.user.group else "")
        groups = spec.user.additional_groups
    return replace(
        program,
        argv=spec.argv,
        tty=spec.tty,
        env=env,
        workdir=spec.workdir or program.workdir,
        user=user,
        groups=groups,
    )


def _new_id() -> str:
    return "exec-" + "".join(random.choices(string.ascii_letters, k=10))
