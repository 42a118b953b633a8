"""Rows and nftables tables, changed together: one lock, one transaction, one text."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import structlog
from sqlalchemy.orm import Session

from hyperd.db.models import AddressRow, PortRow
from hyperd.db.session import Database
from hyperd.errors import HostFault
from hyperd.failpoint import failpoint
from hyperd.network import guards, nft, ports, ruleset
from hyperd.network.addresses import rows_of
from hyperd.network.addresses6 import link_local
from hyperd.network.dns import NameServers, ServerKey
from hyperd.network.names import Names, names_of
from hyperd.network.segments import Segment, Segments

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Tables:
    """Keeps the tables what the rows say.

    Args:
        name: of both tables.
        database: of the daemon.
        segments: the networks.

    ``lock`` serialises the changes of a daemon, so the tables are written in the order of the transactions.
    ``servers`` are kept what the rows say, too: those that run are told their names before the tables lead to them,
    others are started once the transaction is over, and the tables lead to them then. ``retry`` is told after how many
    seconds ``write`` shall be called again, because a server could not be started.

    """

    def __init__(
        self,
        *,
        name: str,
        database: Database,
        segments: Segments,
        servers: NameServers,
        retry: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.name = ruleset.check_table(name)
        self.lock = threading.RLock()
        self._servers = servers
        self._retry = retry
        self._database = database
        self._segments = segments
        self._applied: ruleset.Ruleset | None = None  # as last written
        self._names: Names | None = None  # that are served

    def change(self, work: Callable[[Session], T], *, anew: bool = False) -> T:
        """Change rows and tables together: both or none; ``anew``: write the tables as a whole. Errors: HostFault."""
        with self.lock:
            self._servers.prepare()
            self._names = None
            wrote = False
            try:
                with self._database.session() as session:
                    result = work(session)
                    session.flush()
                    wrote = True
                    names = self._write(session, anew=anew)
            except BaseException:
                if wrote and self._applied:  # tables or servers may be what the rows have not become
                    with self._database.session() as session:
                        self._write(session)
                raise
            self._serve(names)
            self._names = names
            return result

    def write(self, *, anew: bool = False) -> None:
        """Write the tables as the rows say; ``anew``: whatever was written last. Errors: HostFault."""
        self.change(lambda _session: None, anew=anew)

    def renew_names(self) -> None:
        """Serve the names as the rows say; most containers come and go without one. Errors: HostFault."""
        with self.lock:
            with self._database.reading() as session:
                names = names_of(session, self._segments.all(session), rows_of(session))
            if names != self._names:
                self.write()

    def remove(self) -> None:
        """Remove the tables; absent ones are fine. Errors: HostFault."""
        with self.lock:
            ruleset.remove(self.name)
            self._applied = None

    def _write(self, session: Session, *, anew: bool = False) -> Names:
        """Write what differs from what was written last, or all; return the names that there are then."""
        rows, segments = rows_of(session), self._segments.all(session)
        names = names_of(session, segments, rows)
        self._apply(self._wanted(session, segments, rows, names), anew=anew)
        failpoint("network.tables.written")
        return names

    def _apply(self, wanted: ruleset.Ruleset, *, anew: bool = False) -> None:
        change = wanted.change_from(self._applied) if self._applied and not anew else None
        if change:
            try:
                nft.apply(change)
            except HostFault as error:
                log.warning("network.tables_differ", error=str(error))
                change = None
        if change is None:
            nft.apply(wanted.render())
        self._applied = wanted

    def _wanted(
        self, session: Session, segments: Sequence[Segment], rows: Sequence[AddressRow], names: Names
    ) -> ruleset.Ruleset:
        own = segments[0]
        forwards = [forward_of(row) for row in ports.rows(session) if row.address]
        guarded = guards.rules(session, own.pool)
        return ruleset.Ruleset(
            table=self.name,
            segments=tuple(segment.rules() for segment in segments),
            tap_prefix=own.pool.tap_prefix,
            stations=_stations(rows, {one.pool.bridge for one in segments if one.isolated}),
            forwards=forwards,
            forwards6=_forwards6(forwards, rows),
            guards=guarded,
            bridge_mac=own.bridge.current_mac() if guarded else "",
            resolvers=_resolvers(names, self._servers.tell(names.servers)),
        )

    def _serve(self, names: Names) -> None:
        """Let the name servers run, after the transaction: it takes as long as a program needs to start. Never fails.

        A server that does not run is missing from the tables, which then are as the transaction has left them.
        """
        delay = self._servers.settle(names.servers)
        if self._applied:
            resolvers = _resolvers(names, self._servers.tell(names.servers))
            try:
                self._apply(replace(self._applied, resolvers=resolvers))
            except HostFault as error:  # the next change tries it again
                log.error("network.resolvers_not_written", error=str(error))
        if delay:
            self._retry(delay)


def _resolvers(names: Names, ports_of: Mapping[ServerKey, int]) -> tuple[ruleset.Resolver, ...]:
    """Return who asks which server, of those that have a port."""
    return tuple(
        ruleset.Resolver(source=one.address, asked=one.gateway, port=ports_of[one.server])
        for one in names.askers
        if one.server in ports_of
    )


def _stations(rows: Sequence[AddressRow], isolated: Collection[str]) -> list[ruleset.Station]:
    """Let each NIC use all addresses that its pod has on that bridge; ``isolated``: bridges of isolated networks.

    A guest with two NICs in one network answers for either address on both, and sends by whichever comes first.
    """
    places = defaultdict(set)
    for row in rows:
        places[row.owner, row.bridge].add(row.address)
    nics = {(row.owner, row.bridge, row.tap, row.mac) for row in rows}
    return [
        ruleset.Station(tap=tap, mac=mac, address=address, apart=bridge in isolated)
        for owner, bridge, tap, mac in sorted(nics)
        for address in _used(places[owner, bridge], mac)
    ]


def _used(addresses: Collection[str], mac: str) -> list[str]:
    """Return the addresses that a NIC uses: with IPv6 also its own of the link."""
    own = {str(link_local(mac))} if any(":" in address for address in addresses) else set()
    return sorted({*addresses, *own})


def _forwards6(forwards: Sequence[ruleset.Forward], rows: Sequence[AddressRow]) -> list[ruleset.Forward]:
    """Return where ports of all addresses of the host lead to with IPv6: to the other address of the NIC."""
    ipv6 = {(row.bridge, row.owner, row.slot): row.address for row in rows if ":" in row.address}
    if not ipv6:
        return []
    other = {row.address: ipv6.get((row.bridge, row.owner, row.slot), "") for row in rows if not row.position}
    return [replace(one, address=other[one.address]) for one in forwards if not one.host_ip and other.get(one.address)]


def forward_of(row: PortRow) -> ruleset.Forward:
    """Return what the tables are told of a published port."""
    return ruleset.Forward(
        protocol=row.protocol,
        host_port=row.host_port,
        address=row.address,
        container_port=row.container_port,
        host_ip=ports.mapping_of(row).host_ip,
    )
