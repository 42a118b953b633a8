"""Networks in Docker's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """How one container is on one network, as clients see it; addresses are empty while it does not run."""

    network: str
    network_id: str
    endpoint_id: str = ""
    address: str = ""
    prefix: int = 0
    gateway: str = ""
    mac: str = ""
    aliases: Sequence[str] = ()
    fixed: str = ""  # the address that was asked for
    links: Sequence[str] = ()


def endpoint(attachment: Attachment) -> dict[str, Any]:
    """Return ``EndpointSettings``."""
    return {
        "IPAMConfig": {"IPv4Address": attachment.fixed} if attachment.fixed else None,
        "Links": list(attachment.links) or None,
        "Aliases": list(attachment.aliases) or None,
        "NetworkID": attachment.network_id,
        "EndpointID": attachment.endpoint_id,
        "Gateway": attachment.gateway,
        "IPAddress": attachment.address,
        "IPPrefixLen": attachment.prefix,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": attachment.mac,
        "DriverOpts": None,
        "DNSNames": list(attachment.aliases) or None,
    }
