"""Disks, NICs and host directories of VMs that run."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import structlog

from hyperd.agent.bulk import RING, Carrier
from hyperd.agent.plan import Op, Plan
from hyperd.errors import Conflict, HyperError
from hyperd.failpoint import failpoint
from hyperd.guest import layout
from hyperd.vm.driver import DiskSpec, NicSpec, VmDriver
from hyperd.vm.entry import Entry
from hyperd.vm.model import IDLE, SCRATCH_LUN, Vm
from hyperd.vm.shares import SharedTrees
from hyperd.vm.table import VmTable

log = structlog.get_logger(__name__)

CARRIER = "carrier.img"  # in the VM's directory
_FRESH = "fresh"  # name of a NIC in the guest until it gets its own


class Plugs:
    """Gives VMs that run what their pods need, and takes it away; every step is in the VM's row.

    Args:
        table: the VMs and their rows. driver: attaches and detaches. trees: host directories of VMs that run.

    """

    def __init__(self, table: VmTable, driver: VmDriver, trees: SharedTrees) -> None:
        self._table = table
        self._driver = driver
        self._trees = trees

    def plug(
        self, vm: Vm, *, scratch: Path | None = None, layers: Sequence[Path] = (), nics: Sequence[NicSpec] = ()
    ) -> None:
        """Hot-plug what a pod needs and the VM does not have.

        Errors: DriverError, InvalidInput; undone by ``release``.
        """
        with vm.lock:
            if scratch is not None and str(scratch) not in vm.disks:
                lun = vm.free_lun() if SCRATCH_LUN in vm.disks.values() else SCRATCH_LUN
                self._plug_disk(vm, str(scratch), disk_of(str(scratch), lun, scratch=True))
            for path in layers:
                if str(path) not in vm.disks:
                    self._plug_disk(vm, str(path), disk_of(str(path), vm.free_lun()))
            for nic in nics:
                if nic.mac not in vm.nics:
                    self._plug_nic(vm, nic)

    def unplug_nic(self, vm: Vm, mac: str) -> None:
        """Unplug a NIC that the guest does not use; an unknown one is fine. Errors: DriverError, Timeout."""
        with self._table.changing(vm):
            if mac in vm.nics:
                self._driver.detach_nic(vm.id, vm.made_as(mac))
                vm.nics.remove(mac)
                vm.renamed.pop(mac, None)

    def readdress_nic(self, vm: Vm, mac: str, new_mac: str) -> None:
        """Note that a guest is told another MAC address for a NIC than it was made with."""
        with self._table.changing(vm):
            vm.renamed[new_mac] = vm.made_as(mac)
            vm.renamed.pop(mac, None)
            vm.nics[vm.nics.index(mac)] = new_mac

    @property
    def makes_taps(self) -> bool:
        """Whether NICs have taps on this host."""
        return self._driver.makes_taps

    def plug_volume(self, vm: Vm, name: str, make: Callable[[int], DiskSpec]) -> int:
        """Hot-plug a volume's image, which ``make`` describes for a LUN; give the LUN.

        Errors: DriverError, InvalidInput.
        """
        with vm.lock:
            disk = make(vm.free_lun())
            vm.images[name] = (str(disk.path), disk.readonly)
            try:
                self._plug_disk(vm, f"volume {name}", disk)
            except BaseException:
                del vm.images[name]
                raise
            return disk.lun

    def unplug_volume(self, vm: Vm, name: str) -> None:
        """Take out a volume's image that the guest does not use. Errors: DriverError."""
        with self._table.changing(vm):
            lun = vm.disks.get(f"volume {name}")
            if lun is not None:
                self._driver.detach_disk(vm.id, lun)
                del vm.disks[f"volume {name}"], vm.images[name]

    def share(self, vm: Vm, name: str, source: int, *, readonly: bool, is_file: bool) -> None:
        """Let a directory or file of the host appear in the guest, as a name in ``layout.SHARED``.

        ``source`` is open (O_PATH). On failure nothing has the name. Errors: HostFault.
        """
        with self._table.changing(vm):
            namespace = self._driver.namespace(vm.id) if vm.mapped else -1
            try:
                self._trees.bind(vm.id, name, source, readonly=readonly, namespace=namespace)
            finally:
                if namespace >= 0:
                    os.close(namespace)
            vm.shares[name] = {"readonly": readonly, "file": is_file}

    def unshare(self, vm: Vm, name: str) -> None:
        """Take a directory or file of the host away from the guest. Errors: HostFault."""
        with self._table.changing(vm):
            self._trees.unbind(vm.id, name)
            vm.shares.pop(name, None)

    @contextmanager
    def carrier(self, vm: Vm) -> Iterator[Carrier | None]:
        """Lend the disk by which large archives come and go; None when another has it or it cannot be had.

        It stays in the VM. What it holds is gone at the end: whoever has used it has ended by then.
        """
        if not vm.carrying.acquire(blocking=False):
            yield None
            return
        try:
            found = self._carrier(vm)
            if found is None:
                yield None
                return
            try:
                yield found
            finally:
                with suppress(OSError):
                    os.ftruncate(found.descriptor, 0)  # gives the host's memory and disk back
                    os.ftruncate(found.descriptor, RING)
                os.close(found.descriptor)
        finally:
            vm.carrying.release()

    def _carrier(self, vm: Vm) -> Carrier | None:
        path = vm.rundir / CARRIER
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("vm.no_carrier", vm=vm.id, error=str(error))
            return None
        try:
            os.posix_fallocate(descriptor, 0, RING)  # QEMU stops a VM that writes to a full disk
            with vm.lock:
                if not vm.carries and str(path) in vm.disks:  # an earlier daemon may have died before the plug
                    self._driver.detach_disk(vm.id, vm.disks[str(path)])
                    with self._table.changing(vm):
                        del vm.disks[str(path)]
                if str(path) not in vm.disks:
                    failpoint("vm.carrier.file_made")
                    self._plug_disk(vm, str(path), disk_of(str(path), vm.free_lun(), scratch=True))
                    vm.carries = True
                return Carrier(lun=vm.disks[str(path)], descriptor=descriptor)
        except (OSError, HyperError) as error:
            log.warning("vm.no_carrier", vm=vm.id, error=str(error))
            os.close(descriptor)
            return None

    @contextmanager
    def without_carrier(self, vm: Vm) -> Iterator[None]:
        """Have no carrier in the VM for the block. Errors: Conflict (it is in use), DriverError."""
        if not vm.carrying.acquire(blocking=False):
            raise Conflict("files of the pod are just being copied", resolution="try again")
        try:
            with self._table.changing(vm):
                path = vm.rundir / CARRIER
                if str(path) in vm.disks:
                    self._driver.detach_disk(vm.id, vm.disks[str(path)])
                    del vm.disks[str(path)]
                    path.unlink(missing_ok=True)
            yield
        finally:
            vm.carrying.release()

    def mount_layers(self, vm: Vm, paths: Sequence[Path], *, entry: Entry | None = None) -> list[str]:
        """Mount layers in the guest and return their mount points, in the order asked.

        With an ``entry`` whose steps wait, the steps are added to these. Errors: AgentError.
        """
        with self._table.changing(vm):
            missing = [path for path in dict.fromkeys(paths) if str(path) not in vm.layers]
            if missing:
                waiting = entry.waiting if entry is not None else None
                plan = Plan() if waiting is None else waiting
                for path in missing:
                    layout.mount_layer(plan, vm.disks[str(path)])
                if waiting is None:
                    vm.agent.run(plan)
                vm.layers.update({str(path): vm.disks[str(path)] for path in missing})
            return [layout.layer_path(vm.disks[str(path)]) for path in paths]

    def drop_layers(self, vm: Vm, wanted: Collection[Path]) -> None:
        """Unmount and unplug the layers that a pod is not to see. Errors: AgentError, DriverError."""
        with self._table.changing(vm):
            strange = {path: lun for path, lun in vm.layers.items() if Path(path) not in wanted}
            if not strange:
                return
            vm.agent.run(layout.leave(strange.values(), scratch=False))
            for path, lun in strange.items():
                self._driver.detach_disk(vm.id, lun)
                del vm.disks[path], vm.layers[path]

    def drop_spare(self, vm: Vm, scratch: Path) -> None:
        """Take out the writable disk that a VM of the pool came with if its pod has another. Errors: DriverError."""
        with self._table.changing(vm):
            spare = vm.spare_disk
            if spare in vm.disks and str(scratch) in vm.disks:
                self._driver.detach_disk(vm.id, vm.disks[spare])
                self._driver.take_back(Path(spare), vm.uid)
                del vm.disks[spare]

    def release(self, vm: Vm) -> None:
        """Take what is a pod's out of its VM, which is idle then.

        The guest uses the NICs no more, and has no services. Errors: AgentError, DriverError, HostFault.
        """
        with self._table.changing(vm):
            vm.agent.run(layout.leave_volumes(vm.volumes.values()))
            vm.volumes.clear()
            vm.images.clear()
            writable = [lun for path, lun in vm.disks.items() if path not in vm.layers]
            vm.agent.run(layout.leave(vm.layers.values(), scratch=bool(writable)))
            vm.layers.clear()
            for path, lun in list(vm.disks.items()):
                self._driver.detach_disk(vm.id, lun)
                self._driver.take_back(Path(path), vm.uid)
                del vm.disks[path]
            for mac in list(vm.nics):
                self.unplug_nic(vm, mac)
            if vm.shared:
                for name in list(vm.shares):
                    self.unshare(vm, name)
            vm.pod_id, vm.state = "", IDLE  # the last step: another pod can be given it from now on

    def _plug_disk(self, vm: Vm, key: str, disk: DiskSpec) -> None:
        try:
            with self._table.changing(vm):
                vm.disks[key] = disk.lun
            self._driver.attach_disk(vm.id, disk)
        except BaseException:
            with self._table.changing(vm):
                del vm.disks[key]
            raise

    def _plug_nic(self, vm: Vm, nic: NicSpec) -> None:
        """Plug a NIC; when another of the VM was made with its MAC address, it is made with one that nobody has."""
        made = nic if nic.mac not in vm.renamed.values() else replace(nic, mac=_free_mac(vm.renamed.values()))
        try:
            with self._table.changing(vm):
                vm.nics.append(nic.mac)
                if made.mac != nic.mac:
                    vm.renamed[nic.mac] = made.mac
            self._driver.attach_nic(vm.id, made)
        except BaseException:
            with self._table.changing(vm):
                vm.nics.remove(nic.mac)
                vm.renamed.pop(nic.mac, None)
            raise
        if made.mac != nic.mac:
            plan = Plan().add(Op.LINK, made.mac, _FRESH, 0).add(Op.LINKDOWN, _FRESH)
            try:
                vm.agent.run(plan.add(Op.MAC, _FRESH, nic.mac))
            except BaseException:
                with suppress(HyperError):  # the row says that it is there as long as it is
                    self.unplug_nic(vm, nic.mac)
                raise


def _free_mac(used: Collection[str]) -> str:
    """Return a MAC address that no pod has, of QEMU's own range, and that is not in use."""
    return next(mac for number in count(1) if (mac := f"52:54:00:00:01:{number:02x}") not in used)


def disk_of(path: str, lun: int, cache: str = "", *, scratch: bool = False) -> DiskSpec:
    """Describe a layer, or the pod's writable disk with its cache mode."""
    return DiskSpec(lun=lun, path=Path(path), readonly=not scratch, cache=(cache if scratch else "") or "writeback")
