"""Values of the network services: networks, what is attached to them, what a NIC gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from hyperd.spec.model import CniSpec


class Driver(StrEnum):
    """What carries a network."""

    BRIDGE = "bridge"  # a bridge of the host
    HOST = "host"  # the host's own network: a pod in a VM cannot be in it, it is listed only
    NONE = "none"  # no network but loopback
    USER = "user"  # QEMU's user-mode network, one for each VM


# Networks that are always there. They have no row, so their ids are derived from their names.
DEFAULT, HOST, NONE = "bridge", "host", "none"
NO_HOST_NETWORK = "a pod is a VM with a network of its own: it cannot be in the host's network"


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A network to be made.

    Args:
        name: of it; unique on this host.
        driver: only ``bridge`` can be made.
        subnet: IPv4, CIDR notation; empty = a free one of the pool.
        gateway: the bridge's own address; empty = the first of the subnet.
        ip_range: CIDR notation, the part of the subnet that addresses are chosen from; empty = all of it.
        reserved: addresses of the subnet that no pod gets, by a name of any meaning.
        unused_pools: further subnets, as the caller gave them, from which nobody gets an address; stored and shown.
        internal: pods reach each other, and nothing outside.
        labels: of any meaning.
        options: as the caller gave them; stored and shown, and otherwise not looked at.
        bridge: name of the host's interface; empty = one is chosen.
        mtu: bytes, 0 = that of the daemon's own bridge.
        masquerade: the outside sees the host's address instead of the pod's.
        isolated: its pods do not reach each other, also not by published ports.
        ipv6: pods have an IPv6 address beside the IPv4 one.
        subnet6: of these, CIDR notation; empty = one of its own (RFC 4193).
        gateway6: the bridge's own address of them; empty = the first of the subnet.
        ip_range6: CIDR notation, the part of it that addresses are chosen from; empty = all of it.

    """

    name: str
    driver: str = Driver.BRIDGE
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    reserved: Mapping[str, str] = field(default_factory=dict)
    unused_pools: tuple[Mapping[str, str], ...] = ()
    internal: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    bridge: str = ""
    mtu: int = 0
    masquerade: bool = True
    isolated: bool = False
    ipv6: bool = False
    subnet6: str = ""
    gateway6: str = ""
    ip_range6: str = ""


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A pod on a network.

    Args:
        pod: its id. slot: the number of its NIC, which is ``eth0``, ``eth1``... in the guest.
        addresses: with prefix length.
        mac: of the guest's NIC.
        aliases: further names of the pod on this network.

    """

    pod: str
    slot: int
    addresses: tuple[str, ...]
    mac: str
    aliases: tuple[str, ...] = ()

    @property
    def ipv6(self) -> str:
        """The IPv6 address, with prefix length; empty when the network has none."""
        return next((address for address in self.addresses if ":" in address), "")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of this host.

    Args:
        id: 64 hexadecimal digits. name: see ``NetworkSpec``, as all that is not explained here.
        subnet, gateway, ip_range: empty where the driver has none; the last one also where it is the whole subnet.
        subnet6, gateway6, ip_range6: empty where pods have no IPv6 addresses, the last one also without a range.
        bridge: name of the host's interface, empty where there is none.
        builtin: it is always there and cannot be removed.
        resolves: pods on it find each other by name.
        created_at: UTC; of a builtin one when the daemon was started.
        attachments: pods that have an address on it now, by pod.

    """

    id: str
    name: str
    driver: Driver
    created_at: datetime
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    reserved: Mapping[str, str] = field(default_factory=dict)
    unused_pools: tuple[Mapping[str, str], ...] = ()
    internal: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    bridge: str = ""
    mtu: int = 0
    builtin: bool = False
    resolves: bool = False
    isolated: bool = False
    subnet6: str = ""
    gateway6: str = ""
    ip_range6: str = ""
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NicWish:
    """What a NIC shall have; everything left out is chosen.

    Args:
        network: id or name of a network; empty = the daemon's own one, or the host's bridge that is named.
        bridge: of the host; empty = the network's.
        addresses: IPv4 addresses, with prefix length on a bridge of the host; none = a free one of the network.
        mac: of the guest's NIC.
        tap: name of the host's device.
        link_local: further addresses, of 169.254.0.0/16.
        aliases: further names of the pod on the network.
        dns: the pod's own name servers, which the network's asks for names that it does not know.
        ipv6: an address of a network that has such; empty = a free one.
        cni: it is on the network of this host's plugins, and of all else nothing is said.

    """

    network: str = ""
    bridge: str = ""
    addresses: tuple[str, ...] = ()
    mac: str = ""
    tap: str = ""
    link_local: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ipv6: str = ""
    cni: CniSpec | None = None


@dataclass(frozen=True)
class Lease:
    """What a NIC of a pod gets.

    Args:
        mac: of the guest's NIC.
        tap: name of the host's device.
        bridge: that the tap must be plugged into.
        cidr: the address with its prefix length, such as ``192.168.123.2/24``.
        gateway: the router on this network; empty where there is none.
        mtu: bytes.
        dns: name servers, at most three.
        more: further addresses of the NIC.
        network: id of the network that somebody has made; empty for all others.
        slot: number of the NIC.
        routes: destination, and gateway that may be empty, beside those of the addresses; in this order.
        loose: the tap is on no bridge: whoever asked for it takes it from there.
        gateway6: the router for IPv6; empty where there is none.

    """

    mac: str
    tap: str
    bridge: str
    cidr: str
    gateway: str
    mtu: int
    dns: tuple[str, ...]
    more: tuple[str, ...] = ()
    network: str = ""
    slot: int = 0
    routes: tuple[tuple[str, str], ...] = ()
    loose: bool = False
    gateway6: str = ""

    @property
    def cidrs(self) -> tuple[str, ...]:
        """All addresses of the NIC."""
        return (self.cidr, *self.more)
