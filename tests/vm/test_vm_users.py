"""Each VM's QEMU is a process of a user of its own, who can open what is its VM's and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from hyperd.vm import cgroups
from tests.support.daemon import HyperdLauncher
from tests.support.descriptors import descriptors
from tests.support.registry import Layer, RegistryServer, busybox_tar, layer_tar, member
from tests.support.until import until
from tests.vm.conftest import GUEST, Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

UIDS = range(1_879_048_192, 2_147_352_576)  # the default of hypervisor.uid_range
NEEDED = 0x1B  # chown, dac_override, fowner, fsetid
# Of a VM with one CPU and 128 MiB: files of both versions, their controllers, what is in them.
LIMITS = {
    "memory.limit_in_bytes": ("memory", str((128 + 4 + 256) * 2**20)),
    "memory.max": ("memory", str((128 + 4 + 256) * 2**20)),
    "pids.max": ("pids", "513"),
    "cpu.shares": ("cpu", "1024"),
    "cpu.weight": ("cpu", "100"),
    "cpu.cfs_quota_us": ("cpu", "200000"),
    "cpu.max": ("cpu", "200000 100000"),
}


def begun(daemon: HyperdLauncher, registry: RegistryServer) -> Host:
    daemon.start()
    host = Host(daemon, f"{registry.host}/busybox")
    host.ok("pull", host.image)
    return host


@pytest.fixture
def own(registry: RegistryServer, tmp_path: Path) -> Iterator[Host]:
    """A daemon that has no template yet."""
    with HyperdLauncher(driver="libvirt", guest=GUEST, templates=tmp_path / "t") as daemon:
        host = begun(daemon, registry)
        yield host
        for row in host.daemon.json("GET", "/list", item="pod")["podData"]:
            host.ctl("rm", row.split(":")[0])
        host.assert_clean()


def status(pid: str) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


def qemu_of(host: Host, pod: str) -> str:
    """Return the process of a pod's VM."""
    rows = (row.split(":") for row in host.daemon.json("GET", "/list", item="vm")["vmData"])
    (name,) = (row[0] for row in rows if row[1] == pod)
    (pid,) = (pid for pid in host.left()["qemu"] if f"guest={name}," in Path(f"/proc/{pid}/cmdline").read_text())
    return pid


def uid_of(host: Host, pod: str) -> int:
    """Check what the process of a pod's VM may do, and give its user."""
    pid = qemu_of(host, pod)
    found = status(pid)
    uid = int(found["Uid"][0])
    assert found["Uid"] == found["Gid"] == [str(uid)] * 4
    assert found["Groups"][0] not in {"0", str(uid)}
    assert len(found["Groups"]) == 1
    # All its ids are those of a namespace that is its own, and so are its capabilities: it has none outside.
    for name in ("uid_map", "gid_map"):
        assert Path(f"/proc/{pid}/{name}").read_text().split() == ["0", str(uid), "65536"]
    assert Path(f"/proc/{pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
    assert {name: int(found[name][0], 16) for name in found if name.startswith("Cap")} == {
        "CapInh": 0, "CapPrm": NEEDED, "CapEff": NEEDED, "CapBnd": NEEDED, "CapAmb": 0
    }  # fmt: skip
    assert (found["NoNewPrivs"], found["Seccomp"]) == (["1"], ["2"])
    return uid


def limited(host: Host, pod: str) -> list[Path]:
    """Check that the host limits what the process of a pod's VM uses, and give its groups' directories."""
    told = dict(host.daemon.json("GET", "/info")["DriverStatus"])["Limits of VMs"]
    named = [] if told.startswith("nothing") else told.partition(";")[0].split(", ")
    pid, found = qemu_of(host, pod), []
    where = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    for tree in cgroups.trees():
        if set(tree.controllers) & set(named):
            controllers = set(tree.controllers) if tree.version == 1 else {""}
            (path,) = {path for names, path in where.items() if set(names.split(",")) & controllers}
            found.append(tree.group(PurePosixPath(path)))
            assert pid in (found[-1] / "cgroup.procs").read_text().split()
    values = {file.name: file.read_text().strip() for group in found for file in group.glob("*") if file.name in LIMITS}
    assert values == {name: value for name, (controller, value) in LIMITS.items()
                      if controller in named and any((group / name).exists() for group in found)}  # fmt: skip
    assert bool(found) == bool(named)
    return found


def rooted(host: Host, pod: str) -> bool:
    """Whether the process of a pod's VM is root of the host, with what 9p needs."""
    pid = qemu_of(host, pod)
    found = status(pid)
    return (
        found["Uid"][0] == "0"
        and int(found["CapEff"][0], 16) in (0, NEEDED)
        and Path(f"/proc/{pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink()
    )


def tried(pid: str, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Do something as a VM's process could, but with all capabilities of its namespace."""
    user = status(pid)
    who = ("setpriv", f"--reuid={user['Uid'][0]}", f"--regid={user['Gid'][0]}", f"--groups={user['Groups'][0]}")
    enter = ("nsenter", f"--user=/proc/{pid}/ns/user", "--preserve-credentials", "--")
    return subprocess.run([*who, *enter, *map(str, words)], capture_output=True, check=False)


def reads(pid: str, path: Path) -> bool:
    assert path.exists(), path
    return tried(pid, "head", "-c1", path).returncode == 0


def joining(host: Host, name: str, source: Path, **ref: bool) -> dict[str, object]:
    """Describe a container that mounts something of the host at /data."""
    detail = {"name": "v", "source": str(source), "format": "vfs"}
    volumes = [{"volume": source.name, "path": "/data", "detail": detail, **ref}]
    return {"name": name, "image": host.image, "command": ["sleep", "1000"], "volumes": volumes}


def add(host: Host, pod: str, name: str, source: Path) -> None:
    """Add such a container to a running pod, and start it."""
    host.daemon.json("POST", "/container/create", podId=pod, body=joining(host, name, source), status=201)
    host.daemon.json("POST", "/container/start", container=name)


def refused(host: Host, pod: str, source: Path) -> bytes:
    """Return why a running pod is not given such a container."""
    code, _, said = host.daemon.request("POST", "/container/create", podId=pod, body=joining(host, "no", source))
    assert code == 501, said
    assert b"start it again" in said
    return said


def test_a_user_of_its_own_opens_only_what_is_its_vms(own: Host, tmp_path: Path) -> None:
    root = own.daemon.root
    command = ("sh", "-c", "echo secret > /f; sync; sleep 1000")
    own.pod("one", command[-1])
    own.ok("run", "-d", "--name", "two", "-v", f"{tmp_path}:/data", own.image, *command)
    one, two = qemu_of(own, "one"), qemu_of(own, "two")
    uids = {uid_of(own, "one"), uid_of(own, "two")}
    assert uids < set(UIDS[65536::65536])
    assert len(uids) == 2
    sockets = [Path(path) for path in own.left()["sockets"]]
    pods = {name: root / "pods" / name for name in ("one", "two")}
    (tmp_path / "foreign").write_text("x")
    (tmp_path / "foreign").chmod(0o600)
    own.ok("exec", "two", "sh", "-c", "echo x > /data/made; chmod 600 /data/made; chown 999:998 /data/made")
    for mine, other in (("one", "two"), ("two", "one")):
        pid = {"one": one, "two": two}[mine]
        assert reads(pid, pods[mine] / "scratch.img")
        logs = [*pods[other].glob("*.log"), *(path / "console.log" for path in sockets)]
        assert len(logs) > 2
        assert [str(path) for path in (*logs, pods[other] / "scratch.img", pods[other] / "pod.json",
                root / "hyper.db", Path("/etc/shadow"), *tmp_path.iterdir()) if reads(pid, path)] == []  # fmt: skip
    for directory in (root / "pods", pods["one"], root / "images" / "layers", root / "libvirt" / "lib" / "qemu"):
        assert tried(one, "ls", directory).returncode != 0, f"names in {directory} can be seen"
        assert tried(one, "touch", directory / "new").returncode != 0
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    monitors = list((root / "libvirt/lib/qemu").glob("domain-*-vm-*/monitor.sock"))
    foreign = [path for path in monitors if str(path.parent.stat().st_uid) != status(one)["Uid"][0]]
    assert (len(monitors), len(foreign)) == (2, 1)
    for path in (
        own.daemon.socket,
        *foreign,
        *(path / name for path in sockets for name in ("control.sock", "stream.sock")),
    ):
        assert path.is_socket()
        done = tried(one, "/usr/bin/python3", "-c", connect, path)
        assert b"PermissionError" in done.stderr, (path, done)
    # The other's process is out of reach, too, and so are its namespace and its memory.
    assert not reads(one, Path(f"/proc/{two}/environ"))
    assert tried(one, "kill", "-0", two).returncode != 0
    assert tried(one, "nsenter", f"--user=/proc/{two}/ns/user", "true").returncode != 0
    assert tried(one, "nsenter", f"--mount=/proc/{two}/ns/mnt", "true").returncode != 0


def test_clones_cannot_write_to_their_template(own: Host, tmp_path: Path) -> None:
    own.pod("first", "sleep 1000")
    until(lambda: list((tmp_path / "t").glob("*/state")) and not list((tmp_path / "t").glob(".part-*")))
    own.pod("clone", "sleep 1000")
    assert own.daemon.log().count("template=true") == 1
    uid_of(own, "clone")
    pid = qemu_of(own, "clone")
    (memory,) = (number for number, path in descriptors(pid) if "memfd:template" in path)
    with Path(f"/proc/{pid}/fd/{memory}").open("rb+", buffering=0) as file, pytest.raises(PermissionError):
        file.write(b"x")
    files = [path for _, path in descriptors(pid)]
    assert not any(str(tmp_path) in path for path in files)


def test_a_disk_goes_from_user_to_user(own: Host) -> None:
    own.pod("moves", "cat /f; echo kept > /f; sync; sleep 1000")
    disk = own.daemon.root / "pods" / "moves" / "scratch.img"
    first, groups = uid_of(own, "moves"), limited(own, "moves")
    assert disk.stat().st_uid == first
    own.ok("stop", "moves")
    until(lambda: not any(group.exists() for group in groups))
    assert (disk.stat().st_uid, disk.stat().st_mode & 0o777) == (0, 0o600)
    assert own.ok("commit", "moves", "taken")  # a VM reads the disk meanwhile
    assert disk.stat().st_uid == 0
    own.ok("start", "moves")
    second = uid_of(own, "moves")
    assert second != first
    assert disk.stat().st_uid == second
    until(lambda: "kept" in own.ok("logs", "moves"), 20)
    own.daemon.restart(kill=True)
    assert uid_of(own, "moves") == second
    groups = limited(own, "moves")
    own.pod("another", "sleep 1000")
    assert uid_of(own, "another") != second
    os.kill(int(qemu_of(own, "moves")), 9)
    until(lambda: disk.stat().st_uid == 0 and not any(group.exists() for group in groups), 20)


def test_files_of_the_host_have_their_owners_on_both_sides(own: Host, tmp_path: Path) -> None:
    data, fixed, late = (tmp_path / name for name in ("data", "fixed", "late"))
    for directory in (data, fixed, late, data / "sub"):
        directory.mkdir()
        (directory / "f").write_text("host\n")
        os.chown(directory / "f", 1000, 1001)
        (directory / "f").chmod(0o600)
    own.ok("run", "-d", "--name", "owners", "-v", f"{data}:/data", "-v", f"{fixed}:/fixed:ro", "-v", "named:/named",
           own.image, "sleep", "1000")  # fmt: skip
    uid = uid_of(own, "owners")

    def inside(container: str, script: str) -> str:
        return own.ok("exec", container, "sh", "-c", script)

    assert inside("owners", "stat -c %u:%g:%a /data/f /data/sub/f /fixed/f; cat /data/sub/f") == (
        "1000:1001:600\n" * 3 + "host\n"
    )
    inside("owners", "cd /data; echo x > new; chown 999:998 new; chmod 4751 new; mkfifo p || true; chown 65535 sub/f")
    made = (data / "new").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (999, 998, 0o4751)
    assert (data / "sub" / "f").stat().st_uid == 65535
    inside("owners", "echo u:x:1234:1234::/:/bin/sh > /etc/passwd; echo > /data/open; chmod 777 /data")
    inside("owners", "su u -c 'echo u > /data/byuser'")
    assert ((data / "byuser").stat().st_uid, (data / "open").stat().st_uid) == (1234, 0)
    assert b"Permission denied" in own.ctl("exec", "owners", "su", "u", "-c", "cat /data/f").stderr
    assert b"Read-only" in own.ctl("exec", "owners", "sh", "-c", "echo z > /fixed/f").stderr
    inside("owners", "echo kept > /named/f; chown 77 /named/f")
    # A pod that had none is given some, by a daemon that did not start it.
    own.pod("plain", "sleep 1000")
    own.daemon.restart(kill=True)
    add(own, "plain", "plain-2", late)
    add(own, "plain", "plain-3", data / "sub" / "f")
    assert inside("plain-2", "stat -c %u:%g /data/f; echo y > /data/g; chown 7:8 /data/g; cat /data/f") == (
        "1000:1001\nhost\n"
    )
    assert ((late / "g").stat().st_uid, (late / "g").stat().st_gid) == (7, 8)
    assert inside("plain-3", "cat /data") == "host\n"
    assert uid_of(own, "plain") != uid == uid_of(own, "owners")
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    for name in ("plain-2", "plain-3"):
        own.daemon.json("POST", "/container/remove", container=name, status=204)
    assert own.ok("exec", "-m", "plain", "/sbin/busybox", "ls", "/run/shared") == ""
    own.ok("rm", "owners")
    assert [file.stat().st_uid for file in (own.daemon.root / "volumes").glob("named/*/f")] == [77]
    own.ok("volume", "rm", "named")


def test_what_cannot_be_mapped_needs_a_process_of_the_daemons_user(own: Host, tmp_path: Path) -> None:
    tall = tmp_path / "tall"
    tall.mkdir()
    os.chown(tall, 70000, 0)
    own.ok("run", "-d", "--name", "rooted", "-v", f"{tall}:/data", own.image, "sleep", "1000")
    assert rooted(own, "rooted")
    assert own.ok("exec", "rooted", "stat", "-c", "%u", "/data") == "70000\n"
    add(own, "rooted", "rooted-2", tmp_path)  # it can be given more, as ever
    own.pod("mapped", "sleep 1000")
    uid_of(own, "mapped")
    for source, reason in ((tall, b"70000"), (Path("/sys/kernel"), b"sysfs")):
        assert reason in refused(own, "mapped", source)
    own.ok("stop", "mapped")
    body = joining(own, "mapped-2", Path("/sys/kernel"), readOnly=True)
    own.daemon.json("POST", "/container/create", podId="mapped", body=body, status=201)
    own.ok("start", "mapped")
    assert rooted(own, "mapped")


def test_all_kinds_of_pods_take_vms_of_the_pool(registry: RegistryServer, tmp_path: Path) -> None:
    with HyperdLauncher(driver="libvirt", guest=GUEST, pool=1) as daemon:
        host = begun(daemon, registry)
        kernel = tuple(map(int, re.findall(r"[0-9]+", os.uname().release)[:2]))
        pods = ("ready", "shares", "empty")[: 3 if kernel >= (6, 3) else 2]  # before, ids of tmpfs cannot be mapped
        shm = Path(tempfile.mkdtemp(dir="/dev/shm"))
        try:
            for number, pod in enumerate(pods, start=1):
                until(lambda number=number: daemon.log().count("event=vm.pooled") == number, 60)
                (pid,) = set(host.left()["qemu"]) - {qemu_of(host, old) for old in pods[: number - 1]}
                if pod == "ready":
                    host.ok("run", "-d", "--name", pod, host.image, "sleep", "1000")
                elif pod == "shares":
                    host.ok("run", "-d", "--name", pod, "-v", f"{tmp_path}:/data", host.image, "sleep", "1000")
                    host.ok("exec", pod, "sh", "-c", "echo x > /data/f; chown 999 /data/f")
                else:  # what a sandbox of Kubernetes is
                    host.daemon.json("POST", "/pod/create", body={"id": pod, "containers": []}, status=201)
                    host.daemon.json("POST", "/pod/start", podId=pod)
                    (shm / "secret").write_text("s\n")
                    add(host, pod, "joins", shm)
                    assert host.ok("exec", "joins", "cat", "/data/secret") == "s\n"
                assert qemu_of(host, pod) == pid
                uid = uid_of(host, pod)
                disk = daemon.root / "pods" / pod / "scratch.img"
                assert disk.stat().st_uid == uid
            assert (tmp_path / "f").stat().st_uid == 999
            for pod in pods:
                host.ok("rm", pod)
            assert not disk.exists()
            daemon.stop()
        finally:
            shutil.rmtree(shm)


def test_users_can_be_switched_off_and_vms_that_run_keep_theirs(registry: RegistryServer, tmp_path: Path) -> None:
    registry.push("more", "latest", [Layer(busybox_tar()), Layer(layer_tar([member("more", b"more\n")]))])
    with HyperdLauncher(driver="libvirt", guest=GUEST) as daemon:
        host = begun(daemon, registry)
        host.pod("before", "sleep 1000")
        uid = uid_of(host, "before")
        text = daemon.config_path.read_text()
        daemon.config_path.write_text(text.replace("[hypervisor]", '[hypervisor]\nuid_range = ""'))
        daemon.restart()
        host.pod("root", "sleep 1000")
        assert rooted(host, "root")
        daemon.config_path.write_text(text.replace("[hypervisor]", '[hypervisor]\nuid_range = "1000000-1131000"'))
        daemon.restart()
        host.pod("single", "sleep 1000")  # too few ids for namespaces
        found = status(qemu_of(host, "single"))
        assert int(found["Uid"][0]) in range(1_000_000, 1_131_001)
        assert (found["CapEff"], found["Gid"][0]) == (["0" * 16], "1000000")
        assert b"a user of its own" in refused(host, "single", tmp_path)
        host.ok("run", "-d", "--name", "shares", "-v", f"{tmp_path}:/data", host.image, "sleep", "1000")
        assert rooted(host, "shares")
        host.ok("rm", "shares", "single")
        # One more layer for each VM that runs, whoever it is.
        host.ok("pull", f"{registry.host}/more")
        for pod in ("before", "root"):
            body = {"name": f"{pod}-2", "image": f"{registry.host}/more", "command": ["cat", "/more"]}
            host.daemon.json("POST", "/container/create", podId=pod, body=body, status=201)
            host.daemon.json("POST", "/container/start", container=f"{pod}-2")
            assert host.daemon.json("GET", "/exitcode", container=f"{pod}-2") == 0
        assert uid_of(host, "before") == uid
        daemon.config_path.write_text(text)
        daemon.restart()
        assert (uid_of(host, "before"), rooted(host, "root")) == (uid, True)
        for pod in ("before", "root"):
            host.ok("rm", pod)


def test_a_root_that_others_cannot_enter_is_told_of(registry: RegistryServer) -> None:
    with HyperdLauncher(driver="libvirt", guest=GUEST) as daemon:
        host = begun(daemon, registry)
        daemon.directory.chmod(0o700)
        host.pod("closed", "sleep 1000")
        assert rooted(host, "closed")
        assert "vm.no_users_of_their_own" in daemon.log()
        host.ok("rm", "closed")
