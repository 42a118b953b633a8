"""README's commands, typed as they stand, and the example of the Python client, on real VMs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PROJECT
from tests.support.docs import Block, blocks
from tests.support.registry import Layer, RegistryServer, busybox_tar
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]

README = blocks(PROJECT / "README.md")


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    """A daemon whose mirror of Docker Hub is the test's registry."""
    registry.push("library/busybox", "latest", [Layer(busybox_tar())])
    daemon, one = launch(registry, config=f'[registry]\nmirrors = ["http://{registry.host}"]\n')
    with daemon:
        yield one
        one.assert_clean()


def with_keyboard(line: str) -> str:
    """Return a line as a script can run it: somebody types at a terminal, or ends what goes on."""
    if " exec -t " in line or " run -t " in line:
        return f"printf 'exit\\n' | script -qec {shlex.quote(line.partition('#')[0])} /dev/null"
    if " logs -f " in line:
        return f"timeout -s INT 3 {line.partition('#')[0]} || [ $? = 124 ]"
    return line


def shell(block: Block, host: Host, home: Path) -> str:
    """Run a block with bash, which ends at the first failure; give all it says."""
    lines = [with_keyboard(line) for line in block.logical_lines()]
    script = "\n".join(["set -e", *lines]).replace("/var/run/hyper.sock", str(host.daemon.socket))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(home), "HYPER_HOST": host.daemon.host, "TERM": "xterm"}
    done = subprocess.run(
        ["bash", "-xc", script], cwd=PROJECT, env=env, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, (done.stdout, done.stderr, host.daemon.log()[-3000:])
    return done.stdout


def block_with(text: str) -> Block:
    (found,) = [block for block in README if text in block.text]
    return found


def test_first_pods(host, tmp_path):
    said = shell(block_with("hyperctl run --rm busybox echo hello"), host, tmp_path)
    assert said.startswith("hello\n")
    assert "\nweb\n" in said  # what its web server has
    assert "httpd" in said  # its processes
    assert host.ok("list", "-q") == ""


def test_the_pod_with_everything(host, tmp_path):
    said = shell(block_with("hyperctl run -p configs/examples/site.yaml"), host, tmp_path)
    assert "This page has been written" in said
    assert host.ok("list", "-q") == ""


def test_the_same_over_the_socket(host, tmp_path):
    said = shell(block_with("http://h/pod/create"), host, tmp_path)
    assert '"ID": "p1"' in said or '"ID":"p1"' in said
    assert host.ok("list", "-q") == ""


def test_the_python_client(host):
    (example,) = [block for block in blocks(PROJECT / "docs" / "python.md") if block.language == "python"]
    done = subprocess.run(
        [sys.executable, "-c", example.text],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "HYPER_HOST": host.daemon.host},
    )
    assert done.returncode == 0, done.stderr
    assert "hello\n 3\n" in done.stdout
    assert "demo running\n" in done.stdout
    assert host.ok("list", "-q") == ""
