"""Seccomp programs, compiled on the host with libseccomp and carried out by the guest's kernel.

The default profile gives what Docker's default does: every system call that libseccomp knows, but for those that manage
the machine; with a capability come the calls that it is for. A call that libseccomp does not know is answered ENOSYS,
so that programs fall back to an older one. Profiles of a caller are JSON as the OCI runtime specification and Docker
have it ("linux.seccomp"); what cannot be honoured is refused by its name.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from hyperd.errors import HostFault, InvalidInput, NotSupported

ALLOW, KILL_PROCESS, KILL_THREAD, TRAP, LOG = 0x7FFF0000, 0x80000000, 0, 0x00030000, 0x7FFC0000
_ERRNO, _TRACE = 0x00050000, 0x7FF00000
_ARCHES = {"SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X86": 0x40000003}
_OTHER_ARCHES = frozenset(
    {"SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32",
     "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64",
     "SCMP_ARCH_PPC64LE", "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64",
     "SCMP_ARCH_RISCV64", "SCMP_ARCH_LOONGARCH64"}
)  # fmt: skip
_ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": _TRACE,
}
_NE, _LT, _LE, _EQ, _GE, _GT, _MASKED_EQ = range(1, 8)
_OPERATORS = {
    "SCMP_CMP_NE": _NE, "SCMP_CMP_LT": _LT, "SCMP_CMP_LE": _LE, "SCMP_CMP_EQ": _EQ, "SCMP_CMP_GE": _GE,
    "SCMP_CMP_GT": _GT, "SCMP_CMP_MASKED_EQ": _MASKED_EQ,
}  # fmt: skip
_ATTRIBUTE_OPTIMIZE, _BINARY_TREE = 8, 2
_MAX_CALL = 1024  # numbers of system calls are below
_MAX_PROGRAM = 4096 * 8  # bytes: BPF_MAXINSNS

# What the default profile refuses without a capability, and which one it comes with.
_WITH = {
    "SYS_ADMIN": (
        "bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree "
        "perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"
    ),
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module init_module finit_module",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "iopl ioperm",
    "SYS_TIME": "settimeofday stime clock_settime clock_settime64 clock_adjtime clock_adjtime64",
    "SYS_TTY_CONFIG": "vhangup",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYSLOG": "syslog",
    "BPF": "bpf",
    "PERFMON": "perf_event_open",
    "DAC_READ_SEARCH": "open_by_handle_at",
}
_NEVER = (
    "add_key afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle io_uring_enter "
    "io_uring_register io_uring_setup kexec_file_load kexec_load keyctl lock migrate_pages move_pages mpx nfsservctl "
    "pivot_root prof profil putpmsg query_module request_key security stty swapoff swapon sysfs _sysctl tuxcall ulimit "
    "uselib userfaultfd ustat vm86 vm86old vserver"
)
_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)  # CLONE_NEW*
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_VSOCK = 40


class _Comparison(ctypes.Structure):
    """Struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Rule:
    """What happens to a system call; ``args``: index, operator, value and second value, all of which must fit."""

    name: str
    action: int
    args: tuple[tuple[int, int, int, int], ...] = ()


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as error:
        raise HostFault("libseccomp is missing", resolution="install the package libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return library


@cache
def known_calls() -> frozenset[str]:
    """Return the names of all system calls of x86 (64 and 32 bits) that libseccomp knows. Errors: HostFault."""
    library, libc, names = _library(), ctypes.CDLL(None), set()
    for arch in _ARCHES.values():
        for number in range(_MAX_CALL):
            found = library.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(arch), number)
            if found:
                names.add(ctypes.string_at(found).decode("ascii"))
                libc.free(ctypes.c_void_p(found))
    return frozenset(names)


def compile_rules(default: int, rules: Iterable[Rule], *, arches: Sequence[str] = tuple(_ARCHES)) -> bytes:
    """Return the program (struct sock_filter[]) for x86-64 guests.

    ``default``: action for what no rule fits. Rules for calls that libseccomp does not know, and those that do what
    the default does, are left out. Errors: HostFault, InvalidInput (two rules contradict each other).
    """
    library = _library()
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    if not context:
        raise HostFault("a seccomp program cannot be made", details=f"libseccomp refuses the action {default:#x}")
    try:
        for arch in arches:
            library.seccomp_arch_add(context, ctypes.c_uint32(_ARCHES[arch]))
        library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, ctypes.c_uint32(_BINARY_TREE))
        for rule in rules:
            _add_rule(library, context, default, rule)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _add_rule(library: ctypes.CDLL, context: ctypes.c_void_p, default: int, rule: Rule) -> None:
    number = library.seccomp_syscall_resolve_name(rule.name.encode("ascii", "replace"))
    if number == -1 or rule.action == default:
        return
    comparisons = (_Comparison * len(rule.args))(*(_Comparison(*arg) for arg in rule.args))
    result = library.seccomp_rule_add_array(
        context, ctypes.c_uint32(rule.action), number, ctypes.c_uint(len(rule.args)), comparisons
    )
    if result in (0, -errno.EEXIST, -errno.EDOM):  # EDOM: no such call on one of the architectures
        return
    raise InvalidInput(f"the seccomp rule for {rule.name} cannot be had", details=os.strerror(-result))


def _export(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    fd = os.memfd_create("seccomp")
    try:
        result = library.seccomp_export_bpf(context, fd)
        if result != 0:
            raise HostFault("a seccomp program cannot be made", details=os.strerror(-result))
        size = os.lseek(fd, 0, os.SEEK_CUR)
        if size > _MAX_PROGRAM:
            raise InvalidInput("the seccomp profile is too large", details=f"{size // 8} instructions of 4096")
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


@lru_cache(maxsize=64)
def default_program(capabilities: frozenset[str]) -> bytes:
    """Return the program of the default profile for a process with these capabilities. Errors: HostFault."""
    refused = set(_NEVER.split())
    for capability, names in _WITH.items():
        if capability not in capabilities:
            refused |= set(names.split())
    for capability in capabilities & _WITH.keys():
        refused -= set(_WITH[capability].split())
    special = {"personality", "socket"} | (set() if "SYS_ADMIN" in capabilities else {"clone", "clone3"})
    rules = [Rule(name, ALLOW) for name in sorted(known_calls() - refused - special)]
    rules += [Rule(name, _ERRNO | errno.EPERM) for name in sorted(refused)]
    rules += [Rule("personality", ALLOW, ((0, _EQ, value, 0),)) for value in _PERSONALITIES]
    rules.append(Rule("socket", ALLOW, ((0, _NE, _AF_VSOCK, 0),)))
    rules.append(Rule("socket", _ERRNO | errno.EPERM, ((0, _EQ, _AF_VSOCK, 0),)))
    if "clone" in special:  # clone3 hides its flags from a filter: without it programs use clone
        rules.append(Rule("clone", ALLOW, ((0, _MASKED_EQ, sum(_NAMESPACES), 0),)))
        rules += [Rule("clone", _ERRNO | errno.EPERM, ((0, _MASKED_EQ, bit, bit),)) for bit in _NAMESPACES]
    return compile_rules(_ERRNO | errno.ENOSYS, rules)


@lru_cache(maxsize=16)
def profile_program(text: str, capabilities: frozenset[str]) -> bytes:
    """Return the program of a profile in JSON, for a process with these capabilities.

    Errors: InvalidInput, NotSupported (a part of it cannot be honoured), HostFault.
    """
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise InvalidInput("the seccomp profile is no JSON", details=str(error)) from error
    _check_keys(
        profile,
        "profile",
        {"defaultAction", "defaultErrnoRet", "architectures", "archMap", "flags", "syscalls"},
        ignored={"comment"},
    )
    flags = [flag for flag in _list(profile, "flags") if flag != "SECCOMP_FILTER_FLAG_TSYNC"]
    if flags:
        raise NotSupported(f"the seccomp flag {flags[0]} is not supported")
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"))
    rules = [rule for entry in _list(profile, "syscalls") for rule in _read_entry(entry, capabilities)]
    return compile_rules(default, rules, arches=_read_arches(profile))


def _read_arches(profile: Mapping[str, Any]) -> list[str]:
    wanted = list(_list(profile, "architectures"))
    for entry in _list(profile, "archMap"):
        _check_keys(entry, "archMap", {"architecture", "subArchitectures"})
        wanted += [entry.get("architecture"), *(_list(entry, "subArchitectures"))]
    for name in wanted:
        if name not in _ARCHES and name not in _OTHER_ARCHES:
            raise InvalidInput(f"unknown architecture {name} in the seccomp profile")
    return [name for name in _ARCHES if name in wanted]


def _read_entry(entry: Any, capabilities: frozenset[str]) -> list[Rule]:
    known = {"names", "name", "action", "errnoRet", "args", "includes", "excludes"}
    _check_keys(entry, "syscalls", known, ignored={"comment"})
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if not _fits(includes, capabilities, wanted=True) or not _fits(excludes, capabilities, wanted=False):
        return []
    action = _action(entry.get("action"), entry.get("errnoRet"))
    args = tuple(_argument(arg) for arg in _list(entry, "args"))
    names = [*_list(entry, "names"), *([entry["name"]] if entry.get("name") else [])]
    if not all(isinstance(name, str) for name in names):
        raise InvalidInput("the seccomp profile names a system call by something that is no text")
    if len({arg[0] for arg in args}) < len(args):  # the same argument twice: either fits, as with runc
        return [Rule(name, action, (arg,)) for name in names for arg in args]
    return [Rule(name, action, args) for name in names]


def _fits(condition: Any, capabilities: frozenset[str], *, wanted: bool) -> bool:
    """Whether an entry counts: all includes must be met, no exclude may be."""
    _check_keys(condition, "includes and excludes", {"caps", "arches", "minKernel"})
    met: list[bool] = [_bare(cap) in capabilities for cap in _list(condition, "caps")]
    if arches := _list(condition, "arches"):
        met.append(bool({"amd64", "x86_64"} & set(arches)))
    if "minKernel" in condition:
        met.append(_version(condition["minKernel"]) <= (6, 1))
    return all(met) if wanted else not any(met)


def _version(text: Any) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in str(text).split("."))
    except ValueError as error:
        raise InvalidInput(f"{text} is no kernel version", details="minKernel of the seccomp profile") from error


def _bare(capability: Any) -> str:
    return str(capability).upper().removeprefix("CAP_")


def _argument(arg: Any) -> tuple[int, int, int, int]:
    _check_keys(arg, "args", {"index", "value", "valueTwo", "op"})
    index, value, second = arg.get("index", 0), arg.get("value", 0), arg.get("valueTwo", 0)
    if not all(isinstance(number, int) for number in (index, value, second)) or not 0 <= index <= 5:
        raise InvalidInput("the seccomp profile compares with what is no number", details=str(arg)[:200])
    if arg.get("op") not in _OPERATORS:
        raise InvalidInput(f"unknown operator {arg.get('op')} in the seccomp profile")
    return index, _OPERATORS[arg["op"]], value & 2**64 - 1, second & 2**64 - 1


def _action(name: Any, number: Any) -> int:
    if name == "SCMP_ACT_NOTIFY":
        raise NotSupported(
            "the seccomp action SCMP_ACT_NOTIFY is not supported", details="no program takes its notifications"
        )
    if name not in _ACTIONS:
        raise InvalidInput(f"unknown seccomp action {name}", resolution="one of " + ", ".join(_ACTIONS))
    if number is not None and (not isinstance(number, int) or not 0 <= number <= 4095):
        raise InvalidInput(f"{number} is no errno", details="errnoRet of the seccomp profile")
    action = _ACTIONS[name]
    return action | (errno.EPERM if number is None else number) if action in (_ERRNO, _TRACE) else action


def _list(owner: Mapping[str, Any], key: str) -> list[Any]:
    value = owner.get(key) or []
    if not isinstance(value, list):
        raise InvalidInput(f"{key} of the seccomp profile is no list")
    return value


def _check_keys(value: Any, what: str, known: set[str], *, ignored: Iterable[str] = ()) -> None:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} of the seccomp profile is no object")
    unknown = sorted(value.keys() - known - set(ignored))
    if unknown:
        raise NotSupported(f"{unknown[0]} of the seccomp profile is not supported", details=f"in {what}")
