"""Pods that are saved while they run go on where they were: on this host and on another daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.registry import RegistryServer
from tests.support.until import until
from tests.vm.conftest import GUEST, Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

# Counts in memory, and keeps a file that nobody has written to disk on purpose.
COUNTER = "echo kept >/root/kept; n=0; while true; do n=$((n+1)); echo $n >/dev/shm/n; echo n=$n; sleep 0.2; done"


@pytest.fixture(scope="module")
def other(registry: RegistryServer) -> Iterator[Host]:
    """A daemon with a root, a bridge and images of its own."""
    with HyperdLauncher(driver="libvirt", guest=GUEST, templates=GUEST.parent / "templates") as daemon:
        daemon.start()
        yield Host(daemon, f"{registry.host}/busybox")
        daemon.stop()


def count(host: Host, pod: str) -> int:
    """Return how far a pod has counted; 0 when it has not begun, or is just writing."""
    return int(host.ctl("exec", pod, "cat", "/dev/shm/n").stdout or 0)


def test_a_pod_goes_on_here_and_on_another_daemon(host: Host, other: Host, tmp_path: Path) -> None:
    host.pod("counts", COUNTER)
    until(lambda: count(host, "counts") > 5, 60)
    address = host.address("counts")
    host.ok("checkpoint", "counts", "--to", str(tmp_path / "a.tar"))
    before = count(host, "counts")  # it goes on
    until(lambda: count(host, "counts") > before, 60)
    until(lambda: list((host.daemon.root / "checkpoints").iterdir()) == [], 30)

    host.ok("rm", "counts")
    assert host.ok("restore", str(tmp_path / "a.tar")) == "counts\n"
    first = until(lambda: count(host, "counts"), 60)
    assert first >= 5
    until(lambda: count(host, "counts") > first, 60)
    assert host.ok("exec", "counts", "cat", "/root/kept") == "kept\n"
    assert host.address("counts") == address
    asked = time.time()
    assert asked - 5 < int(host.ok("exec", "counts", "date", "+%s")) < time.time() + 5
    until(lambda: "n=" in host.ok("logs", "counts"), 30)
    host.ok("exec", "counts", "ping", "-c1", "-W5", f"{host.daemon.subnet.rsplit('.', 1)[0]}.1")

    host.ok("checkpoint", "--stop", "counts", "--to", str(tmp_path / "b.tar"))
    before = first
    assert other.ok("restore", str(tmp_path / "b.tar")) == "counts\n"
    assert until(lambda: count(other, "counts"), 60) > before
    assert other.ok("exec", "counts", "cat", "/root/kept") == "kept\n"
    other.ok("exec", "counts", "ping", "-c1", "-W5", f"{other.daemon.subnet.rsplit('.', 1)[0]}.1")
    other.daemon.kill()
    other.daemon.start()
    again = until(lambda: count(other, "counts"), 60)
    until(lambda: count(other, "counts") > again, 60)
    other.ok("checkpoint", "counts", "--to", str(tmp_path / "c.tar"))  # QEMU opens its disks anew for that
    other.ok("stop", "counts")
    other.ok("start", "counts")
    assert other.ok("exec", "counts", "cat", "/root/kept") == "kept\n"
    other.ok("rm", "counts")
    host.ok("rm", "counts")
