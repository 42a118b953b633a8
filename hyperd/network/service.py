"""The pods' network: one bridge, its addresses, its published ports.

The rows say what should be; bridge and tables are made from them by ``open`` and after every change. One lock
serialises the changes of a daemon, so the tables are written in the order of the transactions.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TypeVar

import structlog
from sqlalchemy.orm import Session

from hyperd.config.model import NetworkConfig
from hyperd.db.models import AddressRow, PortRow
from hyperd.db.session import Database
from hyperd.errors import Busy, Conflict, HostFault, HyperError, InvalidInput
from hyperd.event.bus import EventBus
from hyperd.network import fixed, flows, guards, nft, ports, ruleset
from hyperd.network.addresses import AddressPool, check_ifname, derived_mac, rows_of
from hyperd.network.bridge import Bridge, host_addresses
from hyperd.network.fixed import NicWish
from hyperd.network.nameservers import find_servers
from hyperd.network.ports import PortHolder, PortMapping

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Lease:
    """What a NIC of a pod gets.

    Args:
        mac: of the guest's NIC.
        tap: name of the host's device.
        bridge: that the tap must be plugged into.
        cidr: the address with its prefix length, such as ``192.168.123.2/24``.
        gateway: the bridge's address; empty on a bridge that is not the daemon's.
        mtu: bytes.
        dns: name servers, at most three.
        more: further addresses of the NIC.

    """

    mac: str
    tap: str
    bridge: str
    cidr: str
    gateway: str
    mtu: int
    dns: tuple[str, ...]
    more: tuple[str, ...] = ()

    @property
    def cidrs(self) -> tuple[str, ...]:
        """All addresses of the NIC."""
        return (self.cidr, *self.more)


class NetworkService:
    """Owns the bridge, the addresses and the published ports of one daemon.

    Args:
        config: the ``[network]`` section.
        database: of the daemon.

    Errors: InvalidInput when the section cannot be right.

    """

    def __init__(self, *, config: NetworkConfig, database: Database, events: EventBus | None = None) -> None:
        self._events = events or EventBus()
        self._config = config
        self._database = database
        self._pool = AddressPool(bridge=check_ifname(config.bridge, what="[network] bridge"), subnet=config.subnet)
        if not 576 <= config.mtu <= 65535:  # RFC 791: the least that every host must take
            raise InvalidInput(f"[network] mtu {config.mtu} is not between 576 and 65535")
        ruleset.check_table(config.nft_table)
        gateway = self._pool.gateway
        self._bridge = Bridge(name=config.bridge, address=gateway, mac=derived_mac(gateway.ip), mtu=config.mtu)
        self._holder = PortHolder()
        self._lock = threading.RLock()
        self._applied: ruleset.Ruleset | None = None  # as last written

    def open(self) -> None:
        """Make bridge and tables from the rows; takes over what an earlier daemon left. Can be called again.

        Errors: Conflict when bridge or subnet belong to something else; HostFault when the host refuses.
        """
        with self._lock:
            self._bridge.ensure()
            with self._database.session() as session:
                for row in self._pool.drop_outside(session):
                    log.warning("address outside the configured subnet dropped", address=row.address, pod=row.owner)
                self._write(session, force=True)
                published = [ports.mapping_of(row) for row in ports.rows(session)]
                owners = {row.owner for row in ports.rows(session)}
            self._allow_hairpin(owners)
            for mapping in published:
                try:
                    self._holder.hold([mapping])
                except HyperError as error:  # the rule stays: the pod had the port first
                    log.warning("published port is also used by a program", port=str(mapping), error=str(error))

    def reconfigure(self, config: NetworkConfig) -> None:
        """Take over other name servers, for guests that boot from now on; all else needs a restart."""
        self._config = replace(self._config, dns=config.dns)

    def close(self) -> None:
        """Let go of the host's ports. Bridge, tables and rows stay: pods run on."""
        with self._lock:
            self._holder.close()

    def destroy(self) -> None:
        """Remove bridge and tables (for tests and for taking hyperd off a host). Rows stay. Errors: HostFault."""
        with self._lock:
            self._holder.close()
            ruleset.remove(self._config.nft_table)
            self._applied = None
            self._bridge.remove()

    def allocate(self, pod_id: str, *, index: int = 0, address: str = "", mac: str = "", tap: str = "") -> Lease:
        """Reserve an address for a pod's NIC; the same pod and index get the same lease again.

        Args:
            pod_id: the owner; a VM id for a VM that waits in the pool (see ``transfer``).
            index: which NIC of the pod.
            address: a certain one (with or without prefix length); empty = the next free one.
            mac: a certain one; empty = derived from the address.
            tap: a certain name of the host's device; empty = derived from the address.

        Errors: Busy when the subnet is full; Conflict when the wanted address or tap is in use; InvalidInput;
        HostFault (then nothing is reserved).

        """
        with self._lock:

            def work(session: Session) -> AddressRow:
                return self._pool.take(session, pod_id, index, address=address, mac=mac, tap=tap)

            return self._lease([self._change(work)])

    def reserve(self, pod_id: str, wishes: Sequence[NicWish], guard: guards.Guard | None = None) -> list[Lease]:
        """Reserve what all NICs of a pod shall have, and who may reach it; what it has already stays.

        Args:
            pod_id: the owner.
            wishes: one for each NIC.
            guard: None = everybody.

        Errors: as for ``allocate``; InvalidInput also for a bridge that does not exist. Then nothing is reserved.

        """
        own = {"", self._config.bridge}
        for name in {wish.bridge for wish in wishes} - own:
            fixed.check_bridge(name)
        if guard and any(wish.bridge not in own for wish in wishes):
            raise InvalidInput(
                "portmappingWhiteLists need NICs on the daemon's bridge",
                details="connections over another bridge do not come by this host",
            )
        occupied = host_addresses() if any(wish.addresses for wish in wishes) else []
        with self._lock:

            def work(session: Session) -> list[AddressRow]:
                for slot, wish in enumerate(wishes):
                    fixed.take(session, self._pool, pod_id, slot, wish=wish, occupied=occupied)
                guards.put(session, pod_id, guard)
                rows = list(rows_of(session, pod_id))
                macs = {row.slot: row.mac for row in rows}
                if len(set(macs.values())) != len(macs):
                    raise Conflict("two NICs of the pod have the same MAC address", details=", ".join(macs.values()))
                return rows

            return self._leases(self._change(work))

    def leases(self, pod_id: str) -> list[Lease]:
        """Give what the pod's NICs have, in their order."""
        with self._database.session() as session:
            return self._leases(rows_of(session, pod_id))

    def reserve_ports(self, pod_id: str, protocol: str, inner: Sequence[int], outer: range = ports.AUTOMATIC) -> int:
        """Reserve free ports of the host, one after the other, for ports of a pod; give the first.

        They lead nowhere until ``publish``. Args: ``inner`` the pod's ports; ``outer`` where to look.
        Errors: Busy when there is no such run.
        """
        with self._lock:

            def work(session: Session, held: list[PortMapping]) -> int:
                for first in ports.free_runs(session, protocol, len(inner), outer):
                    wanted = [PortMapping(protocol, first + step, port) for step, port in enumerate(inner)]
                    try:
                        held += self._holder.hold(wanted)
                    except Conflict:
                        continue
                    ports.reserve(session, pod_id, "", wanted)
                    return first
                raise Busy(f"no {len(inner)} free {protocol} ports of the host", details=f"{outer.start}-{outer[-1]}")

            return self._change_ports(work)

    def lease(self, pod_id: str, *, index: int = 0) -> Lease | None:
        """Give what a pod's NIC has, None when nothing."""
        with self._database.session() as session:
            rows = [row for row in rows_of(session, pod_id) if row.slot == index]
            return self._lease(rows) if rows else None

    def has_address(self, pod_id: str) -> bool:
        """Tell whether an address is reserved for a pod, or for a VM of the pool."""
        with self._database.reading() as session:
            return bool(rows_of(session, pod_id))

    def transfer(self, owner: str, new_owner: str) -> list[Lease]:
        """Give the addresses of a pooled VM to the pod that takes it, and what its NICs have then.

        Errors: Conflict when the pod has an address already.
        """
        with self._lock, self._database.session() as session:
            self._pool.transfer(session, owner, new_owner)
            session.flush()
            return self._leases(rows_of(session, new_owner))

    def release(self, pod_id: str) -> None:
        """Give back all addresses and ports of a pod; none is fine. The VM must be gone. Errors: HostFault."""
        with self._lock:

            def work(session: Session) -> tuple[list[str], list[PortMapping]]:
                guards.put(session, pod_id, None)
                return self._pool.release(session, pod_id), ports.delete(session, ports.rows(session, pod_id))

            addresses, dropped = self._change(work)
            self._finish_release(addresses, dropped)
        self._tell("unpublish", pod_id, dropped)
        for address in addresses:
            self._events.publish("network", "disconnect", self._config.bridge, podID=pod_id, address=address)

    def book(self, pod_id: str, mappings: Sequence[PortMapping]) -> None:
        """Reserve ports of the host for a pod that has no address yet; they lead nowhere until ``publish``.

        Errors: as for ``publish``; then nothing has changed.
        """
        wanted = ports.check(mappings)
        with self._lock:

            def work(session: Session, held: list[PortMapping]) -> None:
                held += self._holder.hold(ports.reserve(session, pod_id, "", wanted))

            self._change_ports(work)

    def publish(self, pod_id: str, address: str, mappings: Sequence[PortMapping]) -> None:
        """Lead ports of the host to a pod, beside those it already has; the pod's ports all lead to ``address`` then.

        After: connections to the port on 127.0.0.1, on every address of the host, from other pods and from outside
        reach the pod. On failure nothing has changed. The same mapping again is fine.

        Errors: Conflict that names the port and who has it; InvalidInput; TooLarge; HostFault.
        """
        wanted = ports.check(mappings)
        target = _checked_address(address)
        with self._lock:
            with self._database.session() as session:
                before = {row.address for row in ports.rows(session, pod_id)} - {target, ""}

            def work(session: Session, held: list[PortMapping]) -> list[PortMapping]:
                new = ports.reserve(session, pod_id, target, wanted)
                held += self._holder.hold(new)
                return new

            new = self._change_ports(work)
        self._allow_hairpin({pod_id})
        flows.forget_addresses(before)
        flows.forget_udp(mapping.host_port for mapping in new if mapping.protocol == "udp")
        self._tell("publish", pod_id, new)

    def plugged(self, pod_id: str) -> None:
        """Say that the pod's taps are in the bridge by now, so that it can reach its own published ports too.

        Needed when ``publish`` came before the VM; nothing happens for a pod without published ports. Never fails.
        """
        with self._lock:
            if self.mappings(pod_id):
                self._allow_hairpin({pod_id})
        for lease in self.leases(pod_id):
            self._events.publish("network", "connect", lease.bridge, podID=pod_id, address=lease.cidr, mac=lease.mac)

    def unpublish(self, pod_id: str, mappings: Sequence[PortMapping] | None = None) -> None:
        """Take back published ports of a pod: those given, or all. Absent ones are fine. Errors: HostFault."""
        with self._lock:

            def work(session: Session) -> list[PortMapping]:
                rows = ports.rows(session, pod_id)
                return ports.delete(session, [r for r in rows if mappings is None or ports.mapping_of(r) in mappings])

            dropped = self._change(work)
            self._holder.drop(dropped)
        # Only UDP: TCP connections that are open may finish.
        flows.forget_udp(mapping.host_port for mapping in dropped if mapping.protocol == "udp")
        self._tell("unpublish", pod_id, dropped)

    def _tell(self, action: str, pod_id: str, mappings: Sequence[PortMapping]) -> None:
        """Publish that ports of a pod have come or gone."""
        if mappings:
            shown = ", ".join(f"{one.host_port}:{one.container_port}/{one.protocol}" for one in mappings)
            self._events.publish("network", action, self._config.bridge, podID=pod_id, ports=shown)

    def mappings(self, pod_id: str) -> list[PortMapping]:
        """Give the published ports of a pod."""
        with self._database.session() as session:
            return [ports.mapping_of(row) for row in ports.rows(session, pod_id)]

    def dns_servers(self) -> tuple[str, ...]:
        """Give the name servers for guests: the configured ones, else the host's that a guest can reach."""
        return find_servers(self._config.dns)

    def reconcile(self, pod_ids: Collection[str]) -> None:
        """Drop the rows of owners that do not exist and write the tables anew.

        Args:
            pod_ids: every pod that exists, and every VM that waits in the pool.

        Errors: HostFault.

        """
        with self._lock:

            def work(session: Session) -> tuple[list[str], list[PortMapping]]:
                gone = self._pool.prune(session, pod_ids)
                stale = [row for row in ports.rows(session) if row.owner not in pod_ids]
                guards.prune(session, pod_ids)
                return [row.address for row in gone], ports.delete(session, stale)

            self._applied = None
            addresses, dropped = self._change(work)
            if addresses or dropped:
                log.info("rows of gone pods dropped", addresses=addresses, ports=[str(port) for port in dropped])
            self._finish_release(addresses, dropped)

    def _change_ports(self, work: Callable[[Session, list[PortMapping]], T]) -> T:
        """Change rows and tables as ``_change``; the ports that the work notes in its list are let go on a failure."""
        held: list[PortMapping] = []
        try:
            return self._change(lambda session: work(session, held))
        except BaseException:
            self._holder.drop(held)
            raise

    def _change(self, work: Callable[[Session], T]) -> T:
        """Change rows and tables together: both or none."""
        applied = self._applied
        try:
            with self._database.session() as session:
                result = work(session)
                session.flush()
                self._write(session)
            return result
        except BaseException:
            if self._applied != applied:  # the commit failed after the tables were written
                with self._database.session() as session:
                    self._write(session)
            raise

    def _write(self, session: Session, *, force: bool = False) -> None:
        """Write the tables as the rows say, as far as they differ from what was written last."""
        guarded = guards.rules(session, self._pool)
        wanted = ruleset.Ruleset(
            table=self._config.nft_table,
            bridge=self._config.bridge,
            subnet=str(self._pool.network),
            tap_prefix=self._pool.tap_prefix,
            nat=self._config.nat,
            stations=_stations(rows_of(session)),
            forwards=[_forward(row) for row in ports.rows(session) if row.address],
            guards=guarded,
            bridge_mac=self._bridge.current_mac() if guarded else "",
        )
        change = wanted.change_from(self._applied) if self._applied and not force else None
        if change:
            try:
                nft.apply(change)
            except HostFault as error:
                log.warning("tables differ from what was written, writing them anew", error=str(error))
                change = None
        if change is None:
            nft.apply(wanted.render())
        self._applied = wanted

    def _allow_hairpin(self, owners: Collection[str]) -> None:
        """Let pods reach themselves by their published ports. Best effort: everybody else can reach them anyway."""
        with self._database.session() as session:
            taps = sorted({row.tap for row in self._pool.rows(session) if row.owner in owners})
        try:
            self._bridge.allow_hairpin(taps)
        except HostFault as error:
            log.warning("pod cannot reach its own published ports", taps=taps, error=str(error))

    def _finish_release(self, addresses: list[str], dropped: list[PortMapping]) -> None:
        self._holder.drop(dropped)
        if dropped:
            flows.forget_addresses(addresses)
            flows.forget_udp(mapping.host_port for mapping in dropped if mapping.protocol == "udp")

    def _leases(self, rows: Sequence[AddressRow]) -> list[Lease]:
        return [self._lease([row for row in rows if row.slot == slot]) for slot in sorted({row.slot for row in rows})]

    def _lease(self, rows: Sequence[AddressRow]) -> Lease:
        first = rows[0]
        own = first.bridge == self._config.bridge
        cidrs = [f"{row.address}/{row.prefix or self._pool.network.prefixlen}" for row in rows]
        return Lease(
            mac=first.mac,
            tap=first.tap,
            bridge=first.bridge,
            cidr=cidrs[0],
            gateway=str(self._pool.gateway.ip) if own else "",
            mtu=self._config.mtu if own else fixed.bridge_mtu(first.bridge),
            dns=self.dns_servers(),
            more=tuple(cidrs[1:]),
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
        protocol=row.protocol, host_port=row.host_port, address=row.address, container_port=row.container_port
    )


def _checked_address(address: str) -> str:
    try:
        return str(IPv4Address(address))
    except ValueError as error:
        raise InvalidInput(f"{address!r} is not an IPv4 address") from error
