"""Upgrades and ends of the daemon with real guests, as a service manager does them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.daemon import PROJECT, HyperdLauncher
from tests.support.registry import RegistryServer
from tests.support.until import until
from tests.vm.conftest import GUEST, Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]

ACTIVATE = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3);"
    "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
    "os.execv(sys.executable, [sys.executable, '-m', 'hyperd.cli', *sys.argv[2:]])"
)


class Activated(HyperdLauncher):
    """A daemon whose socket belongs to its manager, as with hyperd.socket."""

    def __init__(self) -> None:
        super().__init__(driver="libvirt", guest=GUEST)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.socket))
        self.listener.listen()

    def start(self, *options: str, wait: bool = True) -> None:
        argv = [sys.executable, "-c", ACTIVATE, str(self.listener.fileno()), "--config", str(self.config_path)]
        argv += ["--root", str(self.root), "--host", "fd://", *options]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                argv, pass_fds=[self.listener.fileno()], stdout=log, stderr=log, cwd=PROJECT, env=dict(os.environ)
            )
        if wait:
            self.wait_ready()

    def close(self, *, check: bool = True) -> None:
        self.listener.close()
        if self.process is not None:
            self.stop()
        self.socket.unlink()
        super().close(check=check)


@pytest.fixture
def activated(registry: RegistryServer) -> Iterator[Host]:
    with Activated() as daemon:
        daemon.start()
        host = Host(daemon, f"{registry.host}/busybox")
        host.ok("pull", host.image)
        yield host


def test_an_upgrade_stops_no_pod_and_refuses_no_request(activated: Host):
    host, daemon = activated, activated.daemon
    host.pod("counter", "n=0; while sleep 0.2; do n=$((n+1)); echo $n; done")
    assert daemon.stop() == 0
    assert daemon.socket.exists()
    answers: list[str] = []
    # What is asked while no daemon runs waits in the manager's socket.
    asker = threading.Thread(target=lambda: answers.append(host.ok("list", "-q")))
    asker.start()
    time.sleep(1)
    assert answers == []
    daemon.start()
    asker.join(60)
    assert answers == ["counter\n"]
    assert host.ok("exec", "counter", "echo", "alive") == "alive\n"
    until(lambda: len(host.ok("logs", "counter").split()) > 5)
    lines = host.ok("logs", "counter").split()
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    host.ok("rm", "counter")
    host.assert_clean()


@pytest.mark.parametrize("on_exit", ["leave", "stop"])
def test_what_sigterm_does_with_the_pods(registry: RegistryServer, on_exit: str):
    daemon, host = launch(registry, config=f'on_exit = "{on_exit}"\nstop_grace = 2\n')
    with daemon:
        script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done"
        host.pod("service", script)
        until(lambda: host.ok("logs", "service") == "up\n")
        assert daemon.stop() == 0
        alive = subprocess.run(["pgrep", "-f", f"qemu-system.*{daemon.root}/"], check=False, capture_output=True)
        assert bool(alive.stdout) == (on_exit == "leave")
        daemon.start()
        [row] = daemon.json("GET", "/list", item="pod")["podData"]
        if on_exit == "leave":
            assert row.endswith(":running")
            assert host.ok("exec", "service", "echo", "alive") == "alive\n"
        else:
            assert row == "service:service::failed"
            assert host.ok("logs", "service") == "up\nbye\n"
            assert daemon.json("GET", "/exitcode", container="service") == 5
        host.ok("rm", "service")
        host.assert_clean()
