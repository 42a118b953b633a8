"""The commands that the pages of docs/ show, each run as it stands, on real VMs (README's: `test_readme.py`).

Every line is run, or stands in `NOT_RUN` with the reason: one that is written tomorrow is run, too.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docs import PAGES, Block, blocks
from tests.support.registry import Layer, RegistryServer, busybox_tar
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]

ELSEWHERE = {
    "README.md": "test_readme.py",
    "CONTRIBUTING.md": "scripts that install, build and test",
    "performance.md": "scripts/bench, with its options",
}
_WORDS = r"\b(hyperctl|hyperd|curl|docker|pip|systemctl|scripts/\w+)\b"
BLOCKS = [
    block
    for page in PAGES
    if page.name not in ELSEWHERE
    for block in blocks(page)
    if block.language in {"", "sh"} and re.search(rf"(?m)^(\w+=\S+ |export |eval .*|.*\| )?{_WORDS}", block.text)
]
# Patterns of lines that are not run here.
NOT_RUN = {
    r"^hyperctl (pull|push|search|login) .*registry\.example\.com": "needs a registry of that name",
    r"^hyperctl -H tcp://|^export HYPER_HOST=tcp://": "needs another host",
    r"https://git\.example\.com": "needs a server of that name",
    r"^hyperd($| +--| +#)": "a daemon of its own: tests/functional/test_daemon.py",
    r"^export DOCKER_HOST|^docker ": "Docker's command line: tests/conformance/test_docker_cli.py",
    r"^pip |^install the new version": "installs: tests/functional/test_wheel.py, scripts/test-deb",
    r"systemctl|systemd|^\[Service\]|^ExecStart": "needs systemd: tests/unit/test_units.py",
    r"^hypercloud |^scripts/": "programs of their own, with tests of their own",
}
# What a line takes for granted, beside the pods of `World.ensure`.
BEFORE = {
    r"^hyperctl (run|create) .*--name (\w+)": r"hyperctl rm -f \2",
    r"^hyperctl start web1": "hyperctl stop web1",
    r"^hyperctl start -c": "hyperctl stop -c box",
    r"^hyperctl wait": "hyperctl kill box",
    r"^hyperctl unpause": "hyperctl pause web1",
    r"^hyperctl ports delete": "hyperctl ports add -p 8443:443 web",
    r"^hyperctl (save|tag|history)": "hyperctl pull -q busybox",  # an earlier line has removed it
    r"^hyperctl kube down": "hyperctl kube play --replace site.yaml",
    r"^hyperctl network connect": "hyperctl network create front || true",
    r"^hyperctl run .*--network front": "hyperctl network create front || true",
}
PLACES = {
    "CONTAINER NAME": "box renamed",
    "CONTAINER": "box",
    "IMAGE": "busybox",
    "[...]": '[{"serviceIP": "10.254.0.9", "servicePort": 80, "protocol": "tcp", "hosts": []}]',
}
FILES = {
    "web.pod": '{"id": "of-file", "containers": [{"image": "busybox", "command": ["sleep", "1000"]}]}',
    "site.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: site}\n"
    "spec: {containers: [{name: c, image: busybox, command: [sleep, '1000']}]}\n",
    "Dockerfile": "FROM busybox\nCMD true\n",
    "docker/Dockerfile": "FROM busybox AS test\nARG VERSION\nENV V=$VERSION\n",
    "secret": "s3cret\n",
}


class World:
    """A directory, and the daemon whose pods the lines name."""

    def __init__(self, host: Host, home: Path) -> None:
        self.host = host
        self.home = home
        for name, text in FILES.items():
            (home / name).parent.mkdir(exist_ok=True)
            (home / name).write_text(text)
        (home / "rootfs.tar").write_bytes(busybox_tar())
        for directory in (".zfunc", ".config/fish/completions"):
            (home / directory).mkdir(parents=True)

    def ensure(self) -> None:
        """Let the pods that lines name run."""
        running = self.host.ok("list", "--format", "{{.Name}} {{.Status}}").splitlines()
        for name in ("web1", "web2", "web", "box"):
            if f"{name} running" not in running or (name == "box" and self.host.ctl("inspect", "box").returncode):
                self.host.ctl("rm", "-f", name)
                self.host.ok("run", "-d", "--name", name, "busybox", "sleep", "1000")

    def run(self, line: str) -> None:
        """Run a line with bash; it must succeed."""
        self.ensure()
        before = [found.expand(then) for when, then in BEFORE.items() if (found := re.match(when, line))]
        if "vm rm" in line:
            idle = self.host.ok("vm", "create").strip().rpartition(" ")[2]
            line = re.sub(r"vm-\w+", idle, line)
        for place, value in PLACES.items():
            line = line.replace(place, value)
        line = line.replace("/var/run/hyper.sock", str(self.host.daemon.socket))
        line = line.replace("/run/other.sock", str(self.host.daemon.socket)).replace("curl ", "curl -sSf ")
        script = "\n".join(["set -e -o pipefail", *before, with_keyboard(line)])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.home,
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(self.home),
                "HYPER_HOST": self.host.daemon.host,
                "TERM": "xterm",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:], self.host.daemon.log()[-2000:])


def with_keyboard(line: str) -> str:
    """Return a line as a script can run it: somebody types at a terminal, and ends what goes on."""
    bare = line.partition(" #")[0].strip()
    if re.match(r"hyperctl (exec|run) -(it|t) ", line):
        return f"printf 'exit\\n' | script -qec {shlex.quote(bare)} /dev/null"
    if re.match(r"hyperctl (logs -f|events|attach)", line):
        return f"timeout -s KILL 3 {bare} || [ $? = 137 ]"
    return line


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    """A daemon whose mirror of Docker Hub is the test's registry."""
    users = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/srv:/bin/sh\n"
    for name in ("busybox", "nginx"):
        registry.push(f"library/{name}", "latest", [Layer(busybox_tar(users=users))])
    daemon, one = launch(registry, config=f'stop_grace = 1\n[registry]\nmirrors = ["http://{registry.host}"]\n')
    with daemon:
        yield one


@pytest.fixture(scope="module")
def world(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    one = World(host, tmp_path_factory.mktemp("docs"))
    yield one
    left = host.ok("list", "-q").split()
    host.ok("rm", *left)
    for idle in host.ok("list", "-q", "vm").split():
        host.ok("vm", "rm", idle)
    host.ok("system", "prune", "-f", "--volumes")
    host.assert_clean()


def lines(block: Block) -> list[str]:
    """Return the lines of a block that are run."""
    found = [line.strip() for line in block.logical_lines()]
    return [line for line in found if line and not any(re.search(pattern, line) for pattern in NOT_RUN)]


def test_every_pattern_of_what_is_not_run_is_needed():
    shown = "\n".join(line.strip() for block in BLOCKS for line in block.logical_lines())
    unneeded = [pattern for pattern in NOT_RUN if not re.search(pattern, shown, re.MULTILINE)]
    assert unneeded == []
    assert sum(len(lines(block)) for block in BLOCKS) > 80


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page.name}:{block.line}")
def test_commands_run_as_they_stand(world: World, block: Block):
    for line in lines(block):
        world.run(line)
