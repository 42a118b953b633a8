"""What a pod's specification means for its network: NICs, routes, white lists, services. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

from hyperd.errors import Conflict, InvalidInput, NotSupported
from hyperd.guest import layout
from hyperd.network.fixed import NicWish
from hyperd.network.guards import Guard
from hyperd.network.ports import PortMapping
from hyperd.network.service import Lease
from hyperd.spec.model import InterfaceSpec, PodSpec, ServiceSpec
from hyperd.vm.driver import SPARE_NICS, NicSpec
from hyperd.vm.ipvs import Balanced


def interfaces(spec: PodSpec) -> tuple[InterfaceSpec, ...]:
    """Give the pod's NICs; one automatic NIC when it names none."""
    return tuple(spec.interfaces) or (InterfaceSpec(),)


def wishes(spec: PodSpec) -> list[NicWish]:
    """Give what the NICs shall have."""
    return [
        NicWish(
            bridge=nic.bridge,
            addresses=tuple(part.strip() for part in nic.ip.split(",")) if nic.ip else (),
            mac=nic.mac,
            tap=nic.ifname,
        )
        for nic in interfaces(spec)
    ]


def guard(spec: PodSpec) -> Guard | None:
    """Give the pod's white lists, None when it has none."""
    lists = spec.portmapping_white_lists
    if not lists.internal_networks and not lists.external_networks:
        return None
    return Guard(internal=tuple(lists.internal_networks), external=tuple(lists.external_networks))


def port_mappings(spec: PodSpec) -> list[PortMapping]:
    """Return every single port the pod publishes. Errors: Conflict when it asks for one twice."""
    found: dict[tuple[str, int], PortMapping] = {}
    for port in spec.portmappings:
        for protocol, host, inner in port.expand():
            if (protocol, host) in found:
                raise Conflict(f"Host port {host}/{protocol} has aleady been used", details="by the same pod")
            found[protocol, host] = PortMapping(protocol=protocol, host_port=host, container_port=inner)
    return list(found.values())


def any_address(spec: PodSpec) -> bool:
    """Tell whether any one address of the daemon's bridge will do for the pod."""
    return not spec.interfaces and guard(spec) is None


def nic_specs(leases: Sequence[Lease]) -> list[NicSpec]:
    """Give the NICs as the hypervisor shall make them."""
    return [NicSpec(mac=lease.mac, tap=lease.tap, bridge=lease.bridge, mtu=lease.mtu) for lease in leases]


def check_pluggable(nics: Sequence[NicSpec]) -> None:
    """Check that a VM that runs already can be given the NICs. Errors: NotSupported."""
    if len(nics) > SPARE_NICS:
        raise NotSupported(
            f"a VM that runs already cannot be given {len(nics)} NICs",
            details=f"at most {SPARE_NICS}",
            resolution="start the pod without naming a VM",
        )


def guest_setup(spec: PodSpec, leases: Sequence[Lease]) -> layout.GuestSetup:
    """Give the network as the guest shall set it up. Errors: InvalidInput."""
    routed, gateway = default_route(spec, leases)
    nics = [
        layout.GuestNic(
            mac=lease.mac,
            cidrs=lease.cidrs,
            gateway=gateway if index == routed else "",
            mtu=_mtu(index, nic, lease),
        )
        for index, (nic, lease) in enumerate(zip(interfaces(spec), leases, strict=True))
    ]
    return layout.GuestSetup(
        hostname=spec.hostname,
        nics=nics,
        dns=spec.dns or leases[0].dns,
        dns_search=spec.dns_search,
        dns_options=spec.dns_options,
    )


def default_route(spec: PodSpec, leases: Sequence[Lease]) -> tuple[int, str]:
    """Give the NIC and the gateway of the default route; -1 when there is none.

    It is the NIC that names a gateway, else the first automatic one, else the first in the daemon's subnet. Errors:
    InvalidInput for a gateway that cannot be reached by its NIC.
    """
    nics = interfaces(spec)
    for index, (nic, lease) in enumerate(zip(nics, leases, strict=True)):
        if nic.gateway:
            if not _on_link(nic.gateway, lease):
                raise InvalidInput(
                    f"interfaces[{index}].gateway: {nic.gateway} is not in a network of the NIC",
                    details=", ".join(lease.cidrs),
                )
            return index, nic.gateway
    candidates = [index for index, nic in enumerate(nics) if not nic.ip] + list(range(len(nics)))
    for index in candidates:
        lease = leases[index]
        if lease.gateway and _on_link(lease.gateway, lease):
            return index, lease.gateway
    return -1, ""


def target_address(leases: Sequence[Lease]) -> str:
    """Give the address that published ports lead to: one on the daemon's bridge if there is one."""
    chosen = next((lease for lease in leases if lease.gateway), leases[0])
    return chosen.cidr.partition("/")[0]


def balanced(spec: PodSpec, leases: Sequence[Lease]) -> list[Balanced]:
    """Give the pod's services as its guest shall have them."""
    routed, _ = default_route(spec, leases)
    return [
        Balanced(
            ip=service.service_ip,
            port=service.service_port,
            protocol=service.protocol,
            hosts=tuple((host.host_ip, host.host_port) for host in service.hosts),
            source=_source(service, leases, routed),
        )
        for service in spec.services
    ]


def _source(service: ServiceSpec, leases: Sequence[Lease], routed: int) -> str:
    """Give the address of the NIC that leads to the service's hosts: with another one they could not answer."""
    host = service.hosts[0].host_ip if service.hosts else ""
    direct = (index for index, lease in enumerate(leases) if host and _on_link(host, lease))
    return leases[next(direct, max(routed, 0))].cidr.partition("/")[0]


def _on_link(address: str, lease: Lease) -> bool:
    return any(IPv4Address(address) in IPv4Interface(cidr).network for cidr in lease.cidrs)


def _mtu(index: int, nic: InterfaceSpec, lease: Lease) -> int:
    if nic.mtu > lease.mtu:
        raise InvalidInput(
            f"interfaces[{index}].mtu: {nic.mtu} is above that of the bridge {lease.bridge}", details=str(lease.mtu)
        )
    return nic.mtu or lease.mtu
