"""Network namespaces that plugins work in, by ip(8) and tc(8); the VM's tap is moved into one of them.

What comes in by the plugins' interface leaves by the tap, and the other way (tc-mirred(8)): so the interface keeps its
addresses, as its plugins expect, and the guest has its MAC address.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

from hyperd.errors import HostFault, NotSupported
from hyperd.failpoint import failpoint
from hyperd.network.bridge import exists

DIRECTORY = Path("/run/netns")  # ip-netns(8)
_TIMEOUT = 20.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Found:
    """An interface as its plugins have made it.

    Args:
        mac, mtu: of it.
        addresses: with prefix length, IPv4 before IPv6.
        routes: destination, and gateway that may be empty, in an order in which they can be made.

    """

    mac: str
    mtu: int
    addresses: tuple[str, ...]
    routes: tuple[tuple[str, str], ...]


class Namespace:
    """A network namespace with a name. Errors of all methods: HostFault."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def path(self) -> Path:
        """What programs open to enter it."""
        return DIRECTORY / self.name

    def exists(self) -> bool:
        """Return whether it is there; a file of that name alone is what a killed daemon may have left."""
        try:
            return self.path.stat().st_dev != DIRECTORY.stat().st_dev
        except OSError:
            return False

    def make(self) -> None:
        """Make it, unless it is there."""
        if self.exists():
            return
        self._unlink()
        _run("ip", "netns", "add", self.name)

    def remove(self) -> None:
        """Remove it with all that is in it; one that is not there is fine."""
        if self.exists():
            _run("ip", "netns", "del", self.name)
        self._unlink()

    def _unlink(self) -> None:
        """Remove the file without a namespace that is left."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise HostFault(f"the network namespace {self.name} cannot be removed", details=str(error)) from error

    def find(self, interface: str) -> Found:
        """Return what plugins have made. Errors: HostFault (no such interface), NotSupported (its routes)."""
        links = self._json("-d", "address", "show", "dev", interface)
        if not links or not links[0].get("address"):
            raise HostFault(f"the network plugins have made no interface {interface}")
        addresses = [
            f"{one['local']}/{one['prefixlen']}" for one in links[0].get("addr_info", ()) if one.get("scope") != "link"
        ]
        if not addresses:
            raise HostFault("the network plugins have given no address")
        routes = [
            route
            for version in (4, 6)
            for route in _routes(self._json(f"-{version}", "route", "show", "dev", interface), addresses, version)
        ]
        return Found(
            mac=links[0]["address"].lower(),
            mtu=int(links[0].get("mtu", 0)),
            addresses=tuple(sorted(addresses, key=lambda cidr: ip_interface(cidr).version)),
            routes=tuple(sorted(routes, key=lambda route: bool(route[1]))),  # those to what is on the link first
        )

    def adopt(self, tap: str, interface: str) -> None:
        """Join a tap of this host's to an interface of the namespace; one that is in it is left alone."""
        if not exists(tap) and self._json("link", "show", "dev", tap):
            return
        _run("ip", "link", "set", tap, "netns", self.name)
        failpoint("cni.plug.tap_moved")
        lines = [f"link set {tap} addrgenmode none", f"link set {tap} up", f"link set {interface} up"]
        _run("ip", "-n", self.name, "-batch", "-", given=lines)
        both = ((interface, tap), (tap, interface))
        lines = [f"qdisc add dev {one} ingress" for one, _ in both]
        lines += [
            f"filter add dev {one} parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev {other}"
            for one, other in both
        ]
        _run("tc", "-n", self.name, "-batch", "-", given=lines)
        failpoint("cni.plug.joined")

    def _json(self, *words: str) -> list[dict[str, Any]]:
        output = _run("ip", "-n", self.name, "-j", *words)
        try:
            found = json.loads(output or "[]")
        except ValueError as error:
            raise HostFault("ip(8) gave no JSON", details=output[:200]) from error
        return [one for one in found if one]


def _routes(routes: Sequence[dict[str, Any]], addresses: Sequence[str], version: int) -> Iterator[tuple[str, str]]:
    """Yield destination and gateway of routes but those that the kernel makes for an address."""
    own = {str(ip_interface(cidr).network) for cidr in addresses}
    everything = "::/0" if version == 6 else "0.0.0.0/0"
    for one in routes:
        if one.get("type", "unicast") == "multicast":
            continue
        if one.get("type", "unicast") != "unicast" or "nexthops" in one or "via" in one:
            raise NotSupported(f"a route that the network plugins have made: {json.dumps(one)[:200]}")
        gateway = str(one.get("gateway", ""))
        network = str(ip_network(everything if one["dst"] == "default" else one["dst"], strict=False))
        by_kernel = one.get("protocol") == "kernel" and not gateway
        if not (by_kernel and (network in own or network.startswith("fe80:"))):
            yield network, gateway


def _run(*argv: str, given: Sequence[str] = ()) -> str:
    try:
        done = subprocess.run(
            argv,
            input="".join(f"{line}\n" for line in given),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostFault(f"{argv[0]} cannot be run", details=str(error)) from error
    if done.returncode != 0:
        raise HostFault(f"{' '.join(argv[:6])} failed", details=done.stderr.strip()[:500])
    return done.stdout
