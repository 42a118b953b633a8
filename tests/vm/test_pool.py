"""The pool of booted, paused VMs: pods take from it, it refills and survives, and nothing is shared between pods."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.audit import Rows
from tests.support.daemon import HyperdLauncher
from tests.support.netns import ip
from tests.support.ports import free_port
from tests.support.registry import Layer, RegistryServer, busybox_tar, layer_tar, member
from tests.support.until import until
from tests.vm import test_networks as networks
from tests.vm.conftest import GUEST, HYPERCTL, Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

assert HYPERCTL


@pytest.fixture
def pooled(registry):
    """A daemon that keeps one VM ready."""
    daemon = HyperdLauncher(driver="libvirt", guest=GUEST, pool=1)
    with daemon:
        daemon.start()
        host = Host(daemon, f"{registry.host}/busybox")
        host.ok("pull", host.image)
        until(lambda: ready(host))
        yield host
        for row in daemon.json("GET", "/list", item="pod")["podData"]:
            host.ctl("rm", row.split(":")[0])
        daemon.stop()
        assert host_left(host) == []  # a clean end leaves no VM of the pool behind


def host_left(host: Host) -> list[str]:
    found = subprocess.run(["pgrep", "-f", f"qemu-system.*{host.daemon.root}/"], capture_output=True, check=False)
    return found.stdout.decode().split()


def ready(host: Host) -> bool:
    """A VM waits: its QEMU runs and its CPUs are stopped, so it uses no time."""
    pids = host_left(host)
    return len(pids) == 1 and "vm.pooled" in host.daemon.log()


def two_lines(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[:2] if len(lines) >= 2 else []


def boots(host: Host) -> int:
    return host.daemon.log().count("event=vm.booted")


def test_pods_take_the_ready_vm_and_share_nothing(pooled: Host):
    seen = []
    for number in range(2):
        before = boots(pooled)
        name = pooled.pod(
            f"p{number}", "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | hexdump; sleep 1000"
        )
        assert boots(pooled) == before, "the pod waited for a kernel"
        lines = until(lambda name=name: two_lines(pooled.ok("logs", name)))
        mac = pooled.ok("exec", name, "cat", "/sys/class/net/eth0/address").strip()
        asked = time.time()
        clock = int(pooled.ok("exec", name, "date", "+%s"))
        assert asked - 5 < clock < time.time() + 5
        assert pooled.ok("exec", name, "hostname").strip() == name
        seen.append((*lines, mac, pooled.address(name)))
        refilled(pooled)
    for one, two in zip(*seen, strict=True):
        assert one != two
    pooled.ok("rm", "p0", "p1")


def waiting(host: Host) -> str:
    """Id of the VM that waits, empty when there is none."""
    with contextlib.closing(sqlite3.connect(host.daemon.root / "hyper.db")) as database:
        found = database.execute("SELECT id FROM vms WHERE state = 'pooled'").fetchall()
    return found[0][0] if found else ""


def refilled(host: Host, old: str = "") -> None:
    """Wait until a VM is ready for the next pod; the old one does not count."""
    until(lambda: waiting(host) not in {"", old})


def opened(host: Host, pod: str) -> set[str]:
    """Files that the QEMU of a pod has open."""
    vm = host.daemon.json("GET", "/pod/info", podName=pod)["vm"]
    pid = subprocess.check_output(["pgrep", "-f", f"qemu-system.*guest={vm},.*{host.daemon.root}/"]).split()[0]
    found = set()
    for link in Path(f"/proc/{pid.decode()}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(link.readlink()))
    return {path for path in found if str(host.daemon.root) in path}


def test_a_pod_of_another_image_sees_nothing_of_the_expected_one(pooled: Host, registry: RegistryServer):
    pooled.pod("first", "sleep 1000")  # the next VM is made ready for this image
    refilled(pooled)
    registry.push("other", "latest", [Layer(busybox_tar()), Layer(layer_tar([member("only/here", b"other\n")]))])
    other = f"{registry.host}/other"
    pooled.ok("pull", other)
    before = boots(pooled)
    pooled.pod("same", "sleep 1000")
    assert boots(pooled) == before
    mine = {path for path in opened(pooled, "same") if "/images/" in path}
    refilled(pooled)
    before = boots(pooled)
    pooled.ok("run", "-d", "--name", "second", other, "sh", "-c", "cat /only/here; sleep 1000")
    assert boots(pooled) == before
    until(lambda: pooled.ok("logs", "second") == "other\n")
    others = {path for path in opened(pooled, "second") if "/images/" in path}
    assert len(mine) == 1
    assert others >= mine  # the common layer
    refilled(pooled)  # ready for the other image now, of which a layer is not the next pod's
    before = boots(pooled)
    pooled.pod("third", "ls /only 2>&1; sleep 1000")
    assert boots(pooled) == before
    assert {path for path in opened(pooled, "third") if "/images/" in path} == mine
    until(lambda: "No such file" in pooled.ok("logs", "third"))
    pooled.ok("rm", "first", "same", "second", "third")


def test_a_ready_vm_answers_on_ports_that_are_chosen_when_it_is_taken(pooled: Host):
    daemon = pooled.daemon
    daemon.json("POST", "/pod/create", status=201, body={"id": "later"})
    script = "while true; do echo heard | nc -l -p 80; done"
    port = {"containerPort": "80", "hostPort": "10300-10310", "protocol": "tcp"}
    container = {"name": "c", "image": pooled.image, "command": ["sh", "-c", script], "ports": [port]}
    daemon.json("POST", "/container/create", podId="later", status=201, body=container)
    before = boots(pooled)
    pooled.ok("start", "later")
    assert boots(pooled) == before, "the pod waited for a kernel"
    shown = pooled.ok("ports", "ls", "--format", "{{.HostPort}}:{{.ContainerPort}}", "later")
    chosen = int(shown.removesuffix(":80\n"))
    assert 10300 <= chosen <= 10310
    until(lambda: heard(chosen))
    daemon.restart(kill=True)
    assert pooled.ok("ports", "ls", "--format", "{{.HostPort}}:{{.ContainerPort}}", "later") == shown
    until(lambda: heard(chosen))
    pooled.ok("rm", "later")


def heard(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        return client.recv(16) == b"heard\n"
    return False


def test_ready_vms_join_networks(pooled: Host):
    """As pods with a VM of their own: names, isolation from others, networks that come and go, a daemon that dies."""
    for name in ("front", "back"):
        networks.make(pooled, name)
    port = free_port()
    told = [{"containerPort": "80", "hostPort": str(port)}]
    for pod, spec in (
        ("web", {"networks": [{"network": "front"}, {"network": "back"}], "portmappings": told}),
        ("db", {"networks": [{"network": "back", "mac": "52:54:00:61:0b:01"}]}),
        ("stranger", {}),
    ):
        refilled(pooled)
        ready_one = waiting(pooled)
        networks.start(pooled, pod, **spec)
        assert pooled.daemon.json("GET", "/pod/info", podName=pod)["vm"] == ready_one
    assert (networks.page(pooled, "web", "db"), networks.page(pooled, "db", "web")) == ("db", "web")
    assert "52:54:00:61:0b:01" in networks.inside(pooled, "db", "ip link show eth0")
    until(lambda: networks.served(port) == b"web\n")
    address = pooled.address("db")
    refused = f"timeout 3 wget -q -O - http://{address}/ || echo refused"
    assert networks.inside(pooled, "stranger", refused).startswith("refused")
    pooled.daemon.restart(kill=True)
    # Neither the address of the network that it was prepared for is its own any more, nor that of another.
    spare = pooled.address("stranger").rpartition(".")[0] + ".77"
    busybox = ("exec", "-m", "db", "/sbin/busybox")
    pooled.ok(*busybox, "ip", "addr", "add", f"{spare}/24", "dev", "eth0")
    heard = pooled.ok(*busybox, "ping", "-c1", "-W2", "-I", spare, pooled.address("stranger"))
    assert " 0 packets received" in heard
    networks.change(pooled, "disconnect", "web", "front")
    assert "eth0" not in networks.inside(pooled, "web", "ip link")
    networks.change(pooled, "connect", "web", "bridge")
    networks.change(pooled, "connect", "stranger", "back")
    assert (networks.page(pooled, "stranger", "web"), networks.page(pooled, "web", "db")) == ("web", "db")
    until(lambda: networks.served(port) == b"web\n")
    # The tap of such a NIC is made again like that of any other.
    (tap,) = [row["tap"] for row in Rows(pooled.daemon.root / "hyper.db")["addresses"] if row["mac"].endswith("0b:01")]
    ip("link", "del", tap)
    until(lambda: networks.page(pooled, "stranger", "db") == "db")
    pooled.ok("rm", "web", "db", "stranger")
    assert sorted(pooled.daemon.json("POST", "/network/prune")) == ["back", "front"]


def test_a_ready_vm_whose_image_was_removed_is_replaced(pooled: Host, registry: RegistryServer):
    registry.push("brief", "latest", [Layer(layer_tar([member("brief", b"x")])), Layer(busybox_tar())])
    image = f"{registry.host}/brief"
    pooled.ok("pull", image)
    pooled.ok("run", "-d", "--name", "brief", image, "sleep", "1000")
    refilled(pooled)
    old = waiting(pooled)
    pooled.ok("rm", "brief")
    pooled.ok("rmi", image)
    refilled(pooled, old)
    assert pooled.ok("run", "--rm", pooled.image, "echo", "well") == "well\n"


def test_a_pod_keeps_its_disk_and_no_other_gets_it(pooled: Host):
    pooled.ok("run", "-d", "--name", "keeps", pooled.image, "sh", "-c", "cat /note; sleep 1000")
    pooled.ok("exec", "keeps", "sh", "-c", "echo mine > /note")
    pooled.ok("stop", "keeps")
    refilled(pooled)
    before = boots(pooled)
    pooled.ok("start", "keeps")
    assert boots(pooled) == before
    until(lambda: "mine\n" in pooled.ok("logs", "keeps"))
    refilled(pooled)
    name = pooled.pod("other", "cat /note 2>&1; sleep 1000")
    until(lambda: "No such file" in pooled.ok("logs", name))
    pooled.daemon.restart(kill=True)
    assert pooled.ok("exec", "keeps", "cat", "/note") == "mine\n"
    pooled.ok("rm", "keeps", "other")
    until(lambda: not list((pooled.daemon.root / "pods").iterdir()))
    assert len(list((pooled.daemon.root / "pool").iterdir())) <= 1


def test_a_ready_vm_that_does_not_answer_is_never_given_away(pooled: Host):
    (pid,) = host_left(pooled)
    os.kill(int(pid), signal.SIGSTOP)
    before = boots(pooled)
    name = pooled.pod("sound", "sleep 1000")
    assert boots(pooled) > before
    assert pooled.ok("exec", name, "echo", "well") == "well\n"
    until(lambda: not Path(f"/proc/{pid}").exists())
    pooled.ok("rm", name)


def test_a_pod_of_another_size_boots_its_own(pooled: Host):
    before = boots(pooled)
    name = pooled.pod("large", "sleep 1000", options=["--memory", "160"])
    assert boots(pooled) == before + 1
    pooled.ok("rm", name)


def test_the_ready_vm_is_not_listed_and_outlives_the_daemon(pooled: Host):
    assert pooled.daemon.json("GET", "/list", item="vm")["vmData"] == []
    pids = host_left(pooled)
    pooled.daemon.restart(kill=True)
    assert host_left(pooled) == pids
    before = boots(pooled)
    name = pooled.pod("after", "sleep 1000")
    assert boots(pooled) == before
    assert pooled.ok("exec", name, "echo", "well") == "well\n"
    pooled.ok("rm", name)


def test_a_ready_vm_that_has_died_is_replaced(pooled: Host):
    (pid,) = host_left(pooled)
    os.kill(int(pid), signal.SIGKILL)
    name = pooled.pod("anyway", "sleep 1000")
    assert pooled.ok("exec", name, "echo", "well") == "well\n"
    pooled.ok("rm", name)
    until(lambda: len(host_left(pooled)) == 1 and not Path(f"/proc/{pid}").exists())
