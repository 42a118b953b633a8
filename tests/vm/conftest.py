"""One registry and one daemon with real VMs for the tests of this directory, and what they look at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import PROJECT, HyperdLauncher
from tests.support.registry import Layer, RegistryServer, busybox_tar

HYPERCTL = str(Path(sys.executable).with_name("hyperctl"))
GUEST = Path(os.environ.get("HYPERD_TEST_GUEST", PROJECT / ".cache/guest"))


@pytest.fixture(scope="session")
def registry() -> Iterator[RegistryServer]:
    """A real registry that has ``busybox``."""
    with RegistryServer() as server:
        server.push("busybox", "latest", [Layer(busybox_tar())])
        yield server


@dataclass
class Host:
    """A daemon with real VMs, and hyperctl to talk to it."""

    daemon: HyperdLauncher
    image: str

    def ctl(self, *words: str, stdin: bytes = b"", timeout: float = 200) -> subprocess.CompletedProcess[bytes]:
        """Run hyperctl."""
        argv = [HYPERCTL, "-H", self.daemon.host, *words]
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, check=False, cwd=PROJECT)

    def ok(self, *words: str, stdin: bytes = b"") -> str:
        """Run hyperctl, which must succeed; give its output."""
        done = self.ctl(*words, stdin=stdin)
        assert done.returncode == 0, (words, done, self.daemon.log()[-4000:])
        return done.stdout.decode()

    def background(self, *words: str) -> subprocess.Popen[bytes]:
        """Start hyperctl with pipes."""
        argv = [HYPERCTL, "-H", self.daemon.host, *words]
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT
        )

    def pod(self, name: str, script: str, *, options: Sequence[str] = ()) -> str:
        """Start a detached pod that runs a shell script; give its name."""
        self.ok("run", "-d", "--name", name, *options, self.image, "sh", "-c", script)
        return name

    def address(self, pod: str) -> str:
        """Return a pod's IPv4 address."""
        info = self.daemon.json("GET", "/pod/info", podName=pod)
        return str(info["status"]["podIP"][0]).partition("/")[0]

    def left(self) -> dict[str, list[str]]:
        """What of pods is on the host: everything empty means that nothing was left behind."""
        links = json.loads(subprocess.check_output(["ip", "-j", "link", "show", "master", self.daemon.bridge]) or "[]")
        rules = subprocess.check_output(["nft", "list", "ruleset"], text=True)
        own = "\n".join(re.findall(rf"^table \S+ {self.daemon.table}\S* \{{.*?^\}}", rules, re.MULTILINE | re.DOTALL))
        prefix = self.daemon.subnet.rsplit(".", 1)[0]
        addresses = set(re.findall(rf"{re.escape(prefix)}\.\d+", own)) - {f"{prefix}.0", f"{prefix}.1", f"{prefix}.255"}
        # Not the one that a template is being made of, which is nobody's.
        pattern = f"qemu-system.*guest=vm-.*{self.daemon.root}/"
        qemu = subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False)
        return {
            "taps": [link["ifname"] for link in links if link.get("ifname") and not link["ifname"].startswith("tm-")],
            "addresses": sorted(addresses),
            "qemu": qemu.stdout.decode().split(),
            "sockets": [str(path) for path in (self.daemon.root / "run").glob("[!t]*")],
            "disks": [str(path) for path in (self.daemon.root / "pods").glob("*")],
            "pods": self.daemon.json("GET", "/list", item="pod")["podData"],
            "vms": self.daemon.json("GET", "/list", item="vm")["vmData"],
        }

    def assert_clean(self) -> None:
        """Nothing of any pod is left."""
        assert {key: value for key, value in self.left().items() if value} == {}


def launch(registry: RegistryServer, *, config: str = "", guest: Path = GUEST) -> tuple[HyperdLauncher, Host]:
    """Make a daemon with the image pulled."""
    daemon = HyperdLauncher(driver="libvirt", guest=guest, config=config)
    host = Host(daemon, f"{registry.host}/busybox")
    try:
        daemon.start()
        host.ok("pull", host.image)
    except BaseException:
        daemon.close(check=False)
        raise
    return daemon, host


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    """One daemon per module; a test cleans up what it makes."""
    daemon, host = launch(registry)
    with daemon:
        yield host
        for row in daemon.json("GET", "/list", item="pod")["podData"]:
            host.ctl("rm", row.split(":")[0])
