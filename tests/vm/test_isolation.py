"""What containers of a pod can do to each other and to their guest: nothing; programs as process 1; limits."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.registry import Layer, RegistryServer, busybox_tar, layer_tar, member
from tests.support.until import until
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]

PROGRAMS = (
    "/usr/bin/tini", "/usr/bin/dumb-init", "/sbin/runit", "/usr/bin/runsvdir", "/usr/bin/runsv", "/usr/bin/sv",
    "/usr/bin/s6-svscan", "/usr/bin/s6-supervise", "/usr/bin/s6-svscanctl",
)  # fmt: skip
SERVICE = b"#!/bin/sh\necho service up\nexec sleep 1000\n"


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    """A daemon that waits 2 s before it kills: programs that are process 1 ignore what they have no handler for."""
    daemon, host = launch(registry, config="stop_grace = 2\n")
    with daemon:
        yield host


@pytest.fixture(scope="module")
def image(host: Host, registry: RegistryServer) -> str:
    """Busybox with Debian's supervisors and what they need, and links that lead nowhere."""
    files: dict[str, Path] = {}
    for program in PROGRAMS:
        files[program] = Path(program)
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        files.update({path: Path(path) for path in re.findall(r"(/\S+) \(0x", said)})
    members = [member(path[1:], real.read_bytes(), mode=0o755) for path, real in files.items()]
    scripts = {
        "etc/runit/1": b"#!/bin/sh\necho stage 1\n",
        "etc/runit/2": b"#!/bin/sh\necho stage 2; exec sleep 1000\n",
        "etc/runit/3": b"#!/bin/sh\necho stage 3\n",
        "service/one/run": SERVICE,
        "etc/inittab": b"::sysinit:/bin/echo inittab read\n::respawn:/bin/sleep 1000\n",
    }
    members += [member(name, data, mode=0o755) for name, data in scripts.items()]
    for name, target in (("etc/localtime", "/nonexist/zone"), ("data", "/srv/data"), ("work", "../var/work")):
        members.append(member(name, type=b"2", linkname=target))
    registry.push("isolation", "latest", [Layer(busybox_tar()), Layer(layer_tar(members))], config={"config": {}})
    host.ok("pull", f"{registry.host}/isolation")
    return f"{registry.host}/isolation"


@pytest.fixture
def start(host: Host, image: str) -> Iterator[Any]:
    """Start a pod of containers by name; it is removed afterwards."""
    made: list[str] = []

    def begin(containers: dict[str, dict[str, Any]], **more: Any) -> str:
        listed = [
            {"image": image, "command": ["sleep", "1000"], **fields, "name": n} for n, fields in containers.items()
        ]
        pod: str = host.daemon.json("POST", "/pod/create", body={"containers": listed, **more}, status=201)["ID"]
        made.append(pod)
        host.daemon.json("POST", "/pod/start", podId=pod)
        return pod

    yield begin
    for pod in made:
        host.ctl("rm", pod)
    host.assert_clean()


def sh(host: Host, container: str, script: str) -> list[str]:
    done = host.ctl("exec", container, "sh", "-c", script)
    return done.stdout.decode("utf-8", "replace").splitlines()


def test_programs_that_insist_on_being_process_one(host: Host, start: Any) -> None:
    trap = "trap 'echo heard; exit 9' TERM; echo ready $$; while :; do sleep 0.1; done"
    start(
        {
            "runit": {"command": ["/sbin/runit"]},
            "runsvdir": {"command": ["/usr/bin/runsvdir", "/service"]},
            "s6": {"command": ["/usr/bin/s6-svscan", "/service"]},
            "busyinit": {"command": ["/bin/init"]},
            "tini": {"command": ["/usr/bin/tini", "-v", "--", "sh", "-c", trap]},
            "dumb": {"command": ["/usr/bin/dumb-init", "sh", "-c", trap]},
            "shell": {"command": ["sh", "-c", trap]},
            "bare": {"command": ["sleep", "1000"]},
            "inited": {"command": ["sh", "-c", "echo $$; exec sleep 1000"], "init": True},
        },
        resource={"vcpu": 1, "memory": 192},
    )
    wanted = {
        "runit": "stage 2",
        "runsvdir": "service up",
        "s6": "service up",
        "busyinit": "inittab read",
        "tini": "ready",
        "dumb": "ready",
        "shell": "ready 1",
        "inited": "2",
    }
    for name, words in wanted.items():
        until(
            lambda name=name, words=words: words in host.ok("logs", name), tell=lambda name=name: host.ctl("logs", name)
        )
    assert "insist" not in host.ok("logs", "tini")
    assert [sh(host, name, "cat /proc/1/comm")[0] for name in ("runit", "s6", "tini", "bare", "inited")] == [
        "runit", "s6-svscan", "tini", "sleep", "hyper-init",
    ]  # fmt: skip
    codes = {"tini": 9, "dumb": 9, "shell": 9, "inited": 143, "bare": 137, "s6": 0}
    for name, code in codes.items():
        host.daemon.json("POST", "/container/stop", container=name)
        assert host.daemon.json("GET", "/exitcode", container=name) == code, name


REFUSED, FIXED = "Operation not permitted", "Read-only file system"
WALLS = {
    # what is tried, and what the kernel says: a wall that is not there would say that the file is not there
    "a disk": ("mknod /tmp/d b 8 0 && head -c1 /tmp/d", REFUSED),
    "write a disk": ("mknod /tmp/w b 8 0; echo x >/tmp/w", REFUSED),
    "memory": ("mknod /tmp/m c 1 1; head -c1 /tmp/m", REFUSED),
    "kernel log": ("mknod /tmp/k c 1 11; echo x >/tmp/k", REFUSED),
    "console": ("mknod /tmp/t c 4 64; echo x >/tmp/t", REFUSED),
    "console by its number": ("mknod /tmp/c c 5 1; echo x >/tmp/c", REFUSED),
    "kernel's messages": ("dmesg", REFUSED),
    "user namespace": ("unshare -r true", REFUSED),
    "mount": ("mount -t tmpfs x /root", "permission denied"),
    "PCI": ("f=$(find /proc/bus/pci -type f | grep -v devices | head -1); echo x >$f", FIXED),
    "sysctl": ("echo 1 >/proc/sys/kernel/sysrq", FIXED),
    "sysrq": ("echo b >/proc/sysrq-trigger", FIXED),
    "sysfs": ("echo 1 >/sys/kernel/mm/transparent_hugepage/enabled", FIXED),
    "own limits": ("echo max >/sys/fs/cgroup/pids.max", FIXED),
    "the agent's ports": (
        "cd /sys/class/virtio-ports; for p in *; do IFS=: read a b <$p/dev; mknod /tmp/$p c $a $b; echo >/tmp/$p; done",
        REFUSED,
    ),
}


def test_root_in_a_container_meets_walls(host: Host, start: Any) -> None:
    start({"a": {}, "hard": {"security": {"capDrop": ["ALL"], "noNewPrivileges": True, "seccomp": DENY_CHMOD}}})
    for what, (script, words) in WALLS.items():
        done = host.ctl("exec", "a", "sh", "-c", script)
        said = done.stderr.decode().splitlines()
        assert (done.returncode != 0, [line for line in said if words not in line]) == (True, []), (what, done)
        assert len(said) == (2 if "ports" in what else 1), (what, done)
    assert sh(
        host, "a", "ls /proc/acpi /sys/firmware /proc/scsi 2>/dev/null | grep -v :; cat /proc/keys /proc/timer_list"
    ) in (
        [],
        [""],
        ["", ""],
    )
    assert sh(host, "a", "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; ls /dev/vport* 2>/dev/null") == [
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ]
    assert sh(
        host, "hard", "grep -E 'CapEff|NoNewPrivs' /proc/self/status; chmod 700 /tmp 2>&1 | grep -c permitted"
    ) == [
        f"CapEff:\t{0:016x}",
        "NoNewPrivs:\t1",
        "1",
    ]
    # The guest is as well as before.
    assert host.ok("exec", "-m", host_pod(host), "echo", "alive").strip() == "alive"


DENY_CHMOD = (
    '{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],'
    ' "syscalls": [{"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}]}'
)


def host_pod(host: Host) -> str:
    (row,) = host.daemon.json("GET", "/list", item="pod")["podData"]
    return str(row).split(":")[0]


def test_what_a_container_is_given(host: Host, start: Any) -> None:
    all_masked = {"maskedPaths": ["/srv", "/etc/group"], "readonlyPaths": ["/tmp"], "groupAdd": ["55"]}
    start(
        {
            "most": {"security": {"privileged": True}},
            "some": {
                "security": {"capAdd": ["SYS_TIME", "SYS_ADMIN"], **all_masked},
                "tmpfs": [{"path": "/cache", "size": 1048576, "mode": "750", "options": ["exec"]}],
                "devices": [{"source": "/dev/fuse", "target": "/dev/other", "permissions": "rw"}],
                "shmSize": 2097152,
                "oomScoreAdj": 300,
            },
        }
    )
    assert sh(host, "most", "ls /dev | grep -cE '^sd[a-z]$'; mount -t tmpfs x /root && echo mounted")[-1] == "mounted"
    assert sh(
        host, "most", "head -c0 /dev/sda && echo read; ls /dev/vport* 2>/dev/null; grep Seccomp: /proc/1/status"
    ) == [
        "read",
        "Seccomp:\t0",
    ]
    said = sh(host, "some", "stat -c '%a %F' /dev/other; stat -f -c '%b %S' /cache /dev/shm; stat -c %a /cache; id -G")
    assert said == ["600 character special file", "256 4096", "512 4096", "750", "0 55"]
    assert sh(host, "some", "cat /proc/1/oom_score_adj /etc/group; ls /srv; touch /tmp/x || echo fixed")[-2:] == [
        "300",
        "fixed",
    ]
    assert sh(host, "some", "mount -t tmpfs x /root && echo mounted; exec 3<>/dev/other && echo opened") == [
        "mounted",
        "opened",
    ]


DIVIDE = """
    cd /sys/fs/cgroup && mkdir inner && while [ "$(cat cgroup.procs)" ]; do
        for pid in $(cat cgroup.procs); do echo $pid 2>/dev/null >inner/cgroup.procs; done
    done
    echo +pids >cgroup.subtree_control && mkdir other && sh -c 'echo $$ >other/cgroup.procs; exec sleep 999' &
    until grep -q . other/cgroup.procs 2>/dev/null; do sleep 0.1; done
    echo divided; exec sleep 1000"""


def test_a_container_that_divides_its_control_group(host: Host, start: Any) -> None:
    """As systemd and Docker do: processes are at the ends only, where execs go, and are listed."""
    start({"parted": {"command": ["sh", "-c", DIVIDE], "security": {"privileged": True}}})
    until(lambda: "divided" in host.ok("logs", "parted"), tell=lambda: host.ctl("logs", "parted"))
    assert sh(host, "parted", "cat /proc/self/cgroup") == ["0::/inner"]

    def commands() -> list[str]:
        listed = host.daemon.json("GET", "/container/top", container="parted")
        return sorted(row[-1] for row in listed["processes"])

    until(lambda: commands() == ["sleep 1000", "sleep 999"], tell=commands)


def test_limits_hold_and_siblings_live(host: Host, start: Any) -> None:
    limits = {"memory": 33554432, "memoryReservation": 8388608, "memorySwap": 67108864, "pids": 40, "cpuShares": 512}
    cpu = {"cpusetCpus": "0", "cpuPeriod": 50000, "cpuQuota": 25000}
    half = {"limits": {"nanoCpus": 500000000}}
    start({"small": {"limits": limits}, "slow": {"limits": cpu}, "half": half, "free": {}})
    files = "cd /sys/fs/cgroup; cat memory.max memory.low pids.max cpu.weight"
    assert sh(host, "small", files) == ["33554432", "8388608", "40", "20"]
    assert sh(host, "slow", "cd /sys/fs/cgroup; cat cpuset.cpus cpu.max") == ["0", "25000 50000"]
    assert sh(host, "half", "cat /sys/fs/cgroup/cpu.max") == ["50000 100000"]
    assert sh(host, "free", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max") == ["max", "512"]
    # Other limits, while it runs.
    host.daemon.json("POST", "/container/update", container="small", body=limits | {"pids": 50, "memory": 41943040})
    assert sh(host, "small", files) == ["41943040", "8388608", "50", "20"]
    # A fork bomb, and memory: they end in their own container.
    host.ctl("exec", "free", "sh", "-c", "(f() { f | f & }; f) >/dev/null 2>&1 & sleep 2")
    assert sh(host, "small", "echo here") == ["here"]
    assert host.ok("exec", "-m", host_pod(host), "echo", "here").strip() == "here"
    # The bomb goes on: with the CPU time left beside it, the hog's programs are read from the disk again and again.
    hog = host.ctl("exec", "small", "sh", "-c", "head -c 60000000 /dev/zero | tail | wc -c", timeout=240)
    assert b"60000000" not in hog.stdout
    assert sh(host, "slow", "echo lives") == ["lives"]


def test_memory_file_systems_filled_to_the_brim(host: Host, start: Any) -> None:
    start({"filler": {}, "other": {"command": ["sh", "-c", "while :; do echo beat; sleep 0.2; done"]}})
    done = host.ctl(
        "exec", "filler", "sh", "-c", "for d in /dev/shm /dev; do cat /dev/zero >$d/full; done; echo filled"
    )
    assert done.stdout == b"filled\n", done
    beats = host.ok("logs", "other").count("beat")
    until(lambda: host.ok("logs", "other").count("beat") > beats + 2)
    assert sh(host, "filler", "rm /dev/shm/full /dev/full2 2>/dev/null; echo lives") == ["lives"]
    fill = "for f in hosts resolv.conf; do cat /dev/zero >/etc/$f; done; stat -c %s /etc/hosts /etc/resolv.conf"
    sizes = sh(host, "filler", fill)
    assert 0 < sum(map(int, sizes)) <= 1 << 20, sizes


def test_mounts_over_links_that_lead_nowhere(host: Host, start: Any, tmp_path: Path) -> None:
    (tmp_path / "zone").write_text("a zone")
    (tmp_path / "zone").chmod(0o644)
    volumes = [
        {"path": "/etc/localtime", "detail": {"name": "z", "source": str(tmp_path / "zone"), "format": "vfs"}},
        {"path": "/data", "detail": {"name": "new"}},
        {"path": "/data/deep", "detail": {"name": "deeper"}},
    ]
    start({"c": {"volumes": volumes, "workdir": "/work"}})
    assert sh(host, "c", "pwd; cat /nonexist/zone; readlink /etc/localtime; grep -c ' /srv/data' /proc/mounts") == [
        "/var/work",
        "a zone/nonexist/zone",
        "2",
    ]
