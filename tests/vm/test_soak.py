"""Pods that come and go leave nothing behind: files, descriptors, threads, addresses and rules are counted exactly."""

from __future__ import annotations

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.footprint import settled
from tests.vm.conftest import GUEST, Host

pytestmark = [pytest.mark.vm, pytest.mark.registry, pytest.mark.timeout(900)]

ROUNDS = 4  # what each pod leaves is counted exactly; scripts/soak makes hundreds


@pytest.fixture(params=[0, 1], ids=["cold", "pooled"])
def hosted(request, registry):
    """A daemon of the test's own, and how many VMs it keeps ready."""
    daemon = HyperdLauncher(driver="libvirt", guest=GUEST, pool=request.param)
    with daemon:
        daemon.start()
        host = Host(daemon, f"{registry.host}/busybox")
        host.ok("pull", host.image)
        yield host


def cycle(host: Host, number: int) -> None:
    """Create, start, use and remove a pod; every other one is stopped first and has a published port."""
    name, daemon = f"soak-{number}", host.daemon
    spec = {"id": name, "containers": [{"name": f"{name}-c", "image": host.image, "command": ["sleep", "1000"]}]}
    if number % 2:
        spec["portmappings"] = [{"containerPort": "80", "protocol": "tcp"}]
    daemon.json("POST", "/pod/create", body=spec)
    daemon.json("POST", "/pod/start", podId=name)
    assert host.ok("exec", f"{name}-c", "echo", name) == f"{name}\n"
    if number % 2:
        daemon.json("POST", "/pod/stop", podId=name)
    daemon.json("DELETE", "/pod", podId=name)


def test_pods_that_come_and_go_leave_nothing(hosted: Host) -> None:
    daemon = hosted.daemon
    for number in range(4):  # threads and connections that are kept are made
        cycle(hosted, number)
    before = settled(daemon)
    assert before.qemu == daemon.pool
    for number in range(4, 4 + ROUNDS):
        cycle(hosted, number)
    after = settled(daemon)
    assert after.grown(before) == {}, (before, after)
    assert (after.ports, after.pods, after.containers, after.execs, after.vms) == (0, 0, 0, 0, daemon.pool)
