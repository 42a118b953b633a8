"""The host bridge that the pods' taps are plugged into (rtnetlink through pyroute2).

pyroute2 is imported inside the functions: it costs 0.2 s, which no command but the daemon should pay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import structlog

from hyperd.errors import Conflict, HostFault

log = structlog.get_logger(__name__)

_SYSCTL = Path("/proc/sys/net")


class Bridge:
    """A bridge in the daemon's own network namespace, with the gateway's address.

    Args:
        name: of the interface, at most 15 characters.
        address: the gateway's address with the prefix length.
        mac: fixed, because a bridge otherwise takes the lowest address of its ports and changes it with them,
            which leaves wrong entries in the guests' ARP tables.
        mtu: bytes.

    """

    def __init__(self, *, name: str, address: IPv4Interface, mac: str, mtu: int) -> None:
        self.name = name
        self.address = address
        self.mac = mac
        self.mtu = mtu

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
                netlink.link("add", ifname=self.name, kind="bridge", address=self.mac, br_forward_delay=0)
                index = netlink.link_lookup(ifname=self.name)[0]
                log.info("bridge made", bridge=self.name, address=str(self.address))
            self._ensure_address(netlink, index)
            netlink.link("set", index=index, mtu=self.mtu, state="up")
        self._switches()

    def current_mac(self) -> str:
        """Give the address the bridge really has: it may have been there before. Errors: HostFault."""
        with _netlink() as netlink:
            index = self._index(netlink)
            return str(netlink.get_links(index)[0].get_attr("IFLA_ADDRESS")) if index is not None else self.mac

    def remove(self) -> None:
        """Remove the bridge; its ports are only unplugged. An absent bridge is fine. Errors: HostFault."""
        with _netlink() as netlink:
            index = self._index(netlink)
            if index is not None:
                netlink.link("del", index=index)
                log.info("bridge removed", bridge=self.name)

    def allow_hairpin(self, taps: Iterable[str]) -> None:
        """Let frames go back out of the port they came in by; taps that do not exist (yet) are passed over.

        A pod that connects to a port of the host which it has published itself needs this when the kernel has
        br_netfilter: the address is then translated inside the bridge already. Errors: HostFault.
        """
        with _netlink() as netlink:
            for tap in taps:
                for index in netlink.link_lookup(ifname=tap):
                    netlink.brport("set", index=index, mode=1)

    def _index(self, netlink: Any) -> int | None:
        found: list[int] = list(netlink.link_lookup(ifname=self.name))
        if not found:
            return None
        info = netlink.get_links(found[0])[0].get_attr("IFLA_LINKINFO")
        kind = info.get_attr("IFLA_INFO_KIND") if info else None
        if kind != "bridge":
            raise Conflict(
                f"{self.name} exists and is not a bridge",
                resolution="choose another name for [network] bridge",
            )
        return found[0]

    def _ensure_address(self, netlink: Any, index: int) -> None:
        present = [
            IPv4Interface(f"{entry.get_attr('IFA_ADDRESS')}/{entry['prefixlen']}")
            for entry in netlink.get_addr(family=2, index=index)
        ]
        if self.address in present:
            return
        if present:
            raise Conflict(
                f"bridge {self.name} has another address than {self.address}",
                details=", ".join(map(str, present)),
                resolution=f"set [network] subnet to the bridge's, choose another, or: ip link del {self.name}",
            )
        netlink.addr("add", index=index, address=str(self.address.ip), prefixlen=self.address.network.prefixlen)

    def _check_overlap(self, netlink: Any) -> None:
        for entry in netlink.get_addr(family=2):
            label = str(entry.get_attr("IFA_LABEL") or entry["index"])
            used = IPv4Network(f"{entry.get_attr('IFA_ADDRESS')}/{entry['prefixlen']}", strict=False)
            if label.split(":", maxsplit=1)[0] != self.name and used.overlaps(self.address.network):
                raise Conflict(
                    f"subnet {self.address.network} is in use on {label}",
                    details=str(used),
                    resolution="choose another [network] subnet",
                )

    def _switches(self) -> None:
        _sysctl("ipv4/ip_forward", "1")
        # A connection to 127.0.0.1:port that is sent on to a pod leaves by the bridge with a loopback source, which
        # the kernel otherwise drops as a martian. The nftables table shuts the hole that this opens towards the
        # guests.
        _sysctl(f"ipv4/conf/{self.name}/route_localnet", "1")
        # The pods' network is IPv4 only: a guest's router advertisements must not reconfigure the host.
        _sysctl(f"ipv6/conf/{self.name}/disable_ipv6", "1", optional=True)


def host_addresses() -> list[str]:
    """Give every IPv4 address of the host itself. Errors: HostFault."""
    with _netlink() as netlink:
        return [str(entry.get_attr("IFA_ADDRESS")) for entry in netlink.get_addr(family=2)]


@contextmanager
def _netlink() -> Iterator[Any]:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            yield netlink
    except (NetlinkError, OSError) as error:
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
