"""Networks that somebody has made, on the real kernel: bridges, tables, namespaces in the place of pods."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from hyperd.db import spec_codec
from hyperd.db.models import ContainerRow, PodRow
from hyperd.errors import Busy, Conflict, Forbidden, HostFault, InvalidInput, NotFound, NotSupported
from hyperd.network import dns, nft
from hyperd.network.bridged import BridgeDriver
from hyperd.network.model import Driver, Lease, Network, NicWish
from hyperd.network.netlink import Netlink
from hyperd.network.ports import PortMapping
from hyperd.spec.model import NetworkAttachment, PodSpec
from tests.support.netns import Namespace, ask_tcp, ask_udp, ip, serve_tcp, serve_udp
from tests.support.netsite import Site, address_of, fresh_config, outside, refused, web
from tests.support.networks import Networks
from tests.support.ports import free_port
from tests.support.until import until

pytestmark = pytest.mark.root


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def site(tmp_path: Path, stack: ExitStack) -> Site:
    return Site(tmp_path, stack, replace(fresh_config(), subnets="172.24.0.0/13"))


@pytest.fixture
def networks(site: Site, stack: ExitStack) -> Networks:
    return Networks(site, stack)


def bridges() -> list[str]:
    """Bridges with an address that only the networks of this file have: files beside it make bridges of their own."""
    own = [IPv4Network(one) for one in ("172.24.0.0/13", "10.87.0.0/16", "10.88.0.0/16")]
    told: list[dict[str, Any]] = json.loads(ip("-j", "address", "show", "type", "bridge"))
    return [
        link["ifname"]
        for link in told
        if any(
            IPv4Address(one["local"]) in net
            for one in link.get("addr_info", ())
            for net in own
            if one["family"] == "inet"
        )
    ]


def test_networks_that_are_always_there(networks: Networks) -> None:
    assert [(one.name, one.driver, one.builtin) for one in networks.service.all()] == [
        ("bridge", Driver.BRIDGE, True),
        ("host", Driver.HOST, True),
        ("none", Driver.NONE, True),
    ]
    default = networks.service.get("bridge")
    assert networks.service.get(default.id[:12]) == default
    assert (default.subnet, default.bridge) == (networks.site.config.subnet, networks.site.config.bridge)
    for name in ("bridge", "host", "none"):
        with pytest.raises(Forbidden, match="pre-defined"):
            networks.service.remove(name)


def test_default_network_has_the_pods_and_nothing_else(networks: Networks, site: Site) -> None:
    """VMs of the pool and builds have addresses, too; a pod may be called as if it were one of them."""
    for owner in ("vm-web", "build-web"):
        with site.database.session() as session:
            session.add(pod_row(owner))
        site.network.allocate(owner)
    for owner in ("vm-pooledpool", "build-underway"):
        site.network.allocate(owner)
    assert [one.pod for one in networks.service.get("bridge").attachments] == ["build-web", "vm-web"]
    for owner in ("vm-pooledpool", "build-underway"):
        site.network.release(owner)


def test_list_takes_as_many_queries_with_many_networks(networks: Networks, site: Site) -> None:
    statements: list[str] = []
    here = threading.get_ident()

    @event.listens_for(site.database.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if threading.get_ident() == here:  # the thread that repairs reads, too
            statements.append(text)

    def cost() -> int:
        statements.clear()
        networks.service.all()
        return len(statements)

    names = ["one", "two", "three"]
    costs = []
    for name in names:
        networks.make(name)
        site.network.reserve(f"{name}-pod", [NicWish(network=name)])
        costs.append(cost())
    assert len(set(costs)) == 1
    assert [[one.pod for one in network.attachments] for network in networks.service.all()[3:]] == [
        [f"{name}-pod"] for name in names
    ]


def test_made_inspected_and_removed(networks: Networks) -> None:
    made = networks.make("shop", labels={"a": "b"}, options={"x": "y"}, internal=True)
    assert networks.service.get("shop") == networks.service.get(made.id) == networks.service.get(made.id[:12]) == made
    assert made.labels == {"a": "b"}
    assert made.options == {"x": "y"}
    assert made.internal
    assert IPv4Network(made.subnet).subnet_of(IPv4Network("172.24.0.0/13"))
    assert made.bridge in bridges()
    assert f"{made.gateway}/22" in ip("address", "show", made.bridge)
    networks.service.remove(made.id[:20])
    assert made.bridge not in bridges()
    assert made.bridge not in networks.site.rules()
    with pytest.raises(NotFound, match="network shop not found"):
        networks.service.get("shop")
    told, _ = networks.events.subscribe(lambda _event: None, since_ns=0)
    assert [(event.action, event.id, event.attributes["name"]) for event in told] == [
        ("create", made.id, "shop"),
        ("destroy", made.id, "shop"),
    ]


def test_addresses_come_from_subnet_and_range_and_go_back(networks: Networks) -> None:
    made = networks.make("fixed", subnet="10.77.3.0/24", gateway="10.77.3.254", ip_range="10.77.3.128/30")
    driver = networks.site.network
    first = driver.reserve("one", [NicWish(network="fixed", aliases=("db", "store"), mac="52:54:00:00:00:77")])[0]
    assert first.cidr == "10.77.3.128/24"
    assert (first.gateway, first.mac, first.dns) == ("10.77.3.254", "52:54:00:00:00:77", ("10.77.3.254",))
    assert driver.reserve("two", [NicWish(network=made.id, addresses=("10.77.3.9",))])[0].cidr == "10.77.3.9/24"
    with pytest.raises(Conflict, match=r"10\.77\.3\.9 is in use by two"):
        driver.reserve("three", [NicWish(network="fixed", addresses=("10.77.3.9",))])
    for wrong in ("10.77.3.254", "10.77.4.1", "10.77.3.255"):
        with pytest.raises(InvalidInput):
            driver.reserve("three", [NicWish(network="fixed", addresses=(wrong,))])
    assert [(one.pod, one.addresses, one.aliases) for one in networks.service.get("fixed").attachments] == [
        ("one", ("10.77.3.128/24",), ("db", "store")),
        ("two", ("10.77.3.9/24",), ()),
    ]
    with pytest.raises(Conflict, match="network fixed is in use"):
        networks.service.remove("fixed")
    driver.release("one")
    driver.release("two")
    assert networks.service.get("fixed").attachments == ()
    networks.service.remove("fixed")


def test_reserved_and_link_local_addresses(networks: Networks) -> None:
    reserved = {"a": "10.77.3.2", "b": "10.77.3.3"}
    made = networks.make("with blanks", subnet="10.77.3.0/29", reserved=reserved)
    assert networks.service.get("with blanks").reserved == made.reserved == reserved
    one, ones = networks.pod("one", "with blanks", link_local=("169.254.8.8", "169.254.8.9"))
    two, twos = networks.pod("two", "with blanks")
    assert ones[0].cidrs == ("10.77.3.4/29", "169.254.8.8/16", "169.254.8.9/16")
    assert [address_of(leases[0]) for leases in (ones, twos)] == ["10.77.3.4", "10.77.3.5"]
    for address, word in (("10.77.3.3", "reserved"), ("10.77.3.4", "in use")):
        with pytest.raises(Conflict, match=word):
            networks.site.network.reserve("three", [NicWish(network="with blanks", addresses=(address,))])
    for address, error in (("169.254.8.8", Conflict), ("10.77.3.6", InvalidInput), ("fe80::1", InvalidInput)):
        with pytest.raises(error):
            networks.site.network.reserve("three", [NicWish(network="with blanks", link_local=(address,))])
    assert networks.ask(two, "with blanks", "one") == ["10.77.3.4"]
    ip("-n", one.name, "address", "add", "169.254.8.8/16", "dev", "eth0")
    ip("-n", two.name, "route", "add", "169.254.0.0/16", "dev", "eth0")
    with web(one):
        assert ask_tcp(two.socket(), ("169.254.8.8", 80))
    networks.site.network.reserve("three", [NicWish(network="with blanks")])
    with pytest.raises(Busy):
        networks.site.network.reserve("four", [NicWish(network="with blanks")])
    networks.restart()
    assert networks.site.network.leases("one") == ones


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": "x "}, InvalidInput),
        ({"name": "x", "subnet": "10.88.0.0/24", "reserved": {"a": "10.88.1.1"}}, InvalidInput),
        ({"name": "x", "subnet": "10.88.0.0/24", "reserved": {"a": "word"}}, InvalidInput),
        ({"name": "-x"}, InvalidInput),
        ({"name": ""}, InvalidInput),
        ({"name": "bridge"}, Conflict),
        ({"name": "known"}, Conflict),
        ({"name": "x", "driver": "overlay"}, NotSupported),
        ({"name": "x", "subnet": "10.88.0.0/31"}, InvalidInput),
        ({"name": "x", "subnet": "nonsense"}, InvalidInput),
        ({"name": "x", "subnet": "10.88.0.0/24", "gateway": "10.88.1.1"}, InvalidInput),
        ({"name": "x", "subnet": "10.88.0.0/24", "ip_range": "10.88.0.0/16"}, InvalidInput),
        ({"name": "x", "subnet": "10.87.0.128/25"}, Conflict),
        ({"name": "x", "mtu": 99}, InvalidInput),
        ({"name": "x", "bridge": "lo"}, Conflict),
        ({"name": "x", "bridge": "sixteencharacter"}, InvalidInput),
    ],
)
def test_what_cannot_be_made_leaves_nothing(networks: Networks, fields: dict[str, str], error: type[Exception]) -> None:
    networks.make("known", subnet="10.87.0.0/24")
    before = (networks.service.all(), bridges(), networks.site.rules())
    with pytest.raises(error):
        networks.make(**fields)
    assert (networks.service.all(), bridges(), networks.site.rules()) == before


def test_subnet_of_the_host_is_not_used(networks: Networks, stack: ExitStack) -> None:
    free = networks.make("probe").subnet
    networks.service.remove("probe")
    first = next(iter(IPv4Network(free).hosts()))
    ip("link", "add", "hytd0", "type", "bridge")
    stack.callback(ip, "link", "del", "hytd0")
    ip("address", "add", f"{first}/30", "dev", "hytd0")
    assert not IPv4Network(networks.make("other").subnet).overlaps(IPv4Network(free))
    before = bridges()
    with pytest.raises(Conflict, match="in use on hytd0"):
        networks.make("same", subnet=free)
    assert bridges() == before
    assert [network.name for network in networks.service.all()][3:] == ["other"]


def test_isolation_and_published_ports(networks: Networks, stack: ExitStack) -> None:
    networks.make("one")
    networks.make("two")
    client, _ = networks.pod("client", "one")
    mate, _ = networks.pod("mate", "two")
    own, _ = networks.site.pod("own")
    server, leases = networks.pod("server", "two")
    here = (address_of(leases[0]), 80)
    port = free_port()
    networks.site.network.publish("server", here[0], [PortMapping("tcp", port, 80)])
    outer, _, host = outside(stack)
    ip("-n", outer.name, "route", "add", "default", "via", host)
    with web(server):
        assert ask_tcp(mate.socket(), here)
        for stranger in (client, own, outer):
            assert refused(lambda who=stranger: ask_tcp(who.socket(), here, timeout=0.5))  # type: ignore[misc]
        assert ask_tcp(outer.socket(), (host, port)).startswith(b"from 10.2")
        assert ask_tcp(mate.socket(), (leases[0].gateway, port))
        assert ask_tcp(client.socket(), (networks.service.get("one").gateway, port))
        assert ask_tcp(own.socket(), (networks.service.get("bridge").gateway, port))


def test_internal_network_reaches_nothing_outside(networks: Networks, stack: ExitStack) -> None:
    made = networks.make("inner", internal=True)
    networks.make("open")
    pod, leases = networks.pod("pod", "inner")
    mate, mates = networks.pod("mate", "inner")
    other, others = networks.pod("other", "open")
    outer, address, host = outside(stack)
    assert leases[0].gateway == ""
    with web(outer), web(other), web(mate):
        assert ask_tcp(pod.socket(), (address_of(mates[0]), 80))
        ip("-n", pod.name, "route", "add", "default", "via", made.gateway)  # root in the guest can do that
        for target in (address, address_of(others[0])):
            assert refused(lambda to=target: ask_tcp(pod.socket(), (to, 80), timeout=0.5))  # type: ignore[misc]
    with web_of_host(host) as port:
        assert ask_tcp(other.socket(), (host, port))
        for target in (host, made.gateway):
            assert refused(lambda to=target: ask_tcp(pod.socket(), (to, port), timeout=0.5))  # type: ignore[misc]


def test_range_of_ten_thousand_ports(networks: Networks, site: Site) -> None:
    networks.make("one")
    server, leases = networks.pod("server", "one")
    here = address_of(leases[0])
    first = 20_000
    site.network.publish("server", here, [PortMapping("udp", port, port) for port in range(first, first + 10_000)])
    assert f"{first}-{first + 9999} : {here}" in site.rules()
    with (
        serve_udp(server.socket(socket.SOCK_DGRAM), ("", first + 7777), b"yes"),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        assert ask_udp(client, ("127.0.0.1", first + 7777)) == b"yes"
    gone = [PortMapping("udp", port, port) for port in range(first + 5000, first + 10_000)]
    site.network.unpublish("server", gone)
    assert f"{first}-{first + 4999} : {here}" in site.rules()
    site.network.release("server")
    assert here not in site.rules()


def test_port_on_one_address_of_the_host(networks: Networks, stack: ExitStack) -> None:
    networks.make("one")
    server, leases = networks.pod("server", "one")
    outer, _, host = outside(stack)
    local, public = free_port(), free_port()
    driver = networks.site.network
    wanted = [PortMapping("tcp", local, 80, "127.0.0.1"), PortMapping("tcp", public, 80, host)]
    driver.publish("server", address_of(leases[0]), wanted)
    assert driver.mappings("server") == sorted(wanted, key=lambda mapping: mapping.host_port)
    with web(server):
        assert ask_tcp(socket.socket(), ("127.0.0.1", local))
        assert ask_tcp(outer.socket(), (host, public))
        assert refused(lambda: ask_tcp(outer.socket(), (host, local), timeout=0.5))
        assert refused(lambda: ask_tcp(socket.socket(), ("127.0.0.1", public), timeout=0.5))
    with pytest.raises(Conflict, match="no address 203"):
        driver.publish("server", address_of(leases[0]), [PortMapping("tcp", free_port(), 80, "203.0.113.9")])
    with pytest.raises(InvalidInput, match="not an IPv4 address"):
        driver.publish("server", address_of(leases[0]), [PortMapping("tcp", free_port(), 80, "::1")])


def test_pod_on_two_networks(networks: Networks) -> None:
    networks.make("one")
    networks.make("two")
    both, leases = networks.pod("both", "one", "two")
    left, lefts = networks.pod("left", "one")
    right, rights = networks.pod("right", "two")
    assert [lease.slot for lease in leases] == [0, 1]
    with web(both), web(left), web(right):
        assert ask_tcp(left.socket(), (address_of(leases[0]), 80))
        assert ask_tcp(right.socket(), (address_of(leases[1]), 80))
        assert ask_tcp(both.socket(), (address_of(lefts[0]), 80))
        assert ask_tcp(both.socket(), (address_of(rights[0]), 80))
        assert refused(lambda: ask_tcp(left.socket(), (address_of(rights[0]), 80), timeout=0.5))
    with pytest.raises(Conflict, match="on network two already"):
        networks.site.network.attach("both", NicWish(network="two"))
    networks.make("three")
    third = networks.site.network.attach("both", NicWish(network="three"))
    assert third.slot == 2
    networks.site.network.detach("both", 1)
    assert [lease.slot for lease in networks.site.network.leases("both")] == [0, 2]
    assert address_of(leases[1]) not in networks.site.rules()


def name_servers(site: Site) -> dict[int, str]:
    """The servers of a daemon: process and directory."""
    directory = str(site.database.path.parent / "names")
    return {pid: path.name for pid, path in dns._processes(Path(directory))}


def test_names_are_known_on_their_network_and_nowhere_else(networks: Networks, site: Site) -> None:
    networks.make("one")
    networks.make("two")
    with site.database.session() as session:
        session.add(pod_row("web"))
        session.flush()
        session.add(container_row("web", "shop_web.1"))
    both, leases = networks.pod("web", "one", "two", aliases=("www", "www.example.test"))
    left, lefts = networks.pod("left", "one", aliases=("www",))
    right, rights = networks.pod("right", "two")
    own, _ = site.pod("own")
    here, there = address_of(leases[0]), address_of(leases[1])
    for name in ("web", "shop_web.1", "WWW.example.test"):
        assert networks.ask(left, "one", name) == [here]
        assert networks.ask(right, "two", name) == [there]
    assert networks.ask(left, "one", "www") == sorted([here, address_of(lefts[0])])
    assert networks.ask(left, "one", "right") == []
    assert networks.ask(right, "two", "left") == []
    for gateway in ("one", "two"):  # a pod on both hears the names of both, whichever it asks
        assert networks.ask(both, gateway, "left") == [address_of(lefts[0])]
        assert networks.ask(both, gateway, "right") == [address_of(rights[0])]
    for stranger, network in ((left, "two"), (own, "one")):
        with pytest.raises(OSError, match=r"refused|timed out"):
            networks.ask(stranger, network, "web")
    site.network.release("left")
    assert networks.ask(both, "one", "left") == []
    assert networks.ask(both, "one", "www") == sorted([here, there])


def test_link_is_a_name_for_its_pod_alone(networks: Networks, site: Site) -> None:
    made = networks.make("one")
    links = (("up", "bar"), ("web", "left"), ("nowhere", "gone"))
    spec = PodSpec(id="web", networks=(NetworkAttachment(network=made.id, links=links),))
    with site.database.session() as session:
        session.add_all([pod_row("web", spec_codec.dump(spec)), pod_row("upper")])
        session.flush()
        session.add_all([container_row("web", "web"), container_row("upper", "up")])
    web, webs = networks.pod("web", "one")
    left, _ = networks.pod("left", "one")
    assert networks.ask(web, "one", "bar") == []
    _, uppers = networks.pod("upper", "one")
    assert networks.ask(web, "one", "bar") == networks.ask(web, "one", "up") == [address_of(uppers[0])]
    assert networks.ask(web, "one", "left") == [address_of(webs[0])]  # the pod's own word wins
    assert networks.ask(web, "one", "gone") == []
    assert networks.ask(left, "one", "bar") == []
    assert networks.ask(left, "one", "up") == [address_of(uppers[0])]
    with site.database.session() as session:
        session.get_one(PodRow, "web").spec = spec_codec.dump(replace(spec, networks=()))
    site.network.renew_names()
    until(lambda: networks.heard(web, "one", "bar") == [] != networks.heard(web, "one", "up"))


def test_new_containers_are_known_soon(networks: Networks, site: Site) -> None:
    networks.make("one")
    with site.database.session() as session:
        session.add(pod_row("a"))
    pod, leases = networks.pod("a", "one")
    assert networks.ask(pod, "one", "late") == []
    with site.database.session() as session:
        session.add(container_row("a", "late"))
    site.events.publish("container", "create", "late")
    until(lambda: networks.ask(pod, "one", "late") == [address_of(leases[0])])


def test_containers_without_a_name_to_serve_write_nothing(
    networks: Networks, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks.make("one")
    with site.database.session() as session:
        session.add_all([pod_row("a"), pod_row("b")])
    networks.pod("a", "one")
    tables, written = site.network._tables, []
    monkeypatch.setattr(tables, "write", lambda: written.append("tables"))
    for pod, wanted in (("b", []), ("a", ["tables"])):  # b has no address
        with site.database.session() as session:
            session.add(container_row(pod, f"{pod}-late"))
        tables.renew_names()
        assert written == wanted


def test_other_names_are_asked_elsewhere_but_not_from_internal_networks(stack: ExitStack, networks: Networks) -> None:
    outer, address, _ = outside(stack)
    answer = b"\0\7\x81\x80\0\1\0\1\0\0\0\0\4some\4name\0\0\1\0\1\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x09\x08\x07\x06"
    networks.make("open")
    networks.make("inner", internal=True)
    with echo_names(outer, address, answer):
        pod, _ = networks.pod("a", "open", dns=(address,))
        closed, _ = networks.pod("b", "inner", dns=(address,))
        assert networks.ask(pod, "open", "some.name") == ["9.8.7.6"]
        assert networks.ask(pod, "open", "a") != []
        assert networks.ask(closed, "inner", "some.name") == []
        assert networks.ask(closed, "inner", "b") != []


def test_name_server_outlives_the_daemon_and_comes_back_when_it_is_killed(networks: Networks, site: Site) -> None:
    networks.make("one")
    pod, leases = networks.pod("a", "one")
    before = name_servers(site)
    assert len(before) == 1
    networks.restart()
    assert name_servers(site) == before
    assert networks.ask(pod, "one", "a") == [address_of(leases[0])]
    (pid,) = before
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(name_servers(site)) == 1 and pid not in name_servers(site))
    until(lambda: networks.heard(pod, "one", "a") == [address_of(leases[0])])
    (again,) = name_servers(site)
    user = Path(f"/proc/{again}/status").read_text(encoding="utf-8")
    assert "Uid:\t0\t" not in user
    site.network.release("a")
    networks.service.remove("one")
    assert name_servers(site) == {}


def test_database_is_free_while_a_name_server_starts(
    networks: Networks, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[str] = []
    wait = dns._Server.wait

    def looked(server: dns._Server, end: float) -> None:
        with contextlib.closing(sqlite3.connect(site.database.path, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
            free.append(server.directory.name)
        wait(server, end)

    monkeypatch.setattr(dns._Server, "wait", looked)
    networks.make("one")
    networks.make("two")
    pod, leases = networks.pod("both", "one", "two")
    assert len(free) == 3  # for each network and for the two together
    assert networks.ask(pod, "one", "both") == sorted(address_of(lease) for lease in leases)


def test_name_server_that_does_not_start_is_left_alone_and_tried_again(
    networks: Networks, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    start = dns._Server.start

    def counted(server: dns._Server, upstream: Sequence[str]) -> None:
        started.append(server.directory.name)
        start(server, upstream)

    monkeypatch.setattr(dns._Server, "start", counted)
    monkeypatch.setattr(dns, "_START_TIMEOUT", 0.2)
    with monkeypatch.context() as broken:
        broken.setattr(dns, "_START", "sleep 60")
        networks.make("one")
        networks.pod("a", "one")
        networks.pod("b", "one")
        assert len(started) == 1
        assert name_servers(site) == {}
        monkeypatch.setattr(dns, "_AGAIN_MOST", 0.1)
        networks.make("two")
        until(lambda: len(started) > 4)  # without a change of rows
    monkeypatch.setattr(dns, "_START_TIMEOUT", 10.0)
    pod, leases = networks.pod("c", "two")
    until(lambda: networks.heard(pod, "two", "c") == [address_of(leases[0])])


def test_change_that_does_not_concern_a_name_server_leaves_its_files_alone(
    networks: Networks, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks.make("one")
    pod, leases = networks.pod("a", "one")
    looked: list[object] = []
    with monkeypatch.context() as watched:
        watched.setattr(dns, "_text", looked.append)
        watched.setattr(dns._Server, "_put", lambda *words: looked.append(words))
        watched.setattr(dns, "_user", lambda: looked.append("user"))
        site.pod("own")
        site.network.release("own")
    assert looked == []
    (gone,) = name_servers(site)
    os.kill(gone, signal.SIGKILL)  # one that comes back has the files anew
    shutil.rmtree(site.database.path.parent / "names", ignore_errors=True)
    until(lambda: networks.heard(pod, "one", "a") == [address_of(leases[0])])


def test_names_of_a_change_that_failed_are_forgotten(
    networks: Networks, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks.make("one")
    _, leases = networks.pod("a", "one")
    (directory,) = name_servers(site).values()
    hosts = site.database.path.parent / "names" / directory / "hosts"
    before = hosts.read_text(encoding="utf-8")
    assert address_of(leases[0]) in before
    with monkeypatch.context() as broken:
        broken.setattr(nft, "apply", _refuse)
        with pytest.raises(HostFault, match="refused"):
            site.network.reserve("b", [NicWish(network="one")])
    assert hosts.read_text(encoding="utf-8") == before


def _refuse(_text: str) -> None:
    raise HostFault("refused")


@pytest.mark.parametrize("table", ["ip", "bridge"])
@pytest.mark.parametrize("command", ["delete table {} {}", "flush chain {} {} prerouting", "flush ruleset"])
def test_tables_that_others_change_are_written_again(site: Site, table: str, command: str) -> None:
    site.pod("a")
    before = site.rules()
    subprocess.run(["nft", *command.format(table, site.config.nft_table).split()], check=True)
    until(lambda: rules_or_nothing(site) == before)


def test_bridges_and_taps_that_others_change_are_repaired(networks: Networks, site: Site) -> None:
    made = networks.make("kept")
    server, leases = networks.pod("server", "kept")
    client, _ = networks.pod("client", "kept")
    lost: list[tuple[str, int]] = []
    site.network.on_tap_lost = lambda owner, slot: lost.append((owner, slot))
    with web(server):
        for words in (
            ("link", "del", made.bridge),
            ("link", "set", leases[0].tap, "nomaster"),
            ("link", "set", made.bridge, "down"),
            ("address", "flush", "dev", made.bridge),
        ):
            ip(*words)
            until(lambda: well(made, leases[0]))
            assert ask_tcp(client.socket(), (address_of(leases[0]), 80)), words
    assert not lost
    ip("link", "del", leases[0].tap)
    until(lambda: ("server", 0) in lost)


def test_look_at_links_that_are_well_disturbs_nobody(
    networks: Networks, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with every change of any interface of the host: as many questions with many pods, and no lock."""
    for name in ("one", "two"):
        networks.make(name)
        networks.pod(f"{name}-pod", name)
    driver = BridgeDriver(config=site.config, database=site.database)  # nobody else uses it
    asked: list[str] = []
    for name in ("ask", "get", "dump"):
        plain = getattr(Netlink, name)
        monkeypatch.setattr(Netlink, name, _noted(name, plain, asked))
    statements: list[str] = []
    thread = threading.Thread(target=driver._repair, args=({"links"},))

    @event.listens_for(site.database.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if threading.current_thread() is thread:
            statements.append(text)

    with driver._lock:
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
    assert asked == ["dump", "dump"]
    assert statements
    assert "BEGIN IMMEDIATE" not in statements


def _noted(name: str, method: Callable[..., Any], asked: list[str]) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> object:
        if not threading.current_thread().name.startswith("network-watch"):
            asked.append(name)
        return method(*args, **kwargs)

    return call


def test_restart_and_lost_bridges(networks: Networks) -> None:
    made = networks.make("kept")
    server, leases = networks.pod("server", "kept")
    client, _ = networks.pod("client", "kept")
    before = networks.site.rules()
    ip("link", "del", made.bridge)
    networks.restart()
    assert networks.site.rules() == before
    assert networks.service.get("kept").attachments
    with web(server):
        assert ask_tcp(client.socket(), (address_of(leases[0]), 80))


def test_creation_that_was_cut_short_is_finished(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is written first: a daemon that dies before the bridge is there makes it at its next start."""

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("hyperd.network.bridge.Bridge.ensure", die)
        patch.setattr("hyperd.network.bridged.BridgeDriver._undo_add", lambda *_: None)
        with pytest.raises(Killed):
            networks.make("half")
    half = networks.service.get("half")
    assert half.bridge not in bridges()
    networks.restart()
    assert half.bridge in bridges()


def test_prune_leaves_what_is_used_or_not_chosen(networks: Networks) -> None:
    for name in ("used", "idle", "other"):
        networks.make(name, labels={"name": name})
    networks.pod("pod", "used")
    gone = networks.service.prune(lambda network: network.labels["name"] != "other")
    assert [network.name for network in gone] == ["idle"]
    assert [network.name for network in networks.service.all()][3:] == ["used", "other"]


def well(network: Network, lease: Lease) -> bool:
    """Whether bridge and tap are as they should be."""
    shown = subprocess.run(
        ["ip", "address", "show", network.bridge], capture_output=True, text=True, check=False
    ).stdout
    return (
        f"{network.gateway}/22" in shown
        and ",UP" in shown
        and f"master {network.bridge}" in ip("link", "show", lease.tap)
    )


def rules_or_nothing(site: Site) -> str:
    try:
        return site.rules()
    except subprocess.CalledProcessError:
        return ""


@contextmanager
def echo_names(namespace: Namespace, address: str, answer: bytes) -> Iterator[None]:
    """A name server with one answer."""
    sock = namespace.socket(socket.SOCK_DGRAM)
    sock.bind((address, 53))
    sock.settimeout(None)

    def loop() -> None:
        while True:
            data, peer = sock.recvfrom(2048)
            if data == b"stop":
                return
            sock.sendto(data[:2] + answer[2:], peer)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        with namespace.socket(socket.SOCK_DGRAM) as last:
            last.sendto(b"stop", (address, 53))
        thread.join(60)
        sock.close()


def pod_row(pod: str, spec: dict[str, Any] | None = None) -> PodRow:
    return PodRow(id=pod, state="running", spec=spec or {}, created_at=0.0)


def container_row(pod: str, name: str) -> ContainerRow:
    return ContainerRow(
        id=name, name=name, pod_id=pod, position=0, state="running", spec={}, image_id="", image_name="", created_at=0.0
    )


def web_of_host(address: str) -> AbstractContextManager[int]:
    """A server of the host itself."""
    return serve_tcp(socket.socket(), (address, 0), lambda _peer: b"host")
