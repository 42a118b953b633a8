"""Networks in Docker's words."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hyperd.network.model import Network

if TYPE_CHECKING:
    from hyperd.engine import Engine


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
    asked_ipv6: str = ""  # another one
    address6: str = ""
    prefix6: int = 0
    gateway6: str = ""
    link_local: Sequence[str] = ()
    links: Sequence[str] = ()
    options: Mapping[str, str] = field(default_factory=dict)


def endpoint(attachment: Attachment) -> dict[str, Any]:
    """Return ``EndpointSettings``."""
    return {
        "IPAMConfig": _asked_addresses(attachment) or None,
        "Links": list(attachment.links) or None,
        "Aliases": list(attachment.aliases) or None,
        "NetworkID": attachment.network_id,
        "EndpointID": attachment.endpoint_id,
        "Gateway": attachment.gateway,
        "IPAddress": attachment.address,
        "IPPrefixLen": attachment.prefix,
        "IPv6Gateway": attachment.gateway6,
        "GlobalIPv6Address": attachment.address6,
        "GlobalIPv6PrefixLen": attachment.prefix6,
        "MacAddress": attachment.mac,
        "DriverOpts": dict(attachment.options) or None,
        "DNSNames": list(attachment.aliases) or None,
    }


def _asked_addresses(attachment: Attachment) -> dict[str, Any]:
    found: dict[str, Any] = {"IPv4Address": attachment.fixed} if attachment.fixed else {}
    if attachment.asked_ipv6:
        found["IPv6Address"] = attachment.asked_ipv6
    return {**found, "LinkLocalIPs": list(attachment.link_local)} if attachment.link_local else found


def network_object(network: Network, running: Engine, *, detailed: bool) -> dict[str, Any]:
    """Return a network; ``detailed``: with the containers on it."""
    pools: list[dict[str, Any]] = []
    if network.subnet:
        pool: dict[str, Any] = {"Subnet": network.subnet, "Gateway": network.gateway}
        if network.ip_range:
            pool["IPRange"] = network.ip_range
        if network.reserved:
            pool["AuxiliaryAddresses"] = dict(network.reserved)
        pools.append(pool)
        if network.subnet6:
            pool6 = {"Subnet": network.subnet6, "Gateway": network.gateway6}
            pools.append({**pool6, "IPRange": network.ip_range6} if network.ip_range6 else pool6)
        pools += [*(dict(unused) for unused in network.unused_pools)]
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": network.created_at.isoformat().replace("+00:00", "Z"),
        "Scope": "local",
        "Driver": "null" if network.driver == "none" else str(network.driver),
        "EnableIPv4": True,
        "EnableIPv6": bool(network.subnet6),
        "IPAM": {"Driver": "default", "Options": None, "Config": pools},
        "Internal": network.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": _members(network, running) if detailed else {},
        "Options": dict(network.options),
        "Labels": dict(network.labels),
    }


def _members(network: Network, running: Engine) -> dict[str, Any]:
    found = {}
    for attachment in network.attachments:
        for container in running.containers.queries.of_pod(attachment.pod):
            if container.live:
                found[container.id] = {
                    "Name": container.name,
                    "EndpointID": endpoint_id(network.id, attachment.pod),
                    "MacAddress": attachment.mac,
                    "IPv4Address": attachment.addresses[0] if attachment.addresses else "",
                    "IPv6Address": attachment.ipv6,
                }
    return found


def endpoint_id(network_id: str, pod_id: str) -> str:
    """Return the id of a pod's endpoint: endpoints have no rows of their own."""
    return hashlib.sha256(f"{network_id} {pod_id}".encode()).hexdigest()
