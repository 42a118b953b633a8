"""The network on the real kernel: bridge, nftables, veth pairs and network namespaces in the place of pods."""

from __future__ import annotations

import functools
import json
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperd.config.model import NetworkConfig
from hyperd.db.session import Database
from hyperd.errors import Busy, Conflict, HostFault, InvalidInput
from hyperd.network import nft, ruleset
from hyperd.network.bridged import BridgeDriver
from hyperd.network.model import Lease
from hyperd.network.ports import PortMapping
from tests.support.netns import Namespace, ask_tcp, ask_udp, ip, serve_tcp, serve_udp
from tests.support.netsite import Site, address_of, fresh_config, outside, refused, web
from tests.support.ports import free_port, free_ports

pytestmark = pytest.mark.root


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def site(tmp_path: Path, stack: ExitStack) -> Site:
    return Site(tmp_path, stack)


def test_pods_reach_each_other_and_the_gateway(site: Site) -> None:
    one, lease = site.pod("one")
    two, _ = site.pod("two")
    with web(one):
        assert ask_tcp(two.socket(), (address_of(lease), 80)).startswith(b"from 10.")
        with socket.socket() as host:
            assert ask_tcp(host, (address_of(lease), 80)) == f"from {lease.gateway}".encode()


def test_published_port_answers_everywhere(site: Site, stack: ExitStack) -> None:
    server, lease = site.pod("web")
    neighbour, _ = site.pod("neighbour")
    far, _, host_address = outside(stack)
    port = free_port()
    site.network.publish("web", address_of(lease), [PortMapping("tcp", port, 80)])
    with web(server):
        for target in ("127.0.0.1", host_address, lease.gateway):
            assert ask_tcp(socket.socket(), (target, port)).startswith(b"from "), target
        assert ask_tcp(neighbour.socket(), (host_address, port)).startswith(b"from ")
        assert ask_tcp(server.socket(), (host_address, port)).startswith(b"from ")  # to itself by way of the host
        assert ask_tcp(far.socket(), (host_address, port)).startswith(b"from ")


def test_pod_reaches_its_own_port_when_it_came_after_it(site: Site, stack: ExitStack) -> None:
    _, _, host_address = outside(stack)
    lease = site.network.allocate("web")
    port = free_port()
    site.network.publish("web", address_of(lease), [PortMapping("tcp", port, 80)])
    server, _ = site.pod("web")
    site.network.plugged("web")
    site.network.plugged("unknown")
    with web(server):
        assert ask_tcp(server.socket(), (host_address, port)).startswith(b"from ")


def test_threads_change_rows_and_tables_together(site: Site) -> None:
    failures: list[BaseException] = []
    ports = free_ports(30)

    def work(number: int) -> None:
        try:
            for step in range(5):
                name = f"t{number}-{step}"
                lease = site.network.allocate(name)
                site.network.publish(name, address_of(lease), [PortMapping("tcp", ports[number * 5 + step], 53)])
                if step % 2:
                    site.network.release(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    after = site.rules()
    assert sum(f"{port} : " in after for port in ports) == 18
    site.restart()
    assert site.rules() == after


def test_outside_client_keeps_its_address(site: Site, stack: ExitStack) -> None:
    server, lease = site.pod("web")
    far, far_address, host_address = outside(stack)
    port = free_port()
    site.network.publish("web", address_of(lease), [PortMapping("tcp", port, 80)])
    with web(server):
        assert ask_tcp(far.socket(), (host_address, port)) == f"from {far_address}".encode()


def test_published_udp_port(site: Site, stack: ExitStack) -> None:
    server, lease = site.pod("dns")
    far, _, host_address = outside(stack)
    port = free_port()
    site.network.publish("dns", address_of(lease), [PortMapping("udp", port, 53)])
    with serve_udp(server.socket(socket.SOCK_DGRAM), (address_of(lease), 53), b"yes"):
        for target in ("127.0.0.1", host_address):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                assert ask_udp(client, (target, port)) == b"yes"
        with far.socket(socket.SOCK_DGRAM) as client:
            assert ask_udp(client, (host_address, port)) == b"yes"


def test_udp_client_that_keeps_sending_follows_the_port(site: Site) -> None:
    old, old_lease = site.pod("old")
    new, new_lease = site.pod("new")
    port = free_port()
    with ExitStack() as servers, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for namespace, lease, word in ((old, old_lease, b"old"), (new, new_lease, b"new")):
            servers.enter_context(serve_udp(namespace.socket(socket.SOCK_DGRAM), (address_of(lease), 53), word))
        client.connect(("127.0.0.1", port))
        client.send(b"nobody there yet")  # makes the kernel remember a connection that leads nowhere
        site.network.publish("old", address_of(old_lease), [PortMapping("udp", port, 53)])
        client.settimeout(60)
        assert _ask_again(client) == b"old"
        site.network.unpublish("old")
        site.network.publish("new", address_of(new_lease), [PortMapping("udp", port, 53)])
        assert _ask_again(client) == b"new"


def _ask_again(client: socket.socket) -> bytes:
    try:
        client.send(b"?")
        return client.recv(100)
    except ConnectionRefusedError:  # what an earlier datagram met
        client.send(b"?")
        return client.recv(100)


def test_nat_to_the_outside(site: Site, stack: ExitStack) -> None:
    pod, _ = site.pod("client")
    far, far_address, host_address = outside(stack)
    with web(far):
        assert ask_tcp(pod.socket(), (far_address, 80)) == f"from {host_address}".encode()


def test_without_nat_the_outside_sees_the_pod(tmp_path: Path, stack: ExitStack) -> None:
    site = Site(tmp_path, stack, replace(fresh_config(), nat=False))
    pod, lease = site.pod("client")
    far, far_address, host_address = outside(stack)
    ip("-n", far.name, "route", "add", site.config.subnet, "via", host_address)
    with web(far):
        assert ask_tcp(pod.socket(), (far_address, 80)) == f"from {address_of(lease)}".encode()


def test_outside_reaches_only_published_ports(site: Site, stack: ExitStack) -> None:
    server, lease = site.pod("web")
    far, _, host_address = outside(stack)
    ip("-n", far.name, "route", "add", site.config.subnet, "via", host_address)
    with web(server):
        assert refused(lambda: ask_tcp(far.socket(), (address_of(lease), 80), timeout=0.5))


def test_pod_cannot_reach_the_hosts_loopback(site: Site) -> None:
    pod, _ = site.pod("bad")
    ip("-n", pod.name, "route", "add", "127.5.5.5/32", "via", address_of_gateway(site), "dev", "eth0")
    with serve_tcp(socket.socket(), ("127.5.5.5", 0), lambda _peer: b"secret") as port:
        assert ask_tcp(socket.socket(), ("127.5.5.5", port)) == b"secret"
        assert refused(lambda: ask_tcp(pod.socket(), ("127.5.5.5", port), timeout=0.5))


def address_of_gateway(site: Site) -> str:
    lease = site.network.allocate("gateway-asker")
    return lease.gateway


def _heard(site: Site, sender: Namespace, receiver: Namespace, lease: Lease, source: str) -> bool:
    """Send a UDP datagram with some source address and tell whether it arrives."""
    with receiver.socket(socket.SOCK_DGRAM) as sink, sender.socket(socket.SOCK_DGRAM) as client:
        sink.bind((address_of(lease), 0))
        sink.settimeout(0.5)
        client.bind((source, 0))
        client.sendto(b"hello", sink.getsockname())
        try:
            return sink.recv(10) == b"hello"
        except TimeoutError:
            return False


def test_pod_cannot_use_another_address(site: Site) -> None:
    bad, bad_lease = site.pod("bad")
    victim, victim_lease = site.pod("victim")
    stolen = site.network.allocate("absent")
    ip("-n", bad.name, "address", "add", f"{address_of(stolen)}/24", "dev", "eth0")
    assert _heard(site, bad, victim, victim_lease, address_of(bad_lease))
    assert not _heard(site, bad, victim, victim_lease, address_of(stolen))
    assert _heard(site, bad, victim, victim_lease, address_of(bad_lease))


def test_pod_cannot_use_another_mac(site: Site) -> None:
    bad, bad_lease = site.pod("bad")
    victim, victim_lease = site.pod("victim")
    ip("-n", bad.name, "neigh", "add", address_of(victim_lease), "lladdr", victim_lease.mac, "dev", "eth0")
    assert _heard(site, bad, victim, victim_lease, address_of(bad_lease))
    ip("-n", bad.name, "link", "set", "eth0", "address", "52:54:00:00:00:99")
    ip("-n", bad.name, "neigh", "replace", address_of(victim_lease), "lladdr", victim_lease.mac, "dev", "eth0")
    assert not _heard(site, bad, victim, victim_lease, address_of(bad_lease))


@pytest.mark.parametrize(
    ("frame_sender", "arp_sender_mac", "arp_sender_ip", "passes"),
    [
        ("own", "own", "own", True),
        ("own", "own", "victim", False),
        ("own", "victim", "own", False),
        ("victim", "own", "own", False),
        ("own", "own", "gateway", False),
    ],
)
def test_pod_cannot_poison_arp(
    site: Site, frame_sender: str, arp_sender_mac: str, arp_sender_ip: str, passes: bool
) -> None:
    bad, bad_lease = site.pod("bad")
    watcher, _ = site.pod("watcher")
    victim = site.network.allocate("victim")
    macs = {"own": bad_lease.mac, "victim": victim.mac}
    addresses = {"own": address_of(bad_lease), "victim": address_of(victim), "gateway": victim.gateway}
    mac = bytes.fromhex(macs[arp_sender_mac].replace(":", ""))
    address = socket.inet_aton(addresses[arp_sender_ip])
    # RFC 826: hardware type 1, protocol 0x0800, lengths 6 and 4, reply, sender, target.
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + mac + address + b"\xff" * 6 + address
    frame = b"\xff" * 6 + bytes.fromhex(macs[frame_sender].replace(":", "")) + b"\x08\x06" + arp
    assert _arrives(frame, 0x0806, bad, watcher) is passes


def _arrives(frame: bytes, kind: int, sender: Namespace, watcher: Namespace) -> bool:
    """Send a frame of an EtherType; tell whether the watcher gets it within half a second."""
    with (
        watcher.socket(socket.SOCK_RAW, socket.AF_PACKET, socket.htons(kind)) as ear,
        sender.socket(socket.SOCK_RAW, socket.AF_PACKET, socket.htons(kind)) as mouth,
    ):
        ear.bind(("eth0", kind))
        mouth.bind(("eth0", kind))
        ear.settimeout(0.5)
        mouth.send(frame)
        with suppress(TimeoutError):
            while True:
                if ear.recv(2048)[: len(frame)] == frame:
                    return True
    return False


def test_pod_cannot_advertise_an_ipv6_router(site: Site) -> None:
    bad, lease = site.pod("bad")
    watcher, _ = site.pod("watcher")
    frame = b"\xff" * 6 + bytes.fromhex(lease.mac.replace(":", "")) + b"\x86\xdd" + bytes(60)
    assert not _arrives(frame, 0x86DD, bad, watcher)


def test_conflicts_name_the_port_and_change_nothing(site: Site) -> None:
    _, lease = site.pod("web")
    site.pod("other")
    site.network.publish("web", address_of(lease), [PortMapping("tcp", port := free_port(), 80)])
    before = site.rules()
    free = free_port()
    with pytest.raises(Conflict, match=f"{port}/tcp is published by pod web"):
        site.network.publish("other", "10.1.2.3", [PortMapping("tcp", free, 1), PortMapping("tcp", port, 80)])
    with socket.create_server(("127.0.0.1", 0)) as program:
        taken = program.getsockname()[1]
        with pytest.raises(Conflict, match=f"{taken}/tcp is in use by a program"):
            site.network.publish("other", "10.1.2.3", [PortMapping("tcp", free, 1), PortMapping("tcp", taken, 80)])
    assert site.network.mappings("other") == []
    assert site.rules() == before
    with socket.create_server(("", free)):  # not held either
        pass


def test_refused_rules_leave_no_row(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lease = site.pod("web")
    monkeypatch.setattr(nft, "apply", _refuse)
    port = free_port()
    with pytest.raises(HostFault):
        site.network.publish("web", address_of(lease), [PortMapping("tcp", port, 80)])
    with pytest.raises(HostFault):
        site.network.allocate("more")
    monkeypatch.undo()
    assert site.network.mappings("web") == []
    assert site.network.lease("more") is None
    with socket.create_server(("", port)):
        pass


def _refuse(_text: str) -> None:
    raise HostFault("refused")


def test_unpublish_one_and_all(site: Site) -> None:
    server, lease = site.pod("web")
    one, two = PortMapping("tcp", free_port(), 80), PortMapping("tcp", free_port(), 80)
    site.network.publish("web", address_of(lease), [one])
    site.network.publish("web", address_of(lease), [two])
    assert sorted(site.network.mappings("web"), key=str) == sorted([one, two], key=str)
    with web(server):
        site.network.unpublish("web", [one])
        assert ask_tcp(socket.socket(), ("127.0.0.1", two.host_port)).startswith(b"from")
        assert refused(lambda: ask_tcp(socket.socket(), ("127.0.0.1", one.host_port)))
        site.network.unpublish("web")
        assert refused(lambda: ask_tcp(socket.socket(), ("127.0.0.1", two.host_port)))
    site.network.unpublish("web")
    assert site.network.mappings("web") == []


def test_release_gives_everything_back(site: Site) -> None:
    empty = site.rules()
    _, lease = site.pod("web")
    port = free_port()
    site.network.publish("web", address_of(lease), [PortMapping("tcp", port, 80)])
    assert site.rules() != empty
    site.network.release("web")
    site.network.release("web")
    assert site.rules() == empty
    assert site.network.lease("web") is None
    with socket.create_server(("", port)):
        pass


def test_many_more_pods_than_addresses(tmp_path: Path, stack: ExitStack) -> None:
    config = fresh_config()
    site = Site(tmp_path, stack, replace(config, subnet=config.subnet.replace("/24", "/27")))
    addresses = set()
    for number in range(100):
        addresses.add(site.network.allocate(f"p{number}").cidr)
        site.network.release(f"p{number}")
    assert len(addresses) == 29
    assert "elements" not in site.rules()


def test_full_subnet(tmp_path: Path, stack: ExitStack) -> None:
    config = fresh_config()
    site = Site(tmp_path, stack, replace(config, subnet=config.subnet.replace("/24", "/29")))
    for number in range(5):
        site.network.allocate(f"p{number}")
    with pytest.raises(Busy):
        site.network.allocate("more")
    site.network.release("p0")
    assert site.network.allocate("more").cidr


def test_restart_restores_exactly(site: Site) -> None:
    server, lease = site.pod("web")
    port = free_port()
    site.network.publish("web", address_of(lease), [PortMapping("tcp", port, 80)])
    before = site.rules()
    with web(server):
        site.restart()
        assert site.rules() == before
        assert site.network.lease("web") == lease
        assert ask_tcp(socket.socket(), ("127.0.0.1", port)).startswith(b"from")
        ruleset.remove(site.config.nft_table)
        site.restart()
        assert site.rules() == before
        assert ask_tcp(socket.socket(), ("127.0.0.1", port)).startswith(b"from")
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("", port))


def test_lost_tables_come_back_with_the_next_change(site: Site) -> None:
    site.network.allocate("one")
    ruleset.remove(site.config.nft_table)
    lease = site.network.allocate("two")
    assert lease.tap in site.rules()
    assert site.config.bridge + "-2" in site.rules()


def test_killed_daemon_leaves_what_the_next_one_takes_over(tmp_path: Path, stack: ExitStack) -> None:
    site = Site(tmp_path, stack)
    site.network.close()
    script = f"""
import os, signal
from pathlib import Path
from typing import Any
from hyperd.config.model import NetworkConfig
from hyperd.db.session import Database
from hyperd.network import nft
from hyperd.network.bridged import BridgeDriver
from hyperd.network.ports import PortMapping
network = BridgeDriver(config={site.config!r}, database=Database(Path({str(site.database.path)!r})))
network.open()
lease = network.allocate("kept")
network.publish("kept", lease.cidr.split("/")[0], [PortMapping("tcp", {free_port()}, 80)])
apply = nft.apply
def last(text):
    apply(text)
    os.kill(os.getpid(), signal.SIGKILL)  # the tables are written, the row is not committed
nft.apply = last
network.allocate("half")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = site.network.lease("kept")
    assert kept is not None
    assert site.network.lease("half") is None
    assert f"{site.config.bridge}-3" in site.rules()
    site.restart()
    assert f"{site.config.bridge}-3" not in site.rules()
    assert kept.tap in site.rules()
    assert len(site.network.mappings("kept")) == 1
    assert site.network.allocate("half").cidr != kept.cidr


def test_reconcile_drops_what_no_longer_exists(site: Site) -> None:
    _, lease = site.pod("kept")
    gone = site.network.allocate("gone")
    port = free_port()
    site.network.publish("gone", address_of(gone), [PortMapping("udp", port, 80)])
    site.network.publish("kept", address_of(lease), [PortMapping("tcp", port, 80)])
    site.network.reconcile({"kept", "never"})
    assert site.network.lease("gone") is None
    assert site.network.mappings("gone") == []
    assert site.network.lease("kept") == lease
    assert gone.tap not in site.rules()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", port))


def test_transfer_keeps_the_nic(site: Site) -> None:
    lease = site.network.allocate("vm-abc")
    rules = site.rules()
    site.network.transfer("vm-abc", "pod")
    assert site.network.allocate("pod") == lease
    assert site.network.lease("vm-abc") is None
    assert site.rules() == rules


def test_two_daemons_side_by_side(tmp_path: Path, stack: ExitStack) -> None:
    one, two = Site(tmp_path, stack), Site(tmp_path, stack)
    server_one, lease_one = one.pod("web")
    server_two, lease_two = two.pod("web")
    port_one, port_two = free_port(), free_port()
    one.network.publish("web", address_of(lease_one), [PortMapping("tcp", port_one, 80)])
    two.network.publish("web", address_of(lease_two), [PortMapping("tcp", port_two, 80)])
    with pytest.raises(Conflict, match=f"{port_one}/tcp is in use by a program"):
        two.network.publish("web", address_of(lease_two), [PortMapping("tcp", port_one, 80)])
    with web(server_one), web(server_two):
        assert ask_tcp(server_one.socket(), (lease_two.gateway, port_two)).startswith(b"from")
        assert refused(lambda: ask_tcp(server_one.socket(), (address_of(lease_two), 80), timeout=0.5))
        before = two.rules()
        one.network.release("web")
        one.network.destroy()
        assert two.rules() == before
        assert ask_tcp(socket.socket(), ("127.0.0.1", port_two)).startswith(b"from")


def link(name: str) -> dict[str, Any]:
    """Return what the kernel tells of an interface (in /sys it would be of the namespace where that was mounted)."""
    done = subprocess.run(["ip", "-j", "link", "show", name], capture_output=True, check=False)
    return dict(json.loads(done.stdout)[0]) if done.returncode == 0 else {}


def test_destroy_leaves_nothing(site: Site) -> None:
    _, lease = site.pod("web")
    site.network.publish("web", address_of(lease), [PortMapping("tcp", free_port(), 80)])
    site.network.destroy()
    site.network.destroy()
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert site.config.nft_table not in tables
    assert not link(site.config.bridge)


def test_half_made_bridge_is_finished(tmp_path: Path, stack: ExitStack) -> None:
    config = fresh_config()
    ip("link", "add", config.bridge, "type", "bridge")
    site = Site(tmp_path, stack, config)
    assert str(site.network.allocate("a").gateway) in ip("-4", "address", "show", config.bridge)


def test_bridge_keeps_its_mac_when_ports_come(site: Site) -> None:
    before = ip("-o", "link", "show", site.config.bridge).rpartition("link/ether")[2]
    site.pod("one")
    assert ip("-o", "link", "show", site.config.bridge).rpartition("link/ether")[2] == before


def test_foreign_interfaces_are_not_touched(tmp_path: Path, stack: ExitStack) -> None:
    config = fresh_config()
    ip("link", "add", config.bridge, "type", "veth", "peer", "name", f"{config.bridge}p")
    stack.callback(ip, "link", "del", config.bridge)
    with pytest.raises(Conflict, match="is not a bridge"):
        open_network(tmp_path, stack, config)


def test_subnet_that_is_in_use_elsewhere(tmp_path: Path, stack: ExitStack, site: Site) -> None:
    with pytest.raises(Conflict, match=f"is in use on {site.config.bridge}"):
        open_network(tmp_path, stack, replace(fresh_config(), subnet=site.config.subnet))
    with pytest.raises(Conflict, match="has another address"):
        open_network(tmp_path, stack, replace(site.config, subnet=fresh_config().subnet))


def open_network(directory: Path, stack: ExitStack, config: NetworkConfig) -> None:
    database = Database(directory / "other.db")
    stack.callback(database.close)
    database.create_all()
    BridgeDriver(config=config, database=database).open()


@pytest.mark.parametrize(
    "wrong",
    [
        {"bridge": "x y"},
        {"bridge": ""},
        {"bridge": 'a";drop'},
        {"bridge": "sixteencharacter"},
        {"nft_table": "a;b"},
        {"subnet": "10.0.0.0"},
        {"mtu": 0},
    ],
)
def test_wrong_configuration(tmp_path: Path, stack: ExitStack, wrong: dict[str, object]) -> None:
    database = Database(tmp_path / "x.db")
    stack.callback(database.close)
    with pytest.raises(InvalidInput):
        BridgeDriver(config=replace(NetworkConfig(), **wrong), database=database)  # type: ignore[arg-type]


def test_lease_tells_the_mtu_and_name_servers(tmp_path: Path, stack: ExitStack) -> None:
    site = Site(tmp_path, stack, replace(fresh_config(), mtu=1400, dns=("192.0.2.53",)))
    lease = site.network.allocate("a")
    assert (lease.mtu, lease.dns) == (1400, ("192.0.2.53",))
    assert link(site.config.bridge)["mtu"] == 1400


@pytest.mark.parametrize("way", ["library", "command"])
def test_nftables_by_the_library_and_by_the_command(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "_library", functools.cache(nft._library.__wrapped__))  # as in a fresh process
    if way == "command":
        monkeypatch.setattr(nft, "LIBRARY", "no-such-library.so")
    name = f"hyt{secrets.token_hex(4)}"
    listing = ["nft", "list", "table", "ip", name]
    nft.apply(f"table ip {name} {{\n set one {{\n type ipv4_addr\n }}\n}}\n")
    try:
        with pytest.raises(HostFault, match="refused") as caught:
            nft.apply(f"add element ip {name} one {{ 10.0.0.1 }}\nadd element ip {name} none {{ 10.0.0.2 }}\n")
        assert "No such file or directory" in caught.value.details
        assert "10.0.0.1" not in subprocess.check_output(listing, text=True)  # all of it or nothing
        nft.apply(f"add element ip {name} one {{ 10.0.0.3 }}\n")
        assert "10.0.0.3" in subprocess.check_output(listing, text=True)
    finally:
        nft.apply(f"delete table ip {name}\n")
    assert (nft._library() is not None) == (way == "library")
