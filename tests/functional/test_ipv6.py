"""Networks with IPv6, on the real kernel: addresses, ports, names, and what a pod cannot do to its neighbours."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from hyperd.errors import Busy, Conflict, InvalidInput
from hyperd.network.addresses6 import link_local
from hyperd.network.model import Lease, NetworkSpec, NicWish
from hyperd.network.ports import PortMapping
from tests.support.dns import addresses6
from tests.support.netns import Namespace, ask_tcp, ip, serve_tcp
from tests.support.netsite import Site, address_of, fresh_config, refused, web
from tests.support.networks import Networks
from tests.support.ports import free_port
from tests.support.until import until

pytestmark = pytest.mark.root
ALL_NODES = "ff02::1"


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[Networks]:
    with ExitStack() as stack:
        yield Networks(Site(tmp_path, stack, replace(fresh_config(), subnets="172.24.0.0/13")), stack)


def pod(networks: Networks, name: str, network: str, **more: str) -> tuple[Namespace, Lease]:
    """A namespace with the addresses that a guest would have."""
    lease = networks.site.network.reserve(name, [NicWish(network=network, **more)])[0]  # type: ignore[arg-type]  # some are text
    made = Namespace()
    networks._stack.callback(made.close)
    made.plug(host_end=lease.tap, bridge=lease.bridge, mac=lease.mac, cidr=lease.cidr, gateway=lease.gateway)
    ip("-n", made.name, "address", "add", six(lease), "dev", "eth0", "nodad")
    if lease.gateway6:
        ip("-n", made.name, "-6", "route", "add", "default", "via", lease.gateway6)
    return made, lease


def six(lease: Lease) -> str:
    """The IPv6 address with its prefix length."""
    return next(one for one in lease.cidrs if ":" in one)


def bare(lease: Lease) -> str:
    return six(lease).partition("/")[0]


@contextlib.contextmanager
def web6(where: Namespace) -> Iterator[None]:
    """A server at port 80 that says who asks."""
    with serve_tcp(where.socket(family=socket.AF_INET6), ("::", 80), lambda peer: f"from {peer}".encode()):
        yield


def ask(where: Namespace, address: str, port: int = 80, *, timeout: float = 30) -> bytes:
    return ask_tcp(where.socket(family=socket.AF_INET6), (address, port), timeout=timeout)


def silent(where: Namespace, address: str, port: int = 80) -> bool:
    return refused(lambda: ask(where, address, port, timeout=0.5))


def test_addresses_gateway_names_and_what_is_shown(networks: Networks) -> None:
    made = networks.make("six", ipv6=True, subnet="172.24.8.0/24", subnet6="fd00:5:6::/64")
    assert (made.subnet6, made.gateway6) == ("fd00:5:6::/64", "fd00:5:6::1")
    one, first = pod(networks, "one", "six")
    two, second = pod(networks, "two", "six", ipv6="fd00:5:6::42")
    assert (six(first), six(second)) == ("fd00:5:6::2/64", "fd00:5:6::42/64")
    assert first.gateway6 == "fd00:5:6::1"
    shown = {at.pod: at.ipv6 for at in networks.service.get("six").attachments}
    assert shown == {"one": "fd00:5:6::2/64", "two": "fd00:5:6::42/64"}
    with web6(two), web6(one):
        assert ask(one, "fd00:5:6::42") == b"from fd00:5:6::2"
        assert ask(two, "fd00:5:6::2") == b"from fd00:5:6::42"
    asker = one.socket(socket.SOCK_DGRAM)
    assert addresses6(asker, networks.service.get("six").gateway, "two") == ["fd00:5:6::42"]
    networks.site.network.release("two")
    asker = one.socket(socket.SOCK_DGRAM)
    assert addresses6(asker, networks.service.get("six").gateway, "two") == []
    _, third = pod(networks, "three", "six", ipv6="fd00:5:6::42")
    assert six(third) == "fd00:5:6::42/64"


def test_what_cannot_be_made_leaves_nothing(networks: Networks) -> None:
    networks.make("there", ipv6=True, subnet6="fd00:77::/64")
    wrong: list[tuple[dict[str, object], type[Exception]]] = [
        ({"subnet6": "fd00::/64"}, InvalidInput),
        ({"ipv6": True, "subnet6": "10.0.0.0/8"}, InvalidInput),
        ({"ipv6": True, "subnet6": "fe80::/64"}, InvalidInput),
        ({"ipv6": True, "subnet6": "fd00::/126"}, InvalidInput),
        ({"ipv6": True, "subnet6": "fd00::/64", "gateway6": "fd01::1"}, InvalidInput),
        ({"ipv6": True, "mtu": 1000}, InvalidInput),
        ({"ipv6": True, "subnet6": "fd00::/64", "ip_range6": "fd01::/80"}, InvalidInput),
        ({"ipv6": True, "subnet6": "fd00:77::/56"}, Conflict),
    ]
    for fields, error in wrong:
        with pytest.raises(error):
            networks.service.create(NetworkSpec(name="not", **fields))  # type: ignore[arg-type]  # of several types
    assert [one.name for one in networks.service.all()] == ["bridge", "host", "none", "there"]


def test_address_that_cannot_be_had(networks: Networks) -> None:
    networks.make("six", ipv6=True, subnet6="fd00:5:6::/64")
    networks.make("four")
    pod(networks, "one", "six", ipv6="fd00:5:6::9")
    for network, wanted, error in (
        ("six", "fd00:5:6::9", Conflict),
        ("six", "fd00:5:6::1", InvalidInput),
        ("six", "fd00:5:7::9", InvalidInput),
        ("four", "fd00:5:6::8", InvalidInput),
    ):
        with pytest.raises(error):
            networks.site.network.reserve("two", [NicWish(network=network, ipv6=wanted)])
    assert networks.site.network.leases("two") == []


def test_range_of_addresses(networks: Networks) -> None:
    made = networks.make("six", ipv6=True, subnet6="fd00:5::/64", gateway6="fd00:5::fff", ip_range6="fd00:5::100/126")
    assert (made.gateway6, made.ip_range6) == ("fd00:5::fff", "fd00:5::100/126")
    found = {bare(networks.site.network.reserve(f"p{n}", [NicWish(network="six")])[0]) for n in range(3)}
    assert found == {"fd00:5::101", "fd00:5::102", "fd00:5::103"}
    with pytest.raises(Busy):
        networks.site.network.reserve("p3", [NicWish(network="six")])
    wanted = [NicWish(network="six", ipv6="fd00:5::7")]
    assert bare(networks.site.network.reserve("p4", wanted)[0]) == "fd00:5::7"


def test_own_subnet_isolation_and_published_ports(networks: Networks) -> None:
    made, other = networks.make("one", ipv6=True), networks.make("two", ipv6=True)
    for network in (made, other):
        assert ipaddress.IPv6Network(network.subnet6).subnet_of(ipaddress.IPv6Network("fd00::/8"))
    client, _ = pod(networks, "client", "one")
    mate, _ = pod(networks, "mate", "two")
    server, lease = pod(networks, "server", "two")
    port = free_port()
    networks.site.network.publish("server", address_of(lease), [PortMapping("tcp", port, 80)])
    with web6(server):
        assert ask(mate, bare(lease))
        assert silent(client, bare(lease))
        assert ask(client, made.gateway6, port)
        assert ask(mate, other.gateway6, port)
        with socket.socket(socket.AF_INET6) as here:
            assert ask_tcp(here, (other.gateway6, port))
        networks.site.network.unpublish("server")
        assert silent(client, made.gateway6, port)


def test_internal_network_reaches_nothing_outside(networks: Networks) -> None:
    inner, outer = networks.make("inner", ipv6=True, internal=True), networks.make("open", ipv6=True)
    one, lease = pod(networks, "one", "inner")
    mate, mates = pod(networks, "mate", "inner")
    far, fars = pod(networks, "far", "open")
    assert lease.gateway6 == ""
    with web6(mate), web6(far):
        assert ask(one, bare(mates))
        ip("-n", one.name, "-6", "route", "add", "default", "via", inner.gateway6)  # root in the guest can do that
        assert silent(one, bare(fars))
    with serve_tcp(socket.socket(socket.AF_INET6), ("::", 0), lambda _: b"host") as port:
        assert ask(far, outer.gateway6, port)
        assert silent(one, inner.gateway6, port)


def test_pods_of_an_isolated_network_do_not_reach_each_other(networks: Networks) -> None:
    made = networks.make("apart", ipv6=True, isolated=True)
    one, _ = pod(networks, "one", "apart")
    two, lease = pod(networks, "two", "apart")
    port = free_port()
    networks.site.network.publish("two", address_of(lease), [PortMapping("tcp", port, 80)])
    other, _ = networks.site.pod("other")

    def reaches(address: str, port: int, family: int) -> bool:
        return not refused(lambda: ask_tcp(one.socket(family=family), (address, port), timeout=0.5))

    with web6(two), serve_tcp(socket.socket(socket.AF_INET6), ("::", 0), lambda _: b"host") as host:
        # By the host, too, which root in a guest can ask to pass it on.
        for mac in (json.loads(ip("-j", "link", "show", made.bridge))[0]["address"], lease.mac):
            for address, family in ((address_of(lease), "-4"), (bare(lease), "-6")):
                ip("-n", one.name, family, "neigh", "replace", address, "lladdr", mac, "dev", "eth0")
            assert not reaches(address_of(lease), 80, socket.AF_INET)
            assert not reaches(bare(lease), 80, socket.AF_INET6)
        assert not reaches(made.gateway, port, socket.AF_INET)
        assert not reaches(made.gateway6, port, socket.AF_INET6)
        assert reaches(made.gateway, host, socket.AF_INET)
        assert reaches(made.gateway6, host, socket.AF_INET6)
        assert ask_tcp(other.socket(), (networks.service.get("bridge").gateway, port))


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(
    lease: Lease, source: str, payload: bytes, *, mac: str = "", protocol: int = 58, before: bytes = b""
) -> bytes:
    """An Ethernet frame to all nodes; ``before``: headers between those of IPv6 and the payload."""
    packed, target = socket.inet_pton(socket.AF_INET6, source), socket.inet_pton(socket.AF_INET6, ALL_NODES)
    if protocol == 58:
        whole = packed + target + struct.pack("!II", len(payload), 58) + payload
        payload = payload[:2] + struct.pack("!H", checksum(whole)) + payload[4:]
    first = before[0] if before else protocol
    body = before[1:] + payload
    head = struct.pack("!IHBB", 6 << 28, len(body), first, 255) + packed + target
    sender = bytes.fromhex((mac or lease.mac).replace(":", ""))
    return b"\x33\x33\0\0\0\1" + sender + b"\x86\xdd" + head + body


def passes(sender: Namespace, ear: Namespace, sent: bytes, mark: bytes) -> bool:
    """Tell whether a frame comes through; ``mark`` is one that does, and is sent after it."""
    kind = 0x86DD
    with (
        ear.socket(socket.SOCK_RAW, socket.AF_PACKET, socket.htons(kind)) as listening,
        sender.socket(socket.SOCK_RAW, socket.AF_PACKET, socket.htons(kind)) as mouth,
    ):
        listening.bind(("eth0", kind))
        mouth.bind(("eth0", kind))
        mouth.send(sent)
        mouth.send(mark)
        heard = b""
        while heard not in (sent, mark):
            heard = listening.recv(2048)
        return heard == sent


def advertisement(target: str) -> bytes:
    """RFC 4861, 4.4: a neighbour's advertisement, override."""
    return struct.pack("!BBHI", 136, 0, 0, 0x20000000) + socket.inet_pton(socket.AF_INET6, target)


ECHO, MARK = struct.pack("!BBHHH", 128, 0, 0, 1, 1), struct.pack("!BBHHH", 128, 0, 0, 1, 2)
ROUTER = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
DHCP = struct.pack("!HHHH", 547, 546, 8, 0)
OPTIONS = bytes([60, 58, 0, 1, 4, 0, 0, 0, 0])  # a destination options header of 8 bytes; 60 is its own number
FIRST = bytes([44, 58, 0, 0, 1, 0, 0, 0, 7])  # the header of the first of several fragments
BROKEN = bytes([60, 58, 31, 1, 4, 0, 0, 0, 0])  # one that says it is longer than the packet


def test_pod_can_say_nothing_that_is_not_its_own(networks: Networks) -> None:
    networks.make("six", ipv6=True, subnet6="fd00:5:6::/64")
    bad, lease = pod(networks, "bad", "six")
    ear, other = pod(networks, "ear", "six")
    own, link, victim = bare(lease), str(link_local(lease.mac)), bare(other)
    mark = frame(lease, own, MARK)
    for good in (
        frame(lease, own, ECHO),
        frame(lease, link, ECHO),
        frame(lease, own, advertisement(own)),
        frame(lease, own, ECHO, before=OPTIONS),
    ):
        assert passes(bad, ear, good, mark)
    wrong: dict[str, bytes] = {
        "another's address": frame(lease, "fd00:5:6::99", ECHO),
        "the victim's address": frame(lease, victim, ECHO),
        "the gateway's": frame(lease, "fd00:5:6::1", ECHO),
        "another's of the link": frame(lease, str(link_local(other.mac)), ECHO),
        "no address": frame(lease, "::", ECHO),
        "another's MAC": frame(lease, own, ECHO, mac=other.mac),
        "the victim's address, advertised": frame(lease, own, advertisement(victim)),
        "the same, with a header before it": frame(lease, own, advertisement(victim), before=OPTIONS),
        "a router's word": frame(lease, link, ROUTER),
        "the same, with a header before it ": frame(lease, link, ROUTER, before=OPTIONS),
        "the same in a fragment": frame(lease, link, ROUTER, before=FIRST),
        "headers that nobody can read": frame(lease, link, ROUTER, before=BROKEN),
        "a redirect": frame(lease, link, struct.pack("!BBHI", 137, 0, 0, 0) + bytes(32)),
        "a query of groups": frame(lease, link, struct.pack("!BBHHH", 130, 0, 0, 0, 0) + bytes(16)),
        "a DHCP server's word": frame(lease, link, DHCP, protocol=17),
    }
    through = [what for what, sent in wrong.items() if passes(bad, ear, sent, mark)]
    assert through == []


def test_echo_in_fragments_is_answered(networks: Networks) -> None:
    networks.make("six", ipv6=True)
    one, _ = pod(networks, "one", "six")
    _, lease = pod(networks, "two", "six")
    with one.socket(socket.SOCK_RAW, socket.AF_INET6, socket.IPPROTO_ICMPV6) as mouth:
        mouth.sendto(ECHO + bytes(4000), (bare(lease), 0))
        heard = b""
        while heard[:1] != b"\x81":  # RFC 4443: an echo's reply
            heard = mouth.recv(8192)
    assert len(heard) == len(ECHO) + 4000


def heard(listening: socket.socket) -> list[str]:
    """Return the frames that have come, in hexadecimal."""
    listening.setblocking(False)
    found: list[str] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(listening.recv(2048).hex(" "))
    return found


def test_network_without_ipv6_carries_none(networks: Networks) -> None:
    networks.make("six", ipv6=True)
    networks.make("four")
    pod(networks, "there", "six")
    bad, leases = networks.pod("bad", "four")
    ear, _ = networks.pod("ear", "four")
    kind = socket.htons(0x86DD)
    with ear.socket(socket.SOCK_RAW, socket.AF_PACKET, kind) as listening:
        listening.bind(("eth0", 0x86DD))
        with bad.socket(socket.SOCK_RAW, socket.AF_PACKET, kind) as mouth:
            mouth.bind(("eth0", 0x86DD))
            mouth.send(frame(leases[0], str(link_local(leases[0].mac)), ECHO))
        with web(ear):  # what comes after it has come through
            assert ask_tcp(bad.socket(), (address_of(networks.site.network.leases("ear")[0]), 80))
        assert heard(listening) == []


def test_survives_a_restart_and_what_others_do(networks: Networks) -> None:
    made = networks.make("six", ipv6=True, subnet6="fd00:5:6::/64")
    one, _ = pod(networks, "one", "six")
    two, lease = pod(networks, "two", "six")
    port = free_port()
    networks.site.network.publish("two", address_of(lease), [PortMapping("tcp", port, 80)])
    networks.restart()
    with web6(two):
        assert ask(one, bare(lease))
        assert ask(one, made.gateway6, port)
        ip("-6", "address", "del", f"{made.gateway6}/64", "dev", made.bridge)
        until(lambda: f"{made.gateway6}/64" in ip("-6", "address", "show", "dev", made.bridge))
        assert ask(one, made.gateway6, port)
    networks.site.network.release("one")
    networks.site.network.release("two")
    networks.service.remove("six")
    assert "fd00:5:6" not in networks.site.rules()
