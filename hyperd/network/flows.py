"""Forgetting connections that the kernel tracks (nfnetlink_conntrack through pyroute2).

Address translation is decided by a connection's first packet. A UDP client that keeps sending would therefore be
sent to a pod that is gone, or past a pod that has just come.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from itertools import islice
from typing import Any

import structlog

log = structlog.get_logger(__name__)

_LIMIT = 4096  # entries of one address; more would keep the caller waiting


def forget_addresses(addresses: Iterable[str]) -> None:
    """Forget every connection to these pod addresses. Best effort: failures are logged."""
    for address in addresses:
        _forget(reply={"saddr": address})


def forget_udp(ports: Iterable[int]) -> None:
    """Forget what is sent to these UDP ports, of this host or through it. Best effort: failures are logged."""
    for port in ports:
        _forget(orig={"proto": socket.IPPROTO_UDP, "dport": port})


def _forget(*, orig: dict[str, Any] | None = None, reply: dict[str, Any] | None = None) -> None:
    from pyroute2 import NFCTSocket
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    wanted = NFCTAttrTuple(**(orig or reply or {}))
    attribute = "CTA_TUPLE_ORIG" if orig else "CTA_TUPLE_REPLY"
    try:
        with NFCTSocket() as tracker:
            entries = tracker.dump(**{"tuple_orig" if orig else "tuple_reply": wanted})
            # Some kernels ignore the filter for replies, so the answer is checked.
            mine = [e for e in islice(entries, _LIMIT) if wanted.nla_eq(socket.AF_INET, e.get_attr(attribute))]
            for entry in mine:
                original = NFCTAttrTuple.from_netlink(socket.AF_INET, entry.get_attr("CTA_TUPLE_ORIG"))
                try:
                    tracker.entry("del", tuple_orig=original)
                except NetlinkError as error:
                    log.debug("connection already gone", flow=str(original), error=str(error))
    except (NetlinkError, OSError) as error:
        log.warning("connections not forgotten", filter=str(wanted), error=str(error))
