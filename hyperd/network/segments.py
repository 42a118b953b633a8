"""The networks that bridges of the host carry: the daemon's own, of the configuration, and those of rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from hyperd.config.model import NetworkConfig
from hyperd.db.models import NetworkRow
from hyperd.errors import Busy, Conflict, InvalidInput, NotFound
from hyperd.network import ruleset
from hyperd.network.addresses import AddressPool, check_ifname, derived_mac
from hyperd.network.addresses6 import MIN_MTU as MIN_MTU6
from hyperd.network.addresses6 import AddressPool6, local_subnet
from hyperd.network.bridge import Bridge
from hyperd.network.model import DEFAULT, Driver, Network, NetworkSpec

BRIDGE_PREFIX = "hn-"  # of the bridges of networks that somebody has made; their ids follow
MIN_MTU, MAX_MTU = 576, 65535  # RFC 791: the least that every host must take
_SUBNET_PREFIX = 22  # of a subnet that is chosen: 1,021 pods


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A network on a bridge.

    Args:
        id: empty = the daemon's own.
        name: of it.
        pool: its addresses.
        mtu: bytes.
        internal, masquerade, isolated: see ``NetworkSpec``.
        filtered: see ``ruleset.Segment``.
        pool6: its IPv6 addresses; None = it has none.

    """

    id: str
    name: str
    pool: AddressPool
    mtu: int
    pool6: AddressPool6 | None = None
    internal: bool = False
    masquerade: bool = True
    filtered: bool = True
    isolated: bool = False

    @property
    def bridge(self) -> Bridge:
        """The host's interface."""
        gateway = self.pool.gateway
        what = f"subnet of network {self.name}" if self.id else "[network] subnet"
        return Bridge(
            name=self.pool.bridge,
            address=gateway,
            mac=derived_mac(gateway.ip),
            mtu=self.mtu,
            what=what,
            address6=self.pool6.gateway if self.pool6 else None,
        )

    @property
    def gateway(self) -> str:
        """The bridge's own address, without prefix length."""
        return str(self.pool.gateway.ip)

    @property
    def gateway6(self) -> str:
        """The bridge's own IPv6 address, without prefix length; empty when it has none."""
        return str(self.pool6.gateway.ip) if self.pool6 else ""

    def rules(self) -> ruleset.Segment:
        """Return what the tables are told of it."""
        return ruleset.Segment(
            bridge=self.pool.bridge,
            subnet=str(self.pool.network),
            masquerade=self.masquerade,
            filtered=self.filtered,
            internal=self.internal,
            isolated=self.isolated,
            subnet6=str(self.pool6.network) if self.pool6 else "",
        )


class Segments:
    """Reads the rows of networks, and chooses what a new one leaves open.

    Args:
        config: the ``[network]`` section.

    Errors: InvalidInput when the section cannot be right.

    """

    def __init__(self, config: NetworkConfig) -> None:
        pool = AddressPool(bridge=check_ifname(config.bridge, what="[network] bridge"), subnet=config.subnet)
        _check_mtu(config.mtu, "[network] mtu")
        self.own = Segment(id="", name=DEFAULT, pool=pool, mtu=config.mtu, masquerade=config.nat, filtered=config.nat)
        try:
            self._subnets = IPv4Network(config.subnets)
        except ValueError as error:
            raise InvalidInput(f"[network] subnets {config.subnets!r} is not an IPv4 network") from error
        if self._subnets.prefixlen > _SUBNET_PREFIX:
            raise InvalidInput(f"[network] subnets {config.subnets} is smaller than a /{_SUBNET_PREFIX}")

    def all(self, session: Session) -> list[Segment]:
        """Return every network on a bridge, the daemon's own first."""
        query = select(NetworkRow).filter_by(driver=Driver.BRIDGE).order_by(NetworkRow.created_at, NetworkRow.id)
        return [self.own, *(self.of_row(row) for row in session.scalars(query))]

    def get(self, session: Session, network_id: str) -> Segment:
        """Return the network with this id; empty = the daemon's own. Errors: NotFound."""
        if not network_id:
            return self.own
        row = session.get(NetworkRow, network_id)
        if row is None:
            raise NotFound(f"network {network_id[:12]} not found")
        return self.of_row(row)

    def find(self, session: Session, network: str) -> Segment:
        """Return the network with this name, id, or unique beginning of an id. Errors: NotFound, Conflict."""
        if network in ("", self.own.name):
            return self.own
        row = find_row(session, network)
        return self.of_row(row)

    def of_row(self, row: NetworkRow) -> Segment:
        """Return a row's network."""
        pool = AddressPool(
            bridge=row.options["bridge"],
            subnet=row.subnet,
            gateway=row.gateway,
            ip_range=row.ip_range,
            network_id=row.id,
            reserved=row.options.get("reserved", {}).values(),
            main=self.own.pool,
            what=f"subnet of network {row.name}",
        )
        ipv6 = row.options.get("ipv6")
        return Segment(
            pool6=AddressPool6(bridge=row.options["bridge"], **ipv6) if ipv6 else None,
            id=row.id,
            name=row.name,
            pool=pool,
            mtu=row.options["mtu"],
            internal=row.internal,
            masquerade=row.options["masquerade"],
            isolated=row.options.get("isolated", False),
        )

    def new_row(
        self, session: Session, network_id: str, spec: NetworkSpec, occupied: Collection[IPv4Network], now: float
    ) -> NetworkRow:
        """Return the row of a new network, not yet in the session.

        Args:
            session: an open transaction.
            network_id: 64 hexadecimal digits.
            spec: what is asked for.
            occupied: networks that the host has a route to.
            now: seconds since 1970.

        Errors: InvalidInput, Conflict (subnet or bridge in use), Busy (no free subnet).

        """
        known = self.all(session)
        taken = [segment.pool.network for segment in known]
        subnet = spec.subnet or str(self._free_subnet([*taken, *occupied]))
        bridge = check_ifname(spec.bridge or BRIDGE_PREFIX + network_id[:12], what="bridge")
        pool = AddressPool(
            bridge=bridge,
            subnet=subnet,
            gateway=spec.gateway,
            ip_range=spec.ip_range,
            reserved=spec.reserved.values(),
            main=self.own.pool,
            what="subnet",
        )
        for segment in known:
            if segment.pool.network.overlaps(pool.network):
                raise Conflict(
                    f"subnet {pool.network} overlaps with {segment.pool.network} of network {segment.name}",
                    resolution="choose another subnet, or name none",
                )
            if segment.pool.bridge == bridge:
                raise Conflict(f"bridge {bridge} is that of network {segment.name}")
        mtu = _check_mtu(spec.mtu, "mtu") if spec.mtu else self.own.mtu
        ipv6 = _ipv6(network_id, spec, known, bridge, mtu)
        return NetworkRow(
            id=network_id,
            name=spec.name,
            driver=Driver.BRIDGE.value,
            subnet=str(pool.network),
            gateway=str(pool.gateway.ip),
            ip_range=str(IPv4Network(spec.ip_range, strict=False)) if spec.ip_range else "",
            internal=spec.internal,
            labels=dict(spec.labels),
            options={
                "given": dict(spec.options),
                "bridge": bridge,
                "mtu": mtu,
                "masquerade": spec.masquerade,
                **({"ipv6": ipv6} if ipv6 else {}),
                **({"isolated": True} if spec.isolated else {}),
                **({"reserved": dict(spec.reserved)} if spec.reserved else {}),
                **({"unused_pools": [dict(pool) for pool in spec.unused_pools]} if spec.unused_pools else {}),
            },
            created_at=now,
        )

    def _free_subnet(self, taken: Iterable[IPv4Network]) -> IPv4Network:
        taken = list(taken)
        for subnet in self._subnets.subnets(new_prefix=_SUBNET_PREFIX):
            if not any(subnet.overlaps(other) for other in taken):
                return subnet
        raise Busy(
            f"no free subnet in {self._subnets}",
            resolution="name a subnet, remove networks, or set [network] subnets to a larger one",
        )


def find_row(session: Session, network: str) -> NetworkRow:
    """Return the row with this name, id, or unique beginning of an id. Errors: NotFound, Conflict."""
    row = session.scalars(select(NetworkRow).filter_by(name=network)).first() or session.get(NetworkRow, network)
    if row is None and network:
        found = session.scalars(select(NetworkRow).where(NetworkRow.id.startswith(network, autoescape=True))).all()
        if len(found) > 1:
            raise Conflict(f"network {network} is ambiguous", details=f"{len(found)} ids begin with it")
        row = found[0] if found else None
    if row is None:
        raise NotFound(f"network {network} not found", kind="network", name=network)
    return row


def network_of(row: NetworkRow) -> Network:
    """Return a row's value, without attachments."""
    options: dict[str, Any] = row.options
    return Network(
        id=row.id,
        name=row.name,
        driver=Driver(row.driver),
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        subnet=row.subnet,
        gateway=row.gateway,
        ip_range=row.ip_range,
        reserved=dict(options.get("reserved", {})),
        unused_pools=tuple(options.get("unused_pools", ())),
        internal=row.internal,
        labels=dict(row.labels),
        options=dict(options.get("given", {})),
        bridge=options.get("bridge", ""),
        mtu=options.get("mtu", 0),
        resolves=True,
        isolated=options.get("isolated", False),
        subnet6=options.get("ipv6", {}).get("subnet", ""),
        gateway6=options.get("ipv6", {}).get("gateway", ""),
        ip_range6=options.get("ipv6", {}).get("ip_range", ""),
    )


def _ipv6(network_id: str, spec: NetworkSpec, known: Iterable[Segment], bridge: str, mtu: int) -> dict[str, str]:
    """Return what a new network's row says of IPv6; empty = it has none. Errors: InvalidInput, Conflict."""
    if not spec.ipv6:
        if spec.subnet6 or spec.gateway6 or spec.ip_range6:
            raise InvalidInput("an IPv6 subnet, gateway or range needs a network with IPv6")
        return {}
    if mtu < MIN_MTU6:
        raise InvalidInput(f"mtu {mtu} is too small for IPv6", details=f"it needs {MIN_MTU6}")
    subnet = spec.subnet6 or str(local_subnet(network_id))
    pool = AddressPool6(bridge=bridge, subnet=subnet, gateway=spec.gateway6, ip_range=spec.ip_range6)
    for segment in known:
        if segment.pool6 and segment.pool6.network.overlaps(pool.network):
            raise Conflict(
                f"subnet {pool.network} overlaps with {segment.pool6.network} of network {segment.name}",
                resolution="choose another subnet, or name none",
            )
    ip_range = {"ip_range": str(pool.ip_range)} if spec.ip_range6 else {}
    return {"subnet": str(pool.network), "gateway": str(pool.gateway.ip), **ip_range}


def _check_mtu(mtu: int, what: str) -> int:
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise InvalidInput(f"{what} {mtu} is not between {MIN_MTU} and {MAX_MTU}")
    return mtu
