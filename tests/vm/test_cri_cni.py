"""Kubernetes' CRI with plugins of the Container Network Interface: bridge, host-local and portmap, and real guests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.cni import CniSite
from tests.support.cri import CriClient
from tests.support.daemon import HyperdLauncher
from tests.support.registry import RegistryServer
from tests.support.until import until
from tests.vm.conftest import GUEST

pytestmark = [pytest.mark.vm, pytest.mark.registry]


def sandbox(cri: CriClient, name: str, **more: object) -> str:
    metadata = {"name": name, "uid": name, "namespace": "default"}
    return str(cri.RunPodSandbox(config={"metadata": metadata, "hostname": name, **more}).pod_sandbox_id)


def container(cri: CriClient, pod: str, image: str, script: str) -> str:
    config = {"metadata": {"name": "main"}, "image": {"image": image}, "command": ["sh", "-c", script]}
    ident = str(cri.CreateContainer(pod_sandbox_id=pod, config=config).container_id)
    cri.StartContainer(container_id=ident)
    return ident


def inside(cri: CriClient, ident: str, *words: str) -> str:
    found = cri.ExecSync(container_id=ident, cmd=words, timeout=150)
    assert found.exit_code == 0, (words, found)
    return str(found.stdout.decode())


def test_pods_on_the_network_of_plugins(registry: RegistryServer) -> None:
    image = f"{registry.host}/busybox"
    launcher = HyperdLauncher(driver="libvirt", guest=GUEST, pool=1)
    with launcher as daemon, CniSite(daemon.directory / "cni", daemon.number) as site:
        daemon.configure(site.toml())
        options = ("--cri", f"unix://{daemon.directory}/cri.sock")
        daemon.start(*options)
        with CriClient(daemon.directory / "cri.sock") as cri:
            cri.PullImage(image={"image": image})
            until(lambda: "event=vm.pooled" in daemon.log())
            port = 20_000 + daemon.number
            web = sandbox(cri, "web", port_mappings=[{"container_port": 80, "host_port": port}])
            other = sandbox(cri, "other")
            told = cri.PodSandboxStatus(pod_sandbox_id=web, verbose=True).info["hyperd"]
            assert f"event=vm.pooled vm={json.loads(told)['vm']}" in daemon.log()  # with the plugins' NIC all the same
            network = cri.PodSandboxStatus(pod_sandbox_id=web).status.network
            addresses = [network.ip, *(one.ip for one in network.additional_ips)]
            assert addresses == [f"{site.gateway}".removesuffix("1") + "2", site.subnet6.replace("/64", "2")]
            script = "mkdir /www; echo hello > /www/index.html; httpd -f -p 80 -h /www"
            container(cri, web, image, script)
            client = container(cri, other, image, "sleep 1000")
            links = inside(cri, client, "ip", "addr", "show", "eth0")
            assert "mtu 1400" in links
            assert [inside(cri, client, "ping", "-c1", "-W10", one) for one in addresses]
            inside(cri, client, "ping", "-c1", "-W10", site.gateway)
            url = f"http://{network.ip}/"
            until(lambda: inside(cri, client, "wget", "-qO-", url) == "hello\n")
            for address in (network.ip, f"127.0.0.1:{port}", f"{site.gateway}:{port}"):
                with urlopen(f"http://{address}/", timeout=20) as answer:
                    assert answer.read() == b"hello\n"
            interface = cri.PodSandboxStats(pod_sandbox_id=other).stats.linux.network.default_interface
            assert interface.rx_bytes.value > 0
            daemon.kill()
            daemon.start(*options)
        with CriClient(daemon.directory / "cri.sock") as cri:
            assert inside(cri, client, "wget", "-qO-", url) == "hello\n"
            cri.StopPodSandbox(pod_sandbox_id=other)
            assert site.addresses() == sorted(addresses)
            # Its namespace is gone, as after the host's restart: what plugins keep is given back all the same.
            subprocess.run(["ip", "netns", "del", f"hyperd-{web[:32]}"], check=True)
            for pod in (web, other):
                cri.RemovePodSandbox(pod_sandbox_id=pod)
        assert site.left() == {"addresses": [], "links": [], "rules": []}
        assert list((daemon.root / "cni").iterdir()) == []
        assert not Path(f"/run/netns/hyperd-{other[:32]}").exists()
