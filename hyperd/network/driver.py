"""The contract between the services and what carries the pods' networks.

Implementations: ``hyperd.network.bridged`` (bridges of the host, needs root) and ``hyperd.network.usernet`` (QEMU's
user-mode network). Every method may be called from any thread; on failure nothing has changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hyperd.config.model import NetworkConfig
from hyperd.network.guards import Guard
from hyperd.network.model import Lease, Network, NetworkSpec, NicWish
from hyperd.network.ports import AUTOMATIC, PortMapping


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How a pod is reached: its published ports, and its addresses with prefix lengths, in the order of the NICs."""

    ports: tuple[PortMapping, ...] = ()
    addresses: tuple[str, ...] = ()


class NetworkDriver(ABC):
    """Gives pods their NICs and publishes their ports. See the module's docstring for the rules.

    ``on_tap_lost`` is told the owner and the slot of a NIC that has no tap; it must not block. There may be good
    reasons: its VM starts or stops.
    """

    on_tap_lost: Callable[[str, int], None] = staticmethod(lambda _owner, _slot: None)

    # -- the daemon's life

    @abstractmethod
    def open(self) -> None:
        """Bring the host to what the rows say; takes over what an earlier daemon left. Can be called again.

        Errors: Conflict when a bridge or a subnet belongs to something else; HostFault when the host refuses.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the host's ports. Everything else stays: pods run on."""

    @abstractmethod
    def destroy(self) -> None:
        """Remove all that this driver has made on the host; rows stay. Errors: HostFault."""

    @abstractmethod
    def reconfigure(self, config: NetworkConfig) -> None:
        """Use other name servers for guests that boot from now on; all else needs a restart."""

    @abstractmethod
    def reconcile(self, pod_ids: Collection[str]) -> None:
        """Drop what is kept for owners that do not exist.

        Args:
            pod_ids: every pod that exists, and every VM that waits in the pool.

        Errors: HostFault.

        """

    # -- networks

    @abstractmethod
    def default(self) -> Network:
        """Return the network of pods that name none, without its attachments."""

    @abstractmethod
    def add(self, network_id: str, spec: NetworkSpec) -> None:
        """Make a network: its row, and what carries it.

        Args:
            network_id: 64 hexadecimal digits.
            spec: checked as far as it does not concern this driver.

        Errors: InvalidInput, Conflict (subnet or bridge in use), NotSupported, Busy (no free subnet), HostFault.

        """

    @abstractmethod
    def drop(self, network_id: str) -> None:
        """Remove a network that has no attachments. Errors: NotFound, Conflict (in use), HostFault."""

    # -- addresses

    @abstractmethod
    def allocate(self, pod_id: str, *, index: int = 0, address: str = "", mac: str = "", tap: str = "") -> Lease:
        """Reserve an address of the default network for a NIC; the same owner and index get the same lease again.

        Args:
            pod_id: the owner; a VM id for a VM that waits in the pool (see ``transfer``).
            index: which NIC of the owner.
            address: a certain one (with or without prefix length); empty = the next free one.
            mac: a certain one; empty = derived from the address.
            tap: a certain name of the host's device; empty = derived from the address.

        Errors: Busy when the subnet is full; Conflict when the wanted address or tap is in use; InvalidInput;
        NotSupported; HostFault.

        """

    @abstractmethod
    def reserve(self, pod_id: str, wishes: Sequence[NicWish], guard: Guard | None = None) -> list[Lease]:
        """Reserve what all NICs of a pod shall have, and who may reach it; what it has already stays.

        Args:
            pod_id: the owner.
            wishes: one for each NIC, in the order of the slots.
            guard: None = everybody.

        Errors: as for ``allocate``; NotFound for a network; InvalidInput also for a bridge that does not exist.

        """

    @abstractmethod
    def attach(self, pod_id: str, wish: NicWish) -> Lease:
        """Reserve one more NIC for a pod, in its first free slot.

        Errors: as for ``reserve``; Conflict also when the pod is on this network already.
        """

    @abstractmethod
    def detach(self, pod_id: str, slot: int) -> None:
        """Give back what one NIC of a pod has; its tap is gone by then. An unknown one is fine. Errors: HostFault."""

    @abstractmethod
    def leases(self, pod_id: str) -> list[Lease]:
        """Return what the pod's NICs have, in the order of their slots."""

    @abstractmethod
    def has_address(self, pod_id: str) -> bool:
        """Return whether an address is reserved for a pod, or for a VM of the pool."""

    @abstractmethod
    def transfer(self, owner: str, new_owner: str) -> list[Lease]:
        """Give the addresses of a VM of the pool to the pod that takes it; return what its NICs have then.

        Errors: Conflict when the pod has an address already.
        """

    @abstractmethod
    def plugged(self, pod_id: str, slots: Collection[int] | None = None) -> None:
        """Learn that the pod's taps are on their bridges by now.

        ``slots``: the NICs that have just come to their networks; None = all. Errors: Conflict, HostFault.
        """

    def renew_names(self) -> None:  # noqa: B027 - a driver without name servers has nothing to do
        """Learn that the links of a pod are others now; the names follow soon."""

    def verify(self, pod_id: str) -> None:  # noqa: B027 - drivers that watch the host need not look
        """Look whether a pod's NICs are where they were put; what is wrong is logged."""

    @abstractmethod
    def release(self, pod_id: str) -> None:
        """Give back all addresses and ports of a pod; none is fine. The VM must be gone. Errors: HostFault."""

    @abstractmethod
    def dns_servers(self) -> tuple[str, ...]:
        """Return the name servers for guests: the configured ones, else those of the host that a guest can reach."""

    def lease(self, pod_id: str, *, index: int = 0) -> Lease | None:
        """Return what one NIC of a pod has, None when nothing."""
        return next((lease for lease in self.leases(pod_id) if lease.slot == index), None)

    # -- published ports

    @abstractmethod
    def reserve_ports(
        self,
        pod_id: str,
        protocol: str,
        inner: Sequence[int],
        outer: range = AUTOMATIC,
        *,
        host_ip: str = "",
    ) -> int:
        """Reserve free ports of the host, one after the other, for ports of a pod; return the first.

        They lead nowhere until ``publish``. Args: ``inner`` the pod's ports; ``outer`` where to look; ``host_ip`` on
        which address of the host, empty = all.
        Errors: Busy when there is no such run.
        """

    @abstractmethod
    def book(self, pod_id: str, mappings: Sequence[PortMapping]) -> None:
        """Reserve ports of the host for a pod that has no address yet; they lead nowhere until ``publish``.

        Errors: as for ``publish``.
        """

    @abstractmethod
    def publish(self, pod_id: str, address: str, mappings: Sequence[PortMapping]) -> None:
        """Lead ports of the host to a pod, beside those it already has; the pod's ports all lead to ``address`` then.

        After: connections to the port on 127.0.0.1, on every address of the host, from other pods and from outside
        reach the pod. The same mapping again is fine.

        Errors: Conflict that names the port and who has it; InvalidInput; TooLarge; HostFault.
        """

    @abstractmethod
    def unpublish(self, pod_id: str, mappings: Sequence[PortMapping] | None = None) -> None:
        """Take back published ports of a pod: those given, or all. Absent ones are fine. Errors: HostFault."""

    @abstractmethod
    def mappings(self, pod_id: str) -> list[PortMapping]:
        """Return the published ports of a pod."""

    def reach(self, pod_ids: Collection[str]) -> dict[str, Reach]:
        """Return how these pods are reached now: the same as ``mappings`` and ``leases`` of each."""
        return {
            pod: Reach(
                ports=tuple(self.mappings(pod)),
                addresses=tuple(cidr for lease in self.leases(pod) for cidr in lease.cidrs),
            )
            for pod in pod_ids
        }
