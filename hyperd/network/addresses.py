"""Which pod has which address: rows with unique constraints, handed out round robin.

All functions work inside the caller's transaction, which is BEGIN IMMEDIATE, so two of them never choose the same
address.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Collection, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, NetmaskValueError

from sqlalchemy import select
from sqlalchemy.orm import Session

from hyperd.db.models import AddressCursorRow, AddressRow
from hyperd.errors import Busy, Conflict, InvalidInput
from hyperd.network.bridge import exists

LINK_LOCAL = IPv4Network("169.254.0.0/16")  # RFC 3927
_IFNAME_MAX = 15  # IFNAMSIZ - 1, linux/if.h
# libvirt takes such names for its own and gives others: the rules for the tap would then miss it.
_LIBVIRT_NAMES = ("vnet", "macvtap", "macvlan")
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")  # unicast


class AddressPool:
    """The addresses of one bridge.

    Args:
        bridge: name of the bridge, part of the rows' key.
        subnet: in CIDR notation; host bits are ignored. /8 to /30.
        gateway: the bridge's own address; empty = the first of the subnet.
        ip_range: in CIDR notation, the part that addresses are chosen from; empty = the whole subnet.
        network_id: of the network that somebody has made; empty = the daemon's own.
        reserved: addresses of the subnet that nobody gets.
        main: the daemon's own pool, which decides how taps are called; None = this one.
        what: the setting that gave the subnet, for messages.

    Errors: InvalidInput when subnet, gateway or range cannot be such.

    """

    def __init__(
        self,
        *,
        bridge: str,
        subnet: str,
        gateway: str = "",
        ip_range: str = "",
        network_id: str = "",
        reserved: Collection[str] = (),
        main: AddressPool | None = None,
        what: str = "[network] subnet",
    ) -> None:
        self.network = _network(subnet, what)
        if not 8 <= self.network.prefixlen <= 30:
            raise InvalidInput(f"{what} {subnet!r} must be between /8 and /30")
        self.bridge = bridge
        self.network_id = network_id
        self._what = what
        self._base = int(self.network.network_address)
        self._size = self.network.num_addresses
        self._gateway = self._checked_gateway(gateway)
        self._first, self._last = self._bounds(ip_range)
        self._reserved = frozenset(self._checked_reserved(address) for address in reserved)
        self._main = main
        digits = len(str(self._size - 2))
        self._stem = _tap_stem(bridge, _IFNAME_MAX - 1 - digits)
        self._room = digits

    @property
    def gateway(self) -> IPv4Interface:
        """The bridge's own address."""
        return IPv4Interface((self._gateway, self.network.prefixlen))

    @property
    def tap_prefix(self) -> str:
        """What the names of all taps that the daemon names begin with."""
        return self._main.tap_prefix if self._main else f"{self._stem}-"

    def _checked_gateway(self, gateway: str) -> int:
        if not gateway:
            return self._base + 1
        try:
            number = int(IPv4Address(gateway))
        except ValueError as error:
            raise InvalidInput(f"gateway {gateway!r} is not an IPv4 address") from error
        if not self._base < number < self._base + self._size - 1:
            raise InvalidInput(f"gateway {gateway} is not an address of a host in {self.network}")
        return number

    def _checked_reserved(self, address: str) -> int:
        try:
            number = int(IPv4Address(address))
        except ValueError as error:
            raise InvalidInput(f"reserved address {address[:60]!r} is not an IPv4 address") from error
        if not self._base <= number < self._base + self._size:
            raise InvalidInput(f"reserved address {address} is not in {self.network}")
        return number

    def _bounds(self, ip_range: str) -> tuple[int, int]:
        """Return the first and the last address that is chosen without being asked for."""
        first, last = self._base + 1, self._base + self._size - 2
        if ip_range:
            part = _network(ip_range, "ip range")
            if not part.subnet_of(self.network):
                raise InvalidInput(f"ip range {ip_range} is not a part of {self.network}")
            first = max(first, int(part.network_address))
            last = min(last, int(part.broadcast_address))
        if first == last == self._gateway:
            raise InvalidInput(f"ip range {ip_range} has no address but the gateway's")
        return first, last

    def find(self, session: Session, owner: str, slot: int) -> AddressRow | None:
        """Return the row of an owner's NIC (of its first address)."""
        query = select(AddressRow).filter_by(bridge=self.bridge, owner=owner, slot=slot, position=0)
        return session.scalars(query).one_or_none()

    def rows(self, session: Session) -> Sequence[AddressRow]:
        """Return every address in use on this bridge, in a stable order."""
        return session.scalars(select(AddressRow).filter_by(bridge=self.bridge).order_by(AddressRow.address)).all()

    def contains(self, address: IPv4Address) -> bool:
        """Tell whether an address is one that this pool hands out."""
        return self._inside(str(address))

    def take(
        self,
        session: Session,
        owner: str,
        slot: int,
        *,
        address: str = "",
        mac: str = "",
        tap: str = "",
        link_local: Sequence[str] = (),
        aliases: Sequence[str] = (),
        dns: Sequence[str] = (),
    ) -> AddressRow:
        """Reserve an address, or give the one the owner's NIC already has.

        Args:
            session: an open transaction.
            owner: pod or VM id.
            slot: which of the owner's NICs.
            address: a certain one; empty = the next free one.
            mac: a certain one; empty = derived from the address.
            tap: a certain name of the host's tap; empty = derived from the address.
            link_local: further addresses of the NIC.
            aliases: further names of the owner on this network. dns: its own name servers.

        Errors: Busy when every address is in use; Conflict when the wanted one, or the tap's name, is in use;
        InvalidInput when the wanted one is not a pod address of this subnet, or mac or tap cannot be such.

        """
        row = self.find(session, owner, slot)
        if row is not None:
            return row
        used = {int(IPv4Address(value)) for value in self._column(session) if ":" not in value}
        number = self._wanted(session, address, used) if address else self._next(session, used)
        chosen = IPv4Address(number)
        row = AddressRow(
            bridge=self.bridge,
            address=str(chosen),
            owner=owner,
            slot=slot,
            mac=checked_mac(session, self.bridge, mac) or derived_mac(chosen),
            tap=self.checked_tap(session, tap) or self.free_tap(session, self.bridge, chosen),
            network_id=self.network_id,
            aliases=list(aliases),
            dns=list(dns),
        )
        session.add(row)
        session.flush()
        for position, further in enumerate(link_local, 1):
            self._take_link_local(session, row, position, further)
        return row

    def _take_link_local(self, session: Session, first: AddressRow, position: int, address: str) -> None:
        """Reserve one more address of a NIC. Errors: InvalidInput, Conflict."""
        try:
            checked = str(IPv4Address(address))
        except ValueError as error:
            raise InvalidInput(f"{address[:60]!r} is not an IPv4 address") from error
        if IPv4Address(checked) not in LINK_LOCAL:
            raise InvalidInput(f"{checked} is not a link-local address", details=f"they are those of {LINK_LOCAL}")
        holder = session.get(AddressRow, (self.bridge, checked))
        if holder is not None:
            raise Conflict(f"address {checked} is in use by {holder.owner}")
        session.add(
            AddressRow(
                bridge=self.bridge,
                address=checked,
                owner=first.owner,
                slot=first.slot,
                position=position,
                prefix=LINK_LOCAL.prefixlen,
                mac=first.mac,
                tap=first.tap,
                network_id=first.network_id,
                aliases=[],
                dns=[],
            )
        )
        session.flush()

    def tap_of(self, address: IPv4Address) -> str:
        """Return the name of the tap of an address of the daemon's own pool."""
        return f"{self.tap_prefix}{int(address) - self._base}"

    def free_tap(self, session: Session, bridge: str, address: IPv4Address) -> str:
        """Return a free name for a tap, derived from bridge and address.

        Addresses of the daemon's own pool have their number in it. All others have letters, which never meet those.
        Errors: Conflict.
        """
        main = self._main or self
        if bridge == main.bridge and main.contains(address):
            return main.tap_of(address)
        used = set(session.scalars(select(AddressRow.tap)))
        for attempt in range(1000):
            digest = hashlib.sha256(f"{bridge} {address} {attempt}".encode()).digest()
            name = main.tap_prefix + "".join(string.ascii_lowercase[byte % 26] for byte in digest[: main._room])
            if name not in used and not exists(name):
                return name
        raise Conflict("no free name for a tap", resolution="name it: interfaces[].ifname")

    def release(self, session: Session, owner: str) -> list[str]:
        """Give back everything an owner has, on whichever bridge. Returns the addresses."""
        rows = rows_of(session, owner)
        for row in rows:
            session.delete(row)
        return [row.address for row in rows]

    def transfer(self, session: Session, owner: str, new_owner: str) -> int:
        """Give an owner's addresses to another one. Returns how many. Errors: Conflict when it has some."""
        rows = session.scalars(select(AddressRow).filter_by(bridge=self.bridge, owner=owner)).all()
        if rows and session.scalars(select(AddressRow).filter_by(bridge=self.bridge, owner=new_owner)).first():
            raise Conflict(f"{new_owner} already has an address")
        for row in rows:
            row.owner = new_owner
        return len(rows)

    def prune(self, session: Session, owners: Collection[str]) -> list[AddressRow]:
        """Drop the rows of all other owners and those outside the subnet (it was changed). Returns those."""
        dropped = [row for row in rows_of(session) if row.owner not in owners or self._strayed(row)]
        for row in dropped:
            session.delete(row)
        return dropped

    def drop_outside(self, session: Session) -> list[AddressRow]:
        """Drop the rows that are not in the subnet, because the configuration was changed. Returns them."""
        dropped = [row for row in self.rows(session) if self._strayed(row)]
        for row in dropped:
            session.delete(row)
        return dropped

    def _column(self, session: Session) -> Sequence[str]:
        return session.scalars(select(AddressRow.address).filter_by(bridge=self.bridge)).all()

    def _strayed(self, row: AddressRow) -> bool:
        return row.bridge == self.bridge and not row.prefix and not self._inside(row.address)

    def _inside(self, address: str) -> bool:
        number = int(IPv4Address(address))
        return self._base < number < self._base + self._size - 1 and number != self._gateway

    def _next(self, session: Session, used: set[int]) -> int:
        cursor = session.get(AddressCursorRow, self.bridge)
        first, count = self._first, self._last - self._first + 1
        last = int(IPv4Address(cursor.last)) if cursor else first - 1
        if not first <= last <= self._last:
            last = first - 1
        for step in range(1, min(count, len(used) + len(self._reserved) + 2) + 1):
            number = first + (last - first + step) % count
            if number not in used and number != self._gateway and number not in self._reserved:
                break
        else:
            raise Busy(
                f"no free address in {self.network}",
                details=f"{len(used)} in use",
                resolution=f"remove pods or choose a larger {self._what}",
            )
        session.merge(AddressCursorRow(bridge=self.bridge, last=str(IPv4Address(number))))
        return number

    def _wanted(self, session: Session, address: str, used: set[int]) -> int:
        try:
            interface = IPv4Interface(address)
        except ValueError as error:
            raise InvalidInput(f"{address!r} is not an IPv4 address") from error
        if not self._inside(str(interface.ip)):
            raise InvalidInput(f"{interface.ip} is not a pod address of {self.network}")
        if int(interface.ip) in self._reserved:
            raise Conflict(f"address {interface.ip} is reserved by its network")
        if int(interface.ip) in used:
            query = select(AddressRow.owner).filter_by(bridge=self.bridge, address=str(interface.ip))
            raise Conflict(f"address {interface.ip} is in use by {session.scalars(query).one()}")
        return int(interface.ip)

    def checked_tap(self, session: Session, tap: str) -> str:
        """Return the name back if a new tap can have it. Errors: InvalidInput, Conflict."""
        if not tap:
            return ""
        checked = check_ifname(tap, what="tap")
        for prefix in (self.tap_prefix, *_LIBVIRT_NAMES):
            if tap.startswith(prefix):
                raise InvalidInput(f"tap {tap!r}: names that begin with {prefix!r} are given automatically")
        holder = session.scalars(select(AddressRow).filter_by(tap=tap)).first()
        if holder:
            raise Conflict(f"tap {tap} is in use by {holder.owner}")
        return checked


def _network(text: str, what: str) -> IPv4Network:
    try:
        return IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidInput(f"{what} {text!r} is not an IPv4 network", details=str(error)) from error


def derived_mac(address: IPv4Address) -> str:
    """Return the locally administered unicast MAC address that belongs to an IPv4 address.

    The same address always has the same MAC, so a neighbour's ARP entry stays right when an address changes hands.
    """
    return "52:54:" + ":".join(f"{byte:02x}" for byte in address.packed)


def check_ifname(name: str, *, what: str) -> str:
    """Return the name back if an interface can have it (and nftables text can hold it). Errors: InvalidInput."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", name):
        raise InvalidInput(f"{what} {name!r} is not an interface name: 1 to 15 letters, digits, '_', '.', '-'")
    return name


def rows_of(session: Session, owner: str = "") -> Sequence[AddressRow]:
    """Return the addresses of one owner, or all, NIC by NIC in a stable order."""
    query = select(AddressRow).order_by(AddressRow.owner, AddressRow.slot, AddressRow.position)
    return session.scalars(query.filter_by(owner=owner) if owner else query).all()


def checked_mac(session: Session, bridge: str, mac: str) -> str:
    """Return the address in lower case if a new NIC on the bridge can have it. Errors: InvalidInput, Conflict."""
    mac = mac.lower()
    if mac and not _MAC.fullmatch(mac):
        raise InvalidInput(f"{mac!r} is not a unicast MAC address such as 52:54:00:12:34:56")
    holder = session.scalars(select(AddressRow).filter_by(bridge=bridge, mac=mac)).first() if mac else None
    if holder:
        raise Conflict(f"MAC address {mac} is in use by {holder.owner}")
    return mac


def _tap_stem(bridge: str, room: int) -> str:
    """Shorten a bridge's name so that tap names fit, still different for every bridge."""
    if len(bridge) <= room:
        return bridge
    return "t" + hashlib.sha256(bridge.encode()).hexdigest()[: room - 1]
