"""White lists on the real kernel, with namespaces in the place of pods: with and without br_netfilter."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hyperd.network.guards import Guard
from hyperd.network.model import Lease, NicWish
from hyperd.network.ports import PortMapping
from tests.support.netns import Namespace, ask_tcp, ask_udp, ip, serve_udp
from tests.support.netsite import Site, address_of, outside, refused, web
from tests.support.ports import free_port

pytestmark = pytest.mark.root


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def site(tmp_path: Path, stack: ExitStack) -> Site:
    return Site(tmp_path, stack)


def guarded(site: Site, *, internal: tuple[str, ...] = (), external: tuple[str, ...] = ()) -> tuple[Namespace, Lease]:
    site.network.reserve("guarded", [NicWish()], Guard(internal, external))
    return site.pod("guarded")


def check_neighbours(site: Site) -> None:
    """What pods on the same bridge may do, TCP and UDP, in both directions."""
    friend, friend_lease = site.pod("friend")
    site.pod("spacer")  # its neighbour's address, so that the two networks cannot become one
    stranger, stranger_lease = site.pod("stranger")
    pod, lease = guarded(site, internal=(f"{address_of(friend_lease)}/32",))
    target = (address_of(lease), 80)
    with web(pod), web(stranger):
        assert ask_tcp(friend.socket(), target) == f"from {address_of(friend_lease)}".encode()
        assert refused(lambda: ask_tcp(stranger.socket(), target, timeout=0.5))
        assert refused(lambda: ask_tcp(socket.socket(), target, timeout=0.5))
        assert ask_tcp(pod.socket(), (address_of(stranger_lease), 80)) == f"from {address_of(lease)}".encode()
    with ExitStack() as servers:
        for namespace, own in ((pod, lease), (stranger, stranger_lease)):
            server = namespace.socket(socket.SOCK_DGRAM)
            servers.enter_context(serve_udp(server, (address_of(own), 53), b"yes"))
        for asker, other, answered in ((friend, lease, True), (stranger, lease, False), (pod, stranger_lease, True)):
            with asker.socket(socket.SOCK_DGRAM) as client:
                silent = refused(lambda c=client, o=other: ask_udp(c, (address_of(o), 53), timeout=0.5))
            assert silent is not answered


def test_neighbours(site: Site) -> None:
    check_neighbours(site)


def test_neighbours_where_bridges_do_not_call_iptables(tmp_path: Path) -> None:
    script = f"""
import pathlib, subprocess, sys
from contextlib import ExitStack
sys.path[:0] = {sys.path!r}
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
switch = pathlib.Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
if switch.exists():
    switch.write_text("0")
from tests.functional.test_network_guards import Site, check_neighbours
with ExitStack() as stack:
    check_neighbours(Site(pathlib.Path({str(tmp_path)!r}), stack))
"""
    argv = ["unshare", "--net", "--mount", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_destination_address_in_the_frame_is_no_way_round(site: Site) -> None:
    stranger, stranger_lease = site.pod("stranger")
    other, other_lease = site.pod("other")
    pod, lease = guarded(site)
    # IP of somebody else, frame for the guarded pod's NIC; and a broadcast.
    ip("-n", stranger.name, "neigh", "add", address_of(other_lease), "lladdr", lease.mac, "dev", "eth0")
    with (
        stranger.socket(socket.SOCK_DGRAM) as client,
        pod.socket(socket.SOCK_RAW, socket.AF_PACKET, socket.htons(0x0800)) as ear,
        other.socket(socket.SOCK_DGRAM) as reached,
    ):
        ear.bind(("eth0", 0x0800))
        ear.settimeout(0.5)
        reached.bind((address_of(other_lease), 5000))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"hello", (address_of(other_lease), 5000))
        client.sendto(b"hello", (site.config.subnet.rsplit(".", 1)[0] + ".255", 5000))
        assert reached.recv(10) == b"hello"  # led to where the address says
        assert address_of(stranger_lease) not in _sources(ear)


def _sources(ear: socket.socket) -> set[str]:
    """Return the senders of the IP frames that have come."""
    found = set()
    while True:
        try:
            found.add(socket.inet_ntoa(ear.recv(2048)[26:30]))
        except TimeoutError:
            return found


def test_external_networks_reach_published_ports_only(site: Site, stack: ExitStack) -> None:
    far, far_address, host_address = outside(stack)
    near, near_lease = site.pod("near")
    pod, lease = guarded(site, external=(f"{far_address}/32", f"{address_of(near_lease)}/32"))
    third, _ = site.pod("third")
    port = free_port()
    site.network.publish("guarded", address_of(lease), [PortMapping("tcp", port, 80)])
    with web(pod):
        assert ask_tcp(far.socket(), (host_address, port)) == f"from {far_address}".encode()
        assert ask_tcp(near.socket(), (lease.gateway, port)).startswith(b"from ")
        assert refused(lambda: ask_tcp(near.socket(), (address_of(lease), 80), timeout=0.5))
        assert refused(lambda: ask_tcp(third.socket(), (lease.gateway, port), timeout=0.5))
        for address in ("127.0.0.1", host_address, address_of(lease)):
            assert refused(lambda a=address: ask_tcp(socket.socket(), (a, port), timeout=0.5))
        site.restart()
        assert ask_tcp(far.socket(), (host_address, port)).startswith(b"from ")
        assert refused(lambda: ask_tcp(third.socket(), (lease.gateway, port), timeout=0.5))


def test_the_host_is_the_gateway(site: Site) -> None:
    gateway = site.network.allocate("x").gateway
    pod, lease = guarded(site, internal=(f"{gateway}/32",))
    port = free_port()
    site.network.publish("guarded", address_of(lease), [PortMapping("tcp", port, 80)])
    with web(pod):
        for target in ((address_of(lease), 80), ("127.0.0.1", port)):
            assert ask_tcp(socket.socket(), target).startswith(b"from ")


def test_networks_that_overlap_are_fine_and_release_opens(site: Site) -> None:
    friend, _ = site.pod("friend")
    own = site.config.subnet
    pod, lease = guarded(site, internal=(own, own, f"{own.rsplit('.', 1)[0]}.0/25", "0.0.0.0/0"))
    with web(pod):
        assert ask_tcp(friend.socket(), (address_of(lease), 80)).startswith(b"from ")
        assert "guarded" in site.rules()
        site.network.release("guarded")
        assert "guarded" not in site.rules()
