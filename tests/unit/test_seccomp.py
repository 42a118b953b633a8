"""Seccomp programs: compiled here, loaded into a process of this machine, asked call by call."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import sys

import pytest

from hyperd.container import isolation, seccomp
from hyperd.errors import InvalidInput, NotSupported
from hyperd.spec.model import ContainerSpec, DeviceSpec, Limits, Security, Tmpfs

DEFAULT = isolation.DEFAULT_CAPABILITIES
EPERM, ENOSYS = errno.EPERM, errno.ENOSYS
# name: number and arguments on x86-64 that change nothing when they are let through
CALLS = {
    "getpid": (39, ()),
    "unshare": (272, (0,)),
    "mount": (165, (0, 0, 0, 0, 0)),
    "keyctl": (250, (99, 0, 0, 0, 0)),
    "bpf": (321, (-1, 0, 0)),
    "io_uring_setup": (425, (0, 0)),
    "reboot": (169, (0, 0, 0)),
    "perf_event_open": (298, (0, 0, -1, -1, 0)),
    "userfaultfd": (323, (-1,)),
    "personality": (135, (0xFFFFFFFF,)),
    "strange personality": (135, (0x1234,)),
    "clone of a user": (56, (0x10000000 | 17, 0, 0, 0, 0)),
    "clone3": (435, (0, 0)),
    "unknown": (900, ()),
    "chroot": (161, (0,)),
    "open_by_handle_at": (304, (-1, 0, 0)),
    "socket": (41, (socket.AF_UNIX, socket.SOCK_STREAM, 0)),
    "vsock": (41, (40, socket.SOCK_STREAM, 0)),
}
CHILD = """
import ctypes, json, os, struct, sys
program = bytes.fromhex(sys.stdin.readline())
calls = json.loads(sys.stdin.readline())
libc = ctypes.CDLL(None, use_errno=True)
code = ctypes.create_string_buffer(program)
fprog = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, fprog, 0, 0) == 0, ctypes.get_errno()
answers = {}
for name, (number, args) in calls.items():
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(arg) for arg in args])
    if name == "clone of a user" and result == 0:
        os._exit(0)
    answers[name] = 0 if result >= 0 else ctypes.get_errno()
print(json.dumps(answers), flush=True)
"""


def ask(program: bytes) -> dict[str, int]:
    """Load a program into a process and give the errno of every call, 0 for those that worked."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=f"{program.hex()}\n{json.dumps(CALLS)}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_default_profile_call_by_call() -> None:
    found = ask(seccomp.default_program(DEFAULT))
    refused = ("unshare", "mount", "keyctl", "bpf", "io_uring_setup", "reboot", "perf_event_open", "userfaultfd")
    assert {name: found[name] for name in refused} == dict.fromkeys(refused, EPERM)
    assert (found["clone of a user"], found["open_by_handle_at"], found["vsock"]) == (EPERM, EPERM, EPERM)
    assert (found["clone3"], found["unknown"], found["strange personality"]) == (ENOSYS, ENOSYS, ENOSYS)
    assert (found["getpid"], found["personality"], found["socket"]) == (0, 0, 0)
    assert found["chroot"] == errno.EFAULT


def test_capabilities_bring_their_calls() -> None:
    found = ask(seccomp.default_program(DEFAULT | {"SYS_ADMIN", "DAC_READ_SEARCH"} - {"SYS_CHROOT"}))
    assert (found["mount"], found["open_by_handle_at"]) != (EPERM, EPERM)
    assert (found["unshare"], found["clone3"]) == (0, errno.EINVAL)
    assert found["keyctl"] == found["reboot"] == EPERM
    assert ask(seccomp.default_program(DEFAULT - {"SYS_CHROOT"}))["chroot"] == EPERM


def profile(**more: object) -> str:
    base = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
    return json.dumps(base | more)


def test_a_profile_of_a_caller() -> None:
    equal = {"index": 0, "value": socket.AF_UNIX, "op": "SCMP_CMP_EQ"}
    text = profile(
        syscalls=[
            {"names": ["getpid", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [equal]},
            {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_CHROOT"]}},
            {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        ]
    )
    found = ask(seccomp.profile_program(text, DEFAULT))
    assert (found["getpid"], found["socket"], found["personality"]) == (95, EPERM, 0)
    assert found["chroot"] == errno.EFAULT


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("{", InvalidInput, "no JSON"),
        ("[]", InvalidInput, "no object"),
        (profile(listenerPath="/x"), NotSupported, "listenerPath"),
        (profile(defaultAction="SCMP_ACT_NOTIFY"), NotSupported, "SCMP_ACT_NOTIFY"),
        (profile(defaultAction="allow"), InvalidInput, "allow"),
        (profile(flags=["SECCOMP_FILTER_FLAG_LOG"]), NotSupported, "SECCOMP_FILTER_FLAG_LOG"),
        (profile(architectures=["SCMP_ARCH_PDP11"]), InvalidInput, "PDP11"),
        (profile(syscalls=[{"names": ["read"], "action": "SCMP_ACT_KILL", "odd": 1}]), NotSupported, "odd"),
        (profile(syscalls=[{"names": [1], "action": "SCMP_ACT_KILL"}]), InvalidInput, "no text"),
        (
            profile(syscalls=[{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 9, "op": "x"}]}]),
            InvalidInput,
            "no number",
        ),
    ],
)
def test_what_cannot_be_honoured_is_named(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        seccomp.profile_program(text, DEFAULT)


def test_programs_fit_the_kernel() -> None:
    for names in (DEFAULT, frozenset(), frozenset(isolation.CAPABILITIES)):
        program = seccomp.default_program(names)
        assert 0 < len(program) // 8 <= 4096
        assert struct.unpack("=HBBI", program[:8])[0]


# What a container asks for.


def test_capabilities_added_and_dropped() -> None:
    give = lambda **more: isolation.capabilities(Security(**more))  # noqa: E731
    assert give() == DEFAULT
    assert give(cap_add=("cap_sys_time",), cap_drop=("CHOWN",)) == (DEFAULT | {"SYS_TIME"}) - {"CHOWN"}
    assert give(cap_drop=("ALL",), cap_add=("KILL",)) == {"KILL"}
    assert give(cap_add=("ALL",), cap_drop=("SYS_ADMIN",)) == set(isolation.CAPABILITIES) - {"SYS_ADMIN"}
    assert give(privileged=True, cap_drop=("ALL",)) == set(isolation.CAPABILITIES)
    assert isolation.capability_set(frozenset(DEFAULT)) == 0xA80425FB


@pytest.mark.parametrize(
    "spec",
    [
        ContainerSpec(security=Security(cap_add=("FLY",))),
        ContainerSpec(security=Security(masked_paths=("proc",))),
        ContainerSpec(limits=Limits(memory=1 << 20)),
        ContainerSpec(limits=Limits(memory=8 << 20, memory_swap=7 << 20)),
        ContainerSpec(limits=Limits(cpuset="all")),
        ContainerSpec(limits=Limits(cpu_quota=10)),
        ContainerSpec(limits=Limits(pids=-2)),
        ContainerSpec(tmpfs=(Tmpfs(path="/x", options=("loud",)),)),
        ContainerSpec(devices=(DeviceSpec(source="/etc/passwd"),)),
        ContainerSpec(devices=(DeviceSpec(source="/dev/fuse", permissions="x"),)),
        ContainerSpec(oom_score_adj=2000),
    ],
)
def test_what_makes_no_sense_is_refused(spec: ContainerSpec) -> None:
    with pytest.raises(InvalidInput):
        isolation.check(spec)


@pytest.mark.parametrize("source", ["/dev/vport0p1", "/dev/console", "/dev/ttyS0"])
def test_the_agents_ports_are_given_to_nobody(source: str) -> None:
    with pytest.raises(NotSupported):
        isolation.check(ContainerSpec(devices=(DeviceSpec(source=source),)))


def test_limits_as_files_of_cgroup2() -> None:
    values = isolation.limit_values(Limits(memory=64 << 20, cpus=1_500_000_000, cpu_shares=1024, pids=-1, cpuset="0-1"))
    assert values == {
        "memory.max": "67108864",
        "memory.low": "0",
        "cpu.max": "150000 100000",
        "cpu.weight": "39",
        "cpuset.cpus": "0-1",
        "pids.max": "max",
    }
    assert isolation.limit_values(Limits(cpu_quota=5000, cpu_period=20000, cpus=1))["cpu.max"] == "5000 20000"
    assert isolation.limit_values(Limits(), memory=128)["pids.max"] == "512"


def test_the_library_is_there() -> None:
    assert ctypes.CDLL("libseccomp.so.2")
    assert {"read", "clone3", "socketcall"} <= seccomp.known_calls()
    assert os.uname().machine == "x86_64"
