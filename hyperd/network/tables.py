"""Rows and nftables tables, changed together: one lock, one transaction, one text."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
from sqlalchemy.orm import Session

from hyperd.db.models import AddressRow, PortRow
from hyperd.db.session import Database
from hyperd.errors import HostFault
from hyperd.network import guards, nft, ports, ruleset
from hyperd.network.addresses import rows_of
from hyperd.network.dns import NameServers
from hyperd.network.names import names_of
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
    ``servers``, where there is one, are kept what the rows say, too, before the tables lead to them.

    """

    def __init__(
        self, *, name: str, database: Database, segments: Segments, servers: NameServers | None = None
    ) -> None:
        self.name = ruleset.check_table(name)
        self.lock = threading.RLock()
        self._servers = servers
        self._database = database
        self._segments = segments
        self._applied: ruleset.Ruleset | None = None  # as last written

    def change(self, work: Callable[[Session], T], *, anew: bool = False) -> T:
        """Change rows and tables together: both or none; ``anew``: write the tables as a whole. Errors: HostFault."""
        with self.lock:
            applied = self._applied
            try:
                with self._database.session() as session:
                    result = work(session)
                    session.flush()
                    self._write(session, anew=anew)
                return result
            except BaseException:
                if self._applied != applied:  # the commit failed after the tables were written
                    with self._database.session() as session:
                        self._write(session)
                raise

    def write(self, *, anew: bool = False) -> None:
        """Write the tables as the rows say; ``anew``: whatever was written last. Errors: HostFault."""
        self.change(lambda _session: None, anew=anew)

    def remove(self) -> None:
        """Remove both tables; absent ones are fine. Errors: HostFault."""
        with self.lock:
            ruleset.remove(self.name)
            self._applied = None

    def _write(self, session: Session, *, anew: bool = False) -> None:
        """Write what differs from what was written last, or all."""
        wanted = self._wanted(session)
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

    def _wanted(self, session: Session) -> ruleset.Ruleset:
        segments = self._segments.all(session)
        own = segments[0]
        guarded = guards.rules(session, own.pool)
        return ruleset.Ruleset(
            table=self.name,
            segments=tuple(segment.rules() for segment in segments),
            tap_prefix=own.pool.tap_prefix,
            stations=_stations(rows_of(session)),
            forwards=[_forward(row) for row in ports.rows(session) if row.address],
            guards=guarded,
            bridge_mac=own.bridge.current_mac() if guarded else "",
            resolvers=self._resolvers(session, segments),
        )

    def _resolvers(self, session: Session, segments: Sequence[Segment]) -> tuple[ruleset.Resolver, ...]:
        """Let the name servers run, and return who asks which one."""
        if self._servers is None:
            return ()
        names = names_of(session, segments)
        ports_of = self._servers.settle(names.servers)
        return tuple(
            ruleset.Resolver(source=one.address, asked=one.gateway, port=ports_of[one.server])
            for one in names.askers
            if one.server in ports_of
        )


def _stations(rows: Sequence[AddressRow]) -> list[ruleset.Station]:
    """Let each NIC use all addresses that its pod has on that bridge.

    A guest with two NICs in one network answers for either address on both, and sends by whichever comes first.
    """
    places = defaultdict(set)
    for row in rows:
        places[row.owner, row.bridge].add(row.address)
    nics = {(row.owner, row.bridge, row.tap, row.mac) for row in rows}
    return [
        ruleset.Station(tap=tap, mac=mac, address=address)
        for owner, bridge, tap, mac in sorted(nics)
        for address in sorted(places[owner, bridge])
    ]


def _forward(row: PortRow) -> ruleset.Forward:
    return ruleset.Forward(
        protocol=row.protocol,
        host_port=row.host_port,
        address=row.address,
        container_port=row.container_port,
        host_ip=row.host_ip,
    )
