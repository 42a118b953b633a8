"""The processes of containers: one per run, from an attach before its start (or the start) until it is settled."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import structlog

from hyperd.agent.client import ProcessState
from hyperd.agent.plan import Op, Plan
from hyperd.container import names
from hyperd.container.logconf import LogSettings
from hyperd.container.logdrivers import open_log
from hyperd.container.plan import cgroup_dir
from hyperd.container.process import GuestProcess
from hyperd.db.models import ContainerRow
from hyperd.errors import HyperError
from hyperd.stream.logs import LogWriter
from hyperd.stream.relay import Relay
from hyperd.vm.model import Vm

log = structlog.get_logger(__name__)

Finished = Callable[[str, int, GuestProcess], None]


class ProcessTable:
    """The processes by container, and by VM and the agent's name.

    Args:
        settings: gives how a container's output is kept.
        on_finished: called in the loop's thread with container, run and process when a run has ended and its output
            is complete; it must only enqueue.

    """

    def __init__(self, relay: Relay, *, settings: Callable[[ContainerRow], LogSettings], on_finished: Finished) -> None:
        self._relay = relay
        self._settings = settings
        self._on_finished = on_finished
        self.by_container: dict[str, GuestProcess] = {}
        self._by_ident: dict[tuple[str, str], GuestProcess] = {}
        self._making = threading.Lock()

    def get(self, container_id: str) -> GuestProcess | None:
        """Return the process of a container's present or next run, if there is one."""
        return self.by_container.get(container_id)

    def of_run(self, row: ContainerRow, run: int, *, tty: bool) -> GuestProcess:
        """Return the process of a run, which an attach may have made before; clients of the last run come over."""
        process, before = self._of_run(row, run, tty=tty)
        process.awaits_start = False
        if before is not None and before is not process and before.hub.keeping:
            self._relay.soon(before.hand_on, process)
        return process

    def of_next_run(self, row: ContainerRow, *, tty: bool) -> GuestProcess:
        """Return the process of the next run of a container that has ended, for clients who come before its start."""
        process, before = self._of_run(row, row.run_count + 1, tty=tty)
        process.awaits_start = process.awaits_start or before is not process
        return process

    def of_no_run(self, row: ContainerRow, *, tty: bool) -> GuestProcess:
        """Return a process that ends at once, as a container's last run has; the table does not have it."""
        process = self._make(row, row.run_count, tty=tty, log_file=None, on_finished=lambda _ended: None)
        self.abandon(process, row.exit_code or 0)
        return process

    def has_ended(self, row: ContainerRow) -> bool:
        """Return whether a container's process is that of a run which is over, not one that awaits its start."""
        process = self.by_container.get(row.id)
        return process is not None and process.ident != names.ident(row.id, row.run_count + 1)

    def _of_run(self, row: ContainerRow, run: int, *, tty: bool) -> tuple[GuestProcess, GuestProcess | None]:
        """Return the process of a run, and the one that the table had before."""
        with self._making:
            before = self.by_container.get(row.id)
            if before is not None and before.ident == names.ident(row.id, run):
                return before, before
            log_file = open_log(self._relay, self._settings(row), row, run=run)
            process = self._make(
                row, run, tty=tty, log_file=log_file, on_finished=lambda ended: self._on_finished(row.id, run, ended)
            )
            # Clients stay until the record says that it ended, and what comes next: they ask for the exit code then.
            process.hub.keeping = True
            self.by_container[row.id] = process  # before clients come over: followers of the log look here then
            return process, before

    def _make(
        self,
        row: ContainerRow,
        run: int,
        *,
        tty: bool,
        log_file: LogWriter | None,
        on_finished: Callable[[GuestProcess], None],
    ) -> GuestProcess:
        return GuestProcess(
            self._relay,
            ident=names.ident(row.id, run),
            tty=tty,
            log_file=log_file,
            keep_early=True,
            cut_off=False,
            on_finished=on_finished,
        )

    def place(self, vm: Vm, process: GuestProcess) -> None:
        """Note in which VM a process runs, before it is started there."""
        self._by_ident[vm.id, process.ident] = process

    def exited(self, vm_id: str, ident: str, code: int) -> bool:
        """Take an EXITED event (loop's thread); False when it is no container's."""
        process = self._by_ident.get((vm_id, ident))
        if process is None:
            return False
        process.exited(code)
        return True

    def owner(self, vm_id: str, ident: str) -> str:
        """Return the id of the container whose process this is, empty for none."""
        process = self._by_ident.get((vm_id, ident))
        found = [key for key, value in tuple(self.by_container.items()) if value is process]
        return found[0] if process is not None and found else ""

    def of_vm(self, vm_id: str) -> list[GuestProcess]:
        """Take the processes of a VM that is gone out of the table, which keeps them by container."""
        keys = [key for key in tuple(self._by_ident) if key[0] == vm_id]
        return [process for process in (self._by_ident.pop(key, None) for key in keys) if process is not None]

    def forget(self, process: GuestProcess) -> None:
        """Let the guest forget a process that has ended, with its control group."""
        for key in [key for key, value in tuple(self._by_ident.items()) if value is process]:
            self._by_ident.pop(key, None)
            if process.agent is not None:
                with contextlib.suppress(HyperError):
                    process.agent.forget(process.ident)
                    process.agent.run(Plan().add(Op.REMOVE, cgroup_dir(process.ident)))

    def drop(self, container_id: str) -> GuestProcess | None:
        """Take a container's process out of the table and return it."""
        return self.by_container.pop(container_id, None)

    def resume(self, vm: Vm, process: GuestProcess, state: ProcessState) -> None:
        """Join a process that has outlived the last daemon. Errors: Timeout."""
        self.place(vm, process)
        self._relay.call(process.resume(vm.agent, state), timeout=10)

    def ended(self, process: GuestProcess, code: int, at: float | None = None) -> None:
        """Take the news that a process ended while nobody listened; ``at``: epoch seconds, None = not known."""
        self._relay.soon(process.exited, code, at)

    def let_go(self, process: GuestProcess) -> None:
        """End the clients of a process when it has ended: there is no next run."""
        process.hub.keeping = False
        self._relay.soon(process.hub.let_go)

    def abandon(self, process: GuestProcess, code: int) -> None:
        """End a process without its guest."""
        self._relay.soon(process.abandon, code)
