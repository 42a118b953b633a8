"""Forgetting connections that the kernel tracks (<linux/netfilter/nfnetlink_conntrack.h>).

Address translation is decided by a connection's first packet. A UDP client that keeps sending would therefore be
sent to a pod that is gone, or past a pod that has just come.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable

import structlog

from hyperd.network.netlink import NESTED, NETFILTER, Netlink, attribute, attributes

log = structlog.get_logger(__name__)

_LIMIT = 4096  # entries of one address; more would keep the caller waiting

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ORIG, _REPLY, _FILTER = 1, 2, 25
_TUPLE_IP, _TUPLE_PROTO, _IP_SOURCE, _IP6_SOURCE, _PROTO_NUMBER, _PROTO_PORT = 1, 2, 1, 3, 1, 3
# Which parts of a tuple the kernel compares (since Linux 5.8).
_BY_SOURCE, _BY_PROTO, _BY_PORT = 1 << 0, 1 << 3, 1 << 5
_UDP = bytes([socket.IPPROTO_UDP])
_HEAD = struct.Struct("=BBH")


def forget_addresses(addresses: Iterable[str]) -> None:
    """Forget every connection to these pod addresses. Best effort: failures are logged."""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = _IP_SOURCE if family == socket.AF_INET else _IP6_SOURCE
        wanted = {(_TUPLE_IP, kind): socket.inet_pton(family, address)}
        _forget(_REPLY, wanted, compare=_BY_SOURCE, what=address, family=family)


def forget_udp(ports: Iterable[int]) -> None:
    """Forget what is sent to these UDP ports, of this host or through it. Best effort: failures are logged."""
    numbers = {struct.pack("!H", port) for port in ports}
    for family in (socket.AF_INET, socket.AF_INET6) if numbers else ():
        if len(numbers) == 1:
            wanted = {(_TUPLE_PROTO, _PROTO_NUMBER): _UDP, (_TUPLE_PROTO, _PROTO_PORT): next(iter(numbers))}
            _forget(_ORIG, wanted, compare=_BY_PROTO | _BY_PORT, what="a udp port", family=family)
        else:  # the kernel is asked once, for all of UDP
            all_udp = {(_TUPLE_PROTO, _PROTO_NUMBER): _UDP}
            _forget(_ORIG, all_udp, compare=_BY_PROTO, what="udp ports", ports=numbers, family=family)


def _forget(
    side: int,
    wanted: dict[tuple[int, int], bytes],
    *,
    compare: int,
    what: str,
    family: int,
    ports: Collection[bytes] = (),
) -> None:
    head = _HEAD.pack(family, 0, 0)
    outer = next(iter(wanted))[0]
    inner = [attribute(kind, value) for (_, kind), value in wanted.items()]
    flags = attribute(side, struct.pack("=I", compare))
    question = head + attribute(side | NESTED, attribute(outer | NESTED, *inner)) + attribute(_FILTER | NESTED, flags)
    try:
        with Netlink(NETFILTER) as tracker:
            # Some kernels ignore the filter, so the answer is checked.
            found = (attributes(message[_HEAD.size :]) for message in tracker.dump(_GET, question))
            mine = [
                entry[_ORIG]
                for entry in found
                if _ORIG in entry and _fits(entry.get(side, b""), wanted) and _port_fits(entry[_ORIG], ports)
            ]
            for original in mine[:_LIMIT]:
                try:
                    tracker.ask(_DELETE, head + attribute(_ORIG | NESTED, original))
                except OSError as error:
                    log.debug("connection already gone", error=str(error))
    except OSError as error:
        log.warning("connections not forgotten", filter=what, error=str(error))


def _port_fits(flow: bytes, ports: Collection[bytes]) -> bool:
    return not ports or attributes(attributes(flow).get(_TUPLE_PROTO, b"")).get(_PROTO_PORT) in ports


def _fits(flow: bytes, wanted: dict[tuple[int, int], bytes]) -> bool:
    parts = attributes(flow)
    return all(attributes(parts.get(outer, b"")).get(kind) == value for (outer, kind), value in wanted.items())
