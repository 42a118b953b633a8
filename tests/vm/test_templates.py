"""Clones of a VM that has booted: each is a VM of its own; what is wrong with a template is no pod's problem."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.registry import RegistryServer, layer_tar, member
from tests.support.until import until
from tests.vm.conftest import GUEST, Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

# What no two VMs may share, and the clock.
IDENTITY = """
cat /sys/class/dmi/id/product_uuid /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address
head -c 16 /dev/urandom | od -An -tx8
cat /proc/sys/kernel/random/uuid
date +%s
"""


@pytest.fixture
def cloning(registry: RegistryServer, tmp_path: Path) -> Iterator[Host]:
    """A daemon that has no template yet."""
    with HyperdLauncher(driver="libvirt", guest=GUEST, templates=tmp_path / "t") as daemon:
        daemon.start()
        host = Host(daemon, f"{registry.host}/busybox")
        host.ok("pull", host.image)
        yield host
        for row in daemon.json("GET", "/list", item="pod")["podData"]:
            host.ctl("rm", row.split(":")[0])
        daemon.stop()
        assert subprocess.run(["pgrep", "-f", f"qemu-system.*{daemon.root}/"], check=False).returncode == 1


def templates(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "t").glob("[0-9a-f]*") if (path / "state").is_file()]


def made(host: Host, tmp_path: Path) -> Path:
    """Boot once, so that there is a template; give its directory."""
    host.ok("run", "--rm", host.image, "true")
    until(lambda: templates(tmp_path), 60, tell=lambda: host.daemon.log()[-3000:])
    return templates(tmp_path)[0]


def booted(host: Host, *, template: bool) -> int:
    return sum(
        f"template={str(template).lower()}" in line for line in host.daemon.log().splitlines() if "=vm.booted" in line
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of_data(path: Path) -> str:
    """Return the digest of what a sparse file has, without reading its holes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        at, end = 0, path.stat().st_size
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.update(f"{start} {at} ".encode() + os.pread(file.fileno(), at - start, start))
    return found.hexdigest()


def test_clones_share_nothing_that_tells_them_apart(cloning: Host, tmp_path: Path) -> None:
    made(cloning, tmp_path)
    assert (booted(cloning, template=False), booted(cloning, template=True)) == (1, 0)
    pods = [cloning.pod(f"clone{number}", "sleep 1000") for number in range(3)]
    assert (booted(cloning, template=False), booted(cloning, template=True)) == (1, 3)
    asked = time.time()
    shown = [cloning.ok("exec", pod, "sh", "-c", IDENTITY).split() for pod in pods]
    for number, values in enumerate(zip(*shown, strict=True)):
        if number < len(shown[0]) - 1:
            assert len(set(values)) == len(pods), values
    for *_, clock in shown:
        assert asked - 15 < int(clock) < time.time() + 15
    # Each is reachable with its own address, from the others too.
    addresses = [cloning.address(pod) for pod in pods]
    assert "1 packets received" in cloning.ok("exec", pods[0], "ping", "-c1", "-W5", addresses[1])
    assert "1 packets received" in cloning.ok("exec", pods[2], "ping", "-c1", "-W5", addresses[0])


def test_what_a_clone_writes_stays_its_own(cloning: Host, tmp_path: Path) -> None:
    memory = made(cloning, tmp_path) / "memory"
    before = digest(memory)
    cloning.pod("writer", "tr '\\0' x </dev/zero | head -c 40000000 > /dev/shm/a; touch /dev/shm/done; sleep 1000")
    cloning.pod("other", "sleep 1000")
    until(lambda: cloning.ctl("exec", "writer", "test", "-e", "/dev/shm/done").returncode == 0, 60)
    assert cloning.ok("exec", "other", "ls", "/dev/shm") == ""
    own = "/sys/class/dmi/id/product_uuid"  # lies on a file of the guest
    assert b"Read-only" in cloning.ctl("exec", "writer", "sh", "-c", f"echo x >$(readlink -f {own})").stderr
    # Freed memory, too, must not come back as holes in what all share.
    cloning.ok("exec", "writer", "rm", "/dev/shm/a")
    assert digest(memory) == before
    assert booted(cloning, template=True) == 2
    assert memory.stat().st_size == 128 << 20


def test_clones_share_the_memory_that_they_do_not_change(cloning: Host, tmp_path: Path) -> None:
    made(cloning, tmp_path)
    for number in range(2):
        cloning.pod(f"small{number}", "sleep 1000")
    pids = subprocess.check_output(["pgrep", "-f", f"qemu-system.*{cloning.daemon.root}/"], text=True).split()
    assert len(pids) == 2
    for pid in pids:
        ours = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/memfd:template" in line]
        assert ours, "the guest's memory is not the template's"
        assert all(line.split()[1] == "rw-p" for line in ours)  # private: what is written is copied


def test_the_disk_that_was_mounted_in_the_template_is_the_pods_own(cloning: Host, tmp_path: Path) -> None:
    template = made(cloning, tmp_path)
    before = digest_of_data(template / "disk")
    for pod in ("one", "two"):
        cloning.pod(pod, "test -e /big || head -c 30000000 /dev/urandom > /big; sync; md5sum < /big; sleep 1000")
    assert booted(cloning, template=True) == 2
    sums = {}
    for pod in ("one", "two"):
        until(lambda pod=pod: "-" in cloning.ok("logs", pod))
        sums[pod] = cloning.ok("logs", pod).split()[0]
    assert sums["one"] != sums["two"]
    assert digest_of_data(template / "disk") == before
    cloning.ok("stop", "one")
    disk = cloning.daemon.root / "pods/one/scratch.img"
    checked = subprocess.run(["e2fsck", "-fn", str(disk)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    for _ in range(2):  # its disk is no new one any more: it boots, then there is a template for that, too
        cloning.ok("start", "one")
        assert cloning.ok("exec", "one", "md5sum", "/big").split()[0] == sums["one"]
        until(lambda: len(templates(tmp_path)) == 2, 60)
        cloning.ok("stop", "one")
    assert booted(cloning, template=True) == 3


@pytest.mark.parametrize("part", ["state", "memory"])
def test_a_template_that_is_broken_is_replaced_and_the_pod_runs(cloning: Host, tmp_path: Path, part: str) -> None:
    template = made(cloning, tmp_path)
    with (template / part).open("r+b") as file:
        file.truncate(0)
        file.truncate((128 << 20) if part == "memory" else 100_000)
    assert cloning.ok("run", "--rm", cloning.image, "echo", "runs") == "runs\n"
    log = cloning.daemon.log()
    assert "template.unfit" in log
    assert "vm.boots_instead" in log
    until(lambda: templates(tmp_path))
    assert cloning.ok("run", "--rm", cloning.image, "echo", "again") == "again\n"
    assert booted(cloning, template=True) == 1
    cloning.assert_clean()


def test_a_size_gets_its_own_template_and_a_big_one_none(cloning: Host, tmp_path: Path) -> None:
    made(cloning, tmp_path)
    run = ("run", "--rm", "--memory", "160", cloning.image, "sh", "-c", "grep MemTotal /proc/meminfo")
    first = cloning.ok(*run)
    until(lambda: len(templates(tmp_path)) == 2, 60)
    assert cloning.ok(*run) == first
    assert booted(cloning, template=True) == 1
    cloning.ok("run", "--rm", "--memory", "600", cloning.image, "true")
    cloning.ok("run", "--rm", "--memory", "600", cloning.image, "true")
    assert booted(cloning, template=True) == 1


def test_two_cpus_go_on_too(cloning: Host, tmp_path: Path) -> None:
    run = ("run", "--rm", "--cpu", "2", cloning.image, "sh", "-c", "nproc; sleep 0.2; date +%s")
    cloning.ok(*run)
    until(lambda: templates(tmp_path))
    asked = time.time()
    cpus, clock = cloning.ok(*run).split()
    assert cpus == "2"
    assert asked - 15 < int(clock) < time.time() + 15
    assert booted(cloning, template=True) == 1


def test_a_daemon_killed_while_it_makes_one_leaves_nothing(registry: RegistryServer, tmp_path: Path) -> None:
    with HyperdLauncher(driver="libvirt", guest=GUEST, templates=tmp_path / "t") as daemon:
        daemon.start()
        host = Host(daemon, f"{registry.host}/busybox")
        host.ok("pull", host.image)
        host.ok("run", "--rm", host.image, "true")
        pattern = f"qemu-system.*guest=tm-.*{tmp_path}/"
        until(lambda: subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False).returncode == 0)
        daemon.restart(kill=True)
        until(lambda: subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False).returncode == 1)
        host.ok("run", "--rm", host.image, "true")
        until(lambda: templates(tmp_path))
        assert not list((tmp_path / "t").glob(".part-*"))
        host.assert_clean()


def test_a_pod_of_a_clone_survives_the_daemon_and_the_template(cloning: Host, tmp_path: Path) -> None:
    template = made(cloning, tmp_path)
    cloning.pod("lasting", "echo here; sleep 1000")
    for file in template.iterdir():
        file.unlink()
    cloning.daemon.restart(kill=True)
    assert cloning.ok("exec", "lasting", "cat", "/etc/hostname").strip()
    assert "here" in cloning.ok("logs", "lasting")
    cloning.ok("pause", "lasting")
    cloning.ok("unpause", "lasting")
    assert cloning.ok("exec", "lasting", "echo", "well") == "well\n"


def test_templates_can_be_switched_off(registry: RegistryServer, tmp_path: Path) -> None:
    with HyperdLauncher(driver="libvirt", guest=GUEST, templates=tmp_path / "t") as daemon:
        text = daemon.config_path.read_text().replace("[hypervisor]", "[hypervisor]\ntemplates = false")
        daemon.config_path.write_text(text)
        daemon.start()
        host = Host(daemon, f"{registry.host}/busybox")
        host.ok("pull", host.image)
        host.ok("run", "--rm", host.image, "true")
        host.ok("run", "--rm", host.image, "true")
        assert booted(host, template=False) == 2
        assert not (tmp_path / "t").exists()


def test_files_of_containers_that_have_not_run(cloning: Host, tmp_path: Path) -> None:
    """The guest that shows them goes on from a template, too, in which the disk is mounted already."""
    for name in ("one", "two"):
        container = {"name": f"{name}-main", "image": cloning.image, "command": ["sleep", "1000"]}
        cloning.daemon.json("POST", "/pod/create", status=201, body={"id": name, "containers": [container]})
        path = "/container/archive?" + urlencode({"container": f"{name}-main", "path": "/etc"})
        put = cloning.daemon.request("PUT", path, body=layer_tar([member("early", b"early\n")]))
        assert put[0] == 204, put
        until(lambda: templates(tmp_path), 60, tell=lambda: cloning.daemon.log()[-3000:])
    assert booted(cloning, template=True) == 1
    cloning.ok("start", "two")
    assert cloning.ok("exec", "two", "cat", "/etc/early") == "early\n"
