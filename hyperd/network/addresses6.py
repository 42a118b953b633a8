"""IPv6 addresses of a network: a second address for NICs that have an IPv4 address of it.

A NIC's IPv6 address has the same number in its subnet as the IPv4 one where that is free, so that both are as easily
read. All functions work inside the caller's transaction, as those of ``hyperd.network.addresses``.
"""

from __future__ import annotations

import hashlib
from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Interface, IPv6Network, NetmaskValueError

from sqlalchemy import select
from sqlalchemy.orm import Session

from hyperd.db.models import AddressRow
from hyperd.errors import Busy, Conflict, InvalidInput

MIN_MTU = 1280  # RFC 8200: the least that every link must take
_SHORTEST, _LONGEST = 8, 120  # prefix lengths of subnets
_LEAST = 4  # addresses of a range
_TRIED = 70_000  # numbers that are looked at; more pods than that are not on one network
_GLOBAL = 40  # bits of a local network's own number, RFC 4193


def local_subnet(network_id: str) -> IPv6Network:
    """Return the subnet of a network that names none: a local one (RFC 4193) whose number comes from its random id."""
    number = int.from_bytes(hashlib.sha256(network_id.encode()).digest()[: _GLOBAL // 8], "big")
    return IPv6Network((0xFD << 120 | number << 80, 64))


def link_local(mac: str) -> IPv6Address:
    """Return the address that Linux gives itself on a link, made of the MAC address (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    part = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + part)


class AddressPool6:
    """The IPv6 addresses of one network.

    Args:
        bridge: name of the bridge, part of the rows' key.
        subnet: in CIDR notation; host bits are ignored. /8 to /120.
        gateway: the bridge's own address; empty = the first of the subnet.
        ip_range: in CIDR notation, the part that addresses are chosen from; empty = the whole subnet.

    Errors: InvalidInput when subnet, gateway or range cannot be such.

    """

    def __init__(self, *, bridge: str, subnet: str, gateway: str = "", ip_range: str = "") -> None:
        self.network = _network(subnet, "subnet")
        if not _SHORTEST <= self.network.prefixlen <= _LONGEST:
            raise InvalidInput(f"subnet {subnet} must be between /{_SHORTEST} and /{_LONGEST}")
        network = self.network
        if network.is_multicast or network.is_loopback or network.is_unspecified or network.is_link_local:
            raise InvalidInput(f"subnet {subnet} has no addresses that a pod can have")
        self.bridge = bridge
        self._base = int(self.network.network_address)
        self._gateway = self._number(gateway, "gateway") if gateway else self._base + 1
        self.ip_range = _network(ip_range, "ip range") if ip_range else network
        if not self.ip_range.subnet_of(network) or self.ip_range.num_addresses < _LEAST:
            raise InvalidInput(f"ip range {ip_range} is not a part of {network} with {_LEAST} addresses and more")

    @property
    def gateway(self) -> IPv6Interface:
        """The bridge's own address."""
        return IPv6Interface((self._gateway, self.network.prefixlen))

    def take(self, session: Session, first: AddressRow, offset: int, wanted: str = "") -> AddressRow:
        """Reserve an address for a NIC, or give the one that it has.

        Args:
            session: an open transaction.
            first: the NIC's row of its IPv4 address. offset: that address's number in its subnet.
            wanted: a certain one; empty = a free one.

        Errors: InvalidInput, Conflict (the wanted one is in use), Busy.

        """
        own = select(AddressRow).filter_by(bridge=self.bridge, owner=first.owner, slot=first.slot)
        rows = session.scalars(own.order_by(AddressRow.position)).all()
        known = next((row for row in rows if ":" in row.address), None)
        if known is not None:
            return known
        number = self._wanted(session, wanted) if wanted else self._free(session, offset)
        row = AddressRow(
            bridge=self.bridge,
            address=str(IPv6Address(number)),
            owner=first.owner,
            slot=first.slot,
            position=rows[-1].position + 1,
            prefix=self.network.prefixlen,
            mac=first.mac,
            tap=first.tap,
            network_id=first.network_id,
            aliases=[],
            dns=[],
        )
        session.add(row)
        session.flush()
        return row

    def _number(self, text: str, what: str) -> int:
        try:
            address = IPv6Address(text)
        except ValueError as error:
            raise InvalidInput(f"{what} {text[:60]!r} is not an IPv6 address") from error
        if address not in self.network or int(address) == self._base:
            raise InvalidInput(f"{what} {text} is not an address of a host in {self.network}")
        return int(address)

    def _wanted(self, session: Session, text: str) -> int:
        number = self._number(text.partition("/")[0], "address")
        if number == self._gateway:
            raise InvalidInput(f"address {text} is the gateway's")
        holder = session.get(AddressRow, (self.bridge, str(IPv6Address(number))))
        if holder is not None:
            raise Conflict(f"address {IPv6Address(number)} is in use by {holder.owner}")
        return number

    def _free(self, session: Session, offset: int) -> int:
        taken = select(AddressRow.address).filter_by(bridge=self.bridge)
        used = {int(IPv6Address(text)) for text in session.scalars(taken) if ":" in text} | {self._gateway}
        first, count = int(self.ip_range.network_address), min(self.ip_range.num_addresses - 1, _TRIED)
        for step in range(count):
            number = first + 1 + (offset - 1 + step) % count
            if number not in used:
                return number
        raise Busy(f"no free address in {self.ip_range}", details=f"{len(used)} in use")


def _network(text: str, what: str) -> IPv6Network:
    try:
        return IPv6Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidInput(f"{what} {text[:60]!r} is not an IPv6 network", details=str(error)) from error


def offset_of(address: str, base: IPv4Address) -> int:
    """Return the number of an IPv4 address in its subnet, which begins with ``base``."""
    return int(IPv4Address(address)) - int(base)
