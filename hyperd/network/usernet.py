"""The pods' network without root: QEMU's user-mode networking (slirp), one private network for each VM.

Every guest has the same address behind a NAT of its own; there is no bridge, no table, and nothing of the host is
changed. Published ports are listening sockets of the pod's QEMU: they are reserved here (a row, and a bound socket
until the VM runs), and opened through QEMU's monitor when it does. Pods reach each other by published ports only.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from hyperd.config.model import NetworkConfig
from hyperd.db.session import Database
from hyperd.errors import Conflict, HyperError, NotFound, NotSupported
from hyperd.event.bus import EventBus
from hyperd.network import ports
from hyperd.network.driver import NetworkDriver
from hyperd.network.guards import Guard
from hyperd.network.model import DEFAULT, Driver, Lease, Network, NetworkSpec, NicWish
from hyperd.network.nameservers import find_servers
from hyperd.network.ports import PortHolder, PortMapping

log = structlog.get_logger(__name__)

# slirp's defaults: the guest, the host as its gateway, its name server.
NET, ADDRESS, GATEWAY, NAME_SERVER = "10.0.2.0", "10.0.2.15", "10.0.2.2", "10.0.2.3"
PREFIX = 24
NAME = "user"  # of this network in events; no device has it
MTU = 1500
RESOLUTION = "run hyperd as root with a bridge ([network] bridge)"


class Forwarder(Protocol):
    """What opens ports in the QEMU of a pod."""

    def running(self, pod_id: str) -> bool:
        """Tell whether the pod has a VM with its NIC."""

    def forward(self, pod_id: str, mapping: PortMapping, address: str) -> None:
        """Let QEMU listen on the host port and lead it to the guest's address. Errors: HostFault, Conflict."""

    def unforward(self, pod_id: str, mapping: PortMapping) -> None:
        """Let QEMU close the host port; a closed one is fine. Errors: HostFault."""


class UserDriver(NetworkDriver):
    """Networks for who has no bridge: one pod, one private network, one NIC.

    Args:
        config: the ``[network]`` section, with an empty ``bridge``.
        database: of the daemon.
        forwarder: reaches the VMs.
        events: is told of ports.

    """

    def __init__(
        self, *, config: NetworkConfig, database: Database, forwarder: Forwarder, events: EventBus | None = None
    ) -> None:
        self._config = config
        self._database = database
        self._forwarder = forwarder
        self._events = events or EventBus()
        self._holder = PortHolder()
        self._lock = threading.RLock()
        self._since = datetime.now(UTC)

    def open(self) -> None:
        """Take back the ports of pods that do not run; those of running ones are held by their VMs."""
        with self._lock, self._database.reading() as session:
            for row in ports.rows(session):
                self._hold_again(ports.mapping_of(row))

    def reconfigure(self, config: NetworkConfig) -> None:
        self._config = replace(self._config, dns=config.dns)

    def close(self) -> None:
        with self._lock:
            self._holder.close()

    def destroy(self) -> None:
        """Let go of the ports; there is nothing else."""
        self.close()

    def default(self) -> Network:
        return Network(
            id="",
            name=DEFAULT,
            driver=Driver.USER,
            created_at=self._since,
            subnet=f"{NET}/{PREFIX}",
            gateway=GATEWAY,
            mtu=MTU,
            builtin=True,
        )

    def add(self, network_id: str, spec: NetworkSpec) -> None:  # noqa: ARG002 - all are refused
        """Refuse. Errors: NotSupported."""
        raise NotSupported("networks cannot be made with user-mode networking", resolution=RESOLUTION)

    def drop(self, network_id: str) -> None:
        """Refuse: there are none. Errors: NotFound."""
        raise NotFound(f"network {network_id[:12]} not found")

    def allocate(self, pod_id: str, *, index: int = 0, address: str = "", mac: str = "", tap: str = "") -> Lease:
        """Return the one lease there is. Errors: NotSupported for wishes and for a second NIC."""
        addresses = (address,) if address else ()
        return self.reserve(pod_id, [NicWish()] * index + [NicWish(addresses=addresses, mac=mac, tap=tap)])[index]

    def reserve(self, pod_id: str, wishes: Sequence[NicWish], guard: Guard | None = None) -> list[Lease]:
        """Return the pod's lease. Errors: NotSupported for everything that needs a bridge or the packet filter."""
        if guard is not None:
            raise NotSupported("portmappingWhiteLists need the host's packet filter", resolution=RESOLUTION)
        if len(wishes) > 1:
            raise NotSupported("a pod with user-mode networking has one NIC", resolution=RESOLUTION)
        for wish in wishes:
            if wish.network not in ("", DEFAULT):
                raise NotSupported(f"a pod cannot be on network {wish.network} here", resolution=RESOLUTION)
            if wish.bridge or wish.tap or wish.mac or any(wish.addresses) or wish.link_local:
                raise NotSupported(
                    "bridge, address, MAC and name of a NIC cannot be chosen with user-mode networking",
                    resolution=RESOLUTION,
                )
        return self.leases(pod_id)

    def attach(self, pod_id: str, wish: NicWish) -> Lease:  # noqa: ARG002 - all wishes are refused
        """Refuse a second NIC. Errors: NotSupported."""
        raise NotSupported("a pod with user-mode networking has one NIC", resolution=RESOLUTION)

    def detach(self, pod_id: str, slot: int) -> None:  # noqa: ARG002 - there is one NIC
        """Refuse to take the only NIC. Errors: NotSupported."""
        raise NotSupported("a pod with user-mode networking keeps its NIC", resolution=RESOLUTION)

    def leases(self, pod_id: str) -> list[Lease]:
        """Return the pod's lease, the same at every call."""
        digest = hashlib.sha256(pod_id.encode()).digest()
        return [
            Lease(
                mac=":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *digest[:3])),
                tap="",
                bridge="",
                cidr=f"{ADDRESS}/{PREFIX}",
                gateway=GATEWAY,
                mtu=MTU,
                dns=self.dns_servers(),
            )
        ]

    def has_address(self, pod_id: str) -> bool:  # noqa: ARG002 - every pod has the same one
        """Return False: the one address needs no reserving."""
        return False

    def transfer(self, owner: str, new_owner: str) -> list[Lease]:  # noqa: ARG002 - nobody owns the address
        """Return the pod's lease; the NIC keeps the MAC that it was made with."""
        return self.leases(new_owner)

    def book(self, pod_id: str, mappings: Sequence[PortMapping]) -> None:
        """Reserve ports for a pod that does not run yet. Errors: as for ``publish``."""
        self.publish(pod_id, ADDRESS, mappings)

    def release(self, pod_id: str) -> None:
        """Give back the ports of a pod; its VM, which listened on them, is gone."""
        with self._lock, self._database.session() as session:
            dropped = ports.delete(session, ports.rows(session, pod_id))
            self._holder.drop(dropped)
        self._tell("unpublish", pod_id, dropped)

    def reserve_ports(
        self,
        pod_id: str,
        protocol: str,
        inner: Sequence[int],
        outer: range = ports.AUTOMATIC,
        *,
        host_ip: str = "",
    ) -> int:
        held: list[PortMapping] = []
        try:
            with self._lock, self._database.session() as session:
                return ports.reserve_run(
                    session, self._holder, held, ports.Run(pod_id, protocol, inner, outer, host_ip)
                )
        except BaseException:
            self._holder.drop(held)
            raise

    def publish(self, pod_id: str, address: str, mappings: Sequence[PortMapping]) -> None:  # noqa: ARG002 - it is ADDRESS
        """Lead ports of the host to a pod: at once if it runs, else when it is plugged. On failure nothing has changed.

        Errors: Conflict, InvalidInput, TooLarge, HostFault.
        """
        wanted = ports.check(mappings)
        bound = next((each for each in wanted if each.host_ip), None)
        if bound is not None:
            raise NotSupported(
                f"port {bound} cannot be published on one address of the host ({bound.host_ip})", resolution=RESOLUTION
            )
        with self._lock:
            new: list[PortMapping] = []
            opened: list[PortMapping] = []
            try:
                with self._database.session() as session:
                    new = ports.reserve(session, pod_id, ADDRESS, wanted)
                    self._holder.hold(new)
                if self._forwarder.running(pod_id):
                    self._open_ports(pod_id, wanted, opened)
            except BaseException:
                self._take_back(pod_id, new, opened)
                raise
        self._tell("publish", pod_id, new)

    def plugged(self, pod_id: str, slots: Collection[int] | None = None) -> None:  # noqa: ARG002 - it has one NIC
        """Open the ports of a pod whose VM runs by now. Errors: Conflict, HostFault."""
        with self._lock:
            self._open_ports(pod_id, self.mappings(pod_id), [])
        self._events.publish("network", "connect", NAME, pod_id, address=f"{ADDRESS}/{PREFIX}")

    def unpublish(self, pod_id: str, mappings: Sequence[PortMapping] | None = None) -> None:
        """Take back published ports of a pod: those given, or all. Errors: HostFault."""
        with self._lock:
            dropped = [each for each in self.mappings(pod_id) if mappings is None or each in mappings]
            if self._forwarder.running(pod_id):
                for mapping in dropped:
                    self._forwarder.unforward(pod_id, mapping)
            self._holder.drop(dropped)
            with self._database.session() as session:
                ports.delete(session, [row for row in ports.rows(session, pod_id) if ports.mapping_of(row) in dropped])
        self._tell("unpublish", pod_id, dropped)

    def mappings(self, pod_id: str) -> list[PortMapping]:
        with self._database.reading() as session:
            return [ports.mapping_of(row) for row in ports.rows(session, pod_id)]

    def _tell(self, action: str, pod_id: str, mappings: Sequence[PortMapping]) -> None:
        """Publish that ports of a pod have come or gone."""
        if mappings:
            self._events.publish("network", action, NAME, pod_id, ports=ports.shown(mappings))

    def dns_servers(self) -> tuple[str, ...]:
        """Return the configured name servers, else slirp's, which asks the host's."""
        return find_servers(self._config.dns) if self._config.dns else (NAME_SERVER,)

    def reconcile(self, pod_ids: Collection[str]) -> None:
        """Drop the ports of pods that do not exist."""
        with self._lock, self._database.session() as session:
            stale = (row for row in ports.rows(session) if row.owner not in pod_ids)
            self._holder.drop(ports.delete(session, stale))

    def _open_ports(self, pod_id: str, mappings: Sequence[PortMapping], opened: list[PortMapping]) -> None:
        """Open those that QEMU does not hold yet, and note them in ``opened``."""
        for mapping in mappings:
            self._holder.drop([mapping])
            if self._hold_again(mapping):
                # Nobody listens there, so it is QEMU's turn.
                self._holder.drop([mapping])
                self._forwarder.forward(pod_id, mapping, ADDRESS)
                opened.append(mapping)

    def _hold_again(self, mapping: PortMapping) -> bool:
        try:
            self._holder.hold([mapping])
        except Conflict:
            return False
        return True

    def _take_back(self, pod_id: str, new: Sequence[PortMapping], opened: Sequence[PortMapping]) -> None:
        for mapping in opened:
            if mapping in new:
                try:
                    self._forwarder.unforward(pod_id, mapping)
                except HyperError as error:
                    log.warning("port stays open", pod=pod_id, port=str(mapping), error=str(error))
        self._holder.drop(new)
        with self._database.session() as session:
            ports.delete(session, [row for row in ports.rows(session, pod_id) if ports.mapping_of(row) in new])
