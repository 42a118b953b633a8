"""User-mode networking: leases without a bridge, ports that QEMU opens, what needs root is told."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from hyperd.config.model import NetworkConfig
from hyperd.db.migrate import migrate
from hyperd.db.session import Database
from hyperd.errors import Conflict, HostFault, NotSupported
from hyperd.network.guards import Guard
from hyperd.network.model import NicWish
from hyperd.network.ports import PortMapping
from hyperd.network.usernet import UserDriver
from tests.support.ports import free_port


class Qemu:
    """Listens as QEMU would."""

    def __init__(self) -> None:
        self.pods: set[str] = set()
        self.open: dict[PortMapping, socket.socket] = {}
        self.broken = False

    def running(self, pod_id: str) -> bool:
        return pod_id in self.pods

    def forward(self, pod_id: str, mapping: PortMapping, address: str) -> None:
        assert pod_id in self.pods
        assert address == "10.0.2.15"
        if self.broken:
            raise HostFault("QEMU says no")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", mapping.host_port))
        sock.listen()
        self.open[mapping] = sock

    def unforward(self, pod_id: str, mapping: PortMapping) -> None:
        if mapping in self.open:
            self.open.pop(mapping).close()

    def stop(self, pod_id: str) -> None:
        self.pods.discard(pod_id)
        for sock in self.open.values():
            sock.close()
        self.open.clear()


@pytest.fixture
def qemu() -> Iterator[Qemu]:
    one = Qemu()
    yield one
    one.stop("p")


@pytest.fixture
def database(tmp_path) -> Iterator[Database]:
    with contextlib.closing(Database(tmp_path / "db")) as one:
        migrate(one)
        yield one


@pytest.fixture
def network(database, qemu) -> Iterator[UserDriver]:
    one = UserDriver(config=NetworkConfig(bridge=""), database=database, forwarder=qemu)
    one.open()
    with contextlib.closing(one):
        yield one


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def test_leases_are_the_same_again_and_have_a_mac_of_their_own(network):
    [one] = network.reserve("p", [NicWish()])
    [two] = network.reserve("q", [NicWish()])
    assert network.leases("p") == [one] == [network.lease("p")]
    assert one.mac != two.mac
    assert (one.bridge, one.tap, one.cidr, one.gateway, one.dns) == ("", "", "10.0.2.15/24", "10.0.2.2", ("10.0.2.3",))


@pytest.mark.parametrize(
    "wishes",
    [
        [NicWish(), NicWish()],
        [NicWish(bridge="br0", addresses=("192.0.2.2/24",))],
        [NicWish(mac="52:54:00:00:00:01")],
        [NicWish(tap="mytap")],
    ],
    ids=["two", "bridge", "mac", "tap"],
)
def test_what_needs_a_bridge_is_refused(network, wishes):
    with pytest.raises(NotSupported, match="as root"):
        network.reserve("p", wishes)


def test_white_lists_are_refused(network):
    with pytest.raises(NotSupported, match="packet filter"):
        network.reserve("p", [NicWish()], Guard(internal=("192.0.2.0/24",), external=()))


def test_a_port_is_kept_until_the_vm_runs_and_opened_then(network, qemu):
    mapping = PortMapping("tcp", free_port(), 80)
    network.publish("p", "", [mapping])
    assert not can_bind(mapping.host_port)
    assert not answers(mapping.host_port)
    qemu.pods.add("p")
    network.plugged("p")
    assert answers(mapping.host_port)
    network.publish("p", "", [mapping])  # again is fine, and opens nothing twice
    assert list(qemu.open) == [mapping]
    network.unpublish("p")
    assert can_bind(mapping.host_port)
    assert network.mappings("p") == []


def test_a_port_of_a_running_pod_is_opened_at_once(network, qemu):
    qemu.pods.add("p")
    mapping = PortMapping("tcp", free_port(), 80)
    network.publish("p", "", [mapping])
    assert answers(mapping.host_port)
    qemu.stop("p")
    network.release("p")
    assert network.mappings("p") == []
    assert can_bind(mapping.host_port)


def test_a_failure_changes_nothing(network, qemu):
    qemu.pods.add("p")
    first, second = PortMapping("tcp", free_port(), 80), PortMapping("tcp", free_port(), 81)
    network.publish("p", "", [first])
    qemu.broken = True
    with pytest.raises(HostFault, match="QEMU says no"):
        network.publish("p", "", [first, second])
    assert network.mappings("p") == [first]
    assert can_bind(second.host_port)
    assert answers(first.host_port)


def test_ports_in_use(network):
    with socket.socket() as program:
        program.bind(("", 0))
        program.listen()
        used = PortMapping("tcp", program.getsockname()[1], 80)
        with pytest.raises(Conflict, match="program of the host"):
            network.publish("p", "", [used])
    assert network.mappings("p") == []
    mapping = PortMapping("tcp", free_port(), 80)
    network.publish("p", "", [mapping])
    with pytest.raises(Conflict, match="published by pod p"):
        network.publish("q", "", [mapping])


def test_automatic_ports(network):
    first = network.reserve_ports("p", "tcp", [80, 81])
    mappings = [PortMapping("tcp", first, 80), PortMapping("tcp", first + 1, 81)]
    network.publish("p", "", mappings)
    assert network.mappings("p") == mappings


def test_after_a_restart(network, database, qemu):
    running, waiting = PortMapping("tcp", free_port(), 80), PortMapping("tcp", free_port(), 81)
    qemu.pods.add("p")
    network.publish("p", "", [running])
    network.publish("w", "", [waiting])
    network.close()
    assert can_bind(waiting.host_port)
    again = UserDriver(config=NetworkConfig(bridge=""), database=database, forwarder=qemu)
    with contextlib.closing(again):
        again.open()
        assert answers(running.host_port)
        assert not can_bind(waiting.host_port)
        again.publish("p", "", [running])
        assert list(qemu.open) == [running]
        again.reconcile(["p"])
        assert again.mappings("w") == []
        assert can_bind(waiting.host_port)


def test_configured_name_servers_win(database, qemu):
    one = UserDriver(config=NetworkConfig(bridge="", dns=("192.0.2.53",)), database=database, forwarder=qemu)
    assert one.dns_servers() == ("192.0.2.53",)
