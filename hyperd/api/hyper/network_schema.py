"""marshmallow schemas of networks: what is read, and the objects that are answered."""

from __future__ import annotations

from typing import Any, cast

from marshmallow import post_load

from hyperd.api.hyper import pod_checks as checks
from hyperd.api.hyper.pod_schema import AttachmentSchema, Flag, Table, Text, Whole, Wire
from hyperd.api.hyper.pod_spec import load
from hyperd.network.model import Network, NetworkSpec
from hyperd.spec.model import NetworkAttachment


class NetworkSchema(Wire):
    """A network to be made."""

    builds = NetworkSpec
    name = Text(limit=128, required=True)
    driver = Text(limit=64)
    subnet = Text(checks.optional(checks.cidr))
    gateway = Text(checks.optional(checks.address))
    ip_range = Text(checks.optional(checks.cidr), data_key="ipRange")
    internal = Flag()
    labels = Table()
    options = Table()
    bridge = Text(checks.optional(checks.device))
    mtu = Whole(0, 65_535)
    masquerade = Flag()
    isolated = Flag()
    ipv6 = Flag()
    subnet6 = Text(checks.optional(checks.cidr))
    gateway6 = Text(checks.optional(checks.address))
    ip_range6 = Text(checks.optional(checks.cidr), data_key="ipRange6")


class ConnectSchema(AttachmentSchema):
    """A pod that is put on a network."""

    pod = Text(limit=128, required=True)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make pod and attachment."""
        pod = data.pop("pod")
        return (pod, NetworkAttachment(**data))


_NETWORK, _CONNECT = NetworkSchema(), ConnectSchema()


def parse_connect(data: object) -> tuple[str, NetworkAttachment]:
    """Read a pod that is to be put on a network, and how. Errors: InvalidInput."""
    return cast("tuple[str, NetworkAttachment]", load(_CONNECT, data))


def parse_network(data: object) -> NetworkSpec:
    """Read a network to be made. Errors: InvalidInput."""
    return cast("NetworkSpec", load(_NETWORK, data))


def network_object(network: Network) -> dict[str, Any]:
    """Return a network as the API shows it."""
    return {
        "id": network.id,
        "name": network.name,
        "driver": network.driver.value,
        "created": network.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "subnet": network.subnet,
        "gateway": network.gateway,
        "ipRange": network.ip_range,
        "ipv6": bool(network.subnet6),
        "subnet6": network.subnet6,
        "gateway6": network.gateway6,
        "ipRange6": network.ip_range6,
        "internal": network.internal,
        "isolated": network.isolated,
        "builtin": network.builtin,
        "bridge": network.bridge,
        "mtu": network.mtu,
        "labels": dict(network.labels),
        "options": dict(network.options),
        "pods": [
            {
                "pod": one.pod,
                "interface": f"eth{one.slot}",
                "addresses": list(one.addresses),
                "mac": one.mac,
                "aliases": list(one.aliases),
            }
            for one in network.attachments
        ],
    }
