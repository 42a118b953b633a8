"""The host bridge that the pods' taps are plugged into (rtnetlink(7))."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from pathlib import Path

import structlog

from hyperd.errors import Conflict, HostFault
from hyperd.failpoint import failpoint
from hyperd.network.netlink import CREATE, EXCLUSIVE, NESTED, Netlink, attribute, attributes

log = structlog.get_logger(__name__)

_SYSCTL = Path("/proc/sys/net")
# <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>
_NEWLINK, _DELLINK, _GETLINK, _SETLINK, _NEWADDR, _GETADDR, _GETROUTE = 16, 17, 18, 19, 20, 22, 26
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO, _IFLA_LINKINFO = 1, 3, 4, 10, 12, 18
_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS = 29, 8
_INFO_KIND, _INFO_DATA, _BR_FORWARD_DELAY, _BRPORT_MODE = 1, 2, 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL = 1, 2, 3
_IFA_F_NODAD = 2
_RTA_DST, _RT_TABLE_LOCAL, _RTN_UNICAST = 1, 255, 1
_AF_BRIDGE, _IFF_UP = 7, 1
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, which flags to change
_ROUTE = struct.Struct(
    "=BBBBBBBBI"
)  # family, destination's and source's prefix, tos, table, protocol, scope, type, flags
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index


class Bridge:
    """A bridge in the daemon's own network namespace, with the gateway's address.

    Args:
        name: of the interface, at most 15 characters.
        address: the gateway's address with the prefix length.
        mac: fixed, because a bridge otherwise takes the lowest address of its ports and changes it with them,
            which leaves wrong entries in the guests' ARP tables.
        mtu: bytes.
        what: the setting that gave the subnet, for messages.
        address6: the gateway's IPv6 address with the prefix length; None = the network has no IPv6.

    """

    def __init__(
        self,
        *,
        name: str,
        address: IPv4Interface,
        mac: str,
        mtu: int,
        what: str = "[network] subnet",
        address6: IPv6Interface | None = None,
    ) -> None:
        self.name = name
        self.address6 = address6
        self.address = address
        self.mac = mac
        self.mtu = mtu
        self._what = what

    def ensure(self) -> None:
        """Make the bridge if it is absent, or take the existing one if it fits; set the kernel's switches.

        Can be called again at any time; finishes what a killed daemon began. Forwarding is turned on and never off
        again: someone else may rely on it by then.

        Errors: Conflict when an interface of this name is something else or has another address, or when another
        interface uses addresses of this subnet; HostFault when the kernel refuses.
        """
        with _netlink() as netlink:
            self._check_overlap(netlink)
            index = self._index(netlink)
            if index is None:
                index = self._make(netlink)
                log.info("bridge made", bridge=self.name, address=str(self.address))
            self._ensure_address(netlink, index)
            up = _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)
            netlink.ask(_NEWLINK, up + attribute(_IFLA_MTU, struct.pack("=I", self.mtu)))
            self._switches()
            self._ensure_address6(netlink, index)

    def is_well(self, links: HostLinks) -> bool:
        """Return whether the bridge is there, up, and has its address."""
        found = links.by_name.get(self.name)
        if found is None or not found.up or (found.index, self.address) not in links.addresses:
            return False
        return self.address6 is None or (found.index, self.address6) in links.addresses

    def current_mac(self) -> str:
        """Return the address the bridge really has: it may have been there before. Errors: HostFault."""
        with _netlink() as netlink:
            index = self._index(netlink)
            if index is None:
                return self.mac
            return _link(netlink, index).get(_IFLA_ADDRESS, b"").hex(":")

    def remove(self) -> None:
        """Remove the bridge; its ports are only unplugged. An absent bridge is fine. Errors: HostFault."""
        with _netlink() as netlink:
            index = self._index(netlink)
            if index is not None:
                netlink.ask(_DELLINK, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0))
                log.info("bridge removed", bridge=self.name)

    def strays(self, taps: Iterable[str], links: HostLinks) -> list[str]:
        """Return the taps that exist and are on no bridge or on another one; none while there is no bridge."""
        own = links.by_name.get(self.name)
        found = ((tap, links.by_name.get(tap)) for tap in taps)
        return [tap for tap, link in found if own is not None and link is not None and link.master != own.index]

    def adopt(self, taps: Iterable[str]) -> None:
        """Put taps onto this bridge; those that do not exist are passed over. Errors: HostFault."""
        with _netlink() as netlink:
            master = _index_of(self.name)
            for tap in taps if master is not None else ():
                index = _index_of(tap)
                if index is not None:
                    body = attribute(_IFLA_MASTER, struct.pack("=I", master))
                    netlink.ask(_NEWLINK, _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP) + body)

    def allow_hairpin(self, taps: Iterable[str]) -> None:
        """Let frames go back out of the port they came in by; taps that do not exist (yet) are passed over.

        A pod that connects to a port of the host which it has published itself needs this when the kernel has
        br_netfilter: the address is then translated inside the bridge already. Errors: HostFault.
        """
        hairpin = attribute(_IFLA_PROTINFO | NESTED, attribute(_BRPORT_MODE, b"\1"))
        with _netlink() as netlink:
            for tap in taps:
                index = _index_of(tap)
                if index is not None:
                    netlink.ask(_SETLINK, _LINK.pack(_AF_BRIDGE, 0, index, 0, 0) + hairpin)

    def _make(self, netlink: Netlink) -> int:
        kind = attribute(_INFO_KIND, b"bridge")
        data = attribute(_INFO_DATA | NESTED, attribute(_BR_FORWARD_DELAY, struct.pack("=I", 0)))
        body = (
            _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0),
            attribute(_IFLA_IFNAME, self.name.encode() + b"\0"),
            attribute(_IFLA_ADDRESS, bytes.fromhex(self.mac.replace(":", ""))),
            attribute(_IFLA_LINKINFO | NESTED, kind, data),
        )
        netlink.ask(_NEWLINK, b"".join(body), flags=CREATE | EXCLUSIVE)
        failpoint("network.create.link_made")
        return socket.if_nametoindex(self.name)

    def _index(self, netlink: Netlink) -> int | None:
        index = _index_of(self.name)
        if index is None:
            return None
        if _kind(_link(netlink, index)) != b"bridge":
            raise Conflict(
                f"{self.name} exists and is not a bridge",
                resolution="choose another name for [network] bridge",
            )
        return index

    def _ensure_address(self, netlink: Netlink, index: int) -> None:
        present = [entry.interface for entry in _addresses(netlink) if entry.index == index]
        if self.address in present:
            return
        if present:
            raise Conflict(
                f"bridge {self.name} has another address than {self.address}",
                details=", ".join(map(str, present)),
                resolution=f"set {self._what} to the bridge's, choose another, or: ip link del {self.name}",
            )
        packed = self.address.ip.packed
        head = _ADDRESS.pack(socket.AF_INET, self.address.network.prefixlen, 0, 0, index)
        body = head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
        netlink.ask(_NEWADDR, body, flags=CREATE | EXCLUSIVE)

    def _ensure_address6(self, netlink: Netlink, index: int) -> None:
        if self.address6 is None:
            return
        known = _addresses6(netlink)
        if (index, self.address6) in known:
            return
        for other, used in known:
            if other != index and used.network.overlaps(self.address6.network):
                raise Conflict(
                    f"subnet {self.address6.network} is in use on another interface",
                    details=str(used),
                    resolution=f"choose another {self._what}",
                )
        packed = self.address6.ip.packed
        # Without a look for duplicates: the guests cannot have it, and it must work at once.
        head = _ADDRESS.pack(socket.AF_INET6, self.address6.network.prefixlen, _IFA_F_NODAD, 0, index)
        body = head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
        netlink.ask(_NEWADDR, body, flags=CREATE | EXCLUSIVE)

    def _check_overlap(self, netlink: Netlink) -> None:
        for entry in _addresses(netlink):
            used = entry.interface.network
            if entry.label.split(":", maxsplit=1)[0] != self.name and used.overlaps(self.address.network):
                raise Conflict(
                    f"subnet {self.address.network} is in use on {entry.label}",
                    details=str(used),
                    resolution=f"choose another {self._what}",
                )

    def _switches(self) -> None:
        _sysctl("ipv4/ip_forward", "1")
        # A connection to 127.0.0.1:port that is sent on to a pod leaves by the bridge with a loopback source, which
        # the kernel otherwise drops as a martian. The nftables table shuts the hole that this opens towards the
        # guests.
        _sysctl(f"ipv4/conf/{self.name}/route_localnet", "1")
        # A guest's router advertisements must not reconfigure the host; the tables drop them, too.
        _sysctl(f"ipv6/conf/{self.name}/accept_ra", "0", optional=True)
        if self.address6 is None:
            _sysctl(f"ipv6/conf/{self.name}/disable_ipv6", "1", optional=True)
            return
        _sysctl(f"ipv6/conf/{self.name}/disable_ipv6", "0")
        _sysctl(f"ipv6/conf/{self.name}/accept_redirects", "0")
        _forward_ipv6()


@dataclass(frozen=True)
class _Entry:
    """An IPv4 address of the host. ``label`` is the name of its interface, or its index where it has none."""

    index: int
    label: str
    interface: IPv4Interface


@dataclass(frozen=True)
class Link:
    """An interface; ``master``: index of the bridge that it is on, 0 = none."""

    index: int
    up: bool
    master: int


@dataclass(frozen=True)
class HostLinks:
    """The host's interfaces by name, and its addresses with the index of their interface, at one moment."""

    by_name: Mapping[str, Link]
    addresses: frozenset[tuple[int, IPv4Interface | IPv6Interface]]


def host_links() -> HostLinks:
    """Read the host's interfaces and addresses, in two questions to the kernel. Errors: HostFault."""
    found = {}
    with _netlink() as netlink:
        wanted = attribute(_IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))
        for message in netlink.dump(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + wanted):
            _, _, index, flags, _ = _LINK.unpack_from(message)
            values = attributes(message[_LINK.size :])
            name = values.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
            master = int.from_bytes(values.get(_IFLA_MASTER, b""), sys.byteorder)
            found[name] = Link(index=index, up=bool(flags & _IFF_UP), master=master)
        addresses: set[tuple[int, IPv4Interface | IPv6Interface]] = set()
        for message in netlink.dump(_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            entry, entry6 = _entry(message), _entry6(message)
            if entry is not None:
                addresses.add((entry.index, entry.interface))
            elif entry6 is not None:
                addresses.add(entry6)
    return HostLinks(by_name=found, addresses=frozenset(addresses))


def host_addresses() -> list[str]:
    """Return every IPv4 address of the host itself. Errors: HostFault."""
    with _netlink() as netlink:
        return [str(entry.interface.ip) for entry in _addresses(netlink)]


def is_bridge(name: str) -> bool:
    """Return whether the host has a bridge of this name. Errors: HostFault."""
    with _netlink() as netlink:
        index = _index_of(name)
        return index is not None and _kind(_link(netlink, index)) == b"bridge"


def mtu_of(name: str) -> int:
    """Return the MTU of an interface, 1500 when it does not exist. Errors: HostFault."""
    with _netlink() as netlink:
        index = _index_of(name)
        raw = b"" if index is None else _link(netlink, index).get(_IFLA_MTU, b"")
        return int.from_bytes(raw, sys.byteorder) if raw else 1500


def exists(name: str) -> bool:
    """Return whether the host has an interface of this name."""
    return _index_of(name) is not None


def hand_over(name: str, new_name: str, *, bridge: str = "", mtu: int = 0) -> None:
    """Take an interface off its bridge, down, and give it another name; then put it onto ``bridge``, if one is named.

    ``mtu``: of its networks there, in bytes; 0 = leave it. Errors: HostFault.
    """
    with _netlink() as netlink:
        index = _index_of(name)
        if index is None:
            raise HostFault(f"the interface {name} is gone")
        link = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, _IFF_UP)
        netlink.ask(_SETLINK, link + attribute(_IFLA_MASTER, bytes(4)))
        link = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        netlink.ask(_SETLINK, link + attribute(_IFLA_IFNAME, new_name.encode() + b"\0"))
        failpoint("pool.take.tap_renamed")
        if not bridge:
            return
        master = _index_of(bridge)
        if master is None:
            raise HostFault(f"the bridge {bridge} is gone")
        words = attribute(_IFLA_MTU, struct.pack("=I", mtu)) if mtu else b""
        link = _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)
        netlink.ask(_NEWLINK, link + words + attribute(_IFLA_MASTER, struct.pack("=I", master)))


def host_networks() -> list[IPv4Network]:
    """Return the IPv4 networks that the host has a route to, the default route apart. Errors: HostFault."""
    found = []
    with _netlink() as netlink:
        for message in netlink.dump(_GETROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, prefix, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(message)
            target = attributes(message[_ROUTE.size :]).get(_RTA_DST)
            if family == socket.AF_INET and table != _RT_TABLE_LOCAL and kind == _RTN_UNICAST and target and prefix:
                found.append(IPv4Network((target, prefix), strict=False))
        found += [entry.interface.network for entry in _addresses(netlink)]
    return found


def _addresses(netlink: Netlink) -> list[_Entry]:
    messages = netlink.dump(_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0))
    return [entry for entry in map(_entry, messages) if entry is not None]


def _entry(message: bytes) -> _Entry | None:
    """Return what a message says of an IPv4 address, None when it is about something else."""
    family, prefix, _, _, index = _ADDRESS.unpack_from(message)
    values = attributes(message[_ADDRESS.size :])
    address = values.get(_IFA_ADDRESS) or values.get(_IFA_LOCAL)
    if family != socket.AF_INET or address is None:
        return None
    label = values.get(_IFA_LABEL, b"").rstrip(b"\0").decode("utf-8", "replace") or str(index)
    return _Entry(index, label, IPv4Interface((address, prefix)))


def _addresses6(netlink: Netlink) -> list[tuple[int, IPv6Interface]]:
    """Return the IPv6 addresses of the host with the index of their interface, those of the link apart."""
    messages = netlink.dump(_GETADDR, _ADDRESS.pack(socket.AF_INET6, 0, 0, 0, 0))
    return [entry for entry in map(_entry6, messages) if entry is not None]


def _entry6(message: bytes) -> tuple[int, IPv6Interface] | None:
    """Return what a message says of an IPv6 address, None when it is about something else."""
    family, prefix, _, _, index = _ADDRESS.unpack_from(message)
    values = attributes(message[_ADDRESS.size :])
    address = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
    if family != socket.AF_INET6 or address is None:
        return None
    interface = IPv6Interface((address, prefix))
    return None if interface.is_link_local else (index, interface)


def _forward_ipv6() -> None:
    """Let the host route IPv6. Those of its interfaces that learn their routes from a router go on with that.

    The kernel takes no more advertisements on a host that routes, unless it is told to (``accept_ra`` 2). Errors:
    HostFault.
    """
    conf = _SYSCTL / "ipv6/conf"
    if _read(conf / "all/forwarding") == "1":
        return
    for place in sorted(conf.iterdir()) if conf.is_dir() else ():
        if place.name != "all" and _read(place / "accept_ra") == "1" and _read(place / "forwarding") == "0":
            _sysctl(f"ipv6/conf/{place.name}/accept_ra", "2", optional=True)
    _sysctl("ipv6/conf/all/forwarding", "1")


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="ascii").strip()
    return ""


def _index_of(name: str) -> int | None:
    with suppress(OSError):
        return socket.if_nametoindex(name)
    return None


def _kind(link: dict[int, bytes]) -> bytes:
    return attributes(link.get(_IFLA_LINKINFO, b"")).get(_INFO_KIND, b"").rstrip(b"\0")


def _link(netlink: Netlink, index: int) -> dict[int, bytes]:
    message = netlink.get(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0))
    return attributes(message[_LINK.size :])


@contextmanager
def _netlink() -> Iterator[Netlink]:
    try:
        with Netlink() as netlink:
            yield netlink
    except OSError as error:
        raise HostFault(
            "the network bridge could not be set up", details=str(error), resolution="run hyperd as root"
        ) from error


def _sysctl(key: str, value: str, *, optional: bool = False) -> None:
    path = _SYSCTL / key
    try:
        if path.read_text(encoding="ascii").strip() != value:
            path.write_text(value, encoding="ascii")
            log.info("kernel switch set", key=key, value=value)
    except OSError as error:
        if not (optional and isinstance(error, FileNotFoundError)):
            raise HostFault(f"{path} could not be set to {value}", details=str(error)) from error
