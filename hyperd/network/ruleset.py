"""The nftables text of one daemon: two tables of its own, written as one transaction.

``table ip NAME`` does address translation, ``table bridge NAME`` keeps guests from using addresses that are not
theirs. Rows that change become changed elements of sets and maps; at every start, and when anything is not as expected,
both tables are replaced as a whole, so what the kernel has does not drift from what the rows say.
``docs/network.md`` tells what is covered and what is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from hyperd.errors import InvalidInput
from hyperd.network import nft


@dataclass(frozen=True, kw_only=True)
class Station:
    """A NIC that may send: its tap, and the only MAC and IPv4 address it may use."""

    tap: str
    mac: str
    address: str


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

    """

    bridge: str
    subnet: str
    masquerade: bool = True
    filtered: bool = True
    internal: bool = False


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

    """

    table: str
    segments: Sequence[Segment]
    tap_prefix: str
    stations: Sequence[Station]
    forwards: Sequence[Forward]
    guards: Sequence[Guard] = ()
    bridge_mac: str = ""
    resolvers: Sequence[Resolver] = ()

    def render(self) -> str:
        """Return the text for ``nft -f``; applying it twice is the same as once."""
        return "\n".join([_removal(self.table), *self._translation(), *self._protection(), ""])

    def change_from(self, before: Ruleset) -> str | None:
        """Return the text that makes ``before`` into this: elements taken out and put in. Empty = nothing to do.

        Returns None when more than elements differ. The text fails as a whole when the kernel has something else.
        """
        same = replace(before, stations=self.stations, forwards=self.forwards, resolvers=self.resolvers)
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
            (f"ip {self.table} tcp_ports", set(self._elements("tcp"))),
            (f"ip {self.table} udp_ports", set(self._elements("udp"))),
            (f"ip {self.table} tcp_ranges", set(self._ranges("tcp"))),
            (f"ip {self.table} udp_ranges", set(self._ranges("udp"))),
            (f"ip {self.table} tcp_bound", set(self._bound("tcp"))),
            (f"ip {self.table} udp_bound", set(self._bound("udp"))),
            (f"ip {self.table} resolvers", set(self._resolvers())),
        ]

    def _translation(self) -> list[str]:
        return [
            f"table ip {self.table} {{",
            *_named("map tcp_ports", "inet_service : ipv4_addr . inet_service", self._elements("tcp")),
            *_named("map udp_ports", "inet_service : ipv4_addr . inet_service", self._elements("udp")),
            *_named("map tcp_ranges", "inet_service : ipv4_addr; flags interval", self._ranges("tcp")),
            *_named("map udp_ranges", "inet_service : ipv4_addr; flags interval", self._ranges("udp")),
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
                    "dnat ip to tcp dport map @tcp_ports",
                    "dnat ip to udp dport map @udp_ports",
                    "dnat ip to tcp dport map @tcp_ranges",
                    "dnat ip to udp dport map @udp_ranges",
                    "dnat ip to ip daddr . tcp dport map @tcp_bound",
                    "dnat ip to ip daddr . udp dport map @udp_bound",
                ],
            ),
            *_chain("postrouting", "nat hook postrouting priority srcnat", self._postrouting()),
            *_chain("forward", "filter hook forward priority filter", self._forward()),
            *_chain("input", "filter hook input priority filter", self._input()),
            *self._guard(),
            "}",
        ]

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

    def _forward(self) -> list[str]:
        """Let a network's own traffic pass, and into it from others only answers and published ports."""
        rules = ["ip daddr @guarded jump guard"] if self.guards else []
        if not any(one.filtered for one in self.segments):
            return rules
        rules += [f'iifname "{one.bridge}" oifname "{one.bridge}" accept' for one in self.segments]
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
                    "drop",
                ],
            ),
            *_chain("asker", "", ["iifname . ether saddr . arp saddr ip @stations accept", "drop"]),
            *self._detour(),
            "}",
        ]

    def _detour(self) -> list[str]:
        """Send IPv4 frames from and to a guarded pod up to the host, which tracks connections and forwards them.

        Bridges cannot track connections themselves on every kernel. The frame gets the bridge's own address.
        """
        if not self.guards:
            return []
        group = "ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00"
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
                "router", "", [f"{group} accept", f"ether daddr set {self.bridge_mac} meta pkttype set host accept"]
            ),
            *_chain(
                "forward", "filter hook forward priority filter", [f"oifname @guarded_taps ether type ip {group} drop"]
            ),
        ]

    def _resolvers(self) -> list[str]:
        return [f"{entry.source} . {entry.asked} : 127.0.0.1 . {entry.port}" for entry in self.resolvers]

    def _stations(self) -> list[str]:
        return [f'"{entry.tap}" . {entry.mac} . {entry.address}' for entry in self.stations]

    def _taps(self) -> list[str]:
        return [f'"{entry.tap}"' for entry in self.stations]

    def _elements(self, protocol: str) -> Iterable[str]:
        for entry in self.forwards:
            if entry.protocol == protocol and not entry.host_ip and not entry.same_port:
                yield f"{entry.host_port} : {entry.address} . {entry.container_port}"

    def _ranges(self, protocol: str) -> Iterator[str]:
        """Yield ports that lead to the same ports of a pod: those one after the other are one element."""
        ports = {entry.host_port: entry.address for entry in self.forwards if entry.fits(protocol)}
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

    def _bound(self, protocol: str) -> Iterable[str]:
        for entry in self.forwards:
            if entry.protocol == protocol and entry.host_ip:
                yield f"{entry.host_ip} . {entry.host_port} : {entry.address} . {entry.container_port}"


def remove(table: str) -> None:
    """Remove both tables; absent ones are fine. Errors: HostFault."""
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
    return "\n".join(f"table {family} {table}\ndelete table {family} {table}" for family in ("ip", "bridge"))


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    head = [f"    type {hook}; policy accept;"] if hook else []
    return [f"  chain {name} {{", *head, *(f"    {rule}" for rule in rules), "  }"]


def _named(what: str, kind: str, elements: Iterable[str]) -> list[str]:
    listed = ", ".join(elements)
    return [f"  {what} {{", f"    type {kind}", *([f"    elements = {{ {listed} }}"] if listed else []), "  }"]
