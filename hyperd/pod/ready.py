"""VMs of the pool, made ready for pods that nobody knows yet, and their hand-over to a pod.

A VM that waits has its writable disk mounted, its NIC set up, the layers of the image used last mounted, and has
started a container once, so that the code of a start is in QEMU's translation cache. Nothing of it is secret, and
nothing has run in it but the agent's own program: name, clock, randomness and files come with the pod.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog

from hyperd.agent import programs
from hyperd.agent.plan import Op, Plan
from hyperd.config.model import Config
from hyperd.container.plan import GuestProgram, Program, RootFs, cgroup_dir, container_plan
from hyperd.container.records import ContainerRecords
from hyperd.errors import HyperError, NotFound
from hyperd.event.bus import Event, EventBus
from hyperd.failpoint import failpoint
from hyperd.guest import layout
from hyperd.image.service import ImageService
from hyperd.network.driver import NetworkDriver
from hyperd.network.model import Lease
from hyperd.pod import netplan
from hyperd.pod.network import PodNetwork
from hyperd.spec.model import ContainerSpec, PodSpec
from hyperd.vm.entry import Entry
from hyperd.vm.model import HostFiles, Outfit, Vm
from hyperd.vm.pool.pool import SPARE_DISKS
from hyperd.vm.scratch import check_space, make_scratch
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)


class ReadyVms:
    """The pool's outfitter (``hyperd.vm.pool.pool``), and what hands its VMs to pods."""

    def __init__(
        self,
        *,
        config: Config,
        records: ContainerRecords,
        images: ImageService,
        network: NetworkDriver,
        net: PodNetwork,
        vms: VmService,
        events: EventBus,
    ) -> None:
        self._config = config
        self._images = images
        self._network = network
        self._net = net
        self._vms = vms
        self._image = records.newest_image()  # what the next pod will probably use
        events.subscribe(self._hear)

    def reconfigure(self, config: Config) -> None:
        """Use another size of disks from now on."""
        self._config = config

    # -- before a pod is known

    def make(self, vm_id: str) -> Outfit:
        """Reserve an address, name a disk and choose the image. Errors: Busy, HostFault."""
        scratch = self._config.root / SPARE_DISKS / f"{vm_id}.img"
        lease = self._network.allocate(vm_id)
        return Outfit(scratch=scratch, layers=self._likely_layers(), nics=tuple(netplan.nic_specs([lease])))

    def dress(self, vm: Vm) -> None:
        """Mount the disks, set up the NIC, start a container that does nothing. Errors: AgentError, Timeout."""
        setup = netplan.guest_setup(PodSpec(id=vm.id, hostname="localhost"), self._network.leases(vm.id))
        plan = layout.enter(setup, mounted=vm.mounted)
        layers = {path: lun for path, lun in vm.disks.items() if path != vm.spare_disk}
        for lun in layers.values():
            layout.mount_layer(plan, lun)
        vm.agent.run(plan)
        vm.layers.update(layers)
        _rehearse(vm)

    def drop(self, vm_id: str) -> None:
        """Give back what ``make`` took; the VM is gone. Errors: HostFault."""
        self._network.release(vm_id)
        (self._config.root / SPARE_DISKS / f"{vm_id}.img").unlink(missing_ok=True)

    def _likely_layers(self) -> tuple[Path, ...]:
        if not self._image:
            return ()
        try:
            return tuple(dict.fromkeys(layer.path for layer in self._images.get(self._image).layers))
        except NotFound:
            return ()  # removed since

    def _hear(self, event: Event) -> None:
        if event.type == "image" and event.action == "delete":
            self._vms.pool.check()

    # -- when it is

    def note(self, image_id: str) -> None:
        """Tell the image of a pod that starts: the next VM is made ready for it."""
        self._image = image_id

    def take(
        self, spec: PodSpec, files: HostFiles, *, scratch: Path, layers: Sequence[Path]
    ) -> tuple[Vm, list[Lease], Entry] | None:
        """Return a VM of the pool with the pod's disks and address; None when there is none that fits and is well.

        With them comes what is left to do in the guest. Errors: OutOfSpace; Conflict about the pod's ports; those of
        its networks.
        """
        if files.any or not netplan.suits_prepared(spec):
            return None
        prepared = netplan.any_address(spec) and not self._network.has_address(spec.id)
        given = [] if prepared else self._net.reserve(spec)  # networks shall fail before a VM wakes
        own = self._network.default()
        if given and (not own.bridge or given[0].mtu > own.mtu):
            return None  # the NIC of the pool cannot be the pod's
        size = spec.resource
        wanted = partial(self._vms.pool.take, spec.id, vcpu=size.vcpu, memory=size.memory, layers=layers)
        while (vm := wanted(files=files)) is not None:
            try:
                self._vms.pool.wake(vm)
                self._vms.regroup(vm, spec.cgroup_parent)
                self._vms.plugs.drop_layers(vm, layers)
                self._vms.plugs.plug(vm, layers=layers)
                remount = self._give_disk(vm, scratch)
                if given:
                    self._net.exchange(vm, given[0])
                    self._vms.plugs.plug(vm, nics=netplan.nic_specs(given[1:]))
            except HyperError as error:
                log.warning("pool.unfit", vm=vm.id, error=str(error))
                self._vms.destroy(vm)
                self._network.release(vm.id)
                continue
            return vm, *self._introduce(vm, spec, remount, given)
        return None

    def _give_disk(self, vm: Vm, scratch: Path) -> Plan:
        """Make the VM's spare disk the pod's, which is one more name of the file, unless the pod has one already.

        Gives what has to be done in the guest. Errors: OutOfSpace, DriverError.
        """
        plan = Plan()
        if not scratch.exists() and vm.spare_disk and Path(vm.spare_disk).stat().st_size == self._config.scratch_size:
            check_space(scratch)
            scratch.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.link(vm.spare_disk, scratch)
            failpoint("pool.take.disk_given")
            return plan
        make_scratch(scratch, self._config.scratch_size)
        self._vms.plugs.plug(vm, scratch=scratch)
        if vm.spare_disk:
            plan.add(Op.UMOUNT, layout.SCRATCH, 0)
        return layout.mount_scratch(plan, vm.disks[str(scratch)])

    def _introduce(self, vm: Vm, spec: PodSpec, plan: Plan, given: Sequence[Lease]) -> tuple[list[Lease], Entry]:
        try:
            leases = list(given) or self._net.take_over(spec, vm)
            failpoint("pool.take.address_given")
            setup = self._net.attachments.setup(spec, leases)
        except BaseException:
            self._vms.destroy(vm)
            self._network.release(vm.id)
            raise
        plan.steps += layout.identify(setup).steps
        if given:
            layout.exchange(plan, setup.nics)
        return leases, Entry(vm, plan)


def _rehearse(vm: Vm) -> None:
    """Start the agent's program, which ends at once, in a container like those of pods."""
    name = programs.new_name()
    base = vm.agent.new_base()
    target = f"/{name}"
    program = Program(argv=(target, "--pack-tree", "/.none"), env={}, workdir="/", user="", groups=(), tty=False)
    rootfs = RootFs(container_id=name, layers=[layout.layer_path(lun) for lun in vm.layers.values()])
    plan = container_plan(
        process=name,
        base=base,
        spec=ContainerSpec(name=name, image=""),
        program=program,
        rootfs=rootfs,
        files=[GuestProgram(target=target, source=programs.PROGRAM)],
        memory=vm.memory,
    )
    with programs.GuestTool(vm.agent, ident=name, base=base) as tool:
        tool.start(plan)
        for _ in tool.output():
            pass
        tool.wait()
    plan = Plan().add(Op.REMOVE, layout.container_dir(name)).add(Op.REMOVE, cgroup_dir(name))
    vm.agent.run(plan)
