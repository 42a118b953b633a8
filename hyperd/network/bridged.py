"""The pods' networks on bridges of the host: interfaces, addresses, published ports.

The rows say what should be; bridges and tables are made from them by ``open`` and after every change.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import TypeVar

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from hyperd.config.model import NetworkConfig
from hyperd.db.models import AddressRow, NetworkRow, PortRow
from hyperd.db.session import Database
from hyperd.errors import Conflict, HostFault, HyperError, InvalidInput
from hyperd.event.bus import Event, EventBus
from hyperd.failpoint import failpoint
from hyperd.network import fixed, flows, guards, ports, watch
from hyperd.network.addresses import AddressPool, rows_of
from hyperd.network.addresses6 import offset_of
from hyperd.network.bridge import Bridge, exists, host_addresses, host_links, host_networks, mtu_of
from hyperd.network.dns import NameServers
from hyperd.network.driver import NetworkDriver, Reach
from hyperd.network.model import DEFAULT, Driver, Lease, Network, NetworkSpec, NicWish
from hyperd.network.nameservers import find_servers
from hyperd.network.ports import PortHolder, PortMapping
from hyperd.network.segments import Segments
from hyperd.network.tables import Tables
from hyperd.network.watch import Watch

log = structlog.get_logger(__name__)

T = TypeVar("T")


class BridgeDriver(NetworkDriver):
    """Owns the bridges, the addresses and the published ports of one daemon.

    Args:
        config: the ``[network]`` section.
        database: of the daemon.
        events: is told of NICs and ports.

    Errors: InvalidInput when the section cannot be right.

    """

    def __init__(self, *, config: NetworkConfig, database: Database, events: EventBus | None = None) -> None:
        self._events = events or EventBus()
        self._config = config
        self._database = database
        self._segments = Segments(config)
        self._servers = NameServers(database.path.parent / "names", config.dns)
        self._tables = Tables(
            name=config.nft_table,
            database=database,
            segments=self._segments,
            servers=self._servers,
            retry=lambda seconds: self._watch.ask_later(watch.NAMES, seconds),
        )
        self._lock = self._tables.lock
        self._watch = Watch(table=config.nft_table, repair=self._repair, pids=self._servers.pids)
        self._unsubscribe: Callable[[], None] = lambda: None
        self._holder = PortHolder()
        self._since = datetime.now(UTC)

    @property
    def _pool(self) -> AddressPool:
        return self._segments.own.pool

    # -- the daemon's life

    def open(self) -> None:
        """Make bridges and tables from the rows; takes over what an earlier daemon left. Can be called again.

        Errors: Conflict when the daemon's own bridge or subnet belongs to something else; HostFault when the host
        refuses.
        """
        with self._lock:
            self._segments.own.bridge.ensure()
            with self._database.session() as session:
                for row in self._pool.drop_outside(session):
                    log.warning("network.address_outside_subnet", address=row.address, pod=row.owner)
                segments = self._segments.all(session)
            for segment in segments[1:]:
                try:
                    segment.bridge.ensure()
                except HyperError as error:  # its pods are without it; the daemon and all other pods are not
                    log.error("network.not_opened", network=segment.name, error=str(error))
            self._tables.write(anew=True)
            self._adopt_taps()
            self._watch.open()
            self._unsubscribe()
            _, self._unsubscribe = self._events.subscribe(self._hear)
            with self._database.reading() as session:
                published = [ports.mapping_of(row) for row in ports.rows(session)]
                owners = {row.owner for row in ports.rows(session)}
            self._allow_hairpin(owners)
            for mapping in published:
                try:
                    self._holder.hold([mapping])
                except HyperError as error:  # the rule stays: the pod had the port first
                    log.warning("network.port_used_by_program", port=str(mapping), error=str(error))

    def reconfigure(self, config: NetworkConfig) -> None:
        self._config = replace(self._config, dns=config.dns)
        self._servers.reconfigure(config.dns)
        self._watch.ask(watch.NAMES)

    def close(self) -> None:
        self._watch.close()
        self._unsubscribe()
        with self._lock:
            self._holder.close()
            self._servers.close()

    def _hear(self, event: Event) -> None:
        if event.type == "container" and event.action in {"create", "destroy", "rename"}:
            self._watch.ask(watch.CONTAINERS)

    def _repair(self, reasons: set[str]) -> None:
        """Make the host again what the rows say. Errors: HyperError when not everything could be repaired."""
        if watch.LINKS in reasons:
            self._repair_links()
        if watch.TABLES in reasons:
            log.warning("network.tables_changed_by_others")
        if reasons - {watch.LINKS, watch.CONTAINERS}:
            self._tables.write(anew=watch.TABLES in reasons)
        elif watch.CONTAINERS in reasons:
            self._tables.renew_names()

    def _repair_links(self) -> None:
        """Make bridges and taps again what the rows say. Pods start meanwhile where nothing is to be done."""
        links = host_links()
        bridges, nics = self._links_wanted()
        if any(not bridge.is_well(links) or bridge.strays(_taps(nics, bridge), links) for bridge in bridges):
            with self._lock:
                self._repair_bridges()
        for nic in nics:
            if nic.tap not in links.by_name and not exists(nic.tap):  # not made since either
                self.on_tap_lost(nic.owner, nic.slot)

    def _repair_bridges(self) -> None:
        links = host_links()
        for bridge in self._links_wanted()[0]:
            if not bridge.is_well(links):
                log.warning("network.bridge_repaired", bridge=bridge.name)
                bridge.ensure()
        if self._adopt_taps():
            with self._database.reading() as session:
                published = {row.owner for row in ports.rows(session)}
            self._allow_hairpin(published)

    def _links_wanted(self) -> tuple[list[Bridge], list[AddressRow]]:
        """Return the bridges that there should be, and the first address of each NIC."""
        with self._database.reading() as session:
            bridges = [segment.bridge for segment in self._segments.all(session)]
            return bridges, [row for row in rows_of(session) if row.position == 0]

    def destroy(self) -> None:
        self._watch.close()
        with self._lock:
            self._holder.close()
            self._tables.remove()
            self._servers.destroy()
            with self._database.reading() as session:
                segments = self._segments.all(session)
            for segment in segments:
                segment.bridge.remove()

    def reconcile(self, pod_ids: Collection[str]) -> None:
        with self._lock:

            def work(session: Session) -> tuple[list[str], list[PortMapping]]:
                gone = self._pool.prune(session, pod_ids)
                stale = [row for row in ports.rows(session) if row.owner not in pod_ids]
                guards.prune(session, pod_ids)
                return [row.address for row in gone], ports.delete(session, stale)

            addresses, dropped = self._tables.change(work, anew=True)
            if addresses or dropped:
                log.info("network.stale_rows_dropped", addresses=addresses, ports=[str(port) for port in dropped])
            self._finish_release(addresses, dropped)

    # -- networks

    def default(self) -> Network:
        own = self._segments.own
        return Network(
            id="",
            name=DEFAULT,
            driver=Driver.BRIDGE,
            created_at=self._since,
            subnet=str(own.pool.network),
            gateway=own.gateway,
            bridge=own.pool.bridge,
            mtu=own.mtu,
            builtin=True,
        )

    def add(self, network_id: str, spec: NetworkSpec) -> None:
        """Make a network: its row first, so that a daemon that is killed in between finishes it at its next start."""
        with self._lock:
            self._servers.require()
            occupied = host_networks()
            with self._database.session() as session:
                row = self._segments.new_row(session, network_id, spec, occupied, time.time())
                segment = self._segments.of_row(row)
                if spec.bridge:
                    fixed.check_tap_free(spec.bridge)
                session.add(row)
            try:
                failpoint("network.create.row_written")
                segment.bridge.ensure()
                failpoint("network.create.bridge_made")
                self._tables.write()
                failpoint("network.create.tables_written")
            except BaseException:
                self._undo_add(network_id)
                raise

    def _undo_add(self, network_id: str) -> None:
        try:
            self.drop(network_id)
        except HyperError as error:
            log.error("network.not_removed", network=network_id, error=str(error))

    def drop(self, network_id: str) -> None:
        with self._lock:
            with self._database.reading() as session:
                segment = self._segments.get(session, network_id)
                row = session.scalars(select(AddressRow).filter_by(network_id=network_id)).first()
                if row is not None:
                    raise Conflict(
                        f"network {segment.name} is in use",
                        details=f"by pod {row.owner}",
                        resolution="disconnect its pods or stop them",
                    )
            segment.bridge.remove()
            failpoint("network.delete.bridge_removed")
            self._tables.change(lambda session: self._delete_row(session, network_id))
            failpoint("network.delete.row_deleted")

    def _delete_row(self, session: Session, network_id: str) -> None:
        row = session.get(NetworkRow, network_id)
        if row is not None:
            session.delete(row)

    # -- addresses

    def allocate(self, pod_id: str, *, index: int = 0, address: str = "", mac: str = "", tap: str = "") -> Lease:
        def work(session: Session) -> Lease:
            row = self._pool.take(session, pod_id, index, address=address, mac=mac, tap=tap)
            return self._lease(session, [row])

        return self._tables.change(work)

    def reserve(self, pod_id: str, wishes: Sequence[NicWish], guard: guards.Guard | None = None) -> list[Lease]:
        own = {"", self._config.bridge}
        for name in {wish.bridge for wish in wishes} - own:
            fixed.check_bridge(name)
        if guard and any(wish.bridge not in own or wish.network not in ("", DEFAULT) for wish in wishes):
            raise InvalidInput(
                "portmappingWhiteLists need NICs on the daemon's bridge",
                details="connections over another bridge do not come by this host",
            )
        occupied = host_addresses() if any(wish.addresses for wish in wishes) else []

        def work(session: Session) -> list[Lease]:
            for slot, wish in enumerate(wishes):
                self._take(session, pod_id, slot, wish, occupied)
            guards.put(session, pod_id, guard)
            return self._checked_leases(session, pod_id)

        return self._tables.change(work)

    def attach(self, pod_id: str, wish: NicWish) -> Lease:
        occupied = host_addresses() if wish.addresses else []

        def work(session: Session) -> Lease:
            slot = max((row.slot for row in rows_of(session, pod_id)), default=-1) + 1
            self._take(session, pod_id, slot, wish, occupied)
            return self._checked_leases(session, pod_id)[-1]

        return self._tables.change(work)

    def detach(self, pod_id: str, slot: int) -> None:
        def work(session: Session) -> list[tuple[str, str]]:
            rows = [row for row in rows_of(session, pod_id) if row.slot == slot]
            for row in rows:
                session.delete(row)
            return [(row.network_id or row.bridge, row.address) for row in rows]

        places = self._tables.change(work)
        flows.forget_addresses(address for _, address in places)
        for ident, address in places:
            self._events.publish("network", "disconnect", ident, pod_id, address=address)

    def leases(self, pod_id: str) -> list[Lease]:
        with self._database.reading() as session:
            return self._leases(session, pod_id)

    def has_address(self, pod_id: str) -> bool:
        with self._database.reading() as session:
            return bool(rows_of(session, pod_id))

    def transfer(self, owner: str, new_owner: str) -> list[Lease]:
        with self._lock, self._database.session() as session:
            self._pool.transfer(session, owner, new_owner)
            session.flush()
            return self._leases(session, new_owner)

    def plugged(self, pod_id: str, slots: Collection[int] | None = None) -> None:
        """Let the pod reach its own published ports, too; never fails."""
        with self._lock:
            if self.mappings(pod_id):
                self._allow_hairpin({pod_id})
        for lease in self.leases(pod_id):
            if slots is None or lease.slot in slots:
                ident = lease.network or lease.bridge
                self._events.publish("network", "connect", ident, pod_id, address=lease.cidr, mac=lease.mac)

    def renew_names(self) -> None:
        self._watch.ask(watch.NAMES)

    def release(self, pod_id: str) -> None:
        with self._lock:

            def work(session: Session) -> tuple[list[tuple[str, str]], list[PortMapping]]:
                guards.put(session, pod_id, None)
                rows = rows_of(session, pod_id)
                found = [(row.network_id or row.bridge, row.address) for row in rows]
                for row in rows:
                    session.delete(row)
                return found, ports.delete(session, ports.rows(session, pod_id))

            places, dropped = self._tables.change(work)
            failpoint("network.release.rows_deleted")
            self._finish_release([address for _, address in places], dropped)
        self._tell("unpublish", pod_id, dropped)
        for ident, address in places:
            self._events.publish("network", "disconnect", ident, pod_id, address=address)

    def dns_servers(self) -> tuple[str, ...]:
        return find_servers(self._config.dns)

    # -- published ports

    def reserve_ports(
        self,
        pod_id: str,
        protocol: str,
        inner: Sequence[int],
        outer: range = ports.AUTOMATIC,
        *,
        host_ip: str = "",
    ) -> int:
        with self._lock:
            return self._change_ports(
                lambda session, held: ports.reserve_run(
                    session, self._holder, held, ports.Run(pod_id, protocol, inner, outer, host_ip)
                )
            )

    def book(self, pod_id: str, mappings: Sequence[PortMapping]) -> None:
        wanted = ports.check(mappings)
        with self._lock:

            def work(session: Session, held: list[PortMapping]) -> None:
                held += self._holder.hold(ports.reserve(session, pod_id, "", wanted))

            self._change_ports(work)

    def publish(self, pod_id: str, address: str, mappings: Sequence[PortMapping]) -> None:
        wanted = ports.check(mappings)
        target = _checked_address(address)
        with self._lock:
            with self._database.reading() as session:
                before = {row.address for row in ports.rows(session, pod_id)} - {target, ""}

            def work(session: Session, held: list[PortMapping]) -> list[PortMapping]:
                new = ports.reserve(session, pod_id, target, wanted)
                held += self._holder.hold(new)
                return new

            new = self._change_ports(work)
            failpoint("network.publish.rows_written")
        self._allow_hairpin({pod_id})
        flows.forget_addresses(before)
        flows.forget_udp(mapping.host_port for mapping in new if mapping.protocol == "udp")
        self._tell("publish", pod_id, new)

    def unpublish(self, pod_id: str, mappings: Sequence[PortMapping] | None = None) -> None:
        with self._lock:

            def work(session: Session) -> list[PortMapping]:
                rows = ports.rows(session, pod_id)
                return ports.delete(session, [r for r in rows if mappings is None or ports.mapping_of(r) in mappings])

            dropped = self._tables.change(work)
            self._holder.drop(dropped)
        # Only UDP: TCP connections that are open may finish.
        flows.forget_udp(mapping.host_port for mapping in dropped if mapping.protocol == "udp")
        self._tell("unpublish", pod_id, dropped)

    def _tell(self, action: str, pod_id: str, mappings: Sequence[PortMapping]) -> None:
        """Publish that ports of a pod have come or gone."""
        if mappings:
            bridge = self._config.bridge
            self._events.publish("network", action, bridge, pod_id, ports=ports.shown(mappings))

    def mappings(self, pod_id: str) -> list[PortMapping]:
        with self._database.reading() as session:
            return [ports.mapping_of(row) for row in ports.rows(session, pod_id)]

    def reach(self, pod_ids: Collection[str]) -> dict[str, Reach]:
        """Return it with as many queries for many pods as for one."""
        published, addresses = defaultdict[str, list[PortMapping]](list), defaultdict[str, list[str]](list)
        with self._database.reading() as session:
            prefixes = {one.id: one.pool.network.prefixlen for one in self._segments.all(session)}
            owned = select(PortRow).where(PortRow.owner.in_(pod_ids)).order_by(PortRow.protocol, PortRow.host_port)
            for port in session.scalars(owned):
                published[port.owner].append(ports.mapping_of(port))
            query = select(AddressRow).where(AddressRow.owner.in_(pod_ids))
            for row in session.scalars(query.order_by(AddressRow.slot, AddressRow.position)):
                addresses[row.owner].append(f"{row.address}/{row.prefix or prefixes.get(row.network_id, 0)}")
        return {pod: Reach(ports=tuple(published[pod]), addresses=tuple(addresses[pod])) for pod in pod_ids}

    def _change_ports(self, work: Callable[[Session, list[PortMapping]], T]) -> T:
        """Change rows and tables together; the ports that the work notes in its list are let go on a failure."""
        held: list[PortMapping] = []
        try:
            return self._tables.change(lambda session: work(session, held))
        except BaseException:
            self._holder.drop(held)
            raise

    # -- inside

    def _take(self, session: Session, pod_id: str, slot: int, wish: NicWish, occupied: Sequence[str]) -> None:
        """Reserve what one NIC shall have, unless the slot has it already."""
        rows = rows_of(session, pod_id)
        if any(row.slot == slot for row in rows):
            return
        if not wish.network:
            fixed.take(session, self._pool, pod_id, slot, wish=wish, occupied=occupied)
            return
        segment = self._segments.find(session, wish.network)
        if any(row.bridge == segment.pool.bridge for row in rows):
            raise Conflict(f"pod {pod_id} is on network {segment.name} already")
        if len(wish.addresses) > 1:
            raise InvalidInput(f"a NIC on network {segment.name} has one address", details=", ".join(wish.addresses))
        address = wish.addresses[0] if wish.addresses else ""
        fixed.check_tap_free(wish.tap)
        segment.pool.take(
            session,
            pod_id,
            slot,
            address=address,
            mac=wish.mac,
            tap=wish.tap,
            link_local=wish.link_local,
            aliases=wish.aliases,
            dns=wish.dns,
        )
        if segment.pool6:
            first = segment.pool.find(session, pod_id, slot)
            if first is not None:
                offset = offset_of(first.address, segment.pool.network.network_address)
                segment.pool6.take(session, first, offset, wish.ipv6)
        elif wish.ipv6:
            raise InvalidInput(f"network {segment.name} has no IPv6", details=wish.ipv6[:60])

    def _checked_leases(self, session: Session, pod_id: str) -> list[Lease]:
        leases = self._leases(session, pod_id)
        macs = [lease.mac for lease in leases]
        if len(set(macs)) != len(macs):
            raise Conflict("two NICs of the pod have the same MAC address", details=", ".join(macs))
        return leases

    def _leases(self, session: Session, pod_id: str) -> list[Lease]:
        rows = rows_of(session, pod_id)
        return [
            self._lease(session, [row for row in rows if row.slot == slot]) for slot in sorted({r.slot for r in rows})
        ]

    def _lease(self, session: Session, rows: Sequence[AddressRow]) -> Lease:
        first = rows[0]
        lease = Lease(
            mac=first.mac,
            tap=first.tap,
            bridge=first.bridge,
            cidr=f"{first.address}/{first.prefix}",
            gateway="",
            mtu=0,
            dns=self.dns_servers(),
            more=tuple(f"{row.address}/{row.prefix}" for row in rows[1:]),
            network=first.network_id,
            slot=first.slot,
        )
        own = first.bridge == self._config.bridge
        if not own and not first.network_id:
            return replace(lease, mtu=mtu_of(first.bridge))
        segment = self._segments.get(session, first.network_id)
        cidrs = [f"{row.address}/{row.prefix or segment.pool.network.prefixlen}" for row in rows]
        return replace(
            lease,
            cidr=cidrs[0],
            more=tuple(cidrs[1:]),
            gateway="" if segment.internal else segment.gateway,
            gateway6="" if segment.internal else segment.gateway6,
            mtu=segment.mtu,
            dns=(segment.gateway,) if first.network_id else lease.dns,
        )

    def _adopt_taps(self) -> bool:
        """Put taps back onto their bridges, which may have been deleted; return whether there was one to put."""
        found = False
        bridges, nics = self._links_wanted()
        links = host_links()
        for bridge in bridges:
            strays = bridge.strays(_taps(nics, bridge), links)
            try:
                if strays:
                    bridge.adopt(strays)
                    found = True
                    log.warning("network.taps_plugged_again", bridge=bridge.name, taps=strays)
            except HostFault as error:
                log.error("network.taps_not_plugged", bridge=bridge.name, error=str(error))
        return found

    def _allow_hairpin(self, owners: Collection[str]) -> None:
        """Let pods reach themselves by their published ports. Best effort: everybody else can reach them anyway."""
        with self._database.reading() as session:
            bridges = {segment.pool.bridge for segment in self._segments.all(session)}
            taps = sorted({row.tap for row in rows_of(session) if row.owner in owners and row.bridge in bridges})
        try:
            self._segments.own.bridge.allow_hairpin(taps)
        except HostFault as error:
            log.warning("network.no_hairpin", taps=taps, error=str(error))

    def _finish_release(self, addresses: list[str], dropped: list[PortMapping]) -> None:
        self._holder.drop(dropped)
        if dropped:
            flows.forget_addresses(addresses)
            flows.forget_udp(mapping.host_port for mapping in dropped if mapping.protocol == "udp")


def _taps(nics: Iterable[AddressRow], bridge: Bridge) -> list[str]:
    return sorted(nic.tap for nic in nics if nic.bridge == bridge.name)


def _checked_address(address: str) -> str:
    try:
        return str(IPv4Address(address))
    except ValueError as error:
        raise InvalidInput(f"{address!r} is not an IPv4 address") from error
