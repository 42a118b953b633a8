"""The daemon is killed at each step of a pod's start: the next one leaves nothing of it in its root or on the host."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.footprint import qemu_commands, qemu_processes
from tests.support.until import until
from tests.vm.conftest import GUEST, Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry, pytest.mark.timeout(900)]

STEPS = {
    "the VM's directory": "run/vm-*",
    "libvirt's directory of the domain": "libvirt/lib/qemu/domain-*-vm-*",
    "the domain's state": "libvirt/run/qemu/vm-*.xml*",
    "QEMU": "libvirt/run/qemu/vm-*.pid",
    "the agent's socket": "run/vm-*/control.sock",
}
# SQLite's journal comes and goes; libvirt keeps what it knows of QEMU.
IGNORED = ("hyper.db", "libvirt/cache/", "libvirt/accelerator.json", "images/tmp/")


@pytest.fixture
def host(registry) -> Iterator[Host]:
    daemon, host = launch(registry)
    with daemon:
        yield host


def tree(root: Path) -> set[str]:
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {name for name in found if not name.startswith(IGNORED)}


class Killer:
    """Kills a daemon as soon as a path exists; looks as often as it can."""

    def __init__(self, daemon: HyperdLauncher, pattern: str) -> None:
        self.killed = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(daemon.root, pattern, daemon.pid))
        self._thread.start()

    def _watch(self, root: Path, pattern: str, pid: int) -> None:
        while not self._over.is_set():
            if next(root.glob(pattern), None) is not None:
                os.kill(pid, signal.SIGKILL)
                self.killed = True
                return

    def close(self) -> None:
        self._over.set()
        self._thread.join()


def kill_at(host: Host, pattern: str) -> None:
    """Start a pod and kill the daemon at a step of it; start the daemon again."""
    daemon = host.daemon
    killer = Killer(daemon, pattern)
    try:
        client = host.background("run", "-d", "--name", "victim", host.image, "sleep", "1000")
        client.communicate(timeout=90)
    finally:
        killer.close()
    assert killer.killed, f"{pattern} was never seen"
    daemon.wait_exit()
    daemon.start()


def test_nothing_is_left_of_a_start_that_was_killed(host: Host):
    host.pod("first", "sleep 1000")  # whatever a daemon makes once is there now
    host.ok("rm", "first")
    host.daemon.restart()
    until(lambda: not qemu_processes(host.daemon))
    before = tree(host.daemon.root)
    for step, pattern in STEPS.items():
        kill_at(host, pattern)
        info = host.daemon.json("GET", "/list", item="pod", pod="victim")["podData"]
        assert [row.rsplit(":", 1)[1] for row in info] in ([], ["pending"], ["failed"], ["running"]), (step, info)
        host.ctl("rm", "victim")
        until(lambda: not qemu_processes(host.daemon))
        until(lambda: tree(host.daemon.root) <= before, tell=lambda: str(tree(host.daemon.root) - before))
        host.assert_clean()
        assert "vm.process_unknown" not in host.daemon.log(), step
    host.pod("last", "echo well; sleep 1000")
    until(lambda: host.ok("logs", "last") == "well\n")
    host.ok("rm", "last")


def test_a_half_made_template_goes_at_the_next_start(registry, tmp_path: Path):
    with HyperdLauncher(driver="libvirt", guest=GUEST, templates=tmp_path / "t") as daemon:
        daemon.start()
        host = Host(daemon, f"{registry.host}/busybox")
        host.ok("pull", host.image)
        pid = daemon.pid
        client = host.background("run", "-d", "--name", "one", host.image, "sleep", "1000")
        until(lambda: list((tmp_path / "t").glob(".part-*")))
        os.kill(pid, signal.SIGKILL)
        daemon.wait_exit()
        client.communicate(timeout=90)
        daemon.start()
        assert not list((tmp_path / "t").glob(".part-*"))
        assert not list((daemon.root / "libvirt").rglob("*tm-*"))
        assert not [command for command in qemu_commands(daemon).values() if b"guest=tm-" in command]
        host.ctl("rm", "one")
        host.assert_clean()
