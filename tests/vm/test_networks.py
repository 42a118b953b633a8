"""Networks in real guests: names, connect and disconnect while traffic flows, what others do to the host's side."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import ip
from tests.support.ports import free_port
from tests.support.registry import RegistryServer
from tests.support.until import until
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]
SERVE = "mkdir -p /www; hostname > /www/index.html; httpd -p 80 -h /www; sleep 1000"


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    daemon, host = launch(registry)
    with daemon:
        host.ok("pull", host.image)
        yield host
        for row in daemon.json("GET", "/list", item="pod")["podData"]:
            host.ctl("rm", row.split(":")[0])
        daemon.json("POST", "/network/prune")
        host.assert_clean()


def make(host: Host, name: str, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = host.daemon.json("POST", "/network/create", status=201, body={"name": name, **fields})
    return made


def start(host: Host, pod: str, **spec: Any) -> str:
    """Start a pod that serves its name."""
    ports = spec.pop("ports", [])
    container = {"name": f"{pod}-c", "image": host.image, "command": ["sh", "-c", SERVE], "ports": ports}
    host.daemon.json("POST", "/pod/create", body={"id": pod, "containers": [container], **spec}, status=201)
    host.daemon.json("POST", "/pod/start", podId=pod)
    return pod


def inside(host: Host, pod: str, script: str) -> str:
    """What a script says in a pod; its errors, too."""
    done = host.ctl("exec", f"{pod}-c", "sh", "-c", script)
    return (done.stdout + done.stderr).decode().strip()


def page(host: Host, pod: str, name: str) -> str:
    """What a pod gets from another one by its name, with a resolver that asks the name server alone."""
    found = f"nslookup {name} | sed -n '/^Name:/,$ s/^Address: *//p' | head -n 1"
    return inside(host, pod, f'a=$({found}); [ -z "$a" ] && echo unknown || wget -q -O - http://$a/ 2>&1')


def change(host: Host, verb: str, pod: str, network: str, **more: Any) -> None:
    host.daemon.json("POST", f"/network/{verb}", body={"pod": pod, "network": network, **more})


def test_two_networks_names_connect_and_disconnect(host: Host) -> None:
    """The whole of it with four guests: a pod on both networks, peers on either, one inside an internal network."""
    make(host, "one", subnet="10.61.1.0/24")
    make(host, "two", subnet="10.61.2.0/24")
    make(host, "inner", internal=True)
    extra = {"extraHosts": [{"name": "printer", "ip": "10.9.9.9"}]}
    both = [
        {"network": "one", "ip": "10.61.1.20", "mac": "52:54:00:61:01:20", "aliases": ["www"]},
        {"network": "two", "aliases": ["db.shop"]},
    ]
    start(host, "both", networks=both, **extra)
    start(host, "left", networks=[{"network": "one", "links": [{"container": "both-c", "alias": "storage"}]}])
    local, other = free_port(), free_port()
    ports = [{"containerPort": "80", "hostPort": str(local), "hostIP": "127.0.0.1"}]
    start(
        host,
        "right",
        ports=[{"containerPort": 80, "hostPort": other, "hostIP": "127.0.0.1"}],
        networks=[{"network": "two"}],
        portmappings=ports,
    )
    for port in (local, other):
        until(lambda port=port: served(port) == b"right\n")
    assert "10.9.9.9\tprinter" in inside(host, "both", "cat /etc/hosts")
    assert "10.61.1.20\tstorage both-c" in inside(host, "left", "cat /etc/hosts")
    assert "52:54:00:61:01:20" in inside(host, "both", "ip link show eth0")
    for name in ("both", "both-c", "www"):
        assert page(host, "left", name) == "both"
    for name in ("both", "db.shop"):
        assert page(host, "right", name) == "both"
    assert (page(host, "both", "left"), page(host, "both", "right")) == ("left", "right")
    assert page(host, "left", "right") == "unknown"
    assert page(host, "left", "db.shop") == "unknown"
    # The name servers go on without the daemon, and so do the pods.
    host.daemon.kill()
    servers = name_servers(host)
    host.daemon.start()
    assert name_servers(host) == servers
    assert page(host, "left", "www") == "both"
    # Traffic that flows on one network does not notice what is done on another.
    flow = host.background(
        "exec", "left-c", "sh", "-c", "for i in $(seq 60); do wget -q -O - http://10.61.1.20/; sleep 0.1; done"
    )
    change(host, "connect", "left", "two", aliases=["guest"])
    assert page(host, "left", "right") == "right"
    assert page(host, "right", "guest") == "left"
    change(host, "connect", "right", "inner")
    change(host, "disconnect", "left", "two")
    assert page(host, "left", "right") == "unknown"
    assert page(host, "right", "guest") == "unknown"
    said, complaints = flow.communicate(timeout=120)
    assert (said.decode().split(), complaints) == (["both"] * 60, b"")
    # Off the network with the default route: the other one takes over, addresses go back.
    change(host, "disconnect", "both", "one")
    assert "default via 10.61.2.1 dev eth1" in inside(host, "both", "ip route")
    assert "nameserver 10.61.2.1" in inside(host, "both", "cat /etc/resolv.conf")
    assert page(host, "both", "right") == "right"
    assert [one["pod"] for one in shown(host, "one")] == ["left"]
    # Nothing leaves an internal network, whatever root in the guest does.
    change(host, "disconnect", "right", "two")
    gateway = host.daemon.json("GET", "/network/info", network="inner")["gateway"]
    host.ok("exec", "-m", "right", "/sbin/busybox", "ip", "route", "add", "default", "via", gateway)
    for address in ("10.61.2.1", host.address("left")):
        assert inside(host, "right", f"timeout 3 wget -q -O - http://{address}/ || echo refused").startswith("refused")
    assert page(host, "right", "left") == "unknown"
    assert page(host, "right", "right-c") == "right"
    for pod in ("both", "left", "right"):
        host.ok("rm", pod)
    assert host.daemon.json("POST", "/network/prune") == ["one", "two", "inner"]
    assert name_servers(host) == []


def test_ipv6_between_guests(host: Host) -> None:
    """Two guests reach each other, also by name and by a port of the host; nobody hears what is not their own."""
    made = make(host, "six", ipv6=True, subnet6="fd00:66::/64")
    port = free_port()
    start(
        host,
        "one",
        networks=[{"network": "six", "ip6": "fd00:66::21"}],
        portmappings=[{"containerPort": "80", "hostPort": str(port)}],
    )
    start(host, "two", networks=[{"network": "six", "ip6": "fd00:66::22"}])
    assert "1 packets received" in inside(host, "two", "ping -6 -c 1 -W 20 fd00:66::21")
    assert "fd00:66::21" in inside(host, "two", "nslookup -type=aaaa one-c")
    assert "fd00:66::21\tone" in inside(host, "one", "cat /etc/hosts")
    until(lambda: served(port, "[fd00:66::1]") == b"one\n")
    busybox = ("exec", "-m", "two", "/sbin/busybox")
    host.ok(*busybox, "ip", "-6", "address", "add", "fd00:66::99/64", "dev", "eth0", "nodad")
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD)) as ear:
        ear.bind((made["bridge"], 0x86DD))
        ear.settimeout(0.5)
        for source in ("fd00:66::99", "fd00:66::22"):
            host.ctl(*busybox, "ping", "-6", "-c", "2", "-W", "1", "-I", source, "fd00:66::1")
        heard = set()
        with contextlib.suppress(TimeoutError):
            while True:
                heard.add(socket.inet_ntop(socket.AF_INET6, ear.recv(2048)[8:24]))
    assert "fd00:66::22" in heard
    assert "fd00:66::99" not in heard
    # Off and on again while it runs: the other network has no IPv6, and no route for it is left.
    make(host, "four")
    change(host, "connect", "two", "four")
    change(host, "disconnect", "two", "six")
    assert "default" not in inside(host, "two", "ip -6 route")
    change(host, "connect", "two", "six")
    assert "via fd00:66::1" in inside(host, "two", "ip -6 route")
    assert "1 packets received" in inside(host, "two", "ping -6 -c 1 -W 20 fd00:66::21")
    for pod in ("one", "two"):
        host.ok("rm", pod)
    host.daemon.json("POST", "/network/prune")


def test_links_that_others_delete_come_back(host: Host) -> None:
    """A bridge and a tap deleted from outside: the pod is reachable again, and QEMU does not spin."""
    made = make(host, "net", subnet="10.61.3.0/24")
    start(host, "a", networks=[{"network": "net", "ip": "10.61.3.10"}])
    start(host, "b", networks=[{"network": "net"}])
    ip("link", "del", made["bridge"])
    until(lambda: page(host, "b", "a") == "a")
    tap = taps(made["bridge"])[0]
    ip("link", "del", tap)
    until(lambda: tap in taps(made["bridge"]))
    until(lambda: page(host, "b", "a") == "a")
    assert page(host, "a", "b") == "b"
    # While no daemon runs nobody repairs; the next one does.
    host.daemon.kill()
    ip("link", "del", tap)
    ip("link", "del", made["bridge"])
    host.daemon.start()
    until(lambda: page(host, "b", "a") == "a")
    for pod in ("a", "b"):
        host.ok("rm", pod)
    assert host.daemon.json("POST", "/network/prune") == ["net"]


def served(port: int, address: str = "127.0.0.1") -> bytes:
    """What the host gets from one of its own ports; nothing while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=90) as answer:
            found: bytes = answer.read()
            return found
    except OSError:
        return b""


def shown(host: Host, network: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = host.daemon.json("GET", "/network/info", network=network)["pods"]
    return found


def taps(bridge: str) -> list[str]:
    done = subprocess.run(["ip", "-o", "link", "show", "master", bridge], capture_output=True, text=True, check=False)
    return re.findall(r"^\d+: (\S+): ", done.stdout, re.MULTILINE)


def name_servers(host: Host) -> list[int]:
    """The name servers of the daemon."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"dnsmasq" and any(
            word.startswith(f"--pid-file={host.daemon.root}/".encode()) for word in words
        ):
            found.append(int(entry.name))
    return sorted(found)
