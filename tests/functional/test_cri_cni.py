"""Sandboxes on a network of real plugins, with VMs that are none: what is made, told, given back and left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.cni import CniSite
from tests.support.cri import CriClient
from tests.support.daemon import HyperdLauncher
from tests.support.until import until

pytestmark = pytest.mark.root

EMPTY: dict[str, list[str]] = {"addresses": [], "links": [], "rules": []}
LAST = {"type": "last"}  # a plugin of the test's own, behind the others


@pytest.fixture
def daemon() -> Iterator[HyperdLauncher]:
    with HyperdLauncher() as launcher:
        yield launcher


@pytest.fixture
def site(daemon: HyperdLauncher) -> Iterator[CniSite]:
    with CniSite(daemon.directory / "cni", daemon.number, more=(LAST,)) as site:
        daemon.configure(site.toml())
        yield site


def start(daemon: HyperdLauncher) -> CriClient:
    daemon.start("--cri", f"unix://{daemon.directory}/cri.sock")
    return CriClient(daemon.directory / "cri.sock")


def run(cri: CriClient, name: str, **more: Any) -> str:
    metadata = {"name": name, "uid": f"uid-{name}", "namespace": "default"}
    return str(cri.RunPodSandbox(config={"metadata": metadata, **more}).pod_sandbox_id)


def works(pid: str) -> bool:
    """Whether a plugin has not ended; PID 1 may not have taken note of one that has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ready(cri: CriClient) -> tuple[bool, str]:
    found = {one.type: one for one in cri.Status().status.conditions}["NetworkReady"]
    return found.status, found.message


def files(daemon: HyperdLauncher) -> list[Path]:
    return list((daemon.root / "cni").iterdir())


def refusal(call: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return str(caught.value.details())


def test_a_network_that_is_not_there_yet_and_one_that_fails(daemon: HyperdLauncher, site: CniSite) -> None:
    (site.conf / "10-test.conflist").rename(site.conf / "later")
    with start(daemon) as cri:
        assert ready(cri) == (False, f"{site.conf} has no file that ends in .conf, .conflist, .json")
        assert "no network configuration" in refusal(lambda: run(cri, "web"))
        (site.conf / "later").rename(site.conf / "10-test.conflist")
        assert ready(cri) == (False, "network test: there is no plugin last")
        site.plugin("last", '[ $CNI_COMMAND = DEL ] || { echo \'{"code": 7, "msg": "never"}\'; exit 1; }')
        assert ready(cri) == (True, "")
        assert "last failed (ADD): never" in refusal(lambda: run(cri, "web"))
        assert (site.left(), files(daemon)) == (EMPTY, [])
        assert not cri.ListPodSandbox().items
        # An address that cannot be given back now is given back later.
        site.plugin("last", "[ $CNI_COMMAND = DEL ] && exit 1; cat | sed 's/.*\"prevResult\": //; s/}$//'")
        pod = run(cri, "web", port_mappings=[{"container_port": 80, "host_port": 21_000 + daemon.number}])
        assert site.left()["rules"]
        assert "last failed (DEL)" in refusal(lambda: cri.StopPodSandbox(pod_sandbox_id=pod))
        assert "last failed (DEL)" in refusal(lambda: cri.RemovePodSandbox(pod_sandbox_id=pod))
        site.plugin("last", "exit 0")
        cri.RemovePodSandbox(pod_sandbox_id=pod)
        cri.RemovePodSandbox(pod_sandbox_id=pod)
        assert (site.left(), files(daemon)) == (EMPTY, [])


def test_a_daemon_that_is_killed_while_plugins_work(daemon: HyperdLauncher, site: CniSite, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    never = tmp_path / "never"
    os.mkfifo(never)
    site.plugin("last", f"[ $CNI_COMMAND = ADD ] && {{ echo $$ > {begun}; cat < {never}; exit 1; }}; exit 0")
    with start(daemon) as cri:
        request = {
            "metadata": {"name": "web", "uid": "1"},
            "port_mappings": [{"container_port": 80, "host_port": 21_100}],
        }
        call = cri.begin("RunPodSandbox", config=request)
        until(lambda: begun.exists() and begun.read_text().strip())
        assert not call.done()
        assert site.addresses()
        daemon.kill()
    assert works(begun.read_text().strip())  # it goes on alone
    with start(daemon) as cri:
        assert not works(begun.read_text().strip())
        assert (site.left(), files(daemon)) == (EMPTY, [])
        assert not [item for item in cri.ListPodSandbox().items if item.state == 0]


def test_addresses_of_both_families_are_told(daemon: HyperdLauncher, site: CniSite) -> None:
    (site.conf / "10-test.conflist").write_text(
        (site.conf / "10-test.conflist").read_text().replace(', {"type": "last"}', "")
    )
    with start(daemon) as cri:
        pod = run(cri, "web")
        network = cri.PodSandboxStatus(pod_sandbox_id=pod).status.network
        assert sorted([network.ip, *(one.ip for one in network.additional_ips)]) == site.addresses()
        assert network.ip.startswith("10.")
        cri.UpdateRuntimeConfig(runtime_config={"network_config": {"pod_cidr": "10.9.8.0/24"}})
        bad = {"name": "a;b", "uid": "2"}
        assert "cannot be told K8S_POD_NAME" in refusal(lambda: cri.RunPodSandbox(config={"metadata": bad}))
        cri.RemovePodSandbox(pod_sandbox_id=pod)
        assert (site.left(), files(daemon)) == (EMPTY, [])
