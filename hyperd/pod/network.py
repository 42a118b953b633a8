"""A pod's network as the API changes it: addresses, published ports, services."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from hyperd.agent.plan import Op, Plan
from hyperd.container.locks import PodLocks
from hyperd.container.records import ContainerRecords
from hyperd.db import spec_codec
from hyperd.db.spec_cache import stored_pod
from hyperd.errors import AgentError, Conflict, HyperError, InvalidInput, NotAlive, NotFound, NotSupported
from hyperd.failpoint import failpoint
from hyperd.guest import layout
from hyperd.network import ipvs
from hyperd.network.bridge import hand_over
from hyperd.network.driver import NetworkDriver
from hyperd.network.model import Lease
from hyperd.network.ports import AUTOMATIC, PortMapping
from hyperd.network.service import NetworkService
from hyperd.pod import netplan
from hyperd.pod.attachments import PodAttachments
from hyperd.pod.records import PodRecords
from hyperd.pod.states import WITH_VM, PodState
from hyperd.spec.model import PodSpec, PortSpec, ServiceSpec, parse_ports
from hyperd.vm.model import Vm, require_running
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)

ENOPROTOOPT = 92


class PodNetwork:
    """See the module's docstring. The pod's row says what should be; it is written before anything is changed."""

    def __init__(
        self,
        *,
        records: PodRecords,
        containers: ContainerRecords,
        network: NetworkDriver,
        networks: NetworkService,
        vms: VmService,
        locks: PodLocks,
    ) -> None:
        self._records = records
        self._network = network
        self._networks = networks
        self.attachments = PodAttachments(
            records=records,
            containers=containers,
            network=network,
            networks=networks,
            vms=vms,
            locks=locks,
            publish=self._publish,
        )
        self._vms = vms
        self._locks = locks

    def choose(self, spec: PodSpec) -> PodSpec:
        """Reserve free host ports where the specification leaves them open; give it with those ports. Errors: Busy."""
        return replace(spec, portmappings=self._chosen(spec.id, spec.portmappings))

    def reserve(self, spec: PodSpec) -> list[Lease]:
        """Reserve addresses and ports, which are chosen by then.

        Errors: Conflict, InvalidInput, Busy, HostFault; what was reserved by then is given back by the caller.
        """
        leases = self._network.reserve(spec.id, netplan.wishes(spec), netplan.guard(spec))
        self.attachments.setup(spec, leases)  # is refused here rather than at the start
        self._publish(spec, leases)
        return leases

    def book(self, spec: PodSpec) -> PodSpec:
        """Reserve what a pod asks for by name, before its start; an address that may be any comes with the VM.

        An implicit pod gets it when it starts: until then another may have it, which is to be removed before (compose
        replaces a container so). Gives the specification with the ports that were chosen. Errors: as for ``reserve``.
        """
        netplan.check_without(spec)
        if not spec.implicit:
            spec = self.choose(spec)
        self._book(spec)
        return spec

    def book_again(self, spec: PodSpec) -> None:
        """Reserve the same after a start that failed and has given it back; what is gone by then is logged."""
        try:
            self._book(spec)
        except HyperError as error:
            log.warning("pod.not_booked", pod=spec.id, error=str(error))

    def _book(self, spec: PodSpec) -> None:
        if not spec.implicit and not netplan.asks_for_nothing(spec):
            self.reserve(spec)
            return
        self.check_networks(spec)
        mappings = netplan.port_mappings(spec)
        if mappings and not spec.implicit:
            self._network.book(spec.id, mappings)

    def check_networks(self, spec: PodSpec) -> None:
        """Check that the networks of a specification exist and are not named twice.

        Errors: NotFound, NotSupported, InvalidInput, Conflict.
        """
        found = [self._networks.get(one.network).id for one in spec.networks]
        if len(set(found)) != len(found):
            raise InvalidInput("a pod is on a network once", details=", ".join(one.network for one in spec.networks))
        netplan.nics(spec)

    def take_over(self, spec: PodSpec, vm: Vm) -> list[Lease]:
        """Return the pod the address that a VM of the pool was prepared with, and its ports, which are chosen by then.

        Errors: Conflict, HostFault; what was reserved by then is given back by the caller.
        """
        leases = self._network.transfer(vm.id, spec.id)
        if not leases:
            raise Conflict(f"the VM {vm.id} has no address")
        self._publish(spec, leases)
        return leases

    def exchange(self, vm: Vm, lease: Lease) -> None:
        """Let the NIC of a VM of the pool be one of another network than it was prepared for.

        Its tap becomes that of ``lease``, and the address that it was prepared with is free again; the guest is not
        told. Errors: HostFault; Conflict when the VM has another number of NICs than one.
        """
        prepared = self._network.leases(vm.id)
        if len(prepared) != 1:
            raise Conflict(f"the VM {vm.id} was not prepared with one NIC")
        if self._vms.plugs.makes_taps:
            hand_over(prepared[0].tap, lease.tap, bridge=lease.bridge, mtu=lease.mtu)
        failpoint("pool.take.nic_moved")
        self._vms.plugs.readdress_nic(vm, prepared[0].mac, lease.mac)
        self._network.release(vm.id)

    # -- published ports

    def portmappings(self, pod_id: str) -> list[PortSpec]:
        """Return the pod's published ports. Errors: NotFound."""
        return list(self._spec(pod_id)[1].portmappings)

    def add_ports(self, pod_id: str, rules: Sequence[PortSpec]) -> None:
        """Publish more ports of a running pod; those it has already are fine.

        On failure nothing has changed. Errors: NotFound, NotAlive, Conflict, InvalidInput, Busy.
        """
        with self._locks.locked(pod_id, "change its port mappings"):
            before = self._with_vm(pod_id)
            had = set(self._network.mappings(pod_id))
            try:
                chosen = self._chosen(pod_id, rules)
                new = tuple(dict.fromkeys(rule for rule in chosen if rule not in before.portmappings))
                after = replace(before, portmappings=(*new, *before.portmappings))
                mappings = netplan.port_mappings(after)
                self._records.update(pod_id, spec=spec_codec.dump(after))
                self._network.publish(pod_id, netplan.target_address(self._network.leases(pod_id)), mappings)
            except BaseException:
                self._records.update(pod_id, spec=spec_codec.dump(before))
                self._network.unpublish(pod_id, [each for each in self._network.mappings(pod_id) if each not in had])
                raise
            log.info("pod.ports_added", pod=pod_id, ports=[str(mapping) for mapping in set(mappings) - had])

    def note_ports(self, pod_id: str, rules: Sequence[PortSpec]) -> None:
        """Publish more ports of a pod; for one that does not run they are noted, for its start.

        On failure nothing has changed. Errors: as for ``add_ports``.
        """
        with self._locks.locked(pod_id, "change its port mappings"):
            state, before = self._spec(pod_id)
            if state in WITH_VM:
                self.add_ports(pod_id, rules)
                return
            after = replace(before, portmappings=tuple(dict.fromkeys((*rules, *before.portmappings))))
            netplan.port_mappings(after)  # is refused here rather than at the start
            self._records.update(pod_id, spec=spec_codec.dump(after))

    def delete_ports(self, pod_id: str, rules: Sequence[PortSpec]) -> None:
        """Take published ports back: by protocol and container port, and by host port where the rule has one.

        Rules that match nothing are fine. Errors: NotFound, NotAlive.
        """
        with self._locks.locked(pod_id, "change its port mappings"):
            spec = self._with_vm(pod_id)
            kept = tuple(port for port in spec.portmappings if not any(_matches(rule, port) for rule in rules))
            self._records.update(pod_id, spec=spec_codec.dump(replace(spec, portmappings=kept)))
            self._unpublish_others(replace(spec, portmappings=kept))

    # -- services

    def services(self, pod_id: str) -> list[ServiceSpec]:
        """Return the pod's services. Errors: NotFound."""
        return list(self._spec(pod_id)[1].services)

    def add_services(self, pod_id: str, services: Sequence[ServiceSpec]) -> None:
        """Add services, also to a pod that does not run. Errors: NotFound, Conflict, NotAlive (paused), AgentError."""
        with self._locks.locked(pod_id, "change its services"):
            _, spec = self._spec(pod_id)
            self._set_services(spec, (*spec.services, *services))

    def update_services(self, pod_id: str, services: Sequence[ServiceSpec]) -> None:
        """Replace all services. Errors: as for ``add_services``."""
        with self._locks.locked(pod_id, "change its services"):
            self._set_services(self._spec(pod_id)[1], services)

    def delete_services(self, pod_id: str, services: Sequence[ServiceSpec]) -> None:
        """Take services out, by address, port and protocol; unknown ones are fine. Errors: as for ``add_services``."""
        gone = {_service_key(service) for service in services}
        with self._locks.locked(pod_id, "change its services"):
            _, spec = self._spec(pod_id)
            self._set_services(spec, [service for service in spec.services if _service_key(service) not in gone])

    def balance(self, vm: Vm, spec: PodSpec, leases: Sequence[Lease]) -> None:
        """Make the guest's load balancer what the specification says. Errors: AgentError, NotSupported."""
        wanted = netplan.balanced(spec, leases)
        known = [ipvs.load(entry) for entry in vm.services]
        if wanted == known and vm.services_sure:
            return
        plan = ipvs.change(known, wanted) if vm.services_sure else ipvs.renew(known, wanted)
        self._note(vm, [*known, *wanted], sure=False)
        try:
            vm.agent.run(plan)
        except AgentError as error:
            if error.errno == ENOPROTOOPT:
                raise NotSupported("the guest's kernel has no load balancer (CONFIG_IP_VS)") from error
            raise
        self._note(vm, wanted, sure=True)

    def leave(self, vm: Vm) -> None:
        """Make the guest forget its services and addresses, before its NICs are taken out. Errors: AgentError."""
        if vm.services:
            vm.agent.run(ipvs.renew([ipvs.load(entry) for entry in vm.services], ()))
            self._note(vm, [], sure=True)
        plan = Plan()
        for lease in self._network.leases(vm.pod_id):
            plan.add(Op.LINKDOWN, layout.nic_name(lease.slot))
        vm.agent.run(plan)

    def _note(self, vm: Vm, services: list[ipvs.Balanced], *, sure: bool) -> None:
        with self._vms.changing(vm):
            vm.services, vm.services_sure = [service.dump() for service in dict.fromkeys(services)], sure

    def adopt(self, vm: Vm) -> None:
        """Finish what an earlier daemon may have left half done in a pod that runs; failures are logged."""
        try:
            _, spec = self._spec(vm.pod_id)
            self.attachments.adopt(vm, spec)
            leases = self._network.leases(vm.pod_id)
            self._unpublish_others(spec)
            self._publish(spec, leases)
            self.balance(vm, spec, leases)
        except HyperError as error:
            log.error("pod.network_not_restored", pod=vm.pod_id, error=str(error))

    # -- inside

    def _spec(self, pod_id: str) -> tuple[PodState, PodSpec]:
        try:
            row = self._records.get(pod_id)
        except NotFound as error:
            raise NotFound(f"Pod {pod_id} not found") from error
        return PodState(row.state), stored_pod(row.spec)

    def _with_vm(self, pod_id: str) -> PodSpec:
        state, spec = self._spec(pod_id)
        if state not in WITH_VM:
            raise NotAlive(
                f"portmapping could apply to running pod only (the pod {pod_id} is {state})",
                resolution="start the pod first",
            )
        return spec

    def _publish(self, spec: PodSpec, leases: Sequence[Lease]) -> None:
        """Lead the pod's ports to its address; without one they are kept for it and lead nowhere."""
        mappings = netplan.port_mappings(spec)
        if mappings and leases:
            self._network.publish(spec.id, netplan.target_address(leases), mappings)
        elif mappings:
            self._network.unpublish(spec.id)
            self._network.book(spec.id, mappings)

    def _chosen(self, pod_id: str, rules: Sequence[PortSpec]) -> tuple[PortSpec, ...]:
        """Reserve free host ports for the rules that leave them open. Errors: Busy."""
        return tuple(self._with_host_ports(pod_id, rule) if rule.automatic else rule for rule in rules)

    def _with_host_ports(self, pod_id: str, rule: PortSpec) -> PortSpec:
        inner = parse_ports(rule.container_port)
        outer = parse_ports(rule.host_port) if rule.host_port else AUTOMATIC
        first = self._network.reserve_ports(pod_id, rule.protocol, inner, outer, host_ip=rule.host_ip)
        last = first + len(inner) - 1
        return replace(rule, host_port=str(first) if first == last else f"{first}-{last}")

    def _unpublish_others(self, spec: PodSpec) -> None:
        """Take back what the pod publishes beyond its specification."""
        wanted: set[PortMapping] = set(netplan.port_mappings(spec))
        others = [mapping for mapping in self._network.mappings(spec.id) if mapping not in wanted]
        if others:
            self._network.unpublish(spec.id, others)
            log.info("pod.ports_deleted", pod=spec.id, ports=[str(mapping) for mapping in others])

    def _set_services(self, before: PodSpec, services: Sequence[ServiceSpec]) -> None:
        """Write the services and tell the guest (the lock is held); on failure they are what they were."""
        keys = [_service_key(service) for service in services]
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated:
            ip, port, protocol = repeated
            raise Conflict(f"service {ip}:{port}/{protocol} conflicts with existing ones")
        state = PodState(self._records.get(before.id).state)
        vm = require_running(self._vms.of_pod(before.id), before.id) if state in WITH_VM else None
        after = replace(before, services=tuple(services))
        self._records.update(before.id, spec=spec_codec.dump(after))
        if vm is None:
            return
        leases = self._network.leases(before.id)
        try:
            self.balance(vm, after, leases)
        except BaseException:
            self._records.update(before.id, spec=spec_codec.dump(before))
            try:
                self.balance(vm, before, leases)
            except HyperError as error:
                log.warning("pod.services_unclear", pod=before.id, error=str(error))
            raise


def _service_key(service: ServiceSpec) -> tuple[str, int, str]:
    return (service.service_ip, service.service_port, service.protocol)


def _matches(rule: PortSpec, port: PortSpec) -> bool:
    same = rule.protocol == port.protocol and parse_ports(rule.container_port) == parse_ports(port.container_port)
    same = same and (not rule.host_ip or rule.host_ip == port.host_ip)
    return same and (rule.automatic or parse_ports(rule.host_port) == parse_ports(port.host_port))
