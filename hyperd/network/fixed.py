"""NICs whose addresses the pod's specification names, on the daemon's bridge or on another one of the host.

All functions work inside the caller's transaction (BEGIN IMMEDIATE).
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

from sqlalchemy import select
from sqlalchemy.orm import Session

from hyperd.db.models import AddressRow
from hyperd.errors import Conflict, InvalidInput
from hyperd.network import bridge
from hyperd.network.addresses import AddressPool, check_ifname, checked_mac, derived_mac
from hyperd.network.model import NicWish

MAX_ADDRESSES = 16


def take(
    session: Session, pool: AddressPool, owner: str, slot: int, *, wish: NicWish, occupied: Sequence[str] = ()
) -> AddressRow:
    """Reserve what a NIC shall have, or give what it has already; the row of its first address.

    Args:
        session: an open transaction.
        pool: the daemon's own addresses.
        owner: pod id.
        slot: which of the owner's NICs.
        wish: what is asked for.
        occupied: addresses that the host itself has.

    Errors: Conflict when an address, MAC or tap is in use; InvalidInput when it cannot be had; Busy.

    """
    known = session.scalars(select(AddressRow).filter_by(owner=owner, slot=slot, position=0)).one_or_none()
    if known is not None:
        return known
    check_tap_free(wish.tap)
    if not wish.addresses:
        return pool.take(session, owner, slot, mac=wish.mac, tap=wish.tap)
    name = wish.bridge or pool.bridge
    interfaces = [_checked_address(text) for text in wish.addresses]
    if len(interfaces) > MAX_ADDRESSES:
        raise InvalidInput(f"a NIC with {len(interfaces)} addresses", details=f"at most {MAX_ADDRESSES}")
    for interface in interfaces:
        _check_free(session, pool, name, interface.ip, occupied)
    first = interfaces[0].ip
    mac = checked_mac(session, name, wish.mac or derived_mac(first))
    tap = pool.checked_tap(session, wish.tap) or pool.free_tap(session, name, first)
    rows = [
        AddressRow(
            bridge=name,
            address=str(interface.ip),
            owner=owner,
            slot=slot,
            position=position,
            prefix=interface.network.prefixlen,
            mac=mac,
            tap=tap,
        )
        for position, interface in enumerate(interfaces)
    ]
    if len({row.address for row in rows}) != len(rows):
        raise InvalidInput("a NIC has an address twice", details=", ".join(wish.addresses))
    session.add_all(rows)
    session.flush()
    return rows[0]


def check_bridge(name: str) -> None:
    """Check that the host has this bridge. Errors: InvalidInput."""
    check_ifname(name, what="bridge")
    if not bridge.is_bridge(name):
        raise InvalidInput(f"bridge {name} does not exist on this host", resolution=f"ip link add {name} type bridge")


def check_tap_free(tap: str) -> None:
    """Check that no interface of the host has the name of a tap to be made. Errors: Conflict, InvalidInput."""
    if tap and bridge.exists(check_ifname(tap, what="tap")):
        raise Conflict(f"tap {tap} is in use", details="the host has an interface of this name")


def _checked_address(text: str) -> IPv4Interface:
    try:
        interface = IPv4Interface(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not an IPv4 address with its prefix length") from error
    address, network = interface.ip, interface.network
    ends = {network.network_address, network.broadcast_address} if network.prefixlen < 31 else set()
    unusable = address.is_multicast or address.is_loopback or address.is_unspecified or address.is_reserved
    if unusable or address in ends or network.prefixlen == 0:
        raise InvalidInput(f"{text} cannot be the address of a NIC")
    return interface


def _check_free(session: Session, pool: AddressPool, name: str, address: IPv4Address, occupied: Sequence[str]) -> None:
    if str(address) in occupied or (name == pool.bridge and address == pool.gateway.ip):
        raise Conflict(f"address {address} is in use by the host")
    row = session.get(AddressRow, (name, str(address)))
    if row is not None:
        raise Conflict(f"address {address} is in use by {row.owner}")
