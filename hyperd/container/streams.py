"""Clients of containers: attach, logs, the size of terminals."""

from __future__ import annotations

import errno
import time

from hyperd.container.logdrivers import log_session, reopen_log
from hyperd.container.process import AttachOptions, AttachSession, GuestProcess
from hyperd.container.processes import ProcessTable
from hyperd.container.queries import ContainerQueries
from hyperd.container.records import ContainerRecords
from hyperd.container.states import LIVE, ContainerState
from hyperd.errors import AgentError, Conflict, NotAlive
from hyperd.stream.logread import LogQuery, LogSession
from hyperd.stream.relay import Relay
from hyperd.vm.model import require_running
from hyperd.vm.service import VmService

BEGINNING = 1.0  # seconds after a start within which first words are waited for
_QUIET = 0.02  # seconds without output after which the first words are whole
_STEP = 0.01  # seconds between two looks


class ContainerStreams:
    """See the module's docstring; a part of the container service."""

    def __init__(
        self,
        *,
        records: ContainerRecords,
        queries: ContainerQueries,
        processes: ProcessTable,
        relay: Relay,
        vms: VmService,
    ) -> None:
        self._records = records
        self._queries = queries
        self._processes = processes
        self._relay = relay
        self._vms = vms

    def attach(self, name: str, options: AttachOptions | None = None, *, next_run: bool = False) -> AttachSession:
        """Join a client to a container, also before its start.

        ``next_run``: of a container that has ended the client gets the next run, else it is let go at once.

        Errors: NotFound, InvalidInput (bad detach keys).
        """
        row = self._records.find(name)
        process = self._processes.get(row.id)
        tty = process.tty if process is not None else self._queries.program(row).tty
        if row.state == ContainerState.EXITED and row.restart_at is None:
            if next_run:
                process = self._processes.of_next_run(row, tty=tty)
            elif process is None or process.awaits_start:
                process = self._processes.of_no_run(row, tty=tty)
        elif process is None:
            process = self._processes.of_run(row, row.run_count + (row.state not in LIVE), tty=tty)
        return AttachSession(process, options=options)

    def logs(self, name: str, query: LogQuery) -> LogSession:
        """Return a session that sends the log. Errors: NotFound, InvalidInput, NotSupported (no readable log)."""
        row = self._records.find(name)
        process = self._processes.get(row.id)
        tty = process.tty if process is not None else self._queries.program(row).tty
        settings = self._queries.log_settings(row)

        def current() -> GuestProcess | None:
            found = self._processes.get(row.id)
            return None if found is None or found.awaits_start else found

        return log_session(self._relay, settings, query, tty=tty, current=current)

    def await_first_output(self, name: str) -> None:
        """Wait for the first words of a container that has only just begun; others are not waited for.

        A program in a VM begins slower than a process of the host, and who starts it and asks for its log next expects
        them there. Errors: NotFound.
        """
        row = self._records.find(name)
        process = self._processes.get(row.id)
        if process is None or process.age > BEGINNING:
            return
        while process.age < BEGINNING and not process.hub.ended:
            if process.hub.said and process.hub.quiet_for(_QUIET):
                return
            time.sleep(_STEP)  # silence is no event that could be waited for; BEGINNING bounds it

    def reopen_log(self, name: str) -> None:
        """Let the log of a running container, whose file its reader has moved away, go on in a new file.

        Errors: NotFound, NotAlive, NotSupported (it is rotated by hyperd, or has no file), HostFault.
        """
        row = self._records.find(name)
        process = self._processes.get(row.id)
        if process is None or row.state not in LIVE:
            raise NotAlive(f"the container {row.name} is not running")
        reopen_log(self._relay, process.hub.log)

    def resize(self, name: str, rows: int, columns: int) -> None:
        """Set the window size of a container's terminal; before the start it is kept for the start.

        Errors: NotFound, NotAlive, Conflict (it has no terminal), AgentError.
        """
        row = self._records.find(name)
        process = self._processes.get(row.id)
        if process is None:
            process = self._processes.of_run(row, row.run_count + 1, tty=self._queries.program(row).tty)
        if not process.tty:
            raise Conflict(f"the container {row.name} has no terminal")
        process.size = (rows, columns)
        if row.state == ContainerState.RUNNING or process.pid:  # else whoever starts it looks at the size after that
            vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
            try:
                vm.agent.resize(process.ident, rows, columns)
            except AgentError as error:
                if error.errno != errno.ESRCH or row.state == ContainerState.RUNNING:
                    raise
