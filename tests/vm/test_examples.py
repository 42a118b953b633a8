"""The pod files of configs/examples, run as README and their own first lines say, with `busybox` from a mirror."""

from __future__ import annotations

import itertools
import re
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.daemon import PROJECT
from tests.support.registry import Layer, RegistryServer, busybox_tar
from tests.support.until import until
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]

EXAMPLES = PROJECT / "configs" / "examples"
SITE = "configs/examples/site.yaml"


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    """A daemon whose mirror of Docker Hub is the test's registry."""
    registry.push("library/busybox", "latest", [Layer(busybox_tar())])
    daemon, one = launch(registry, config=f'[registry]\nmirrors = ["http://{registry.host}"]\n')
    with daemon:
        yield one
        one.assert_clean()


@pytest.fixture
def removed(host: Host) -> Iterator[None]:
    yield
    for name in host.ok("list", "-q").split():
        host.ok("rm", name)


def page(port: int, path: str) -> str:
    """Get a page from a published port; empty while there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.usefixtures("removed")
def test_the_pod_that_has_everything(host):
    """Shared volume, injected file, published ports, service and restart policy, by one command of the README."""
    words = f"run -p {SITE}".split()
    assert f"hyperctl {' '.join(words)}\n" in (PROJECT / "README.md").read_text()
    assert re.fullmatch(r"POD id is site\nTime to run a POD is \d+ ms\n", host.ok(*words))
    names = ["site-one", "site-two", "site-client", "site-job"]
    assert host.ok("list", "container", "--format", "{{.Name}}").split() == names

    # Published ports: each server answers on its own. The shared volume: both have the page that the job wrote; they
    # may only read it. The file: its text is in the page.
    until(lambda: page(18080, "who") == "one\n" and page(18081, "who") == "two\n")
    first = "Welcome to a pod with a kernel of its own.\nThis page has been written 1 times.\n"
    until(lambda: first == page(18080, "pages/") == page(18081, "pages/"))
    assert b"Read-only file system" in host.ctl("exec", "site-one", "touch", "/srv/pages/mine").stderr
    assert host.ok("exec", "site-job", "stat", "-c", "%a %u", "/etc/greeting") == "444 0\n"

    # The service: connections go to both in turn.
    until(lambda: host.ok("logs", "site-client").count("\n") >= 4)
    asked = host.ok("logs", "site-client").split()
    assert {asked[0], asked[1]} == {"one", "two"}
    assert all(one != other for one, other in itertools.pairwise(asked)), asked

    # The restart policy: the job runs again and again, and the servers are still the first ones.
    until(lambda: "written 2 times" in page(18081, "pages/"))
    counts = [
        host.daemon.json("GET", "/container/info", container=name)["status"].get("restartCount", 0) for name in names
    ]
    assert (counts[:3], counts[3] >= 1) == ([0, 0, 0], True)
    assert host.ok("ports", "ls", "--format", "{{.HostPort}}:{{.ContainerPort}}", "site").split() == [
        "18080:8001",
        "18081:8002",
    ]
    host.ok("rm", "site")
    assert page(18080, "who") == ""


@pytest.mark.usefixtures("removed")
def test_the_others(host):
    host.ok("run", "-p", "configs/examples/web.json")
    host.ok("run", "-p", "configs/examples/two-containers.json")
    host.ok("run", "-y", "-p", "configs/examples/worker.yaml")
    until(lambda: page(8081, "") == "hello from a pod\n")
    until(lambda: "it is " in host.ok("logs", "pair-client"))
    until(lambda: host.ok("logs", "worker-loop").startswith("working\n"))


@pytest.mark.usefixtures("removed")
def test_the_networks(host, tmp_path):
    """Only its fixed address depends on the daemon's subnet, which is another one here."""
    prefix = host.daemon.subnet.rpartition(".")[0]
    text = (EXAMPLES / "network.json").read_text().replace("192.168.123", prefix)
    (tmp_path / "network.json").write_text(text)
    host.ok("run", "-p", str(tmp_path / "network.json"))
    until(lambda: page(8080, "") == "hello\n")
    until(lambda: "hello" in host.ok("logs", "front-client"))
    assert len(host.ok("ports", "ls", "--format", "{{.HostPort}}", "front").split()) == 2


def test_every_example_is_run():
    assert sorted(path.name for path in EXAMPLES.iterdir()) == [
        "network.json",
        "site.yaml",
        "two-containers.json",
        "web.json",
        "worker.yaml",
    ]
