"""Published ports: rows, and sockets that keep the host's own programs off them."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from hyperd.db.models import PortRow
from hyperd.errors import Busy, Conflict, HostFault, InvalidInput, TooLarge
from hyperd.spec.model import one_address

log = structlog.get_logger(__name__)

# Where automatic host ports come from: below the ports that Linux uses for outgoing connections.
AUTOMATIC = range(20_000, 32_768)
MAX_PORTS = 65_535  # of one pod
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True)
class PortMapping:
    """A port of the host that leads to a port of a pod.

    Args:
        protocol: ``tcp`` or ``udp``.
        host_port: 1-65535.
        container_port: 1-65535.
        host_ip: the host's IPv4 address that it answers on; empty = all, as ``0.0.0.0`` and ``::`` become.

    """

    protocol: str
    host_port: int
    container_port: int
    host_ip: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "host_ip", one_address(self.host_ip))

    def __str__(self) -> str:
        return f"{self.host_port}/{self.protocol}"


@dataclass(frozen=True)
class Run:
    """Ports one after the other that a pod wants: for its ports ``inner``, anywhere in ``outer`` of the host's."""

    owner: str
    protocol: str
    inner: Sequence[int]
    outer: range
    host_ip: str = ""


class PortHolder:
    """Sockets bound to the published ports of the host.

    The kernel sends the traffic to the pods before it reaches a socket; these only keep other programs (another
    hyperd, too) from taking the port, and the kernel from using it for an outgoing connection.

    Args:
        limit: how many descriptors may be used for it. Ports above it are checked, but not held.

    """

    def __init__(self, *, limit: int = 256) -> None:
        self.limit = limit
        self._held: dict[tuple[str, int], socket.socket] = {}

    def hold(self, mappings: Iterable[PortMapping]) -> list[PortMapping]:
        """Take ports of the host; all of them or none. Those held already are fine.

        Returns the newly taken ones. Errors: Conflict when a program of the host has one of them; HostFault when no
        socket can be had.
        """
        taken: list[PortMapping] = []
        try:
            for mapping in mappings:
                key = (mapping.protocol, mapping.host_port)
                if key in self._held:
                    continue
                bound = _bind(mapping)
                if len(self._held) < self.limit:
                    self._held[key] = bound
                else:
                    bound.close()
                taken.append(mapping)
        except BaseException:
            self.drop(taken)
            raise
        return taken

    def drop(self, mappings: Iterable[PortMapping]) -> None:
        """Let go of ports; those not held are fine."""
        for mapping in mappings:
            held = self._held.pop((mapping.protocol, mapping.host_port), None)
            if held is not None:
                held.close()

    def close(self) -> None:
        """Let go of all ports."""
        for held in self._held.values():
            held.close()
        self._held.clear()


def check(mappings: Sequence[PortMapping]) -> list[PortMapping]:
    """Return the mappings without repetitions.

    Errors: InvalidInput for a wrong protocol or number; Conflict when a host port leads to two places; TooLarge.
    """
    if len(mappings) > MAX_PORTS:
        raise TooLarge(f"{len(mappings)} published ports, a pod may have {MAX_PORTS}")
    found: dict[tuple[str, int], PortMapping] = {}
    for mapping in mappings:
        if mapping.protocol not in _KINDS:
            raise InvalidInput(f"protocol {mapping.protocol!r} of a port mapping is neither tcp nor udp")
        for port in (mapping.host_port, mapping.container_port):
            if not 1 <= port <= 65535:
                raise InvalidInput(f"port {port} is not between 1 and 65535")
        _check_host_ip(mapping.host_ip)
        known = found.setdefault((mapping.protocol, mapping.host_port), mapping)
        if known != mapping:
            raise Conflict(f"host port {mapping} is mapped twice")
    return list(found.values())


def _check_host_ip(host_ip: str) -> None:
    try:
        if host_ip:
            IPv4Address(host_ip)
    except ValueError as error:
        raise InvalidInput(f"{host_ip!r} is not an IPv4 address of the host") from error


def free_runs(session: Session, protocol: str, count: int, outer: range) -> Iterator[int]:
    """Yield the first ports of runs of ``count`` ports that no pod has, beginning anywhere in ``outer``."""
    taken = set(session.scalars(select(PortRow.host_port).filter_by(protocol=protocol)))
    starts = range(outer.start, outer.stop - count + 1)
    shift = secrets.randbelow(len(starts)) if len(starts) > 1 and outer == AUTOMATIC else 0
    for start in (*starts[shift:], *starts[:shift]):
        if taken.isdisjoint(range(start, start + count)):
            yield start


def reserve_run(
    session: Session,
    holder: PortHolder,
    held: list[PortMapping],
    run: Run,
) -> int:
    """Reserve free ports of the host, one after the other, for ports of a pod; return the first.

    Args:
        session: an open transaction. holder: keeps the host's programs off them.
        held: gets what the holder took; the caller lets go of it when the transaction fails.
        run: what is asked for.

    Errors: Busy when there is no such run.

    """
    for first in free_runs(session, run.protocol, len(run.inner), run.outer):
        wanted = [PortMapping(run.protocol, first + step, port, run.host_ip) for step, port in enumerate(run.inner)]
        try:
            held += holder.hold(wanted)
        except Conflict:
            continue
        reserve(session, run.owner, "", wanted)
        return first
    raise Busy(
        f"no {len(run.inner)} free {run.protocol} ports of the host", details=f"{run.outer.start}-{run.outer[-1]}"
    )


def shown(mappings: Iterable[PortMapping]) -> str:
    """Return mappings as text, for events."""
    return ", ".join(f"{one.host_port}:{one.container_port}/{one.protocol}" for one in mappings)


def rows(session: Session, owner: str = "") -> Sequence[PortRow]:
    """Return the rows of one pod, or all, ordered by protocol and port."""
    query = select(PortRow).order_by(PortRow.protocol, PortRow.host_port)
    return session.scalars(query.filter_by(owner=owner) if owner else query).all()


def delete(session: Session, gone: Iterable[PortRow]) -> list[PortMapping]:
    """Delete rows; give what they said."""
    gone = list(gone)
    for row in gone:
        session.delete(row)
    return [mapping_of(row) for row in gone]


def mapping_of(row: PortRow) -> PortMapping:
    """Return a row's value object."""
    return PortMapping(row.protocol, row.host_port, row.container_port, row.host_ip)


def reserve(session: Session, owner: str, address: str, mappings: Sequence[PortMapping]) -> list[PortMapping]:
    """Write rows for checked mappings, and set the address that all ports of the pod lead to.

    An empty address leaves those that the pod has where they lead; the new ones lead nowhere yet then.

    Returns the mappings that are new. Errors: Conflict when another pod has the port, or the same pod with another
    target; TooLarge.
    """
    own = {(row.protocol, row.host_port): row for row in rows(session, owner)}
    if address:
        for row in own.values():
            row.address = address
    new: list[PortMapping] = []
    holders = {(row.protocol, row.host_port): row for row in rows(session)} if mappings else {}
    for mapping in mappings:
        holder = holders.get((mapping.protocol, mapping.host_port))
        if holder is None:
            new.append(mapping)
        elif holder.owner != owner:
            raise Conflict(f"host port {mapping} is published by pod {holder.owner}")
        elif holder.container_port != mapping.container_port:
            raise Conflict(f"host port {mapping} already leads to port {holder.container_port} of this pod")
        elif mapping_of(holder) != mapping:
            raise Conflict(
                f"host port {mapping} is published on {mapping_of(holder).host_ip or 'all addresses'} of the host"
                " already"
            )
    if len(own) + len(new) > MAX_PORTS:
        raise TooLarge(f"{len(own) + len(new)} published ports, a pod may have {MAX_PORTS}")
    for mapping in new:
        session.add(
            PortRow(
                protocol=mapping.protocol,
                host_port=mapping.host_port,
                owner=owner,
                container_port=mapping.container_port,
                address=address,
                host_ip=mapping.host_ip,
            )
        )
    session.flush()
    return new


def _bind(mapping: PortMapping) -> socket.socket:
    """Bind a socket to the port, on the mapping's address of the host or on all. Errors: Conflict, HostFault."""
    try:
        return _bound(mapping, reuse=False)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and mapping.protocol == "tcp":
            # Perhaps only connections in TIME_WAIT are in the way: then listening works with SO_REUSEADDR.
            try:
                return _bound(mapping, reuse=True)
            except OSError as second:
                error = second
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"host port {mapping} is in use by a program of the host",
                resolution="choose another host port or stop the program",
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise Conflict(f"this host has no address {mapping.host_ip} to publish port {mapping} on") from error
        raise HostFault(f"host port {mapping} could not be reserved", details=str(error)) from error


def _bound(mapping: PortMapping, *, reuse: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET, _KINDS[mapping.protocol])
    try:
        if reuse:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((mapping.host_ip or "0.0.0.0", mapping.host_port))  # noqa: S104 - nothing is accepted on it
        if reuse:
            bound.listen(1)
    except OSError:
        bound.close()
        raise
    return bound
