"""What a pod's specification means for its network: NICs, routes, white lists, services. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from hyperd.errors import Conflict, InvalidInput, NotSupported
from hyperd.guest import layout
from hyperd.network.guards import Guard
from hyperd.network.ipvs import Balanced
from hyperd.network.model import HOST, NO_HOST_NETWORK, NONE, Lease, NicWish
from hyperd.network.ports import PortMapping
from hyperd.spec.model import InterfaceSpec, NetworkAttachment, PodSpec, ServiceSpec
from hyperd.vm.driver import SPARE_NICS, NicSpec

HOST_GATEWAY = "host-gateway"  # in extra_hosts: the host as the pod reaches it


@dataclass(frozen=True, kw_only=True)
class PodNic:
    """A NIC of a pod as its specification wants it.

    ``network``: the attachment that it comes from, None for one of the daemon's own network or of a bridge that
    ``interface`` names.
    """

    interface: InterfaceSpec
    network: NetworkAttachment | None = None


def nics(spec: PodSpec) -> tuple[PodNic, ...]:
    """Return the pod's NICs: those of its networks, then its interfaces; one automatic NIC when it names none.

    Errors: InvalidInput, NotSupported.
    """
    if spec.cni is not None and (spec.networks or spec.interfaces or spec.network_disabled):
        raise InvalidInput("a pod on a network of plugins (CNI) cannot name others")
    attached = tuple(
        PodNic(interface=InterfaceSpec(mac=one.mac), network=one) for one in spec.networks if one.network != NONE
    )
    _check_networks(spec)
    named = tuple(PodNic(interface=nic) for nic in spec.interfaces)
    if spec.network_disabled or any(one.network == NONE for one in spec.networks):
        return ()
    return (*attached, *named) or (PodNic(interface=InterfaceSpec()),)


def _check_networks(spec: PodSpec) -> None:
    names = [one.network for one in spec.networks]
    if HOST in names:
        raise NotSupported(NO_HOST_NETWORK, resolution="publish ports, or use a bridge network")
    alone = spec.network_disabled or NONE in names
    if alone and (len(names) > (NONE in names) or spec.interfaces):
        raise InvalidInput("a pod without a network cannot be on one", details=", ".join(names))
    if len(set(names)) != len(names):
        raise InvalidInput("a pod is on a network once", details=", ".join(names))


def check_without(spec: PodSpec) -> None:
    """Check that a pod without a network asks for nothing that needs one. Errors: InvalidInput, NotSupported."""
    if not nics(spec) and (spec.portmappings or spec.services or guard(spec)):
        raise InvalidInput("a pod without a network cannot publish ports or have services and white lists")


def wishes(spec: PodSpec) -> list[NicWish]:
    """Return what the NICs shall have. Errors: InvalidInput, NotSupported."""
    return [NicWish(cni=spec.cni)] if spec.cni is not None else [_wish(spec, nic) for nic in nics(spec)]


def _wish(spec: PodSpec, nic: PodNic) -> NicWish:
    if nic.network is not None:
        return attachment_wish(spec, nic.network)
    wanted = nic.interface
    return NicWish(
        bridge=wanted.bridge,
        addresses=tuple(part.strip() for part in wanted.ip.split(",")) if wanted.ip else (),
        mac=wanted.mac,
        tap=wanted.ifname,
    )


def attachment_wish(spec: PodSpec, one: NetworkAttachment) -> NicWish:
    """Return what the NIC of an attachment shall have."""
    addresses = (one.ipv4,) if one.ipv4 else ()
    return NicWish(
        network=one.network,
        addresses=addresses,
        mac=one.mac,
        link_local=one.link_local,
        aliases=one.aliases,
        dns=spec.dns,
        ipv6=one.ipv6,
    )


def guard(spec: PodSpec) -> Guard | None:
    """Return the pod's white lists, None when it has none."""
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
            found[protocol, host] = PortMapping(protocol, host, inner, port.host_ip)
    return list(found.values())


def any_address(spec: PodSpec) -> bool:
    """Return whether any one address of the daemon's own network will do for the pod."""
    named = spec.interfaces or spec.networks or spec.network_disabled or spec.cni is not None
    return not named and guard(spec) is None


def asks_for_nothing(spec: PodSpec) -> bool:
    """Return whether the specification names no address, MAC or device: nothing to reserve before the start."""
    if spec.interfaces or guard(spec) is not None:
        return False
    return not any(one.ipv4 or one.ipv6 or one.mac or one.link_local for one in spec.networks)


def suits_prepared(spec: PodSpec) -> bool:
    """Return whether a VM that was prepared with one NIC on the daemon's own network can be the pod's.

    That NIC can be exchanged for one of another network, and ``SPARE_NICS`` more can be plugged. Errors: InvalidInput,
    NotSupported.
    """
    return not spec.interfaces and guard(spec) is None and 0 < len(nics(spec)) <= 1 + SPARE_NICS


def nic_specs(leases: Sequence[Lease]) -> list[NicSpec]:
    """Return the NICs as the hypervisor shall make them."""
    return [
        NicSpec(mac=lease.mac, tap=lease.tap, bridge=lease.bridge, mtu=lease.mtu, loose=lease.loose) for lease in leases
    ]


def check_pluggable(nics: Sequence[NicSpec]) -> None:
    """Check that a VM that runs already can be given the NICs. Errors: NotSupported."""
    if len(nics) > SPARE_NICS:
        raise NotSupported(
            f"a VM that runs already cannot be given {len(nics)} NICs",
            details=f"at most {SPARE_NICS}",
            resolution="start the pod without naming a VM",
        )


def guest_setup(spec: PodSpec, leases: Sequence[Lease]) -> layout.GuestSetup:
    """Return the network as the guest shall set it up. Errors: InvalidInput, Conflict (it is being changed)."""
    routed, gateway = default_route(spec, leases)
    routed6 = next((index for index, lease in enumerate(leases) if lease.gateway6), -1)
    found = [
        layout.GuestNic(
            name=layout.nic_name(lease.slot),
            mac=lease.mac,
            cidrs=lease.cidrs,
            gateway=gateway if index == routed else "",
            mtu=_mtu(index, nic.interface, lease),
            routes=lease.routes,
            gateway6=lease.gateway6 if index == routed6 else "",
        )
        for index, (nic, lease) in enumerate(_joined(spec, leases))
    ]
    return layout.GuestSetup(
        hostname=spec.hostname,
        nics=found,
        dns=name_servers(spec, leases),
        dns_search=spec.dns_search,
        dns_options=spec.dns_options,
        domainname=spec.domainname,
        hosts=tuple(_hosts(spec, gateway)),
    )


def _hosts(spec: PodSpec, gateway: str) -> Iterator[tuple[str, str]]:
    for name, address in spec.extra_hosts:
        if address != HOST_GATEWAY:
            yield address, name
        elif gateway:
            yield gateway, name


def name_servers(spec: PodSpec, leases: Sequence[Lease]) -> Sequence[str]:
    """Return the name servers that a guest asks: that of a network which has one, else the pod's own, else the host's.

    A network's server asks the pod's own ones for the names that it does not know.
    """
    resolving = [lease for lease in leases if lease.network]
    if resolving:
        return resolving[0].dns
    return spec.dns or (leases[0].dns if leases else ())


def _joined(spec: PodSpec, leases: Sequence[Lease]) -> list[tuple[PodNic, Lease]]:
    """Return each NIC with its lease. Errors: Conflict when another caller gives the pod a network or takes one."""
    found = nics(spec)
    if len(found) != len(leases):
        raise Conflict(
            f"the networks of pod {spec.id} are just being changed", details=f"{len(found)} NICs, {len(leases)} leases"
        )
    return list(zip(found, leases, strict=True))


def default_route(spec: PodSpec, leases: Sequence[Lease]) -> tuple[int, str]:
    """Return the NIC and the gateway of the default route; -1 when there is none.

    It is the NIC that names a gateway, else the first automatic one whose network has one, else the first in the
    daemon's subnet. Errors: InvalidInput for a gateway that cannot be reached by its NIC, Conflict.
    """
    found = [nic.interface for nic, _ in _joined(spec, leases)]
    for index, nic in enumerate(found):
        lease = leases[index]
        if nic.gateway:
            if not _on_link(nic.gateway, lease):
                raise InvalidInput(
                    f"interfaces[{index}].gateway: {nic.gateway} is not in a network of the NIC",
                    details=", ".join(lease.cidrs),
                )
            return index, nic.gateway
    candidates = [index for index, nic in enumerate(found) if not nic.ip] + list(range(len(found)))
    for index in candidates:
        lease = leases[index]
        if lease.gateway and _on_link(lease.gateway, lease):
            return index, lease.gateway
    return -1, ""


def target_address(leases: Sequence[Lease]) -> str:
    """Return the address that published ports lead to: the first of a network that has a gateway, if there is one.

    That is where answers leave the guest, too. Errors: InvalidInput when there is no NIC.
    """
    if not leases:
        raise InvalidInput("a pod without a network cannot publish ports")
    chosen = next((lease for lease in leases if lease.gateway), leases[0])
    return chosen.cidr.partition("/")[0]


def balanced(spec: PodSpec, leases: Sequence[Lease]) -> list[Balanced]:
    """Return the pod's services as its guest shall have them."""
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
    """Return the address of the NIC that leads to the service's hosts: with another one they could not answer."""
    host = service.hosts[0].host_ip if service.hosts else ""
    direct = (index for index, lease in enumerate(leases) if host and _on_link(host, lease))
    return leases[next(direct, max(routed, 0))].cidr.partition("/")[0]


def _on_link(address: str, lease: Lease) -> bool:
    return any(IPv4Address(address) in IPv4Interface(cidr).network for cidr in lease.cidrs if ":" not in cidr)


def _mtu(index: int, nic: InterfaceSpec, lease: Lease) -> int:
    if nic.mtu > lease.mtu:
        raise InvalidInput(
            f"interfaces[{index}].mtu: {nic.mtu} is above that of the bridge {lease.bridge}", details=str(lease.mtu)
        )
    return nic.mtu or lease.mtu
