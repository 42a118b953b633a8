"""The Docker API of three daemons, each behind the same docker CLI: ours with real VMs, podman's, and Docker's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from benchlib.dockerwork import IMAGE
from benchlib.podman import LIMITS
from benchlib.procs import find, qemus
from benchlib.rest import at_rest
from benchlib.target import RequestFailed
from tests.conformance.docker_pair import Docker, Dockerd
from tests.support.daemon import HyperdLauncher
from tests.support.registry import busybox_tar

POOL = 3  # VMs that wait: as many as the compose project has services
START_TIMEOUT = 60.0
FILL_TIME = 6.0  # seconds at most, on a busy machine, for each VM of the pool
REST = 6.0  # seconds at most that are waited for quiet
# Debian's, where another one is installed as well: Docker's own daemon here is Debian's, too.
_POOLED = re.compile(r"event=vm\.pooled vm=(\S+)")
PROGRAM = os.environ.get("HYPERD_BENCH_DOCKER", "/usr/bin/docker")


class Side:
    """A daemon and the CLI for it.

    Args:
        name: of the keys of its samples. socket: where it has the Docker API.
        home: a directory of the client's.

    """

    run_words: Sequence[str] = ()
    build_words: Sequence[str] = ()

    def __init__(self, name: str, socket: Path, home: Path) -> None:
        self.name = name
        self.socket = socket
        self._docker = Docker(socket, home=home, program=PROGRAM)

    def command(self, *words: str) -> list[str]:
        """Return the CLI's command line."""
        return [PROGRAM, *words]

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment that its clients need."""
        return dict(self._docker.environment)

    def must(self, *words: str) -> str:
        """Run the CLI, which must succeed; give its output. Errors: RequestFailed."""
        done = self._docker(*words)
        if done.code:
            raise RequestFailed(f"{self.name}: docker {words[0]}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def import_image(self) -> None:
        """Make the image of Debian's busybox. Errors: RequestFailed."""
        words = self.command("import", "--change", 'CMD ["sh"]', "-", IMAGE)
        done = subprocess.run(words, input=busybox_tar(), capture_output=True, env=self.environment, check=False)
        if done.returncode:
            raise RequestFailed(f"{self.name}: docker import: {done.stderr.decode()[-300:]}")

    def rest(self) -> None:
        """Wait until the daemon has nothing left to do."""


class Hyperd(Side):
    """Ours, with a pool that is full before anything is measured."""

    def __init__(self, launcher: HyperdLauncher, pool: int) -> None:
        super().__init__("hyperd", launcher.directory / "docker.sock", launcher.directory)
        self._launcher = launcher
        self._pool = pool
        self._gone: set[str] = set()

    def rest(self) -> None:
        """Wait until the pool is full and nothing works any more. Errors: RuntimeError when it takes too long."""
        until = time.monotonic() + START_TIMEOUT + FILL_TIME * self._pool
        while time.monotonic() < until:
            if len(self._waiting()) >= self._pool:
                with suppress(OSError):  # a VM that has just ended
                    at_rest([self._launcher.pid, *qemus(self._launcher.directory)], most=REST)
                    return
            time.sleep(0.2)  # the pool tells nobody when it is full; nothing is measured yet
        raise RuntimeError(f"the pool is not full after {START_TIMEOUT + FILL_TIME * self._pool:g} s")

    def _waiting(self) -> list[str]:
        """Return the VMs that were made ready, still run and are nobody's."""
        taken = {row.partition(":")[0] for row in self._launcher.json("GET", "/list", item="vm")["vmData"]}
        ready = set(_POOLED.findall(self._launcher.log())) - taken - self._gone
        gone = {one for one in ready if not find("qemu-system-", f"{self._launcher.directory}/", one)}
        self._gone |= gone | taken
        return sorted(ready - gone)


class PodmanService(Side):
    """Podman's Docker API."""

    run_words = LIMITS
    build_words = ("--isolation", "chroot")

    def __init__(self, stack: ExitStack) -> None:
        directory = Path(tempfile.mkdtemp(prefix="hypod", dir="/tmp"))
        socket = directory / "docker.sock"
        super().__init__("podman", socket, directory)
        self._store = ["podman", "--root", f"{directory}/store", "--runroot", f"{directory}/run"]
        self._store += ["--runtime", "runc", "--events-backend", "file"]
        log = (directory / "log").open("wb")
        words = [*self._store, "system", "service", "--time=0", f"unix://{socket}"]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        stack.callback(self._close, directory)
        until = time.monotonic() + START_TIMEOUT
        while not (socket.exists() and self._docker("version").code == 0):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"podman's service: {(directory / 'log').read_text()[-300:]}")
            time.sleep(0.1)  # podman tells nobody when it answers; nothing is measured yet

    def _close(self, directory: Path) -> None:
        self._process.terminate()
        self._process.wait(30)
        for words in (("rm", "-a", "-f", "-t", "0"), ("rmi", "-a", "-f")):
            subprocess.run([*self._store, *words], capture_output=True, check=False, timeout=120)
        # The service has mounted it on itself, and so has the first command.
        while not subprocess.run(["umount", f"{directory}/store/overlay"], capture_output=True, check=False).returncode:
            pass
        shutil.rmtree(directory, ignore_errors=True)


def hyperd(stack: ExitStack, guest: Path, pool: int = POOL) -> Side:
    """Start our daemon with so many VMs that wait; ``stack`` ends it."""
    launcher = HyperdLauncher(driver="libvirt", guest=guest, pool=pool)
    stack.callback(launcher.close, check=False)
    # The launcher asks for debug messages, which nobody runs with.
    text = launcher.config_path.read_text().replace('log_level = "debug"', 'log_level = "info"')
    launcher.config_path.write_text(text)
    launcher.start("--docker-host", f"unix://{launcher.directory}/docker.sock")
    side = Hyperd(launcher, pool)
    stack.callback(_remove_all, side)
    return side


def dockerd(stack: ExitStack) -> Side:
    """Start Debian's dockerd in a network namespace of its own; ``stack`` ends it."""
    directory = Path(tempfile.mkdtemp(prefix="hydkd", dir="/tmp"))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    daemon = Dockerd(directory)
    stack.callback(daemon.stop)
    daemon.start()
    side = Side("dockerd", daemon.socket, directory)
    stack.callback(_remove_all, side)
    return side


def _remove_all(side: Side) -> None:
    """Remove the containers."""
    listed = side.must("ps", "-aq").split()
    if listed:
        side.must("rm", "-f", *listed)
