"""The processes of a container, as its guest's kernel tells them (``proc(5)``, ``/proc/PID/stat``)."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hyperd.agent.plan import Op, Plan
from hyperd.agent.programs import PROGRAM, GuestTool, new_name
from hyperd.container.names import ident
from hyperd.container.plan import cgroup
from hyperd.container.records import ContainerRecords
from hyperd.container.states import ContainerState
from hyperd.container.stats import VM_SCOPE, guest_counters
from hyperd.errors import AgentError, NotAlive
from hyperd.vm.model import require_running
from hyperd.vm.service import VmService

TICKS = 100  # USER_HZ, the same on every architecture that guests have
PAGE = 4096
MAX_OUTPUT = 8 * 2**20
_FIELDS = 22  # of /proc/PID/stat behind the name that are read


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process of a container.

    Args:
        pid, ppid: in the guest. uid: number.
        name: of the program. command: with its arguments; empty of a kernel thread.
        state: letter of ``ps``. tty: device number, 0 = none.
        cpu_time: seconds it has run. started_at: seconds since 1970.
        virtual, resident: bytes.
        session, group: of processes; ``group_in_front``: of its terminal. threads: number. nice: its niceness.

    """

    pid: int
    ppid: int
    uid: int
    name: str
    command: str
    state: str
    tty: int
    cpu_time: float
    started_at: float
    virtual: int
    resident: int
    session: int
    group: int
    group_in_front: int
    threads: int
    nice: int


@dataclass(frozen=True, kw_only=True)
class ProcessList:
    """All processes of a container, those of execs included; ``memory``: of its guest, bytes."""

    processes: tuple[Process, ...]
    memory: int
    now: float


class ContainerTop:
    """See the module's docstring; a part of the container service."""

    def __init__(self, *, records: ContainerRecords, vms: VmService) -> None:
        self._records = records
        self._vms = vms

    def list(self, name: str) -> ProcessList:
        """List the processes of a running container by number. Errors: NotFound, NotAlive, AgentError, Timeout."""
        row = self._records.find(name)
        vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
        if row.state != ContainerState.RUNNING:
            raise NotAlive(f"the container {row.name} is not running")
        guest = guest_counters(vm.agent).get(VM_SCOPE, {})
        tool, base = new_name(), vm.agent.new_base()
        plan = Plan().add(Op.PROCESS, tool).add(Op.STREAMS, base, "null")
        plan.argv([PROGRAM, "--processes", cgroup(ident(row.id, row.run_count))])
        data = bytearray()
        with GuestTool(vm.agent, ident=tool, base=base) as running:
            running.start(plan)
            for piece in running.output():
                data += piece
                if len(data) > MAX_OUTPUT:
                    raise AgentError("the guest lists too many processes")
            running.finish("listing processes")
        now = time.time()
        booted = now - guest.get("uptime_ms", 0) / 1000
        parts = data.decode("utf-8", "replace").split("\0")
        found = [_process(text, command, booted) for text, command in zip(parts[::2], parts[1::2], strict=False)]
        processes = sorted((one for one in found if one is not None), key=lambda one: one.pid)
        return ProcessList(processes=tuple(processes), memory=guest.get("memory.total", 0), now=now)


def _process(text: str, command: str, booted: float) -> Process | None:
    """Read ``uid pid (name) state ...``; None when it has another form."""
    head, _, rest = text.rpartition(")")
    words, (front, _, name) = rest.split(), head.partition("(")
    try:
        uid, pid = (int(word) for word in front.split())
        numbers = [int(word) for word in words[1 : _FIELDS + 1]]
        state, ppid, group, session, tty, in_front = words[0], *numbers[:5]
        ticks = numbers[10] + numbers[11]
        return Process(
            pid=pid,
            ppid=ppid,
            uid=uid,
            name=name,
            command=command.rstrip(),
            state=state,
            tty=tty,
            cpu_time=ticks / TICKS,
            started_at=booted + numbers[18] / TICKS,
            virtual=numbers[19],
            resident=numbers[20] * PAGE,
            session=session,
            group=group,
            group_in_front=in_front,
            threads=numbers[16],
            nice=numbers[15],
        )
    except (ValueError, IndexError):
        return None
