"""The nftables text of one daemon: tables of its own, written as one transaction.

``table ip NAME`` does address translation, ``table bridge NAME`` keeps guests from using addresses that are not theirs,
and ``table ip6 NAME`` does for networks with IPv6 what the first one does; it is absent without such a network. Rows
that change become changed elements of sets and maps; at every start, and when anything is not as expected, the tables
are replaced as a whole, so what the kernel has does not drift from what the rows say.
``docs/network.md`` tells what is covered and what is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from pathlib import Path

from hyperd.errors import InvalidInput
from hyperd.network import nft

_IPV6 = Path("/proc/sys/net/ipv6")  # absent where the kernel has no IPv6, and then no table of it
_GROUP = "ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00"  # broadcast and multicast
_TARGET = "iifname . @th,64,128"  # the address that an advertisement of a neighbour is about


@dataclass(frozen=True, kw_only=True)
class Station:
    """A NIC that may send: its tap, and a MAC and an IPv4 or IPv6 address that it may use.

    ``apart``: it is on an isolated network.
    """

    tap: str
    mac: str
    address: str
    apart: bool = False


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A published port: where connections to ``host_port`` go, of the address ``host_ip`` of the host or of all."""

    protocol: str
    host_port: int
    address: str
    container_port: int
    host_ip: str = ""

    @property
    def same_port(self) -> bool:
        """Whether host and pod have the same number for it."""
        return self.host_port == self.container_port

    def fits(self, protocol: str) -> bool:
        """Return whether it can be a part of a range: the same port, on all addresses."""
        return self.protocol == protocol and self.same_port and not self.host_ip


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A pod that not everybody may reach.

    Args:
        address: one of the pod's.
        mac: of the NIC that has it.
        tap: of the NIC.
        internal: networks that may reach every port.
        external: networks that may reach published ports.

    """

    address: str
    mac: str
    tap: str
    internal: tuple[str, ...]
    external: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Where the questions of one pod to the name server of a network go.

    Args:
        source: the pod's address.
        asked: the address that the pod asks, which is the network's gateway.
        port: on 127.0.0.1, where the server listens.

    """

    source: str
    asked: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A network as the tables see it.

    Args:
        bridge: name of its interface.
        subnet: in CIDR notation.
        masquerade: the outside sees the host's address.
        filtered: others reach its pods by published ports only.
        internal: nothing leaves it and nothing comes in.
        isolated: its pods do not reach each other.
        subnet6: of its IPv6 addresses; empty = it has none.

    """

    bridge: str
    subnet: str
    masquerade: bool = True
    filtered: bool = True
    internal: bool = False
    isolated: bool = False
    subnet6: str = ""


@dataclass(frozen=True, kw_only=True)
class Ruleset:
    """Everything the tables say.

    Args:
        table: name of both tables.
        segments: the networks; the first is the daemon's own.
        tap_prefix: what the names of the daemon's own taps begin with.
        stations: the NICs that may send.
        forwards: the published ports.
        guards: addresses with a white list, on the first network.
        bridge_mac: the first bridge's own address; needed for guards.
        resolvers: who asks which name server.
        forwards6: the published ports that lead to IPv6 addresses.

    """

    table: str
    segments: Sequence[Segment]
    tap_prefix: str
    stations: Sequence[Station]
    forwards: Sequence[Forward]
    guards: Sequence[Guard] = ()
    bridge_mac: str = ""
    resolvers: Sequence[Resolver] = ()
    forwards6: Sequence[Forward] = ()

    @property
    def has_ipv6(self) -> bool:
        """Whether one of the networks has IPv6."""
        return any(one.subnet6 for one in self.segments)

    @property
    def _has_isolated(self) -> bool:
        return any(one.isolated for one in self.segments)

    def render(self) -> str:
        """Return the text for ``nft -f``; applying it twice is the same as once."""
        return "\n".join([_removal(self.table), *self._translation(), *self._translation6(), *self._protection(), ""])

    def change_from(self, before: Ruleset) -> str | None:
        """Return the text that makes ``before`` into this: elements taken out and put in. Empty = nothing to do.

        Returns None when more than elements differ. The text fails as a whole when the kernel has something else.
        """
        same = replace(
            before,
            stations=self.stations,
            forwards=self.forwards,
            resolvers=self.resolvers,
            forwards6=self.forwards6,
        )
        if same != self:
            return None
        lines: list[str] = []
        for (place, old), (_, new) in zip(before._places(), self._places(), strict=True):
            for verb, elements in (("delete", old - new), ("add", new - old)):
                if elements:
                    lines.append(f"{verb} element {place} {{ {', '.join(sorted(elements))} }}\n")
        return "".join(lines)

    def _places(self) -> list[tuple[str, set[str]]]:
        return [
            (f"bridge {self.table} stations", set(self._stations())),
            (f"bridge {self.table} taps", set(self._taps())),
            *self._port_places("ip", self.forwards),
            (f"ip {self.table} tcp_bound", set(self._bound("tcp"))),
            (f"ip {self.table} udp_bound", set(self._bound("udp"))),
            (f"ip {self.table} resolvers", set(self._resolvers())),
            *([(f"bridge {self.table} apart", set(self._apart()))] if self._has_isolated else ()),
            *(self._places6() if self.has_ipv6 else ()),
        ]

    def _places6(self) -> list[tuple[str, set[str]]]:
        return [
            (f"bridge {self.table} stations6", set(self._stations6())),
            (f"bridge {self.table} targets6", set(self._targets6())),
            *self._port_places("ip6", self.forwards6),
        ]

    def _port_places(self, family: str, forwards: Sequence[Forward]) -> list[tuple[str, set[str]]]:
        return [
            (f"{family} {self.table} tcp_ports", set(_elements(forwards, "tcp"))),
            (f"{family} {self.table} udp_ports", set(_elements(forwards, "udp"))),
            (f"{family} {self.table} tcp_ranges", set(_ranges(forwards, "tcp"))),
            (f"{family} {self.table} udp_ranges", set(_ranges(forwards, "udp"))),
        ]

    def _translation(self) -> list[str]:
        return [
            f"table ip {self.table} {{",
            *_port_maps("ipv4_addr", self.forwards),
            *_named("map tcp_bound", "ipv4_addr . inet_service : ipv4_addr . inet_service", self._bound("tcp")),
            *_named("map udp_bound", "ipv4_addr . inet_service : ipv4_addr . inet_service", self._bound("udp")),
            *_named("map resolvers", "ipv4_addr . ipv4_addr : ipv4_addr . inet_service", self._resolvers()),
            *_chain("raw", "filter hook prerouting priority raw", self._raw()),
            *_chain(
                "prerouting",
                "nat hook prerouting priority dstnat",
                [
                    "udp dport 53 dnat ip to ip saddr . ip daddr map @resolvers",
                    "tcp dport 53 dnat ip to ip saddr . ip daddr map @resolvers",
                    "fib daddr type local jump published",
                ],
            ),
            *_chain("output", "nat hook output priority -100", ["fib daddr type local jump published"]),
            *_chain(
                "published",
                "",
                [
                    *_to_ports("ip"),
                    "dnat ip to ip daddr . tcp dport map @tcp_bound",
                    "dnat ip to ip daddr . udp dport map @udp_bound",
                ],
            ),
            *_chain("postrouting", "nat hook postrouting priority srcnat", self._postrouting()),
            *_chain("forward", "filter hook forward priority filter", self._forward(guarded=bool(self.guards))),
            *_chain("input", "filter hook input priority filter", self._input()),
            *self._guard(),
            "}",
        ]

    def _translation6(self) -> list[str]:
        """Return the table of IPv6: as that of IPv4, without name servers, white lists and single addresses."""
        if not self.has_ipv6:
            return []
        local = ["fib daddr type local jump published"]
        return [
            f"table ip6 {self.table} {{",
            *_port_maps("ipv6_addr", self.forwards6),
            *_chain("prerouting", "nat hook prerouting priority dstnat", local),
            *_chain("output", "nat hook output priority -100", local),
            *_chain("published", "", _to_ports("ip6")),
            *_chain("postrouting", "nat hook postrouting priority srcnat", self._postrouting6()),
            *_chain("forward", "filter hook forward priority filter", self._forward(guarded=False)),
            *_chain("input", "filter hook input priority filter", self._input6()),
            "}",
        ]

    def _postrouting6(self) -> list[str]:
        rules = []
        for one in self.segments:
            if one.subnet6:
                rules += [
                    f"ct status dnat ip6 saddr {one.subnet6} ip6 daddr {one.subnet6} masquerade",
                    f'oifname "{one.bridge}" ip6 saddr ::1 masquerade',
                ]
                if one.masquerade and not one.internal:
                    rules.append(f'ip6 saddr {one.subnet6} oifname != "{one.bridge}" masquerade')
        return rules

    def _input6(self) -> list[str]:
        """Let the pods of internal networks find the host as a neighbour, and nothing else."""
        rules = []
        for one in self.segments:
            if one.internal and one.subnet6:
                only = f'iifname "{one.bridge}"'
                rules += [
                    f"{only} ct state established,related accept",
                    f"{only} meta l4proto ipv6-icmp accept",
                    f"{only} drop",
                ]
        return rules

    def _guard(self) -> list[str]:
        if not self.guards:
            return []
        pairs = "ipv4_addr . ipv4_addr; flags interval"
        return [
            *_named("set guarded", "ipv4_addr", [entry.address for entry in self.guards]),
            *_named("set internal", pairs, [f"{g.address} . {net}" for g in self.guards for net in g.internal]),
            *_named("set external", pairs, [f"{g.address} . {net}" for g in self.guards for net in g.external]),
            *_chain(
                "output_guard",
                "filter hook output priority filter",
                # The host routes between pods of its own bridge then and would tell them of the shorter way.
                [f'oifname "{self.segments[0].bridge}" icmp type redirect drop', "ip daddr @guarded jump guard"],
            ),
            *_chain(
                "guard",
                "",
                [
                    "ct state established,related return",
                    "ip protocol icmp return",
                    "ip daddr . ip saddr @internal return",
                    "ct status dnat ip daddr . ip saddr @external return",
                    "drop",
                ],
            ),
        ]

    def _raw(self) -> list[str]:
        # route_localnet is on for bridges: without this a guest could reach what listens on the host's 127.0.0.1.
        return [f'iifname "{one.bridge}" ip daddr 127.0.0.0/8 drop' for one in self.segments]

    def _postrouting(self) -> list[str]:
        rules = []
        for one in self.segments:
            rules += [
                # A pod that connects to a port published by a pod of the same bridge, itself included: the answer must
                # come back through the host, which it only does when the host is the sender.
                f"ct status dnat ip saddr {one.subnet} ip daddr {one.subnet} masquerade",
                # From 127.0.0.1 of the host: no pod could answer to that.
                f'oifname "{one.bridge}" ip saddr 127.0.0.0/8 masquerade',
            ]
            if one.masquerade and not one.internal:
                rules.append(f'ip saddr {one.subnet} oifname != "{one.bridge}" masquerade')
        return rules

    def _forward(self, *, guarded: bool) -> list[str]:
        """Let a network's own traffic pass, and into it from others only answers and published ports."""
        rules = ["ip daddr @guarded jump guard"] if guarded else []
        if not any(one.filtered for one in self.segments):
            return rules
        rules += [
            f'iifname "{one.bridge}" oifname "{one.bridge}" {"drop" if one.isolated else "accept"}'
            for one in self.segments
        ]
        rules += [
            f'{way} "{one.bridge}" drop' for one in self.segments if one.internal for way in ("iifname", "oifname")
        ]
        rules += ["ct state established,related accept", "ct status dnat accept"]
        for one in self.segments:
            if one.filtered:
                rules.append(f'oifname "{one.bridge}" drop')
            else:  # the world may come in, the other networks of this daemon may not
                rules += [
                    f'iifname "{other.bridge}" oifname "{one.bridge}" drop' for other in self.segments if other != one
                ]
        return rules

    def _input(self) -> list[str]:
        """Let the pods of internal networks ask the host for names, and for nothing else."""
        rules = []
        for one in self.segments:
            if one.internal:
                only = f'iifname "{one.bridge}"'
                rules += [
                    f"{only} ct state established,related accept",
                    f"{only} ct status dnat ip daddr 127.0.0.1 accept",
                    f"{only} ip protocol icmp accept",
                    f"{only} drop",
                ]
        return rules

    def _protection(self) -> list[str]:
        return [
            f"table bridge {self.table} {{",
            *_named("set stations", "ifname . ether_addr . ipv4_addr", self._stations()),
            *_named("set taps", "ifname", self._taps()),
            *(_named("set apart", "ifname", self._apart()) if self._has_isolated else ()),
            *self._sets6(),
            *_chain(
                "prerouting",
                "filter hook prerouting priority -300",
                [
                    f'iifname "{self.tap_prefix}*" goto guest',
                    "iifname @taps goto guest",
                    *(["ether type ip ether daddr @guarded_macs goto router"] if self.guards else []),
                ],
            ),
            *_chain(
                "guest",
                "",
                [
                    f"iifname . ether saddr . ip saddr @stations {'goto sender' if self.guards else 'accept'}",
                    # Hosts learn from the ARP payload, the bridge from the frame: both senders are looked at.
                    "iifname . arp saddr ether . arp saddr ip @stations goto asker",
                    *(["iifname . ether saddr . ip6 saddr @stations6 goto sender6"] if self.has_ipv6 else []),
                    "drop",
                ],
            ),
            *_chain("asker", "", ["iifname . ether saddr . arp saddr ip @stations accept", "drop"]),
            *self._sender6(),
            *self._detour(),
            *self._between(),
            "}",
        ]

    def _between(self) -> list[str]:
        """Let no frame pass from a pod to another one of an isolated network, or of the outside to a guarded one."""
        rules = ["iifname @apart drop"] if self._has_isolated else []
        if self.guards:
            rules.append(f"oifname @guarded_taps ether type ip {_GROUP} drop")
        return _chain("forward", "filter hook forward priority filter", rules) if rules else []

    def _sets6(self) -> list[str]:
        if not self.has_ipv6:
            return []
        return [
            *_named("set stations6", "ifname . ether_addr . ipv6_addr", self._stations6()),
            *_named("set targets6", _TARGET, self._targets6(), key="typeof"),
        ]

    def _sender6(self) -> list[str]:
        """Let a guest say nothing that a router or a DHCP server says, and nothing of others' addresses.

        RFC 4861: what an advertisement of a neighbour is about stands behind its first 8 bytes. A rule does not fit a
        packet that has not what it asks for: so who hides a header from these rules gets to the drop behind them. The
        first of several fragments must have all headers (RFC 7112); the others say nothing of themselves.
        """
        if not self.has_ipv6:
            return []
        return _chain(
            "sender6",
            "",
            [
                "icmpv6 type { mld-listener-query, nd-router-solicit, nd-router-advert, nd-redirect } drop",
                f"icmpv6 type nd-neighbor-advert {_TARGET} @targets6 accept",
                "icmpv6 type nd-neighbor-advert drop",
                "udp sport { 546, 547 } drop",
                "udp dport { 546, 547 } drop",
                "meta l4proto ipv6-icmp frag frag-off != 0 accept",
                "icmpv6 type != 255 accept",
                "meta l4proto ipv6-icmp drop",
                "meta l4proto != 255 accept",
                "drop",
            ],
        )

    def _detour(self) -> list[str]:
        """Send IPv4 frames from and to a guarded pod up to the host, which tracks connections and forwards them.

        Bridges cannot track connections themselves on every kernel. The frame gets the bridge's own address.
        """
        if not self.guards:
            return []
        taps = sorted({f'"{entry.tap}"' for entry in self.guards})
        return [
            *_named("set guarded_taps", "ifname", taps),
            *_named("set guarded_macs", "ether_addr", sorted({entry.mac for entry in self.guards})),
            *_chain(
                "sender",
                "",
                ["iifname @guarded_taps goto router", "ether daddr @guarded_macs goto router", "accept"],
            ),
            *_chain(
                "router", "", [f"{_GROUP} accept", f"ether daddr set {self.bridge_mac} meta pkttype set host accept"]
            ),
        ]

    def _resolvers(self) -> list[str]:
        return [f"{entry.source} . {entry.asked} : 127.0.0.1 . {entry.port}" for entry in self.resolvers]

    def _stations(self) -> list[str]:
        stations = (entry for entry in self.stations if ":" not in entry.address)
        return [f'"{entry.tap}" . {entry.mac} . {entry.address}' for entry in stations]

    def _stations6(self) -> list[str]:
        stations = (entry for entry in self.stations if ":" in entry.address)
        return [f'"{entry.tap}" . {entry.mac} . {entry.address}' for entry in stations]

    def _targets6(self) -> list[str]:
        stations = (entry for entry in self.stations if ":" in entry.address)
        return [f'"{entry.tap}" . {int(IPv6Address(entry.address)):#034x}' for entry in stations]

    def _apart(self) -> list[str]:
        return [f'"{entry.tap}"' for entry in self.stations if entry.apart]

    def _taps(self) -> list[str]:
        return [f'"{entry.tap}"' for entry in self.stations]

    def _bound(self, protocol: str) -> Iterable[str]:
        for entry in self.forwards:
            if entry.protocol == protocol and entry.host_ip:
                yield f"{entry.host_ip} . {entry.host_port} : {entry.address} . {entry.container_port}"


def _elements(forwards: Iterable[Forward], protocol: str) -> Iterator[str]:
    for entry in forwards:
        if entry.protocol == protocol and not entry.host_ip and not entry.same_port:
            yield f"{entry.host_port} : {entry.address} . {entry.container_port}"


def _ranges(forwards: Iterable[Forward], protocol: str) -> Iterator[str]:
    """Yield ports that lead to the same ports of a pod: those one after the other are one element."""
    ports = {entry.host_port: entry.address for entry in forwards if entry.fits(protocol)}
    first = last = 0
    for port in sorted(ports):
        if first and port == last + 1 and ports[port] == ports[first]:
            last = port
            continue
        if first:
            yield _range(first, last, ports[first])
        first = last = port
    if first:
        yield _range(first, last, ports[first])


def _port_maps(address: str, forwards: Sequence[Forward]) -> list[str]:
    """Return the maps of published ports; ``address``: the type of addresses."""
    return [
        *_named("map tcp_ports", f"inet_service : {address} . inet_service", _elements(forwards, "tcp")),
        *_named("map udp_ports", f"inet_service : {address} . inet_service", _elements(forwards, "udp")),
        *_named("map tcp_ranges", f"inet_service : {address}; flags interval", _ranges(forwards, "tcp")),
        *_named("map udp_ranges", f"inet_service : {address}; flags interval", _ranges(forwards, "udp")),
    ]


def _to_ports(family: str) -> list[str]:
    return [
        f"dnat {family} to {protocol} dport map @{protocol}_{kind}"
        for kind in ("ports", "ranges")
        for protocol in ("tcp", "udp")
    ]


def remove(table: str) -> None:
    """Remove the tables; absent ones are fine. Errors: HostFault."""
    nft.apply(_removal(table) + "\n")


def check_table(name: str) -> str:
    """Return the name back if a table can have it. Errors: InvalidInput."""
    if not (name.isascii() and name.isidentifier() and len(name) <= 64):
        raise InvalidInput(f"[network] nft_table {name!r} must be a word of letters, digits and '_'")
    return name


def _range(first: int, last: int, address: str) -> str:
    return f"{first} : {address}" if first == last else f"{first}-{last} : {address}"


def _removal(table: str) -> str:
    # Adding first makes the deletion succeed when there was none; "destroy" needs a newer nft and kernel.
    families = ("ip", "ip6", "bridge") if _IPV6.exists() else ("ip", "bridge")
    return "\n".join(f"table {family} {table}\ndelete table {family} {table}" for family in families)


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    head = [f"    type {hook}; policy accept;"] if hook else []
    return [f"  chain {name} {{", *head, *(f"    {rule}" for rule in rules), "  }"]


def _named(what: str, kind: str, elements: Iterable[str], *, key: str = "type") -> list[str]:
    listed = ", ".join(elements)
    return [f"  {what} {{", f"    {key} {kind}", *([f"    elements = {{ {listed} }}"] if listed else []), "  }"]
