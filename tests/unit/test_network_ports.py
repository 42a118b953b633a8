"""Published ports: checks, rows, and the sockets that hold them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from hyperd.db.models import PortRow
from hyperd.db.session import Database
from hyperd.errors import Conflict, InvalidInput, TooLarge
from hyperd.network import ports
from hyperd.network.ports import PortHolder, PortMapping
from hyperd.network.tables import forward_of
from tests.support.ports import free_port


@pytest.fixture
def holder() -> Iterator[PortHolder]:
    holder = PortHolder()
    yield holder
    holder.close()


@pytest.mark.parametrize(
    "mapping",
    [
        PortMapping("sctp", 80, 80),
        PortMapping("TCP", 80, 80),
        PortMapping("tcp", 0, 80),
        PortMapping("tcp", 80, 0),
        PortMapping("udp", 65536, 80),
        PortMapping("udp", 80, -1),
    ],
)
def test_impossible_mappings_are_refused(mapping: PortMapping) -> None:
    with pytest.raises(InvalidInput):
        ports.check([mapping])


def test_repetitions_are_one_and_contradictions_a_conflict() -> None:
    same = [PortMapping("tcp", 80, 8080), PortMapping("tcp", 80, 8080), PortMapping("udp", 80, 53)]
    assert ports.check(same) == [same[0], same[2]]
    with pytest.raises(Conflict, match="80/tcp"):
        ports.check([PortMapping("tcp", 80, 8080), PortMapping("tcp", 80, 8081)])


def test_too_many_ports_are_refused(database: Database) -> None:
    many = [PortMapping("tcp", port, port) for port in range(1, ports.MAX_PORTS + 2)]
    with pytest.raises(TooLarge):
        ports.check(many)
    with database.session() as session:
        ports.reserve(session, "a", "10.0.0.2", many[:-1])
    with pytest.raises(TooLarge), database.session() as session:
        ports.reserve(session, "a", "10.0.0.2", many[-1:])


def test_reserve_names_port_and_holder(database: Database) -> None:
    mapping = PortMapping("tcp", 8080, 80)
    with database.session() as session:
        assert ports.reserve(session, "web", "10.0.0.2", [mapping]) == [mapping]
        assert ports.reserve(session, "web", "10.0.0.2", [mapping]) == []
        ports.reserve(session, "dns", "10.0.0.3", [PortMapping("udp", 8080, 53)])
    with pytest.raises(Conflict, match="8080/tcp is published by pod web"), database.session() as session:
        ports.reserve(session, "dns", "10.0.0.3", [PortMapping("tcp", 9, 9), mapping])
    with pytest.raises(Conflict, match="already leads to port 80"), database.session() as session:
        ports.reserve(session, "web", "10.0.0.2", [PortMapping("tcp", 8080, 81)])
    with database.session() as session:
        assert [str(ports.mapping_of(row)) for row in ports.rows(session)] == ["8080/tcp", "8080/udp"]


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])  # noqa: S104
def test_row_of_an_older_daemon_that_names_every_address(database: Database, everywhere: str) -> None:
    """Such a text is no address that a packet goes to: the row means what no text means, and is nobody's conflict."""
    wanted = [PortMapping("tcp", 80, 8080, everywhere)]
    assert wanted == [PortMapping("tcp", 80, 8080)]
    with database.session() as session:
        session.add(
            PortRow(
                protocol="tcp", host_port=80, owner="a", container_port=8080, address="10.0.0.2", host_ip=everywhere
            )
        )
        session.flush()
        assert ports.reserve(session, "a", "10.0.0.3", wanted) == []
        (row,) = ports.rows(session)
        assert (ports.mapping_of(row), forward_of(row).host_ip) == (wanted[0], "")
        with pytest.raises(Conflict, match="already"):
            ports.reserve(session, "a", "10.0.0.3", [PortMapping("tcp", 80, 8080, "127.0.0.1")])


def test_new_address_is_set_in_all_rows_of_the_pod(database: Database) -> None:
    with database.session() as session:
        ports.reserve(session, "web", "10.0.0.2", [PortMapping("tcp", 1, 1), PortMapping("tcp", 2, 2)])
        ports.reserve(session, "web", "10.0.0.9", [PortMapping("tcp", 3, 3)])
        assert {row.address for row in ports.rows(session, "web")} == {"10.0.0.9"}


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")])
@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_port_of_a_program_is_a_conflict(
    holder: PortHolder, family: int, address: str, protocol: str, kind: int
) -> None:
    with socket.socket(family, kind) as program:
        program.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            program.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        program.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            program.listen()
        port = program.getsockname()[1]
        with pytest.raises(Conflict, match=f"{port}/{protocol} is in use by a program"):
            holder.hold([PortMapping(protocol, port, 80)])
    assert holder.hold([PortMapping(protocol, port, 80)])


def test_held_port_cannot_be_taken_by_a_program(holder: PortHolder) -> None:
    port = free_port()
    mapping = PortMapping("tcp", port, 80)
    assert holder.hold([mapping]) == [mapping]
    assert holder.hold([mapping]) == []
    with socket.socket() as program:
        program.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            program.bind(("127.0.0.1", port))
    other = PortHolder()  # another daemon
    with pytest.raises(Conflict):
        other.hold([mapping])
    holder.drop([mapping])
    assert other.hold([mapping]) == [mapping]
    other.close()


def test_connections_in_time_wait_are_not_in_the_way(holder: PortHolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first keeps the port in TIME_WAIT
            assert client.recv(1) == b""
    with socket.socket() as probe, pytest.raises(OSError, match="in use"):
        probe.bind(("", port))
    assert holder.hold([PortMapping("tcp", port, 80)])


def test_all_or_none_are_held(holder: PortHolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = free_port()
        with pytest.raises(Conflict):
            holder.hold([PortMapping("tcp", free, 1), PortMapping("tcp", server.getsockname()[1], 2)])
    with socket.create_server(("127.0.0.1", free)):
        pass


def test_ports_over_the_limit_are_checked_but_not_held() -> None:
    holder = PortHolder(limit=1)
    first, second = free_port(), free_port()
    assert len(holder.hold([PortMapping("tcp", first, 1), PortMapping("tcp", second, 2)])) == 2
    with socket.create_server(("127.0.0.1", second)), pytest.raises(Conflict):
        holder.hold([PortMapping("tcp", second, 2)])
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", first))
    holder.close()
