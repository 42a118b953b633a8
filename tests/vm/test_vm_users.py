"""Each VM's QEMU is a process of a user of its own, who can open what is its VM's and nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.descriptors import descriptors
from tests.support.registry import Layer, RegistryServer, busybox_tar, layer_tar, member
from tests.support.until import until
from tests.vm.conftest import GUEST, Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

UIDS = range(1_879_048_192, 1_879_113_728)  # the default of hypervisor.uid_range


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
    disk = f"{host.daemon.root}/pods/{pod}/scratch.img"
    (pid,) = (pid for pid in host.left()["qemu"] if disk in Path(f"/proc/{pid}/cmdline").read_text())
    return pid


def uid_of(host: Host, pod: str) -> int:
    """Check what the process of a pod's VM may do, and give its user."""
    found = status(qemu_of(host, pod))
    uid = int(found["Uid"][0])
    assert found["Uid"] == [str(uid)] * 4
    assert len(set(found["Gid"])) == 1
    assert found["Gid"][0] not in {"0", str(uid)}
    assert found["Groups"] == found["Gid"][:1]
    assert {name: int(found[name][0], 16) for name in found if name.startswith("Cap")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )
    assert (found["NoNewPrivs"], found["Seccomp"]) == (["1"], ["2"])
    return uid


def tried(uid: int, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Do something as a VM's user."""
    who = ("setpriv", f"--reuid={uid}", f"--regid={UIDS.start}", "--clear-groups", "--no-new-privs")
    return subprocess.run([*who, *map(str, words)], capture_output=True, check=False)


def reads(uid: int, path: Path) -> bool:
    assert path.exists(), path
    return tried(uid, "head", "-c1", path).returncode == 0


def test_a_user_of_its_own_opens_only_what_is_its_vms(own: Host) -> None:
    root = own.daemon.root
    for name in ("one", "two"):
        own.pod(name, "echo secret > /f; sync; sleep 1000")
    one, two = uid_of(own, "one"), uid_of(own, "two")
    assert {one, two} < set(UIDS) - {UIDS.start}
    assert one != two
    (rundir, other) = (Path(path) for path in own.left()["sockets"])
    pods = {name: root / "pods" / name for name in ("one", "two")}
    logs = list(pods["two"].glob("*.log"))
    assert logs
    assert reads(one, pods["one"] / "scratch.img")
    assert [str(path) for path in (*logs, pods["two"] / "scratch.img", pods["two"] / "pod.json", root / "hyper.db",
            Path("/etc/shadow"), rundir / "console.log", other / "console.log") if reads(one, path)] == []  # fmt: skip
    for directory in (root / "pods", pods["one"], root / "images" / "layers", root / "libvirt" / "lib" / "qemu"):
        assert tried(one, "ls", directory).returncode != 0, f"names in {directory} can be seen"
        assert tried(one, "touch", directory / "new").returncode != 0
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    monitors = list((root / "libvirt/lib/qemu").glob("domain-*-vm-*/monitor.sock"))
    foreign = [path for path in monitors if path.parent.stat().st_uid != one]
    assert (len(monitors), len(foreign)) == (2, 1)
    for path in (own.daemon.socket, *foreign, rundir / "control.sock", other / "control.sock", other / "stream.sock"):
        assert path.is_socket()
        done = tried(one, "/usr/bin/python3", "-c", connect, path)
        assert b"PermissionError" in done.stderr, (path, done)
    # The other's process is out of reach, too.
    assert not reads(one, Path(f"/proc/{qemu_of(own, 'two')}/environ"))
    assert tried(one, "kill", "-0", qemu_of(own, "two")).returncode != 0


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
    first = uid_of(own, "moves")
    assert disk.stat().st_uid == first
    own.ok("stop", "moves")
    assert (disk.stat().st_uid, disk.stat().st_mode & 0o777) == (0, 0o600)
    assert own.ok("commit", "moves", "taken")  # a VM reads the disk meanwhile
    assert disk.stat().st_uid == 0
    own.ok("start", "moves")
    second = uid_of(own, "moves")
    assert second != first
    assert disk.stat().st_uid == second
    assert "kept" in own.ok("logs", "moves")
    own.daemon.restart(kill=True)
    assert uid_of(own, "moves") == second
    own.pod("another", "sleep 1000")
    assert uid_of(own, "another") != second
    os.kill(int(qemu_of(own, "moves")), 9)
    until(lambda: disk.stat().st_uid == 0, 20)


def test_a_pod_with_files_of_the_host_has_a_process_of_the_daemons_user(own: Host, tmp_path: Path) -> None:
    own.ok("run", "-d", "--name", "rooted", "-v", f"{tmp_path}:/data", own.image, "sleep", "1000")
    found = status(qemu_of(own, "rooted"))
    assert (found["Uid"][0], found["CapEff"]) == ("0", ["000000000000001b"])
    own.ok("run", "-d", "--name", "named", "-v", "named:/data", own.image, "sleep", "1000")
    assert status(qemu_of(own, "named"))["Uid"][0] == "0"
    own.ok("rm", "named")
    own.ok("volume", "rm", "named")


def test_a_vm_of_the_pool_has_a_user_and_brings_its_disk(registry: RegistryServer, tmp_path: Path) -> None:
    with HyperdLauncher(driver="libvirt", guest=GUEST, pool=1) as daemon:
        host = begun(daemon, registry)
        until(lambda: "event=vm.pooled" in daemon.log())
        (pid,) = host.left()["qemu"]
        host.ok("run", "-d", "--name", "ready", host.image, "sleep", "1000")
        assert pid in host.left()["qemu"]
        uid = int(status(pid)["Uid"][0])
        assert uid in UIDS
        disk = daemon.root / "pods" / "ready" / "scratch.img"
        assert disk.stat().st_uid == uid
        # A pod with files of the host cannot use one.
        until(lambda: daemon.log().count("event=vm.pooled") == 2, 60)
        host.ok("run", "-d", "--name", "rooted", "-v", f"{tmp_path}:/data", host.image, "sleep", "1000")
        assert status(qemu_of(host, "rooted"))["Uid"][0] == "0"
        host.ok("rm", "ready")
        assert not disk.exists()
        host.ok("rm", "rooted")
        daemon.stop()


def test_users_can_be_switched_off_and_vms_that_run_keep_theirs(registry: RegistryServer) -> None:
    registry.push("more", "latest", [Layer(busybox_tar()), Layer(layer_tar([member("more", b"more\n")]))])
    with HyperdLauncher(driver="libvirt", guest=GUEST) as daemon:
        host = begun(daemon, registry)
        host.pod("before", "sleep 1000")
        uid = uid_of(host, "before")
        text = daemon.config_path.read_text()
        daemon.config_path.write_text(text.replace("[hypervisor]", '[hypervisor]\nuid_range = ""'))
        daemon.restart()
        host.pod("root", "sleep 1000")
        assert status(qemu_of(host, "root"))["Uid"][0] == "0"
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
        assert (uid_of(host, "before"), status(qemu_of(host, "root"))["Uid"][0]) == (uid, "0")
        for pod in ("before", "root"):
            host.ok("rm", pod)


def test_a_root_that_others_cannot_enter_is_told_of(registry: RegistryServer) -> None:
    with HyperdLauncher(driver="libvirt", guest=GUEST) as daemon:
        host = begun(daemon, registry)
        daemon.directory.chmod(0o700)
        host.pod("closed", "sleep 1000")
        assert status(qemu_of(host, "closed"))["Uid"][0] == "0"
        assert "vm.no_users_of_their_own" in daemon.log()
        host.ok("rm", "closed")
