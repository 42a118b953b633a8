"""Pods that ask for it are on the network of this host's plugins, all others on that of another driver."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import structlog

from hyperd.config.model import NetworkConfig
from hyperd.errors import Conflict, HyperError
from hyperd.event.bus import EventBus
from hyperd.network.cni.attachments import Attachment, Attachments
from hyperd.network.driver import NetworkDriver, Reach
from hyperd.network.guards import Guard
from hyperd.network.model import Lease, Network, NetworkSpec, NicWish
from hyperd.network.ports import AUTOMATIC, PortMapping
from hyperd.spec.model import CniSpec

log = structlog.get_logger(__name__)


class CniDriver(NetworkDriver):
    """See the module's docstring.

    Args:
        inner: of all other pods, and of ports of the host. attachments: of pods to plugins.
        makes_taps: VMs have taps on this host. events: is told of NICs.

    """

    def __init__(self, inner: NetworkDriver, attachments: Attachments, *, makes_taps: bool, events: EventBus) -> None:
        self._inner = inner
        self._attachments = attachments
        self._makes_taps = makes_taps
        self._events = events
        inner.on_tap_lost = self._tap_lost

    # -- the daemon's life

    def open(self) -> None:
        self._attachments.open()
        self._inner.open()

    def close(self) -> None:
        self._inner.close()

    def destroy(self) -> None:
        self._inner.destroy()

    def reconfigure(self, config: NetworkConfig) -> None:
        self._inner.reconfigure(config)

    def reconcile(self, pod_ids: Collection[str]) -> None:
        self._attachments.reconcile(pod_ids)
        self._inner.reconcile(pod_ids)

    # -- networks

    def default(self) -> Network:
        return self._inner.default()

    def add(self, network_id: str, spec: NetworkSpec) -> None:
        self._inner.add(network_id, spec)

    def drop(self, network_id: str) -> None:
        self._inner.drop(network_id)

    # -- addresses

    def allocate(self, pod_id: str, *, index: int = 0, address: str = "", mac: str = "", tap: str = "") -> Lease:
        return self._inner.allocate(pod_id, index=index, address=address, mac=mac, tap=tap)

    def reserve(self, pod_id: str, wishes: Sequence[NicWish], guard: Guard | None = None) -> list[Lease]:
        wanted = next((wish.cni for wish in wishes if wish.cni is not None), None)
        if wanted is None:
            return self._inner.reserve(pod_id, wishes, guard)
        if len(wishes) > 1 or guard is not None:
            raise Conflict("a pod on a network of plugins (CNI) has one NIC and no white lists")
        return [self._lease(self._attachments.add(pod_id, wanted.args, _runtime(wanted)))]

    def attach(self, pod_id: str, wish: NicWish) -> Lease:
        if self._attachments.knows(pod_id):
            raise Conflict(f"pod {pod_id} is on a network of plugins (CNI): it cannot be on another")
        return self._inner.attach(pod_id, wish)

    def detach(self, pod_id: str, slot: int) -> None:
        self._inner.detach(pod_id, slot)

    def leases(self, pod_id: str) -> list[Lease]:
        one = self._attachments.get(pod_id)
        return self._inner.leases(pod_id) if one is None else [self._lease(one)]

    def has_address(self, pod_id: str) -> bool:
        return self._attachments.knows(pod_id) or self._inner.has_address(pod_id)

    def transfer(self, owner: str, new_owner: str) -> list[Lease]:
        return self._inner.transfer(owner, new_owner)

    def plugged(self, pod_id: str, slots: Collection[int] | None = None) -> None:
        one = self._attachments.get(pod_id)
        if one is None:
            self._inner.plugged(pod_id, slots)
            return
        if self._makes_taps:
            self._attachments.plug(pod_id)
        lease = self._lease(one)
        self._events.publish("network", "connect", one.network.name, pod_id, address=lease.cidr, mac=lease.mac)

    def renew_names(self) -> None:
        self._inner.renew_names()

    def verify(self, pod_id: str) -> None:
        try:
            self._attachments.check(pod_id)
        except HyperError as error:  # what plugins find wrong they cannot mend, and the pod may well do without
            log.warning("cni.check_failed", pod=pod_id, error=str(error))

    def release(self, pod_id: str) -> None:
        one = self._attachments.get(pod_id)
        self._attachments.remove(pod_id)
        self._inner.release(pod_id)
        if one is not None:
            address = self._lease(one).cidr.partition("/")[0]
            self._events.publish("network", "disconnect", one.network.name, pod_id, address=address)

    def dns_servers(self) -> tuple[str, ...]:
        return self._inner.dns_servers()

    # -- published ports

    def reserve_ports(
        self, pod_id: str, protocol: str, inner: Sequence[int], outer: range = AUTOMATIC, *, host_ip: str = ""
    ) -> int:
        return self._inner.reserve_ports(pod_id, protocol, inner, outer, host_ip=host_ip)

    def book(self, pod_id: str, mappings: Sequence[PortMapping]) -> None:
        self._inner.book(pod_id, mappings)

    def publish(self, pod_id: str, address: str, mappings: Sequence[PortMapping]) -> None:
        if self._attachments.knows(pod_id):
            raise Conflict(f"pod {pod_id} is on a network of plugins (CNI), which publish its ports")
        self._inner.publish(pod_id, address, mappings)

    def unpublish(self, pod_id: str, mappings: Sequence[PortMapping] | None = None) -> None:
        self._inner.unpublish(pod_id, mappings)

    def mappings(self, pod_id: str) -> list[PortMapping]:
        return self._inner.mappings(pod_id)

    def reach(self, pod_ids: Collection[str]) -> dict[str, Reach]:
        found = self._inner.reach(pod_ids)
        for pod in pod_ids:
            one = self._attachments.get(pod)
            if one is not None:
                found[pod] = replace(found[pod], addresses=self._lease(one).cidrs)
        return found

    # -- inside

    def _tap_lost(self, owner: str, slot: int) -> None:
        self.on_tap_lost(owner, slot)

    def _lease(self, one: Attachment) -> Lease:
        found = one.interface
        dns = (one.result or {}).get("dns") or {}
        first, *more = found.addresses
        return Lease(
            mac=found.mac,
            tap=one.tap,
            bridge="",
            cidr=first,
            gateway="",
            mtu=found.mtu,
            dns=tuple(dns.get("nameservers") or ()) or self._inner.dns_servers(),
            more=tuple(more),
            routes=found.routes,
            loose=True,
        )


def _runtime(spec: CniSpec) -> dict[str, Any]:
    """Return what plugins are told that say that they are able to use it (CNI conventions)."""
    mappings = [
        {"hostPort": host, "containerPort": inner, "protocol": protocol, "hostIP": port.host_ip}
        for port in spec.ports
        for protocol, host, inner in port.expand()
    ]
    found: dict[str, Any] = {"portMappings": mappings} if mappings else {}
    if spec.dns:
        found["dns"] = {"servers": list(spec.dns), "searches": list(spec.dns_search), "options": list(spec.dns_options)}
    return found
