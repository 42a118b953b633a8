"""Pods on networks: connected and disconnected, also while they run, and repaired when the host's side is lost.

The pod's row says which networks it is on; ``settle`` makes addresses, NICs and guest follow it, whatever was done
before. So a change that was cut short is finished by doing it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import structlog

from hyperd.agent.plan import Op, Plan
from hyperd.container.locks import PodLocks
from hyperd.container.records import ContainerRecords
from hyperd.db import spec_codec
from hyperd.db.spec_cache import stored_pod
from hyperd.errors import Conflict, HyperError, NotFound, NotSupported
from hyperd.guest import layout
from hyperd.network.bridge import exists
from hyperd.network.driver import NetworkDriver
from hyperd.network.model import DEFAULT, HOST, NO_HOST_NETWORK, NONE, Lease, Network
from hyperd.network.service import NetworkService
from hyperd.pod import netplan
from hyperd.pod.records import PodRecords
from hyperd.pod.states import WITH_VM, PodState
from hyperd.spec.model import NetworkAttachment, PodSpec
from hyperd.vm.model import Vm, require_running
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)

REPAIRS = 2  # at the same time


class PodAttachments:
    """See the module's docstring.

    Args:
        publish: leads a pod's ports to its address.

    """

    def __init__(
        self,
        *,
        records: PodRecords,
        containers: ContainerRecords,
        network: NetworkDriver,
        networks: NetworkService,
        vms: VmService,
        locks: PodLocks,
        publish: Callable[[PodSpec, Sequence[Lease]], None],
    ) -> None:
        self._records = records
        self._containers = containers
        self._network = network
        self._networks = networks
        self._vms = vms
        self._locks = locks
        self._publish = publish
        self._repairs = ThreadPoolExecutor(REPAIRS, thread_name_prefix="network-repair")
        network.on_tap_lost = self._tap_lost

    def close(self) -> None:
        """Finish the repairs that are under way."""
        self._network.on_tap_lost = lambda _owner, _slot: None
        self._repairs.shutdown(wait=True, cancel_futures=True)

    # -- commands

    def connect(self, pod_id: str, attachment: NetworkAttachment) -> None:
        """Put a pod on one more network; one that runs gets a NIC at once.

        On failure nothing has changed. Errors: NotFound, Conflict (it is on it, or names its NICs itself), NotAlive
        (paused), NotSupported, InvalidInput, Busy, DriverError, AgentError.
        """
        target = self._target(attachment.network)
        with self._locks.locked(pod_id, "connect it to a network"):
            state, before = self._pod(pod_id)
            known = self._known(before)
            if any(self._is(one, target) for one in known):
                raise Conflict(f"pod {pod_id} is on network {target.name} already")
            added = replace(attachment, network=target.name)
            self._change(state, before, replace(before, networks=(*known, added), network_disabled=False))
        log.info("pod.connected", pod=pod_id, network=target.name)

    def disconnect(self, pod_id: str, network: str) -> None:
        """Take a pod off a network; one that runs loses the NIC at once.

        On failure nothing has changed. Errors: NotFound, Conflict (it is not on it, or names its NICs itself), NotAlive
        (paused), NotSupported, DriverError, AgentError.
        """
        target = self._target(network)
        with self._locks.locked(pod_id, "disconnect it from a network"):
            state, before = self._pod(pod_id)
            known = self._known(before)
            left = tuple(one for one in known if not self._is(one, target))
            if left == known:
                raise Conflict(f"pod {pod_id} is not on network {target.name}")
            self._change(state, before, replace(before, networks=left, network_disabled=not left))
        log.info("pod.disconnected", pod=pod_id, network=target.name)

    def unlink(self, pod_id: str, alias: str) -> None:
        """Take a link of a pod away: its alias is no name in the pod any more.

        On failure nothing has changed. Errors: NotFound (also: there is no such link), NotAlive (paused), AgentError.
        """
        with self._locks.locked(pod_id, "remove a link"):
            state, before = self._pod(pod_id)
            networks = tuple(
                replace(one, links=tuple(link for link in one.links if link[1] != alias)) for one in before.networks
            )
            if networks == before.networks:
                raise NotFound(f"pod {pod_id} has no link {alias[:100]}")
            self._change(state, before, replace(before, networks=networks))
        self._network.renew_names()
        log.info("pod.unlinked", pod=pod_id, alias=alias)

    def amend(self, pod_id: str, change: Callable[[PodSpec], PodSpec]) -> None:
        """Change what a guest takes at its start: name servers, names of hosts, links.

        On failure nothing has changed. Errors: NotFound, Conflict (the pod runs), and those of ``change``.
        """
        with self._locks.locked(pod_id, "change its specification"):
            state, before = self._pod(pod_id)
            if state in WITH_VM:
                raise Conflict(f"pod {pod_id} runs: its names and links are fixed", resolution="stop it first")
            after = change(before)
            netplan.nics(after)
            self._records.update(pod_id, spec=spec_codec.dump(after))
        log.info("pod.amended", pod=pod_id)

    def settle(self, vm: Vm, spec: PodSpec, *, anew: bool = False) -> None:
        """Make what a running pod has be what its specification says (its lock is held).

        ``anew``: set up all NICs in the guest, not the new ones only.

        Errors: as for ``connect``.
        """
        kept, surplus = self._sorted(spec)
        for lease in surplus:
            vm.agent.run(Plan().add(Op.LINKDOWN, layout.nic_name(lease.slot)))
            self._vms.plugs.unplug_nic(vm, lease.mac)
            self._network.detach(spec.id, lease.slot)
        self._reserve(spec, kept)
        leases = self._network.leases(spec.id)
        fresh = [lease for lease in leases if lease.mac not in vm.nics]
        self._vms.plugs.plug(vm, nics=netplan.nic_specs(fresh))
        vm.agent.run(layout.rewire(self.setup(spec, leases), {lease.mac for lease in (leases if anew else fresh)}))
        self._publish(spec, leases)
        self._network.plugged(spec.id, {lease.slot for lease in fresh})

    def adopt(self, vm: Vm, spec: PodSpec) -> None:
        """Finish what an earlier daemon has left half done, and repair what was lost while none ran.

        Errors: as for ``connect``.
        """
        if spec.cni is not None:
            self._network.verify(spec.id)
        elif not spec.interfaces:
            self.settle(vm, spec, anew=True)
        for lease in self._network.leases(spec.id):
            self._replug(vm, spec, lease)

    # -- what the guest is told

    def setup(self, spec: PodSpec, leases: Sequence[Lease]) -> layout.GuestSetup:
        """Return the network as the guest shall set it up, with names for ``/etc/hosts``.

        Errors: InvalidInput, Conflict (it is being changed).
        """
        setup = netplan.guest_setup(spec, leases)
        return replace(setup, hosts=(*setup.hosts, *self._links(spec, leases)))

    def tell_links(self, pod_id: str) -> None:
        """Tell the guests of pods that have links to this one's containers where it is now; failures are logged."""
        linking = [
            row
            for row in self._records.running()
            if row.id != pod_id and any(one.get("links") for one in row.spec.get("networks", ()))
        ]
        if not linking:
            return
        names = {name for row in self._containers.of_pod(pod_id) for name in (row.name, row.id)}
        for row in linking:
            spec = stored_pod(row.spec)
            if not any(target in names for one in spec.networks for target, _ in one.links):
                continue
            vm = self._vms.of_pod(row.id)
            if vm is not None:
                with suppress_logged("pod.links_not_told", row.id):
                    vm.agent.run(layout.rewire(self.setup(spec, self._network.leases(row.id)), ()))

    def _links(self, spec: PodSpec, leases: Sequence[Lease]) -> list[tuple[str, str]]:
        """Return address and names of the containers that the pod has links to, as far as they have an address."""
        found = []
        for one in spec.networks:
            for target, alias in one.links:
                with suppress(NotFound):
                    row = self._containers.find(target)
                    network = self._networks.get(one.network)
                    address = self._address_on(row.pod_id, network)
                    if address:
                        found.append((address, " ".join(dict.fromkeys((alias, row.name)))))
        return found if leases else []

    def _address_on(self, pod_id: str, network: Network) -> str:
        for lease in self._network.leases(pod_id):
            if lease.network == network.id or (network.name == DEFAULT and lease.bridge == network.bridge):
                return lease.cidr.partition("/")[0]
        return ""

    # -- inside

    def _target(self, network: str) -> Network:
        target = self._networks.get(network)
        if target.name == HOST:
            raise NotSupported(NO_HOST_NETWORK, resolution="publish ports, or use a bridge network")
        if target.name == NONE:
            raise Conflict("no pod can be connected to the network none", resolution="disconnect it from its networks")
        return target

    def _pod(self, pod_id: str) -> tuple[PodState, PodSpec]:
        row = self._records.get(pod_id)
        return PodState(row.state), stored_pod(row.spec)

    def _known(self, spec: PodSpec) -> tuple[NetworkAttachment, ...]:
        """Return the networks a pod is on, the default one included. Errors: Conflict."""
        if spec.interfaces:
            raise Conflict(f"pod {spec.id} names its NICs itself", details="its specification has interfaces")
        if spec.cni is not None:
            raise Conflict(f"pod {spec.id} is on a network of plugins (CNI)", details="it was made for it")
        if any(one.network == NONE for one in spec.networks):
            raise Conflict(f"pod {spec.id} is without a network", details="it was made for the network none")
        if not spec.networks and not spec.network_disabled:
            return (NetworkAttachment(network=DEFAULT),)
        return spec.networks

    def _is(self, one: NetworkAttachment, target: Network) -> bool:
        if one.network == target.name:
            return True
        with suppress(NotFound):
            return self._networks.get(one.network).id == target.id
        return False

    def _change(self, state: PodState, before: PodSpec, after: PodSpec) -> None:
        """Write the specification, then make everything follow it; or go back to what was."""
        netplan.nics(after)
        vm = require_running(self._vms.of_pod(before.id), before.id) if state in WITH_VM else None
        self._records.update(before.id, spec=spec_codec.dump(after))
        try:
            self._follow(vm, after)
        except BaseException:
            self._records.update(before.id, spec=spec_codec.dump(before))
            with suppress_logged("pod.network_unclear", before.id):
                self._follow(vm, before)
            raise

    def _follow(self, vm: Vm | None, spec: PodSpec) -> None:
        if vm is not None:
            self.settle(vm, spec)
        elif self._network.has_address(spec.id) or not (spec.implicit or netplan.asks_for_nothing(spec)):
            kept, surplus = self._sorted(spec)
            for lease in surplus:
                self._network.detach(spec.id, lease.slot)
            self._reserve(spec, kept)

    def _sorted(self, spec: PodSpec) -> tuple[set[str], list[Lease]]:
        """Return the ids of the networks that the pod has and keeps, and the leases of all others."""
        wanted = self._wanted(spec)
        default = self._network.default().bridge
        kept, surplus = set(), []
        for lease in self._network.leases(spec.id):
            known = lease.network if lease.network or lease.bridge == default else None
            if known in wanted:
                kept.add(known)
            elif known is not None:
                surplus.append(lease)
        return kept, surplus

    def _wanted(self, spec: PodSpec) -> dict[str, NetworkAttachment]:
        found = {}
        for one in self._known(spec):
            network = self._networks.get(one.network)
            found["" if network.builtin else network.id] = one
        return found

    def _reserve(self, spec: PodSpec, kept: Collection[str]) -> None:
        for ident, one in self._wanted(spec).items():
            if ident not in kept:
                self._network.attach(spec.id, netplan.attachment_wish(spec, one))

    # -- taps that are gone

    def _tap_lost(self, owner: str, slot: int) -> None:
        """Look after a NIC without a tap, in a thread of its own. It may be that its VM starts or stops."""
        if not self._vms.plugs.makes_taps:
            return
        with suppress(NotFound, RuntimeError):  # a VM of the pool; shutting down
            if self._records.get(owner).state == PodState.RUNNING:
                self._repairs.submit(self._repair, owner, slot)

    def _repair(self, pod_id: str, slot: int) -> None:
        with suppress_logged("pod.network_not_repaired", pod_id), self._locks.locked(pod_id, "repair its network"):
            try:
                state, spec = self._pod(pod_id)
            except NotFound:
                return
            vm, lease = self._vms.of_pod(pod_id), self._network.lease(pod_id, index=slot)
            if state == PodState.RUNNING and vm is not None and lease is not None:
                self._replug(vm, spec, lease)

    def _replug(self, vm: Vm, spec: PodSpec, lease: Lease) -> None:
        """Give a NIC a new tap when its own is gone: QEMU would read from the old one for ever."""
        if not self._vms.plugs.makes_taps or not lease.tap or lease.loose:
            return
        if lease.mac not in vm.nics or exists(lease.tap):
            return
        log.warning("pod.tap_lost", pod=spec.id, tap=lease.tap)
        vm.agent.run(Plan().add(Op.LINKDOWN, layout.nic_name(lease.slot)))
        self._vms.plugs.unplug_nic(vm, lease.mac)
        self._vms.plugs.plug(vm, nics=netplan.nic_specs([lease]))
        vm.agent.run(layout.rewire(self.setup(spec, self._network.leases(spec.id)), {lease.mac}))
        self._network.plugged(spec.id, ())
        log.info("pod.tap_made_again", pod=spec.id, tap=lease.tap)


class suppress_logged:  # noqa: N801 - used like contextlib.suppress
    """A block whose HyperError is logged and goes no further."""

    def __init__(self, event: str, pod_id: str) -> None:
        self._event, self._pod_id = event, pod_id

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, HyperError):
            log.error(self._event, pod=self._pod_id, error=str(error))
            return True
        return False
