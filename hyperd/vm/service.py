"""VMs: booting, disks, the agent's connection, idle VMs and what an earlier daemon left running.

The table ``vms`` says which VMs should be; the driver says which are. A row is written before a VM is made and
deleted after it is gone, so a daemon that dies in between leaves nothing unknown.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from queue import SimpleQueue

import structlog

from hyperd.agent.client import AgentClient
from hyperd.agent.frames import Method
from hyperd.config.model import Config
from hyperd.db.models import VmRow
from hyperd.db.session import Database
from hyperd.errors import Busy, Conflict, HyperError, InvalidInput, NotSupported
from hyperd.event.bus import EventBus
from hyperd.failpoint import failpoint
from hyperd.stream.relay import Relay
from hyperd.vm.driver import CONSOLE_LOG, Machine, NicSpec, PowerState, Separation, VmDriver, VmEvent
from hyperd.vm.heartbeat import Heartbeat
from hyperd.vm.hotplug import Plugs
from hyperd.vm.launcher import Starter
from hyperd.vm.model import (
    ASSOCIATED,
    BOOTING,
    IDLE,
    NO_FILES,
    PAUSED,
    POOLED,
    RECONNECT_TIMEOUT,
    BootFiles,
    HostFiles,
    Restored,
    Vm,
    VmView,
    last_words,
    number_disks,
)
from hyperd.vm.namespaces import Mappings
from hyperd.vm.observer import VmObserver
from hyperd.vm.pool import templates
from hyperd.vm.pool.outfit import Outfitter
from hyperd.vm.pool.pool import SPARE_DISKS, VmPool
from hyperd.vm.pool.refill import PooledVms
from hyperd.vm.pool.templates import UnfitTemplate
from hyperd.vm.shares import SharedTrees
from hyperd.vm.stall import StallWatch
from hyperd.vm.table import VmTable, new_id

log = structlog.get_logger(__name__)

CLEAN_UP_PAUSE = 1.0  # seconds until a clean-up that could not be made is tried again
LONGEST_PAUSE = 30.0
CLOSE_WAIT = 5.0


class VmService:
    """See the module's docstring. Its parts: ``plugs`` changes what a VM has, ``pool`` keeps some ready.

    Args:
        boot_files: gives kernel and initramfs; asked at every boot, so that a guest built later is used.

    """

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        driver: VmDriver,
        relay: Relay,
        boot_files: Callable[[], BootFiles],
        events: EventBus,
    ) -> None:
        self._config = config
        self._driver = driver
        self._relay = relay
        self._boot_files = boot_files
        self._events = events
        self._table = VmTable(database)
        self._trees = SharedTrees(config.root, enabled=True)
        self._mappings = Mappings(config.hypervisor.blocks, config.root)
        self.plugs = Plugs(self._table, driver, self._trees)
        self._starter = Starter(
            config=config, driver=driver, relay=relay, boot_files=boot_files, events=events, trees=self._trees
        )
        self._gone: SimpleQueue[str] = SimpleQueue()
        self._thread = threading.Thread(target=self._watch, name="vm-events", daemon=True)
        self._cleaners: list[threading.Thread] = []
        self._closed = threading.Event()
        shape = config.hypervisor
        self.pool = VmPool(
            PooledVms(self._table, driver, boot=self.boot, destroy=self.destroy),
            size=shape.pool,
            vcpu=shape.default_vcpu,
            memory=shape.default_memory,
            boot_timeout=shape.boot_timeout,
        )
        self._stall = StallWatch(driver, running=self._should_run, path=config.root)
        self._heartbeat = Heartbeat(relay, vms=self.all, changed=self._silence)
        self._observer = VmObserver()

    def reconfigure(self, config: Config) -> None:
        """Use another size of disks and another number of VMs from now on."""
        self._config = config
        self._starter.scratch_size = config.scratch_size

    def open(self, *, observer: VmObserver, outfitter: Outfitter) -> None:
        """Find the VMs of an earlier daemon again; switch off what no row names and what was half made.

        Args:
            observer: is told from now on what happens to VMs. outfitter: prepares the VMs of the pool.

        """
        self._observer = observer
        self.pool.prepare_with(outfitter)
        self._config.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._driver.subscribe(self._on_event)
        states = self._driver.states()
        rows = self._table.rows()
        for vm_id in states.keys() - rows.keys():
            log.warning("vm.unknown_removed", vm=vm_id)
            self._driver.destroy(vm_id)
            failpoint("restore.vm.unknown_removed")
        for row in rows.values():
            if row.id not in states or row.state == BOOTING or not self._adopt(row, states[row.id]):
                self._erase(row.id, row.detail.get("uid", 0), row.detail.get("disks", {}))
                failpoint("restore.vm.half_made_removed")
        known = {vm.id for vm in self.all()}
        self._trees.open(keep=known)
        with contextlib.suppress(HyperError):  # there is no guest yet
            self.any_files()  # the log says what can be mapped
        for directory in (*self._config.run.glob("vm-*"), *self._config.run.glob(f"{templates.PREFIX}*")):
            if directory.name not in known:
                shutil.rmtree(directory, ignore_errors=True)
        self._starter.templates.remove_parts()
        failpoint("restore.vm.parts_removed")
        kept = {vm.spare_disk for vm in self.all()}
        for file in (self._config.root / SPARE_DISKS).glob("*"):
            if str(file) not in kept:
                file.unlink(missing_ok=True)
        self._thread.start()
        self._stall.start()
        self._heartbeat.start()

    def close(self) -> None:
        """Let go of every VM; they run on, but for those of the pool."""
        self.pool.end()
        for vm in self.all():
            if vm.hidden and vm.state == BOOTING:
                vm.agent.close()  # its boot for the pool need not be waited for: it fails, and leaves nothing
        self._starter.templates.close()
        self.pool.close()
        self._stall.close()
        self._heartbeat.close()
        for vm in self.all():
            vm.ending = True
            vm.agent.close()
        self._closed.set()
        self._gone.put("")
        until = time.monotonic() + CLOSE_WAIT
        for thread in (self._thread, *self._cleaners):
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))
        self._trees.close()
        self._mappings.close()

    def boot(
        self,
        *,
        vcpu: int,
        memory: int,
        pod_id: str = "",
        disks: Sequence[Path] = (),
        scratch: Path | None = None,
        nics: Sequence[NicSpec] = (),
        files: HostFiles = NO_FILES,
        hidden: bool = False,
        pooled_id: str = "",
        group: str = "",
    ) -> Vm:
        """Boot a VM, or go on from a template, and wait for its agent.

        Args:
            vcpu: number of CPUs. memory: MiB.
            pod_id: the pod it is for; empty makes an idle VM.
            disks: read-only layers. scratch: the pod's writable disk, LUN 0; made if it is missing.
            nics: attached at boot. files: of the host, for volumes.
            hidden: nobody is to see it. pooled_id: it is for the pool: hidden, half made until paused, of this id.
            group: control group of the host that its processes' own lies in; empty = the daemon's.

        On failure nothing is left but the disk. Errors: DriverError, AgentError, Timeout, Conflict, OutOfSpace,
        HostFault, InvalidInput (too many layers).

        """
        luns = number_disks(disks, scratch)

        def attempt() -> Vm:
            vm = self._new(pooled_id or new_id(), vcpu=vcpu, memory=memory, pod_id=pod_id)
            vm.disks, vm.nics, vm.group = dict(luns), [nic.mac for nic in nics], group
            vm.pooled, vm.hidden = bool(pooled_id), hidden or bool(pooled_id)
            try:
                self._separate(vm, files)
                with self.changing(vm):  # the row comes before anything of it is made
                    vm.shares = dict(files.known)
                failpoint("vm.start.row_written")
                self._starter.power_on(vm, nics, files, scratch)
                failpoint("vm.start.agent_met")
                with self.changing(vm):
                    vm.state = ASSOCIATED if pod_id else BOOTING if vm.hidden else IDLE
            except BaseException:
                self.destroy(vm)
                raise
            return vm

        try:
            return attempt()
        except UnfitTemplate as error:
            if pooled_id:
                raise  # the pool tries again, with another id: the driver may yet tell that this one has stopped
            log.warning("vm.boots_instead", error=str(error))
            return attempt()

    @contextlib.contextmanager
    def standing(self, vm: Vm) -> Iterator[None]:
        """Let a VM stand still in the block, as far as it does not already; nobody is told. Errors: DriverError."""
        if vm.state == PAUSED:
            yield
            return
        vm.saving = True
        try:
            self._driver.pause(vm.id)
            failpoint("vm.save.standing")
            yield
        finally:
            try:
                self._driver.resume(vm.id)
            finally:
                vm.saving = False

    def save(self, vm: Vm, file: int, nics: Sequence[str], *, cancelled: Callable[[], bool]) -> Machine:
        """Write a VM that stands still to an open file; arguments and errors as ``VmDriver.save``."""
        if vm.shares or vm.images or vm.volumes:
            raise NotSupported("a VM that has files of the host cannot be saved", details=", ".join(_named_files(vm)))
        return self._driver.save(vm.id, file, [vm.made_as(mac) for mac in nics], cancelled=cancelled)

    def restore(self, wanted: Restored, nics: Sequence[NicSpec]) -> Vm:
        """Let a VM go on from a saved state, and meet its agent.

        The guest then still has the saved one's clock, random numbers, MAC addresses and processes. On failure nothing
        is left but the disk. Errors: DriverError, AgentError, Timeout, NotSupported, Forbidden (QEMU would be root),
        HostFault, Busy.
        """
        vm = self._new(new_id(), vcpu=wanted.vcpu, memory=wanted.memory, pod_id=wanted.pod_id)
        vm.disks, vm.layers, vm.nics = dict(wanted.disks), dict(wanted.layers), [nic.mac for nic in nics]
        vm.by_records = False  # its agent may be of another version
        vm.services_sure = not wanted.services
        try:
            self._separate(vm, NO_FILES)
            with self.changing(vm):
                pass  # its row comes before anything of it is made
            failpoint("vm.restore.row_written")
            self._starter.go_on_from(vm, nics, wanted)
            failpoint("vm.restore.agent_met")
            with self.changing(vm):
                vm.state = ASSOCIATED
        except BaseException:
            self.destroy(vm)
            raise
        return vm

    def create(self, *, vcpu: int = 1, memory: int = 128, wait: bool = True) -> str:
        """Boot an idle VM that a pod may be started on; give its id.

        Args:
            vcpu: number of CPUs. memory: MiB.
            wait: False returns before it has booted; a boot that fails is then only logged.

        Errors: InvalidInput, DriverError, AgentError, Timeout, OutOfSpace, HostFault.

        """
        if not 1 <= vcpu <= 64 or not 32 <= memory <= 1 << 20:
            raise InvalidInput(f"a VM with {vcpu} CPUs and {memory} MiB cannot be made")
        if len(self.views()) >= self._config.max_pods:
            raise Busy(f"there are {self._config.max_pods} VMs", resolution="remove some, or raise max_pods")
        if wait:
            return self.boot(vcpu=vcpu, memory=memory, files=self.any_files()).id
        files = self.any_files()
        vm = self._new(new_id(), vcpu=vcpu, memory=memory, pod_id="")
        try:
            self._separate(vm, files)
            with self.changing(vm):
                pass  # its row is written before anything of it is made
        except BaseException:
            self._table.drop(vm.id)
            raise
        threading.Thread(target=self._boot_later, args=(vm,), name=f"boot-{vm.id}", daemon=True).start()
        return vm.id

    def any_files(self) -> HostFiles:
        """Return what must be assumed of a pod that is not known yet. Errors: HostFault."""
        separated = self._separates() is Separation.NAMESPACE
        return HostFiles(rooted=True, unmapped=self._mappings.obstacle_anywhere() if separated else "")

    def get(self, vm_id: str) -> Vm:
        """Return a VM that runs. Errors: NotFound."""
        return self._table.get(vm_id)

    def all(self) -> list[Vm]:
        """Return every VM."""
        return self._table.all()

    def of_pod(self, pod_id: str) -> Vm | None:
        """Return the VM of a pod, if it has one."""
        return self._table.of_pod(pod_id)

    def changing(self, vm: Vm) -> AbstractContextManager[Vm]:
        """Hold a VM's lock, and write its row at the end (``VmTable.changing``)."""
        return self._table.changing(vm)

    def views(self, *, pod_id: str = "", vm_id: str = "") -> list[VmView]:
        """List VMs, by pod or id where given."""
        return [
            VmView(id=vm.id, pod_id=vm.pod_id, status="silent" if vm.agent.silent else vm.state)
            for vm in self.all()
            if vm.state != POOLED
            and not vm.hidden
            and (not pod_id or vm.pod_id == pod_id)
            and (not vm_id or vm.id == vm_id)
        ]

    def remove(self, vm_id: str) -> None:
        """Switch a VM off for good, whoever uses it; a pod on it becomes failed. Errors: NotFound."""
        vm = self.get(vm_id)
        self.destroy(vm)
        if vm.pod_id and not self._cleaned_up(vm, by_itself=False):
            self._clean_up_later(vm, by_itself=False)

    def destroy(self, vm: Vm) -> None:
        """Switch a VM off at once and forget it; nothing of it is left but the files of its disks.

        Errors: DriverError, Timeout, HostFault; it is known then, and its end will be noticed, whenever that comes.
        """
        before, vm.ending = vm.ending, True
        vm.agent.close()
        try:
            self._erase(vm.id, vm.uid, list(vm.disks))
        except BaseException:
            vm.ending = before
            raise
        if vm.spare_disk:
            Path(vm.spare_disk).unlink(missing_ok=True)  # a pod that has it knows it by another name
        if vm.hidden or vm.state == POOLED:
            self.pool.drop(vm)
        if self._table.drop(vm.id):
            self._events.publish("vm", "gone", vm.id, vm.pod_id or "")

    def claim(self, vm_id: str, pod_id: str, *, vcpu: int, memory: int) -> Vm:
        """Give an idle VM to a pod. Errors: NotFound, Conflict (not idle, other size), OutOfSpace, HostFault."""
        vm = self.get(vm_id)
        with vm.lock:
            if vm.state != IDLE:
                raise Conflict(f"the VM {vm_id} is {vm.state}, not idle")
            if vm.vcpu != vcpu:
                raise Conflict(
                    "The new pod's cpu setting is different with the VM's cpu", details=f"{vcpu} and {vm.vcpu}"
                )
            if vm.memory != memory:
                raise Conflict(
                    "The new pod's memory setting is different with the VM's memory",
                    details=f"{memory} and {vm.memory}",
                )
            try:
                with self.changing(vm):
                    vm.pod_id, vm.state = pod_id, ASSOCIATED
            except BaseException:  # what no row says is not so
                vm.pod_id, vm.state = "", IDLE
                raise
            return vm

    def regroup(self, vm: Vm, group: str) -> None:
        """Put a VM's processes into a control group in this one; none = they stay. Errors: HostFault, InvalidInput."""
        if group:
            self._driver.regroup(vm.id, group, vcpu=vm.vcpu, memory=vm.memory)
            vm.group = group

    @property
    def guest_has_9p(self) -> bool:
        """Whether a VM that is booted now can mount 9p; else virtiofs. Errors: HostFault."""
        return self._boot_files().has_9p

    @property
    def shares_late(self) -> bool:
        """Whether a VM that is booted now can be given directories of the host while it runs. Errors: HostFault."""
        return self._trees.available and self._boot_files().has_9p

    def pause(self, vm: Vm) -> None:
        """Stop the VM's CPUs. Errors: DriverError."""
        with self.changing(vm):
            self._driver.pause(vm.id)
            vm.state = PAUSED

    def unpause(self, vm: Vm) -> None:
        """Let the VM's CPUs run; an agent not met since the daemon's start is met now.

        Errors: DriverError, AgentError.
        """
        with vm.lock:
            if not vm.connected:
                vm.agent.reach()
            self._driver.resume(vm.id)
            with self.changing(vm):
                vm.state = ASSOCIATED if vm.pod_id else IDLE
            vm.agent.silent = False  # a probe that fell into the pause says nothing
            if not vm.connected:
                vm.agent.connect(fresh=False, timeout=RECONNECT_TIMEOUT)
                vm.connected = True

    def shutdown(self, vm: Vm, *, timeout: float = 10.0) -> None:
        """Bring what the guest has written to its disks, then switch it off.

        A guest that does not answer is switched off, too; one whose CPUs stand is not asked.
        """
        if vm.state != PAUSED:
            with contextlib.suppress(HyperError):
                vm.agent.request(Method.QUIESCE, timeout=timeout)
        self.destroy(vm)

    def _new(self, vm_id: str, *, vcpu: int, memory: int, pod_id: str) -> Vm:
        rundir = self._config.run / vm_id
        agent = AgentClient(
            self._relay,
            name=vm_id,
            control=rundir / "control.sock",
            stream=rundir / "stream.sock",
            on_exit=lambda process, code: self._observer.process_ended(vm_id, process, code),
            on_oom=lambda process: self._observer.out_of_memory(vm_id, process),
            on_lost=lambda: self._gone.put(vm_id),
        )
        vm = Vm(id=vm_id, vcpu=vcpu, memory=memory, rundir=rundir, agent=agent, pod_id=pod_id, created_at=time.time())
        self._table.add(vm)
        return vm

    def _silence(self, vm: Vm, silent: bool) -> None:
        self._observer.silent(vm, silent=silent)  # which may fail; it is called again then
        self._events.publish("vm", "silent" if silent else "answers", vm.id, vm.pod_id or "")

    def _boot_later(self, vm: Vm) -> None:
        try:
            self._starter.power_on(vm, ())
            with self.changing(vm):
                vm.state = IDLE
        except Exception as error:
            log.error("vm.boot_failed", vm=vm.id, error=str(error), exc_info=not isinstance(error, HyperError))
            self.destroy(vm)

    def _separates(self) -> Separation:
        files = self._boot_files()
        return self._driver.separates(files.kernel, files.initrd)

    def _separate(self, vm: Vm, files: HostFiles) -> None:
        """Choose the user of a VM's process. Errors: HostFault, Busy."""
        separation = files.separation(self._separates())
        if separation is Separation.NAMESPACE:
            vm.mapped = True  # before it has ids: whoever gets some next must see how many these are
            self._table.give_uid(vm, self._config.hypervisor.blocks)
        elif separation is Separation.USER:
            self._table.give_uid(vm, self._config.hypervisor.uids)

    def unmapped(self, source: int) -> str:
        """Tell why a file or directory of the host (a descriptor) cannot be mapped into VMs' user namespaces.

        Empty when it can, and where VMs have none. Errors: HostFault.
        """
        return self._mappings.obstacle(source) if self._separates() is Separation.NAMESPACE else ""

    def _erase(self, vm_id: str, uid: int, disks: Iterable[str]) -> None:
        self._driver.destroy(vm_id)
        failpoint("vm.end.domain_gone")
        for disk in disks:
            self._driver.take_back(Path(disk), uid)
        self._trees.remove(vm_id)
        shutil.rmtree(self._config.run / vm_id, ignore_errors=True)
        failpoint("vm.end.directory_removed")
        self._table.erase(vm_id)
        failpoint("vm.end.row_deleted")

    def _adopt(self, row: VmRow, power: PowerState) -> bool:
        if power == PowerState.SHUTOFF:
            return False
        vm = self._new(row.id, vcpu=row.vcpu, memory=row.memory, pod_id=row.pod_id or "")
        vm.state, vm.created_at = row.state, row.created_at
        if power == PowerState.RUNNING and vm.state == PAUSED:  # the daemon ended while it let the VM go on
            vm.state = ASSOCIATED if vm.pod_id else IDLE
        vm.disks = dict(row.detail.get("disks", {}))
        vm.layers = dict(row.detail.get("layers", {}))
        vm.nics, vm.renamed = list(row.detail.get("nics", [])), dict(row.detail.get("renamed", {}))
        vm.services = list(row.detail.get("services", []))
        vm.services_sure = row.detail.get("services_sure", True)
        vm.spare_disk, vm.uid = row.detail.get("spare_disk", ""), row.detail.get("uid", 0)
        vm.shared, vm.mapped = row.detail.get("shared", False), row.detail.get("mapped", False)
        vm.by_records = row.detail.get("by_records", False)
        vm.shares, vm.volumes = dict(row.detail.get("shares", {})), dict(row.detail.get("volumes", {}))
        vm.images = {name: (path, bool(ro)) for name, (path, ro) in row.detail.get("images", {}).items()}
        if power == PowerState.PAUSED and vm.state in (PAUSED, POOLED):
            vm.connected = False
            return True
        try:
            if power == PowerState.PAUSED:
                # Stopped by something else than us (a full disk): let it go on.
                vm.agent.reach()
                self._driver.resume(vm.id)
            vm.agent.connect(fresh=False, timeout=RECONNECT_TIMEOUT)
        except HyperError as error:
            log.error("vm.not_adopted", vm=vm.id, error=str(error))
            self._table.drop(vm.id)
            return False
        log.info("vm.adopted", vm=vm.id, pod=vm.pod_id)
        return True

    def _should_run(self) -> list[str]:
        return [
            vm.id for vm in self.all() if vm.state in (ASSOCIATED, IDLE) and not (vm.ending or vm.waking or vm.saving)
        ]

    def _on_event(self, event: VmEvent) -> None:
        self._gone.put(event.vm_id)

    def _watch(self) -> None:
        while vm_id := self._gone.get():
            vm = self._table.find(vm_id)
            if vm is None or vm.ending:
                continue
            vm.ending = True  # one of several who tell of it is heard
            words = " / ".join(last_words(vm.rundir / CONSOLE_LOG).splitlines())
            log.warning("vm.gone", vm=vm_id, pod=vm.pod_id, last_words=words)
            self._clean_up_later(vm, by_itself=True)

    def _clean_up_later(self, vm: Vm, *, by_itself: bool) -> None:
        """Clean up in a thread of its own: others may use the pod just now, for long."""

        def work() -> None:
            pause = CLEAN_UP_PAUSE
            while not self._cleaned_up(vm, by_itself=by_itself) and not self._closed.wait(pause):
                pause = min(2 * pause, LONGEST_PAUSE)  # after a close the next daemon does it

        thread = threading.Thread(target=work, name=f"gone-{vm.id}", daemon=True)
        self._cleaners = [*(one for one in self._cleaners if one.is_alive()), thread]
        thread.start()

    def _cleaned_up(self, vm: Vm, *, by_itself: bool) -> bool:
        """Forget a VM that is gone and tell whose it was; return whether that could be done."""
        try:
            self.destroy(vm)
            self._observer.gone(vm, by_itself=by_itself)
            self.pool.taken()
        except HyperError as error:
            log.warning("vm.clean_up_put_off", vm=vm.id, pod=vm.pod_id, error=str(error))
            return False
        except Exception:
            log.exception("vm.clean_up_failed", vm=vm.id, pod=vm.pod_id)
            return False
        return True


def _named_files(vm: Vm) -> list[str]:
    return sorted({name.replace("\0", "") for name in (*vm.shares, *vm.images, *vm.volumes)})
