"""Plans: what the agent shall do, step by step, decided on the host (``docs/protocol.md``, ops of a plan)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import IntEnum

from hyperd.agent.frames import encode_records

Arguments = tuple[str | bytes | int, ...]

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_NOATIME, MS_BIND, MS_REC = 0x20, 0x400, 0x1000, 0x4000
MS_PRIVATE, MS_SLAVE, MS_RELATIME, MS_STRICTATIME = 0x40000, 0x80000, 0x200000, 0x1000000
MNT_DETACH = 2


class Op(IntEnum):
    """Steps the agent knows."""

    MKDIR = 1
    MOUNT = 2
    UMOUNT = 3
    WRITE = 4
    SYMLINK = 5
    MKNOD = 6
    REMOVE = 7
    HOSTNAME = 8
    TIME = 9
    ENTROPY = 10
    LINK = 11
    ADDR = 12
    ROUTE = 13
    PROCESS = 14
    STREAMS = 15
    TTY = 16
    UNSHARE = 17
    JOIN = 18
    PIVOT = 19
    RLIMIT = 20
    USER = 21
    CAPS = 22
    NNP = 23
    SECCOMP = 24
    CWD = 25
    ENV = 26
    ARGV = 27
    CGROUP = 28
    UMASK = 29
    OPENROOT = 30
    LINKDOWN = 31
    IPVS = 32
    MODULES = 33
    LOCAL = 34
    APPEND = 40
    FILE = 41
    COPYUP = 42
    LIKE = 43
    MAC = 44
    FIRST = 45
    DEVICES = 46
    MASK = 47
    PROTECT = 48
    NODES = 49
    PIDNS = 50


# What agents booted by earlier versions of the daemon do not know, and what comes closest there.
SUBSTITUTES: Mapping[int, Callable[[Plan, Arguments], object]] = {
    Op.LIKE: lambda plan, args: plan.mkdir(str(args[0])),
    Op.FIRST: lambda plan, _args: plan,
    Op.DEVICES: lambda plan, _args: plan,
    Op.MASK: lambda plan, _args: plan,
    Op.PROTECT: lambda plan, args: _protect(plan, str(args[0])),
    Op.NODES: lambda plan, _args: plan,
}
_THERE = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq")  # in every guest


def _protect(plan: Plan, path: str) -> None:
    """Make a path read-only by mounts, which fail where it is missing."""
    if path in _THERE:
        plan.bind(path, path, readonly=True, flags=MS_NOSUID | MS_NODEV | MS_NOEXEC)


class Plan:
    """An ordered list of steps; the methods append one step and return the plan."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, Arguments]] = []

    def add(self, op: Op, *args: str | bytes | int) -> Plan:
        """Append a step with its arguments as they are."""
        self.steps.append((op, args))
        return self

    def newer(self) -> set[int]:
        """Return the ops that an older agent may not know and can do without."""
        return {op for op, _ in self.steps if op in SUBSTITUTES}

    def without(self, unknown: Collection[int]) -> Plan:
        """Return the plan with other steps in place of those with these ops."""
        plan = Plan()
        for op, args in self.steps:
            if op in unknown:
                SUBSTITUTES[op](plan, args)
            else:
                plan.steps.append((op, args))
        return plan

    def encode(self) -> bytes:
        """Return the payload of a RUN or START request."""
        return encode_records(self.steps)

    def mkdir(self, path: str, mode: int = 0o755) -> Plan:
        """Make a directory and its parents."""
        return self.add(Op.MKDIR, path, f"{mode:o}")

    def mount(self, source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> Plan:
        """Mount; ``lun:N`` stands for the N-th SCSI disk."""
        return self.add(Op.MOUNT, source, target, fstype, flags, data)

    def bind(self, source: str, target: str, *, readonly: bool = False, flags: int = 0) -> Plan:
        """Bind mount; a read-only one needs the kernel's two steps."""
        self.mount(source, target, "", MS_BIND | MS_REC)
        if readonly or flags:
            wanted = flags | (MS_RDONLY if readonly else 0)
            self.mount("none", target, "", MS_REMOUNT | MS_BIND | wanted)
        return self

    def write(self, path: str, data: str | bytes, mode: int | None = 0o644, uid: int = 0, gid: int = 0) -> Plan:
        """Write a file; mode None writes only into an existing one (sysctl, cgroup)."""
        return self.add(Op.WRITE, path, "-" if mode is None else f"{mode:o}", uid, gid, data)

    def env(self, environment: Mapping[str, str]) -> Plan:
        """Set the environment."""
        return self.add(Op.ENV, *[f"{key}={value}" for key, value in environment.items()])

    def argv(self, words: Sequence[str]) -> Plan:
        """Name the program and its arguments; ends a START plan."""
        return self.add(Op.ARGV, *words)
