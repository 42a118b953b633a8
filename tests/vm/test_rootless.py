"""The daemon of an ordinary user: own root and socket, user-mode networking, real guests; nothing of root's is used."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PROJECT, HyperdLauncher
from tests.support.ports import free_port
from tests.support.registry import RegistryServer
from tests.vm.conftest import GUEST, Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

USER = 65534  # nobody
SETPRIV = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


def interpreter(path: str) -> str:
    """Return a Python that the user can run with these directories: root's own may lie where nobody else may look."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (os.path.realpath(sys.executable), f"/usr/bin/python{version}"):
        argv = [*SETPRIV, python, "-c", "import libvirt, flask, hyperd"]
        if subprocess.run(argv, env={"PYTHONPATH": path}, cwd="/", capture_output=True, check=False).returncode == 0:
            return python
    return ""


def readable_copy(packages: str) -> Path:
    """Copy what the user must read to a place where he may: the project may lie below a private directory."""
    place = Path(tempfile.mkdtemp(prefix="hyro", dir="/tmp"))
    place.chmod(0o755)
    shutil.copytree(PROJECT / "hyperd", place / "hyperd")
    shutil.copytree(packages, place / "packages")
    shutil.copytree(GUEST, place / "guest")
    return place


class Rootless(HyperdLauncher):
    """A daemon without options, as a user would start it."""

    def __init__(self) -> None:
        packages = next(entry for entry in sys.path if entry.endswith("site-packages"))
        self.copy: Path | None = None
        guest, path = GUEST, f"{PROJECT}:{packages}"
        python = interpreter(path)
        if not python:
            self.copy = readable_copy(packages)
            guest, path = self.copy / "guest", f"{self.copy}:{self.copy}/packages"
            python = interpreter(path)
        assert python, f"an ordinary user can run no Python {sys.version_info[:2]} with {path}"
        super().__init__(command=[*SETPRIV, python, "-m", "hyperd.cli"])
        self.home = self.directory / "home"
        self.root = self.home / ".local/share/hyper"
        self.socket = self.directory / "run" / "hyper.sock"
        file = self.home / ".config/hyper/hyperd.toml"
        file.parent.mkdir(parents=True)
        self.socket.parent.mkdir(mode=0o700)
        file.write_text(f'log_level = "debug"\n[hypervisor]\nguest_dir = "{guest}"\npool = 0\n')
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.socket.parent),
            "PYTHONPATH": path,
        }
        for entry in (self.directory, *self.directory.rglob("*")):
            os.chown(entry, USER, USER)

    def close(self, *, check: bool = True) -> None:
        try:
            super().close(check=check)
        finally:
            if self.copy is not None:
                shutil.rmtree(self.copy)

    def start(self, *options: str, wait: bool = True) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *options], stdout=log, stderr=log, env=self._env, cwd=self.home
            )
        if wait:
            self.wait_ready()


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    with Rootless() as daemon:
        host = Host(daemon, f"{registry.host}/busybox")
        daemon.start()
        host.ok("pull", host.image)
        yield host
        for row in daemon.json("GET", "/list", item="pod")["podData"]:
            host.ctl("rm", row.split(":")[0])


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
        return bytes(answer.read())


def until_served(port: int) -> bytes:
    deadline = time.monotonic() + 120
    while True:
        try:
            return fetch(port)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def left(host: Host) -> list[str]:
    """What of pods is on the host, and not of the VM that a template is being made of."""
    daemon = host.daemon
    pattern = f"qemu-system.*guest=vm-.*{daemon.directory}/"
    qemu = subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False)
    files = [*(daemon.root / "run").glob("[!t]*"), *(daemon.root / "pods").glob("*")]
    return [*qemu.stdout.decode().split(), *map(str, files), *daemon.json("GET", "/list", item="pod")["podData"]]


WEB = "mkdir -p /srv; echo $GREETING > /srv/index.html; exec httpd -f -p 80 -h /srv"


def test_it_is_really_an_ordinary_user(host: Host):
    status = Path(f"/proc/{host.daemon.pid}/status").read_text()
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in status
    assert "CapEff:\t0000000000000000" in status
    assert host.daemon.socket.stat().st_uid == USER
    assert host.daemon.json("GET", "/info")["DockerRootDir"] == str(host.daemon.root)


def test_run_and_leave_nothing(host: Host):
    script = "cat; ip -o -4 addr show eth0; id -u; exit 7"
    done = host.ctl("run", "--rm", host.image, "sh", "-c", script, stdin=b"in\n")
    assert (done.returncode, done.stderr) == (7, b"")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == (b"in", b"0")
    assert b"inet 10.0.2.15/24" in lines[1]
    assert left(host) == []


def test_published_ports(host: Host):
    first, second = free_port(), free_port()
    words = ["--publish", f"{first}:80", "--env", "GREETING=hello", host.image, "sh", "-c", WEB]
    host.ok("run", "-d", "--name", "web", *words)
    assert until_served(first) == b"hello\n"
    host.ok("ports", "add", "-p", f"{second}:80", "web")
    assert fetch(second) == b"hello\n"
    host.ok("ports", "delete", "-p", f"{first}:80", "web")
    with pytest.raises(OSError, match="refused"):
        fetch(first)
    refused = host.ctl("create", "--publish", f"{second}:80", host.image, "true")
    assert (refused.returncode, b"is published by pod web" in refused.stderr) == (255, True)
    host.ok("stop", "web")
    with pytest.raises(OSError, match="refused"):
        fetch(second)
    host.ok("start", "web")
    assert until_served(second) == b"hello\n"
    host.ok("rm", "web")
    assert left(host) == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", second))


def test_the_host_can_be_reached_from_a_pod(host: Host):
    """The gateway leads to the host's loopback; that is the way out, too."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(60)
        script = f"echo from inside | nc 10.0.2.2 {server.getsockname()[1]}"
        with host.background("run", "--rm", host.image, "sh", "-c", script) as process:
            client, _ = server.accept()
            with client:
                assert client.recv(100) == b"from inside\n"
            process.communicate(timeout=150)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"interfaces": [{"bridge": "br0", "ip": "192.0.2.7/24"}]}, "cannot be chosen with user-mode networking"),
        ({"portmappingWhiteLists": {"internalNetworks": ["192.0.2.0/24"]}}, "need the host's packet filter"),
    ],
    ids=["interfaces", "white lists"],
)
def test_what_needs_root_is_told(host: Host, fields, words):
    body = {"id": "wish", "containers": [{"name": "w", "image": host.image, "command": ["true"]}], **fields}
    status, _, answer = host.daemon.request("POST", "/pod/create", body=body)
    assert status == 501
    assert words in answer.decode()
    assert "run hyperd as root" in answer.decode()
    assert left(host) == []


def test_pods_outlive_the_daemon(host: Host):
    port = free_port()
    words = ["--publish", f"{port}:80", "--env", "GREETING=still here", host.image, "sh", "-c", WEB]
    host.ok("run", "-d", "--name", "web", *words)
    assert until_served(port) == b"still here\n"
    for kill in (False, True):
        host.daemon.restart(kill=kill)
        assert fetch(port) == b"still here\n"
        assert host.ok("exec", "web", "echo", "yes") == "yes\n"
    host.ok("rm", "web")
    assert left(host) == []


def test_nothing_of_the_hosts_network_was_touched(host: Host):
    assert shutil.which("nft")
    links = subprocess.check_output(["ip", "-o", "link"], text=True)
    assert host.daemon.bridge not in links
    tables = subprocess.check_output(["nft", "list", "tables"], text=True)
    assert host.daemon.table not in tables
