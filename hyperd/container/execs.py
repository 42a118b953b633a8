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
from typing import cast

import structlog
from sqlalchemy import Table, bindparam, delete, select

from hyperd.agent.client import ProcessState
from hyperd.agent.plan import Plan
from hyperd.container.plan import exec_plan, vm_exec_plan
from hyperd.container.process import DEFAULT_SIZE, AttachSession, GuestProcess
from hyperd.container.service import ContainerService
from hyperd.container.states import KILLED, SETUP_FAILED
from hyperd.db import spec_codec
from hyperd.db.models import ContainerRow, ExecRow
from hyperd.db.session import Database
from hyperd.errors import AgentError, Conflict, HyperError, InvalidInput, NotFound, Timeout
from hyperd.spec.model import ExecSpec
from hyperd.stream.relay import Relay
from hyperd.vm.model import Vm, require_running
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)

WAIT_SECONDS = 10.0
KEEP_SECONDS, SWEEP_SECONDS = 600.0, 60.0
KEEP_UNUSED_SECONDS = 86_400.0  # one that nobody has started
CREATED, RUNNING, EXITED = "created", "running", "exited"
# An exec is three small writes; as statements of their own they cost a third of what objects of the ORM do.
_EXECS = cast("Table", ExecRow.__table__)
_INSERT = _EXECS.insert()
_START = _EXECS.update().where(_EXECS.c.id == bindparam("ident"), _EXECS.c.state == CREATED)
_FINISH = _EXECS.update().where(_EXECS.c.id == bindparam("ident"))


class ExecService:
    """See the module's docstring."""

    def __init__(self, *, database: Database, relay: Relay, containers: ContainerService, vms: VmService) -> None:
        self._db = database
        self._relay = relay
        self._containers = containers
        self._vms = vms
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="exec")
        self._processes: dict[tuple[str, str], GuestProcess] = {}
        self._owners: dict[str, ContainerRow] = {}  # of execs that run, as their containers were at the start
        self._sizes: dict[str, tuple[int, int]] = {}  # asked for before the start
        self._sweep_at = 0.0

    def close(self) -> None:
        """Wait for what is being settled."""
        self._workers.shutdown(wait=True)

    def create(self, container: str, command: Sequence[str], *, tty: bool) -> str:
        """Prepare a process in a running container; give its id. Errors: NotFound, NotAlive, InvalidInput."""
        if not command or not command[0]:
            raise InvalidInput("no command given")
        row = self._containers.records.find(container)
        self._containers.process_ident(row)
        exec_id = "exec-" + "".join(random.choices(string.ascii_letters, k=10))
        spec = ExecSpec(argv=tuple(command), tty=tty)
        made = {"id": exec_id, "container_id": row.id, "spec": spec_codec.dump(spec), "created_at": time.time()}
        with self._db.session() as session:
            if time.monotonic() >= self._sweep_at:
                self._sweep_at = time.monotonic() + SWEEP_SECONDS
                for state, keep in ((EXITED, KEEP_SECONDS), (CREATED, KEEP_UNUSED_SECONDS)):
                    old = time.time() - keep
                    session.execute(delete(ExecRow).where(ExecRow.state == state, ExecRow.created_at < old))
            session.connection().execute(_INSERT, {"state": CREATED, "stream_base": 0, "pid": 0, **made})
        self._containers.tell("exec_create", row, execID=exec_id, command=shlex.join(command))
        return exec_id

    def start(self, container: str, exec_id: str) -> AttachSession:
        """Give the session that starts the process for its client. Errors: NotFound, NotAlive, Conflict."""
        execution = self._get(exec_id)
        row = self._containers.records.get(execution.container_id)
        if container and self._containers.records.find(container).id != row.id:
            raise NotFound(f"the exec {exec_id} is not of container {container}")
        vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
        joined = self._containers.process_ident(row)
        base = vm.agent.new_base()
        start = {"ident": exec_id, "state": RUNNING, "stream_base": base, "started_at": time.time()}
        with self._db.session() as session:
            if session.connection().execute(_START, start).rowcount != 1:
                raise Conflict(f"the exec {exec_id} has been started already")
        spec = spec_codec.load(ExecSpec, execution.spec)
        program = replace(self._containers.queries.program(row), argv=spec.argv, tty=spec.tty)
        if spec.tty:
            program = replace(program, env={"TERM": "xterm", **program.env})
        size = self._sizes.pop(exec_id, DEFAULT_SIZE)
        plan = exec_plan(
            process=exec_id,
            base=base,
            container_process=joined,
            program=program,
            limits=self._containers.records.spec(row).ulimits,
            size=size,
        )
        self._owners[exec_id] = row
        self._containers.tell("exec_start", row, execID=exec_id)
        return self._session(vm, exec_id, base, plan, tty=spec.tty, size=size)

    def exec_vm(self, pod_id: str, command: Sequence[str]) -> AttachSession:
        """Give the session of a process in the guest's root; raw output. Errors: NotAlive, InvalidInput."""
        if not command or not command[0]:
            raise InvalidInput("no command given")
        vm = require_running(self._vms.of_pod(pod_id), pod_id)
        base = vm.agent.new_base()
        exec_id = "exec-" + "".join(random.choices(string.ascii_letters, k=10))
        plan = vm_exec_plan(process=exec_id, base=base, command=command)
        return self._session(vm, exec_id, base, plan, tty=False, raw=True)

    def wait(self, exec_id: str, *, seconds: float = WAIT_SECONDS) -> int:
        """Give the exit code, waiting so long at most. Errors: NotFound, Timeout."""
        deadline = time.monotonic() + seconds
        while True:
            process = next((value for (_, ident), value in tuple(self._processes.items()) if ident == exec_id), None)
            left = deadline - time.monotonic()
            if process is not None and left > 0 and not process.finished.wait(left):
                left = 0
            execution = self._get(exec_id)
            if execution.state == EXITED:
                return execution.exit_code or 0
            if left <= 0:
                raise Timeout("wait exec exit code timeout", details=f"{exec_id} still runs")
            if process is None or process.finished.is_set():  # it has not begun, or its end could not be noted
                time.sleep(min(0.05, left))

    def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Set the window size of an exec's terminal; one that has not started keeps it.

        Errors: NotFound, AgentError.
        """
        if self._get(exec_id).state == CREATED:
            self._sizes[exec_id] = (rows, columns)
        for (vm_id, ident), process in tuple(self._processes.items()):
            if ident == exec_id:
                process.size = (rows, columns)
                try:
                    self._vms.get(vm_id).agent.resize(exec_id, rows, columns)
                except AgentError as error:
                    if error.errno != errno.ESRCH:  # else it is being started, or it has ended
                        raise

    def exited(self, vm_id: str, ident: str, code: int) -> bool:
        """Take an EXITED event (loop's thread); False when it is no exec's."""
        process = self._processes.get((vm_id, ident))
        if process is None:
            return False
        process.exited(code)
        return True

    def vm_gone(self, vm_id: str) -> None:
        """Settle the execs of a VM that is gone."""
        for key in [key for key in tuple(self._processes) if key[0] == vm_id]:
            process = self._processes.pop(key, None)
            if process is not None:
                self._relay.soon(process.abandon, KILLED)

    def adopt(self, vm: Vm, states: dict[str, ProcessState]) -> None:
        """Join the execs of a VM that outlived the last daemon; their clients are gone, their exit codes are not."""
        query = select(ExecRow).join(ContainerRow, ContainerRow.id == ExecRow.container_id)
        with self._db.session() as session:
            rows = list(session.scalars(query.where(ContainerRow.pod_id == vm.pod_id, ExecRow.state == RUNNING)))
        for row in rows:
            state = states.get(row.id)
            if state is None:
                self._finish(row.id, SETUP_FAILED)
                continue
            self._owners[row.id] = self._containers.records.get(row.container_id)
            process = self._process(vm, row.id, tty=spec_codec.load(ExecSpec, row.spec).tty)
            self._relay.call(process.resume(vm.agent, state), timeout=10)
            self._relay.soon(process.input.end)
            if not state.running:
                self._relay.soon(process.exited, state.exit_code)

    def settle_lost(self) -> None:
        """Close the records of execs whose VM did not outlive the last daemon."""
        known = {ident for _, ident in self._processes}
        with self._db.session() as session:
            for row in session.scalars(select(ExecRow).where(ExecRow.state == RUNNING)):
                if row.id not in known:
                    row.state, row.exit_code, row.finished_at = EXITED, KILLED, time.time()

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
    ) -> AttachSession:
        process = self._process(vm, exec_id, tty=tty, size=size)
        if raw:
            process.hub.mix()

        def begin() -> None:
            self._relay.task(process.start_async(vm.agent, base, plan, size))

        return AttachSession(process, raw=raw, before=begin)

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

    def _settle(self, vm: Vm, process: GuestProcess) -> None:
        try:
            self._workers.submit(self._settled, vm, process)
        except RuntimeError:
            log.info("exec.settled_later", exec=process.ident)

    def _settled(self, vm: Vm, process: GuestProcess) -> None:
        try:
            self._finish(process.ident, process.exit_code or 0)
            process.finished.set()  # the client that waits need not wait for the guest to forget
            with contextlib.suppress(HyperError):
                vm.agent.forget(process.ident)
        except Exception:
            log.exception("exec.settle_failed", exec=process.ident)
        finally:
            self._processes.pop((vm.id, process.ident), None)
            process.finished.set()

    def _finish(self, exec_id: str, code: int) -> None:
        """Note the end of an exec and tell of it, once; execs in the guest's own root have no record."""
        with self._db.session() as session:
            ended = {"ident": exec_id, "state": EXITED, "exit_code": code, "finished_at": time.time()}
            session.connection().execute(_FINISH, ended)
        container = self._owners.pop(exec_id, None)
        if container is not None:
            self._containers.tell("exec_die", container, execID=exec_id, exitCode=code)

    def _get(self, exec_id: str) -> ExecRow:
        with self._db.reading() as session:
            row = session.get(ExecRow, exec_id)
        if row is None:
            raise NotFound(f"cannot find exec {exec_id}")
        return row
