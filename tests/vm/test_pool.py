"""The pool of booted, paused VMs: pods take from it, it refills and survives, and nothing is shared between pods."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.vm.conftest import GUEST, HYPERCTL, Host
from tests.vm.test_pods import until

pytestmark = [pytest.mark.vm, pytest.mark.registry, pytest.mark.timeout(180)]

assert HYPERCTL


@pytest.fixture
def pooled(registry):
    """A daemon that keeps one VM ready."""
    daemon = HyperdLauncher(driver="libvirt", guest=GUEST, pool=1)
    with daemon:
        daemon.start()
        host = Host(daemon, f"{registry.host}/busybox")
        host.ok("pull", host.image)
        until(lambda: ready(host), 60)
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
        clock = int(pooled.ok("exec", name, "date", "+%s"))
        assert abs(clock - time.time()) < 5
        assert pooled.ok("exec", name, "hostname").strip() == name
        seen.append((*lines, mac, pooled.address(name)))
        until(lambda n=number: boots(pooled) >= n + 2, 60)
        time.sleep(0.5)
    for one, two in zip(*seen, strict=True):
        assert one != two
    pooled.ok("rm", "p0", "p1")


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
    until(lambda: len(host_left(pooled)) == 1 and not Path(f"/proc/{pid}").exists(), 60)
