"""The page over a Kubernetes cluster: what it shows and does, and how it says what a cluster does not do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.browser import Page
from tests.support.cloud import CloudProcess
from tests.support.kube import FakeCluster
from tests.web.conftest import PICTURES, serious

STACK = "db:\n  image: redis\n  restart: always\nfront:\n  image: site\n  restart: always\n  links: [db]\n"
MESSAGE = "document.getElementById('message')"


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster() as made:
        yield made


@pytest.fixture(scope="module")
def cloud(cluster: FakeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """A server over the cluster, instead of the one over an engine."""
    server = cluster.cloud(tmp_path_factory.mktemp("cloud"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def shop(page: Page, cluster: FakeCluster) -> Iterator[str]:
    """A stack "shop" of two services, made on the page, in whose list it is; gives the name of a pod of "front"."""
    page.click("Stacks")
    page.shows("Stack file (YAML)")
    page.fill("Make and start a stack", name="shop", text=STACK)
    page.until("/shop\\s+Running/.test(document.body.innerText)")
    yield pods(cluster, "front")[0]
    page.log.clear()  # the browser itself reports answers 501 and the like
    page.click("Stacks")
    page.click("Terminate shop")
    page.until("!/shop/.test(document.querySelector('tbody').innerText)")
    assert cluster.all("pods") == []


def pods(cluster: FakeCluster, service: str) -> list[str]:
    names = [one["metadata"]["name"] for one in cluster.all("pods")]
    return [one for one in names if one.startswith(service)]


def says(page: Page, *words: str) -> None:
    """Wait for a message with these words; it is taken away, so that the next one is another."""
    for word in words:
        page.until(f"!{MESSAGE}.hidden && {MESSAGE}.textContent.includes({json.dumps(word)})")
    page.run(f"{MESSAGE}.hidden = true; {MESSAGE}.textContent = ''")


def test_a_stack_is_started_scaled_stopped_and_removed(page: Page, cluster: FakeCluster, shop: str) -> None:
    """Its services are objects of the cluster, its containers pods on the cluster's nodes."""
    assert [one["spec"]["replicas"] for one in cluster.all("deployments")] == [1, 1]
    page.click("Scale db")  # the browser's question is answered with 2
    page.until("/db\\s+redis:latest\\s+Running\\s+2 of 2/.test(document.body.innerText)")
    assert len(pods(cluster, "db")) == 2
    page.picture(PICTURES / "cluster-stacks.png")
    page.click("Containers")
    page.shows(shop)
    assert page.run("document.querySelectorAll('tbody tr').length") == 3
    page.picture(PICTURES / "cluster-containers.png")
    page.click(f"Logs of {shop}")
    page.until("document.querySelector('dialog pre')?.textContent === 'begun\\n<b>on</b>\\n'")
    page.click("Close")
    page.click(f"Remove {shop}")  # its service makes another
    page.until(f"!document.body.innerText.includes({json.dumps(shop)})")
    page.until("document.querySelectorAll('tbody tr').length === 3")
    page.click("Stacks")
    page.click("Stop shop")
    page.until("/shop\\s+Stopped/.test(document.body.innerText)")
    assert cluster.all("pods") == []
    page.click("Start shop")
    page.until("/shop\\s+Running/.test(document.body.innerText)")
    assert len(cluster.all("pods")) == 3


def test_what_a_cluster_does_not_do_is_said(page: Page, shop: str) -> None:
    """Whatever is asked for, the page says why not, and what to do instead where there is something."""
    page.click("Containers")
    for verb in ("Stop", "Restart", "Scale"):
        page.click(f"{verb} {shop}")
        says(page, shop, "containers of a cluster are kept by their service", "the page's stacks")
    page.fill("Run a container", name="site")
    says(page, "site is not run by itself", "the page's stacks")
    page.click(f"Files of {shop}")
    page.fill("Download", path="/etc/motd")
    says(page, "no Docker API")
    page.click("Close")
    page.click(f"Figures of {shop}")
    page.until("/kubectl top pod/.test(document.querySelector('dialog')?.innerText)")
    page.until("!document.querySelector('.plot')")  # an empty plot would wait for what never comes
    assert serious(page) == []
    page.click("Close")
    page.click("Engines")
    page.click("Remove one")
    says(page, "kubectl drain")
    page.fill("Add an engine", id="more", addr="http://127.0.0.1:2375")
    says(page, "nodes come by their kubelet")
    page.click("Images")
    page.shows("registry/busybox:1")
    page.fill("Pull an image", name="site")
    says(page, "no Docker API")
    page.click("Remove registry/busybox:1 from one")
    says(page, "no Docker API")
    page.fill("Build an image", tag="mine:1", text="FROM busybox")
    page.until("document.querySelector('.doing pre')?.innerText.includes('no Docker API')")
    page.picture(PICTURES / "cluster-refused.png")
    page.click("Stacks")
    page.fill("Make and start a stack", name="odd", text="one:\n  image: site\n  mac_address: '02:00:00:00:00:01'\n")
    says(page, "mac_address")


def test_nodes_and_what_happens_to_them(page: Page, cluster: FakeCluster) -> None:
    """Nodes are the engines; an API server that does not answer is said, and what it says when it is back."""
    page.shows("one: up")
    page.shows("kubectl top pod")
    cluster.stop()
    page.shows("two: down")
    page.click("Containers")
    page.until("document.querySelector('#view h2')?.textContent === 'Containers'")
    cluster.start()
    page.click("Engines")
    page.until("/two\\s.*\\sup/.test(document.querySelector('tbody')?.innerText)")


@pytest.mark.parametrize("width", [1200, 390])
def test_everybody_can_use_it(page: Page, shop: str, width: int) -> None:
    page.looks(dark=width < 600, width=width)
    for view in ("Dashboard", "Engines", "Containers", "Stacks", "Images"):
        page.click(view)
        page.until(f"document.querySelector('#view h2')?.textContent === {json.dumps(view)}")
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), view
        assert serious(page) == [], (view, width)
        page.picture(PICTURES / f"cluster-{view.lower()}-{width}.png")
