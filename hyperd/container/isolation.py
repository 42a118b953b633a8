"""What a container's processes may do and use inside their VM, as steps of a plan.

The VM is the wall around a pod; this is the one between its containers. Defaults are Docker's: capabilities, seccomp
profile, masked and read-only paths, devices. Limits are those of cgroup v2.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from hyperd.agent.plan import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_STRICTATIME, Op, Plan
from hyperd.container import seccomp
from hyperd.errors import InvalidInput, NotSupported
from hyperd.spec.model import ContainerSpec, DeviceSpec, Limits, Security, Tmpfs

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip  # in the order of linux/capability.h
DEFAULT_CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "NET_RAW",
     "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"}
)  # fmt: skip
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
)  # fmt: skip
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# Nodes may be made, as with Docker; used may be those that belong to every container. Not 5:1: the VM's console.
DEVICE_RULES = (
    "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm",
    "c 136:* rwm",
)  # fmt: skip
MAX_DEVICE_RULES = 32
_NUMBER = r"(?:\*|\d{1,7})"
_DEVICE_RULE = re.compile(rf"[abc] {_NUMBER}:{_NUMBER} [rwm]{{1,3}}", re.ASCII)
MIN_MEMORY = 6 << 20  # bytes; Docker's bound
UNCONFINED = "unconfined"
_PERIOD = 100_000  # microseconds
_CPUS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_TMPFS_FLAGS = {
    "ro": MS_RDONLY, "noexec": MS_NOEXEC, "nosuid": MS_NOSUID, "nodev": MS_NODEV,
    "rw": 0, "exec": 0, "suid": 0, "dev": 0,
}  # fmt: skip
_TMPFS_DATA = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks")


def check(spec: ContainerSpec) -> None:
    """Check what a container asks for. Errors: InvalidInput, NotSupported (a part of a seccomp profile), HostFault."""
    names = capabilities(spec.security)
    seccomp_program(spec.security, names)
    _check_limits(spec.limits)
    for tmpfs in spec.tmpfs:
        _tmpfs_options(tmpfs)
    for device in spec.devices:
        _check_device(device)
    _check_device_rules(spec)
    if not -1000 <= spec.oom_score_adj <= 1000:
        raise InvalidInput(f"oom_score_adj {spec.oom_score_adj} is not from -1000 to 1000")
    for path in (*(spec.security.masked_paths or ()), *(spec.security.readonly_paths or ())):
        if not path.startswith("/"):
            raise InvalidInput(f"{path} is no absolute path")


# -- capabilities and system calls


def capabilities(security: Security) -> frozenset[str]:
    """Return the names, without ``CAP_``, of what a container has. Errors: InvalidInput (an unknown name)."""
    if security.privileged:
        return frozenset(CAPABILITIES)
    add, drop = ({_capability(name) for name in names} for names in (security.cap_add, security.cap_drop))
    base = frozenset(CAPABILITIES) if "ALL" in add else frozenset() if "ALL" in drop else DEFAULT_CAPABILITIES
    return (base | (add - {"ALL"})) - (drop - {"ALL"})


def capability_set(names: frozenset[str]) -> int:
    """Return the kernel's set of capabilities: bit n is the n-th."""
    return sum(1 << CAPABILITIES.index(name) for name in names)


def _capability(name: str) -> str:
    bare = name.upper().removeprefix("CAP_")
    if bare != "ALL" and bare not in CAPABILITIES:
        raise InvalidInput(f"unknown capability {name}", resolution="a name of capabilities(7), or ALL")
    return bare


def seccomp_program(security: Security, names: frozenset[str]) -> bytes:
    """Return the program for a process with these capabilities; empty: none. Errors: as for ``check``."""
    if security.seccomp == UNCONFINED or (security.privileged and not security.seccomp):
        return b""
    if security.seccomp:
        return seccomp.profile_program(security.seccomp, names)
    return seccomp.default_program(names)


def restrict_program(plan: Plan, security: Security, *, privileged: bool = False) -> Plan:
    """Add what the program itself is held by. ``privileged``: an exec that has everything."""
    names = frozenset(CAPABILITIES) if privileged else capabilities(security)
    # Ambient and inheritable sets stay empty, as with Docker since 20.10: a process that is not root has no
    # capabilities.
    caps = f"{capability_set(names):x}"
    plan.add(Op.CAPS, caps, caps, caps, "0", "0")
    if security.no_new_privileges and not privileged:
        plan.add(Op.NNP)
    program = b"" if privileged else seccomp_program(security, names)
    return plan.add(Op.SECCOMP, program) if program else plan


def hide_paths(plan: Plan, security: Security) -> Plan:
    """Add what takes paths of the container's root away from it, or lets it only read them."""
    privileged = security.privileged
    masked = (() if privileged else MASKED_PATHS) if security.masked_paths is None else security.masked_paths
    fixed = (() if privileged else READ_ONLY_PATHS) if security.readonly_paths is None else security.readonly_paths
    for path in fixed:
        plan.add(Op.PROTECT, path)
    for path in masked:
        plan.add(Op.MASK, path)
    return plan


# -- devices


def allow_devices(plan: Plan, group: str, spec: ContainerSpec) -> Plan:
    """Add which devices the processes of a control group may use."""
    if spec.security.privileged:
        return plan
    own = [f"{device.source} {device.permissions or 'rwm'}" for device in spec.devices]
    return plan.add(Op.DEVICES, group, *DEVICE_RULES, *own, *spec.device_rules)


def make_devices(plan: Plan, spec: ContainerSpec) -> Plan:
    """Add the nodes of what a container is given, below OPENROOT."""
    if spec.security.privileged:
        plan.add(Op.NODES, "/dev", "/dev")
    for device in spec.devices:
        plan.add(Op.NODES, device.source, device.target or device.source)
    return plan


def _check_device(device: DeviceSpec) -> None:
    for path in (device.source, device.target or device.source):
        if not path.startswith("/") or posixpath.normpath(path) != path or " " in path:
            raise InvalidInput(f"{path!r} is no path of a device")
    if not device.source.startswith("/dev/"):
        raise InvalidInput(f"{device.source} is no device", resolution="name one below /dev of the guest")
    if posixpath.basename(device.source).startswith(("vport", "console", "ttyS")):
        raise NotSupported(f"{device.source} belongs to the guest's agent")
    if set(device.permissions) - set("rwm"):
        raise InvalidInput(f"bad permissions {device.permissions} of {device.source}", resolution="use r, w and m")


def _check_device_rules(spec: ContainerSpec) -> None:
    for rule in spec.device_rules:
        if not _DEVICE_RULE.fullmatch(rule):
            raise InvalidInput(
                f"invalid device cgroup rule format: '{rule[:60]}'", resolution="type, numbers and access: c 7:128 rwm"
            )
    if len(spec.devices) + len(spec.device_rules) > MAX_DEVICE_RULES:
        raise InvalidInput(f"over {MAX_DEVICE_RULES} devices and device cgroup rules")


# -- memory file systems


def mount_tmpfs(plan: Plan, tmpfs: Tmpfs, prefix: str) -> Plan:
    """Add a file system in memory; its target is resolved below OPENROOT. Errors: InvalidInput."""
    flags, data = _tmpfs_options(tmpfs)
    return plan.mkdir(tmpfs.path).mount("tmpfs", prefix + tmpfs.path, "tmpfs", flags, data)


def _tmpfs_options(tmpfs: Tmpfs) -> tuple[int, str]:
    flags, data = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_STRICTATIME, [f"mode={tmpfs.mode:o}"]
    if tmpfs.size:
        data.append(f"size={tmpfs.size}")
    for option in tmpfs.options:
        name = option.partition("=")[0]
        if option in _TMPFS_FLAGS:
            flags |= _TMPFS_FLAGS[option]
            if option in ("exec", "suid", "dev"):
                flags &= ~_TMPFS_FLAGS["no" + option]
        elif name in _TMPFS_DATA and "," not in option:
            data.append(option)
        else:
            raise InvalidInput(f"unknown option {option} of the tmpfs {tmpfs.path}")
    return flags, ",".join(data)


# -- limits


def limit_group(plan: Plan, directory: str, limits: Limits, *, memory: int = 0) -> Plan:
    """Add the limits of a new control group (a directory of cgroup v2); ``memory``: MiB of the VM, 0 = unknown."""
    for file, value in limit_values(limits, memory=memory).items():
        if value != _UNLIMITED[file]:
            plan.write(f"{directory}/{file}", value, None)
    return plan


def change_limits(plan: Plan, directory: str, limits: Limits, *, memory: int = 0) -> Plan:
    """Add what gives a control group that is in use other limits. Errors: InvalidInput."""
    _check_limits(limits)
    for file, value in limit_values(limits, memory=memory).items():
        plan.write(f"{directory}/{file}", value or "\n", None)
    return plan


_UNLIMITED = {
    "memory.max": "max",
    "memory.low": "0",
    "cpu.max": f"max {_PERIOD}",
    "cpu.weight": "100",
    "cpuset.cpus": "",
    "pids.max": "max",
}


def limit_values(limits: Limits, *, memory: int = 0) -> dict[str, str]:
    """Return the content of the control group's files. Guests have no swap, so ``memory`` limits both."""
    period, quota = limits.cpu_period or _PERIOD, limits.cpu_quota
    if quota <= 0 and limits.cpus:
        quota = max(1000, limits.cpus * period // 10**9)
    shares = min(max(limits.cpu_shares, 2), 262144)
    pids = limits.pids or default_pids(memory)
    return {
        "memory.max": str(limits.memory) if limits.memory else "max",
        "memory.low": str(limits.memory_reservation),
        "cpu.max": f"{quota} {period}" if quota > 0 else f"max {period}",
        # The formula of runc: shares from 2 to 262144 become weights from 1 to 10000.
        "cpu.weight": str(1 + (shares - 2) * 9999 // 262142) if limits.cpu_shares else "100",
        "cpuset.cpus": limits.cpuset,
        "pids.max": "max" if pids < 0 else str(pids),
    }


def default_pids(memory: int) -> int:
    """Return how many processes and threads a container of a VM with so many MiB may have unless it says otherwise.

    A process costs the guest's kernel some 60 KiB: all of them take a quarter of the memory at most.
    """
    return min(4096, max(256, 4 * memory)) if memory else 4096


def _check_limits(limits: Limits) -> None:
    if limits.memory and limits.memory < MIN_MEMORY:
        raise InvalidInput(f"a memory limit of {limits.memory} bytes is too small", details=f"at least {MIN_MEMORY}")
    if limits.memory and limits.memory_reservation > limits.memory:
        raise InvalidInput("the memory reservation is larger than the limit")
    if limits.memory_swap > 0 and limits.memory_swap < limits.memory:
        raise InvalidInput("the limit of memory and swap is smaller than that of memory")
    if limits.memory_swap > 0 and not limits.memory:
        raise InvalidInput("a limit of swap needs one of memory")
    if limits.cpuset and not _CPUS.fullmatch(limits.cpuset):
        raise InvalidInput(f"{limits.cpuset!r} is no list of CPUs", resolution="write it as 0-2,4")
    if limits.cpu_period and not 1000 <= limits.cpu_period <= 1_000_000:
        raise InvalidInput(f"a CPU period of {limits.cpu_period} us is not from 1,000 to 1,000,000")
    if 0 < limits.cpu_quota < 1000:
        raise InvalidInput(f"a CPU quota of {limits.cpu_quota} us is below 1,000")
    numbers: Sequence[int] = (limits.memory, limits.memory_reservation, limits.cpus, limits.cpu_shares)
    if min(numbers) < 0 or limits.pids < -1 or limits.memory_swap < -1 or limits.cpu_quota < -1:
        raise InvalidInput("a limit is negative")
