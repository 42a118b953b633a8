"""The VM driver on libvirt's QEMU driver. The contracts are in ``hyperd.vm.driver``."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

import structlog

from hyperd.capabilities import Holder
from hyperd.config.model import IDS_PER_VM, HypervisorConfig
from hyperd.errors import Conflict, DriverError, HostFault, HyperError, InvalidInput, NotFound, NotSupported, Timeout
from hyperd.failpoint import failpoint
from hyperd.guest.image import find_guest
from hyperd.vm import cgroups, mounts
from hyperd.vm.driver import (
    RESUME_TIMEOUT,
    DiskSpec,
    HypervisorInfo,
    Machine,
    NicSpec,
    PowerState,
    Saved,
    Separation,
    Template,
    VmDriver,
    VmEvent,
    VmEventKind,
    VmSpec,
    VmStats,
    own_shares,
)
from hyperd.vm.libvirt import accel, clone, config, counters, designer, emulator, leftovers
from hyperd.vm.libvirt.calls import Task
from hyperd.vm.libvirt.custody import Custody
from hyperd.vm.libvirt.guest import Guest
from hyperd.vm.libvirt.host import Capabilities, Host
from hyperd.vm.libvirt.memory import Memories
from hyperd.vm.libvirt.reaper import Reaper, read_pid
from hyperd.vm.libvirt.tsc import TscClock
from hyperd.vm.namespaces import keeper

log = structlog.get_logger(__name__)

# Seconds for a killed QEMU to end, and for libvirt to clean up after it.
_DEATH_TIMEOUT = 20.0
# Seconds between attempts to start a VM with the name of one that has just gone.
_REUSE_PAUSES = (0.05, 0.2, 0.5)
# The guest kernel's CONFIG_NR_CPUS.
_KERNEL_CPUS = 64
# nice(2) of a VM that boots for the pool: a third of the share of others. With less it never boots on a busy host.
_YIELDING = 5
_YIELDING_PART = 1 / 3  # the same for its control group, which counts where there is one


@dataclass(frozen=True, kw_only=True)
class _Vm:
    """A VM that has a process. ``pid`` is None when QEMU is not on this host or its pid file is not ours to read."""

    pid: int | None
    sockets: tuple[str, ...]
    user: tuple[int, int] = (0, 0)  # ids of its QEMU's user and group; zeros = the daemon's
    switching: threading.Lock = field(default_factory=threading.Lock)  # one pause or resume at a time


class LibvirtDriver(VmDriver):
    """Runs VMs through libvirt.

    Args:
        settings: the section ``[hypervisor]``.
        root: hyperd's root directory; the embedded driver lives in ``root/libvirt``.

    """

    def __init__(self, settings: HypervisorConfig, root: Path) -> None:
        self._settings = settings
        self._root = root.absolute()
        self._listeners: list[Callable[[VmEvent], None]] = []
        self._events: SimpleQueue[VmEvent | None] = SimpleQueue()
        self._dispatcher: threading.Thread | None = None
        self._lock = threading.Lock()
        self._vms: dict[str, _Vm] = {}
        self._starting: dict[str, bool] = {}  # True = it has stopped already
        self._destroying: set[str] = set()  # until libvirt's event has come
        self._leaving: dict[str, Task[None]] = {}  # libvirt cleans up
        self._left: deque[str] = deque(maxlen=64)  # the last ones that it has cleaned up after
        self._host: Host | None = None
        self._reaper: Reaper | None = None
        self._platform = designer.Platform(accelerator="tcg", root=str(self._root))
        self._machine = ("", Path())  # versions, and QEMU's program
        self._namespaces = False  # whether VMs can have some
        self._custody = Custody(self._root, range(0), accelerator="tcg")
        self._memories = Memories()
        self._groups = cgroups.Groups(self._root)
        self._told_obstacle = ""

    def open(self) -> HypervisorInfo:
        if self._host is not None:
            raise Conflict("The hypervisor is open already")
        wanted = self._settings.accelerator
        if wanted not in {"auto", "kvm", "tcg"}:
            raise InvalidInput("Unknown accelerator", details=wanted, resolution="auto, kvm or tcg")
        tsc = TscClock()  # the sooner the better: it measures a span of time
        directory = self._root / "libvirt"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not self._settings.uri:
                leftovers.remove(directory)
        except OSError as error:
            raise DriverError("Cannot open the hypervisor", details=str(error)) from error
        wrapper = self._wrapper(directory)
        program = str(wrapper.path) if wrapper else self._settings.emulator
        host = Host(
            uri=self._settings.uri,
            emulator=program,
            qemu=wrapper.qemu if wrapper else emulator.find(program) if program else None,
            directory=directory,
            on_event=self._events.put,
            renew=wrapper.write if wrapper else lambda: None,
        )
        known = host.open(("kvm", "tcg") if wanted == "auto" else (wanted,))
        self._host, self._reaper = host, Reaper()
        try:
            version = host.version(next(iter(known.values())).emulator)
            choice = self._choose(known, version)
            self._machine = (version, wrapper.qemu if wrapper else Path(known[choice.accelerator].emulator))
            uids = self._settings.uids if host.embedded else range(0)
            self._custody = Custody(self._root, uids, accelerator=choice.accelerator)
            self._platform = designer.Platform(
                accelerator=choice.accelerator,
                root=str(self._root),
                firmware=designer.find_firmware(),
                emulator=program,
                tsc_khz=tsc.khz() if choice.accelerator == "tcg" and not urlsplit(self._settings.uri).netloc else 0,
                gid=self._custody.gid,
            )
            self._namespaces = wrapper is not None and self._try_out(wrapper)
            limits = self._limit(host)
            self._adopt(host)
            info = HypervisorInfo(
                driver="libvirt",
                accelerator=choice.accelerator,
                reason=choice.reason,
                version=version,
                max_vcpu=min(known[choice.accelerator].max_vcpu, _KERNEL_CPUS),
                limits=limits,
            )
        except BaseException:
            self.close()
            raise
        self._dispatcher = threading.Thread(target=self._dispatch, name="vm-events", daemon=True)
        self._dispatcher.start()
        log.info("hypervisor.open", accelerator=info.accelerator, reason=info.reason, vms=len(self._vms))
        return info

    def _limit(self, host: Host) -> str:
        """Open the control groups of VMs; return for people what they limit."""
        if not host.embedded:
            return "nothing; that is for the libvirt of hypervisor.uri to do"
        if not self._settings.limits:
            return "nothing; hypervisor.limits is off"
        self._groups = cgroups.Groups.of_host(self._root, parent=self._settings.cgroup_parent)
        if self._groups.obstacles:
            log.warning("vm.limits", limited=self._groups.told())
        return self._groups.told()

    def _wrapper(self, directory: Path) -> emulator.Wrapper | None:
        """Return what starts QEMU in user namespaces, None where there can be none."""
        if self._settings.uri or not self._settings.uid_range or os.geteuid() != 0:
            return None
        qemu = emulator.find(self._settings.emulator)
        wrapper = emulator.Wrapper(directory, qemu) if qemu else None
        if not self._settings.blocks:
            reason = f"hypervisor.uid_range has fewer than {2 * IDS_PER_VM} ids"
        elif wrapper is None or not wrapper.usable():
            reason = f"no program can be started from {directory}, or util-linux or QEMU is missing"
        else:
            return wrapper
        log.warning("vm.no_namespaces_of_their_own", reason=reason)
        return None

    def _try_out(self, wrapper: emulator.Wrapper) -> bool:
        obstacle = self._custody.obstacle(wrapper.path)
        if not obstacle:
            self._custody.show(wrapper.path)
            obstacle = wrapper.try_out(self._settings.blocks[0], self._custody.gid)
        if obstacle:
            log.warning("vm.no_namespaces_of_their_own", reason=obstacle)
        return not obstacle

    def _choose(self, known: dict[str, Capabilities], version: str) -> accel.Choice:
        wanted = self._settings.accelerator
        if wanted != "auto":
            return accel.Choice(accelerator=wanted, reason="set in the config")
        if "kvm" not in known:
            return accel.Choice(accelerator="tcg", reason="libvirt knows no KVM on this host")
        if "tcg" not in known:
            return accel.Choice(accelerator="kvm", reason="this QEMU has no TCG")
        return accel.choose(
            guest=self._probe_guest(known["kvm"].emulator),
            emulator_version=version,
            cache=self._root / "libvirt" / "accelerator.json",
        )

    def _probe_guest(self, emulator: str) -> accel.ProbeGuest | None:
        """Return what to try KVM with, None when the guest is not built."""
        kernel, initrd = self._settings.kernel, self._settings.initrd
        if kernel is None or initrd is None:
            try:
                found = find_guest(self._settings.guest_dir or self._root / "guest")
            except NotFound:
                return None
            kernel, initrd = kernel or found.kernel, initrd or found.initrd
        if not kernel.is_file() or not initrd.is_file():
            return None
        return accel.ProbeGuest(emulator=emulator, kernel=kernel, initrd=initrd, firmware=designer.find_firmware())

    def _adopt(self, host: Host) -> None:
        """Know the VMs of an earlier daemon with the same root again."""
        for guest in host.guests():
            with contextlib.suppress(NotFound):  # its QEMU died with the earlier daemon
                live = guest.describe()
                if live.root == str(self._root):
                    if guest.state() is PowerState.PAUSED:
                        clone.end_saving(guest)
                    self._remember(host, guest.name, live.sockets, live.user)
                    if host.embedded and self._vms[guest.name].pid is None:
                        del self._vms[guest.name]  # libvirt has yet to notice that its QEMU is dead
        self._groups.reconcile(self._vms)
        for path in host.log_files():
            if path.stem not in self._vms:
                host.forget_log(path.stem)

    def _remember(self, host: Host, name: str, sockets: tuple[str, ...], user: tuple[int, int]) -> None:
        pidfile = host.pidfile(name)
        pid = read_pid(pidfile) if pidfile is not None else None
        if pid is None or self._reaper is None or not self._reaper.watch(pid, name):
            log.warning("vm.process_unknown", vm=name, pid=pid)
            pid = None
        if pid is not None:
            self._groups.adopt(name, pid)
        with self._lock:
            if self._starting.pop(name, False):
                raise DriverError(f"VM {name} stopped while it started", details="see its console log")
            self._vms[name] = _Vm(pid=pid, sockets=sockets, user=user)

    def close(self) -> None:
        host, self._host = self._host, None
        reaper, self._reaper = self._reaper, None
        dispatcher, self._dispatcher = self._dispatcher, None
        with self._lock:
            leaving = list(self._leaving.values())
        for task in leaving:
            with contextlib.suppress(HyperError):
                task.result(_DEATH_TIMEOUT)
        if host is not None:
            host.close()
        self._groups.close()
        if dispatcher is not None:
            self._events.put(None)
            dispatcher.join(5)
        if reaper is not None:
            reaper.close()
        self._memories.close()
        with self._lock:
            self._vms.clear()
            self._destroying.clear()

    def subscribe(self, listener: Callable[[VmEvent], None]) -> None:
        self._listeners.append(listener)

    def create(self, spec: VmSpec) -> None:
        template = spec.template
        with self._lent(spec) as (held, memory, namespace):
            domain = designer.domain(held, self._platform, namespace)
            if spec.saved is not None:
                self._go_on_from(spec, spec.saved, domain)
                return
            if template is None:
                self._create(spec, domain, paused=spec.paused)
                return

            def go_on(guest: Guest) -> None:
                clone.load(guest, template)
                if not spec.paused:
                    guest.resume(timeout=RESUME_TIMEOUT)

            self._create(spec, clone.clone_domain(domain, memory), paused=True, then=go_on)

    def _go_on_from(self, spec: VmSpec, saved: Saved, domain: config.Domain) -> None:
        machine, own = saved.machine, (self._platform.accelerator, self._machine[0])
        if (machine.accelerator, machine.version) != own:
            raise NotSupported(
                "the VM was saved by another hypervisor",
                details=f"{machine.version} ({machine.accelerator}), and here is {own[1]} ({own[0]})",
                resolution="restore it where the same version runs",
            )

        def go_on(guest: Guest) -> None:
            failpoint("vm.restore.domain_started")
            clone.load_whole(guest, saved)
            failpoint("vm.restore.state_read")

        self._create(spec, clone.saved_domain(domain, saved), paused=True, then=go_on)

    def save(self, vm_id: str, file: int, nics: Sequence[str], *, cancelled: Callable[[], bool]) -> Machine:
        guest = self._guest(vm_id)
        live = guest.describe()
        machine = clone.machine_of(live, nics, accelerator=self._platform.accelerator, version=self._machine[0])
        clone.save_whole(guest, file, cancelled=cancelled)
        return machine

    @contextlib.contextmanager
    def _lent(self, spec: VmSpec) -> Iterator[tuple[VmSpec, Path, Path | None]]:
        """Hold open what a VM that starts in the block finds by descriptors.

        Yield the VM with the ways to them in it, the way to its template's memory, and that to its user namespace.
        """
        memory = spec.template.memory if spec.template else Path()
        descriptors = [share.descriptor for share in spec.shares if share.descriptor >= 0]
        with contextlib.ExitStack() as stack:
            lent = -1
            if spec.uid and spec.template:
                lent = self._memories.lend(memory)
                stack.callback(os.close, lent)
                descriptors.append(lent)
            if not descriptors and not spec.mapped:
                yield spec, memory, None
                return
            user = (spec.uid, self._platform.gid) if spec.uid else None
            holder = stack.enter_context(
                keeper(descriptors, uid=spec.uid) if spec.mapped else Holder(descriptors, user=user)
            )
            shares = tuple(
                replace(share, path=holder.path(share.descriptor)) if share.descriptor >= 0 else share
                for share in spec.shares
            )
            way = holder.path(lent) if lent >= 0 else memory
            yield replace(spec, shares=shares), way, holder.namespace if spec.mapped else None

    def separates(self, kernel: Path, initrd: Path) -> Separation:
        if not self._settings.uid_range or self._settings.uri or os.geteuid() != 0:
            return Separation.NONE
        try:
            obstacle = self._custody.obstacle(kernel, initrd)
        except OSError as error:
            obstacle = str(error)
        if obstacle and obstacle != self._told_obstacle:
            log.warning("vm.no_users_of_their_own", reason=obstacle)
        self._told_obstacle = obstacle
        if obstacle:
            return Separation.NONE
        return Separation.NAMESPACE if self._namespaces else Separation.USER

    def namespace(self, vm_id: str) -> int:
        _, reaper = self._opened()
        with self._lock:
            vm = self._vms.get(vm_id)
        if vm is None or vm.pid is None:
            raise NotFound(f"No process of the VM {vm_id} is known")
        try:
            found = os.open(f"/proc/{vm.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DriverError(f"The user namespace of VM {vm_id} cannot be used", details=str(error)) from error
        if not reaper.lives(vm.pid):  # looked at last: so it was that process's
            os.close(found)
            raise NotFound(f"The VM {vm_id} has ended")
        return found

    def take_back(self, path: Path, uid: int) -> None:
        self._custody.take_back(path, uid)

    def template_key(self, spec: VmSpec) -> str:
        host, _ = self._opened()
        # Elsewhere QEMU may be another user, and its files another host's.
        if not host.embedded or own_shares(spec) or self._platform.accelerator != "tcg":
            return ""
        version, emulator = self._machine
        files = [spec.kernel, spec.initrd, emulator, *filter(Path.is_file, [Path(self._platform.firmware)])]
        return clone.template_key(spec, self._platform, version=version, files=files)

    def make_template(self, spec: VmSpec, template: Template, *, dress: Callable[[], None]) -> None:
        domain = clone.template_domain(designer.domain(spec, self._platform), template)

        host, _ = self._opened()

        def save(guest: Guest) -> None:
            pidfile = host.pidfile(spec.vm_id)
            pid = read_pid(pidfile) if pidfile else None
            if pid is not None:
                _set_nice(pid, _YIELDING)
                self._groups.weigh(spec.vm_id, _YIELDING_PART)
            dress()
            clone.save(guest, template, pid=pid)
            failpoint("template.make.state_saved")

        self._create(spec, domain, paused=False, then=save)
        self.destroy(spec.vm_id)

    def _create(
        self, spec: VmSpec, domain: config.Domain, *, paused: bool, then: Callable[[Guest], None] = lambda _guest: None
    ) -> None:
        """Start a domain and do what is left to do with it; on failure nothing of it is left."""
        host, reaper = self._opened()
        sockets = tuple(channel.path for channel in domain.channels)
        pidfile = host.pidfile(spec.vm_id)
        with self._lock:
            leaving = self._leaving.get(spec.vm_id)
        if leaving is not None:
            leaving.result(_DEATH_TIMEOUT)
        with self._reserve(spec.vm_id):
            if host.find(spec.vm_id) is not None:
                raise Conflict(f"VM {spec.vm_id} exists already")
            self._custody.prepare(spec, self._root / "libvirt" / "lib" / "qemu")
            failpoint("vm.domain.prepared")
            try:
                with self._grouped(spec, pidfile, reaper) as doors:
                    guest = self._define(host, spec, designer.entering(domain, doors), paused=paused)
                    failpoint("vm.domain.started")
                then(guest)
                self._remember(host, spec.vm_id, sockets, (spec.uid, self._platform.gid))
            except BaseException:
                try:
                    self._erase(spec.vm_id, sockets)
                except HyperError:
                    log.exception("vm.undo_failed", vm=spec.vm_id)
                raise
        log.info("vm.created", vm=spec.vm_id, vcpu=spec.vcpu, memory=spec.memory, paused=spec.paused)

    @contextlib.contextmanager
    def _grouped(self, spec: VmSpec, pidfile: Path | None, reaper: Reaper) -> Iterator[tuple[Path, ...]]:
        """Put the QEMU that the block starts, and what serves its shares, into a control group.

        Yield the files by which QEMU can enter it, none where it cannot by itself. Errors: HostFault.
        """
        if pidfile is None:
            yield ()
            return

        def put(pid: int) -> None:
            self._groups.put(spec.vm_id, pid)

        size = cgroups.limits(vcpu=spec.vcpu, memory=spec.memory)
        parent = spec.group if self._follows(spec.vm_id, spec.group, size) else ""
        self._groups.make(spec.vm_id, size, parent=parent)
        failpoint("vm.domain.group_made")
        for share in spec.shares:
            if share.server:
                put(share.server)
        with contextlib.ExitStack() as stack:
            doors = stack.enter_context(self._groups.opened(spec.vm_id, spec.uid)) if spec.mapped else ()
            stack.enter_context(reaper.expecting(pidfile, spec.vm_id, found=None if doors else put))
            yield doors
        if (pid := read_pid(pidfile)) is not None:
            put(pid)  # the reaper may have looked too late, and QEMU may have not entered

    def _follows(self, vm_id: str, group: str, size: cgroups.Limits) -> bool:
        """Return whether a VM can be in a group that was named for it: its kernel would kill QEMU else."""
        if not group or self._groups.fits(group, size):
            return bool(group)
        log.warning("vm.group_too_small", vm=vm_id, group=group, needed=size.memory)
        return False

    def regroup(self, vm_id: str, group: str, *, vcpu: int, memory: int) -> None:
        size = cgroups.limits(vcpu=vcpu, memory=memory)
        if self._follows(vm_id, group, size):
            self._groups.move(vm_id, size, parent=group)

    def _define(self, host: Host, spec: VmSpec, domain: config.Domain, *, paused: bool) -> Guest:
        for pause in _REUSE_PAUSES if spec.vm_id in self._left else ():
            # For some ms libvirt keeps the name of a domain that it does not list any more, and has no call to wait.
            with contextlib.suppress(DriverError):
                return self._start(host, spec, domain, paused=paused)
            time.sleep(pause)
        return self._start(host, spec, domain, paused=paused)

    def _start(self, host: Host, spec: VmSpec, domain: config.Domain, *, paused: bool) -> Guest:
        return host.create(
            domain.xml(),
            paused=paused,
            foreign_files=spec.foreign_files,
            timeout=self._settings.boot_timeout,
            late=lambda: self._erase(spec.vm_id, tuple(channel.path for channel in domain.channels)),
        )

    @contextlib.contextmanager
    def _reserve(self, vm_id: str) -> Iterator[None]:
        with self._lock:
            if vm_id in self._vms or vm_id in self._starting:
                raise Conflict(f"VM {vm_id} exists already")
            self._starting[vm_id] = False
        try:
            yield
        finally:
            with self._lock:
                self._starting.pop(vm_id, None)

    def destroy(self, vm_id: str) -> None:
        with self._lock:
            vm = self._vms.get(vm_id)
            if vm is not None:
                self._destroying.add(vm_id)
        self._erase(vm_id, vm.sockets if vm else ())
        with self._lock:
            self._vms.pop(vm_id, None)

    def _erase(self, vm_id: str, sockets: tuple[str, ...]) -> None:
        """Switch off and clean up, whatever is there of the VM.

        QEMU is killed and reaped before libvirt is asked: then a call that hangs because QEMU does not answer returns,
        and with QEMU its taps and open files are gone. What libvirt has left to do (0.2 s between its looks) is done
        behind us.
        """
        host, reaper = self._opened()
        pidfile = host.pidfile(vm_id)
        with self._lock:
            vm = self._vms.get(vm_id)
        pid = vm.pid if vm else read_pid(pidfile) if pidfile else None
        # Of an earlier daemon that was killed while it started QEMU. Without a process that is QEMU's there is nothing
        # to end, but libvirt may look for a monitor for longer than anybody should wait.
        stray = vm is None and pidfile is not None and host.embedded
        if stray and pid is not None:
            reaper.watch(pid, vm_id)
        killed = pid is not None and reaper.kill(pid)
        failpoint("vm.domain.killed")
        if killed and pid is not None and not reaper.wait(pid, _DEATH_TIMEOUT):
            raise Timeout(f"Cannot destroy VM {vm_id}", details=f"QEMU, process {pid}, does not end after SIGKILL")
        forgetting = self._forget(host, vm_id)
        if not killed and not stray:
            forgetting.result(_DEATH_TIMEOUT)
        for path in sockets:
            Path(path).unlink(missing_ok=True)

    def _forget(self, host: Host, vm_id: str) -> Task[None]:
        """Let libvirt clean up after a VM, in the background."""

        def forget() -> None:
            try:
                guest = host.find(vm_id)
                if guest is not None:
                    guest.destroy()
                host.forget_log(vm_id)
                self._groups.remove(vm_id)
            finally:
                with self._lock:
                    self._left.append(vm_id)
                    self._leaving.pop(vm_id, None)

        with self._lock:
            running = self._leaving.get(vm_id)
            if running is None:
                running = self._leaving[vm_id] = Task(forget, brief=f"Cannot clean up after VM {vm_id}")
                running.start()
        return running

    def pause(self, vm_id: str) -> None:
        guest = self._guest(vm_id)
        self._switch(guest, guest.pause, PowerState.PAUSED)

    def resume(self, vm_id: str, *, timeout: float = RESUME_TIMEOUT) -> None:
        guest = self._guest(vm_id)
        self._switch(guest, lambda: guest.resume(timeout=timeout), PowerState.RUNNING)

    def _switch(self, guest: Guest, switch: Callable[[], None], wanted: PowerState) -> None:
        with self._lock:
            vm = self._vms.get(guest.name)
        with vm.switching if vm else contextlib.nullcontext():
            try:
                switch()
            except (Conflict, DriverError):  # libvirt refuses what is so already
                if guest.state() is not wanted:
                    raise

    def yield_cpu(self, vm_id: str, *, yields: bool) -> None:
        with self._lock:
            vm = self._vms.get(vm_id)
        if vm is None or vm.pid is None or os.geteuid() != 0:
            return  # who is not root could never take it back
        _set_nice(vm.pid, _YIELDING if yields else 0)
        self._groups.weigh(vm_id, _YIELDING_PART if yields else 1.0)

    def attach_disk(self, vm_id: str, disk: DiskSpec) -> None:
        guest = self._guest(vm_id)
        with self._lock:
            vm = self._vms.get(vm_id)
        user = vm.user if vm else (0, 0)
        self._custody.hand_over(disk, user)
        if disk.descriptor < 0:
            guest.attach(designer.disk(disk))
            return
        with contextlib.ExitStack() as stack:
            namespace = self.namespace(vm_id)
            stack.callback(os.close, namespace)
            try:
                file = mounts.clone(disk.descriptor, "", recursive=False, readonly=disk.readonly, namespace=namespace)
            except OSError as error:
                raise HostFault(
                    f"{disk.path} cannot be mapped into a VM", details=error.strerror or str(error)
                ) from error
            stack.callback(os.close, file)
            holder = stack.enter_context(keeper([file], uid=user[0], namespace=namespace))
            guest.attach(designer.disk(replace(disk, path=holder.path(file))))

    def detach_disk(self, vm_id: str, lun: int) -> None:
        guest = self._guest(vm_id)
        found = guest.describe().disks.get(lun)
        if found is None:
            return
        guest.detach(found)
        if lun in guest.describe().disks:
            raise Timeout(f"Cannot detach disk {lun} of VM {vm_id}", details="QEMU has not let it go")

    def attach_nic(self, vm_id: str, nic: NicSpec) -> None:
        self._guest(vm_id).attach(designer.nic(nic))

    def detach_nic(self, vm_id: str, mac: str) -> None:
        guest = self._guest(vm_id)
        found = guest.describe().interfaces.get(mac.lower())
        if found is None:
            return
        if guest.state() is PowerState.PAUSED:
            raise Conflict(
                f"Cannot detach a NIC of VM {vm_id}", details="the VM is paused", resolution="resume it first"
            )
        guest.detach(found)
        if mac.lower() in guest.describe().interfaces:
            raise Timeout(
                f"Cannot detach the NIC {mac} of VM {vm_id}",
                details="the guest has not let it go",
                resolution="destroy the VM if the NIC must go",
            )

    def forward_port(self, vm_id: str, *, protocol: str, host_port: int, address: str, port: int) -> None:
        said = self._guest(vm_id).monitor(f"hostfwd_add {protocol}:0.0.0.0:{host_port}-{address}:{port}")
        if said.strip():  # the command says nothing when it has done its work
            raise DriverError(f"QEMU cannot listen on port {host_port}/{protocol}", details=said.strip()[:200])

    def close_port(self, vm_id: str, *, protocol: str, host_port: int) -> None:
        self._guest(vm_id).monitor(f"hostfwd_remove {protocol}:0.0.0.0:{host_port}")

    def states(self) -> dict[str, PowerState]:
        host, _ = self._opened()
        with self._lock:
            ours = self._vms.keys() - self._destroying
        return {name: state for name, state in host.states().items() if name in ours}

    def stats(self, vm_id: str) -> VmStats:
        guest = self._guest(vm_id)
        with self._lock:
            vm = self._vms.get(vm_id)
        return counters.vm_stats(
            pid=vm.pid if vm else None,
            flat=guest.counters(),
            luns={disk.target: lun for lun, disk in guest.describe().disks.items()},
        )

    def _opened(self) -> tuple[Host, Reaper]:
        host, reaper = self._host, self._reaper
        if host is None or reaper is None:
            raise DriverError("The hypervisor is not open")
        return host, reaper

    def _guest(self, vm_id: str) -> Guest:
        host, _ = self._opened()
        with self._lock:
            if vm_id not in self._vms:
                raise NotFound(f"No such VM: {vm_id}")
        return host.get(vm_id)

    def _dispatch(self) -> None:
        """Clean up after VMs that stopped and tell the listeners; the thread of that."""
        while (event := self._events.get()) is not None:
            try:
                self._stopped(event)
            except Exception:
                log.exception("vm.event_failed", vm=event.vm_id)

    def _stopped(self, event: VmEvent) -> None:
        with self._lock:
            wanted = event.vm_id in self._destroying
            if wanted:
                self._destroying.discard(event.vm_id)
                vm = None  # destroy() removes it; the name may belong to a new VM already
            else:
                vm = self._vms.pop(event.vm_id, None)
                if event.vm_id in self._starting:
                    self._starting[event.vm_id] = True
        if vm is None and not wanted:
            return  # never started, or not ours
        if vm is not None:
            for path in vm.sockets:
                Path(path).unlink(missing_ok=True)
            self._groups.remove(event.vm_id)
        told = VmEvent(event.vm_id, VmEventKind.STOPPED if wanted else event.kind)
        log.info("vm.stopped", vm=told.vm_id, kind=told.kind)
        for listener in list(self._listeners):
            try:
                listener(told)
            except Exception:
                log.exception("vm.listener_failed", vm=told.vm_id)


def _set_nice(pid: int, nice: int) -> None:
    """Set the nice(2) value of a process, as far as that is possible."""
    with contextlib.suppress(OSError):  # it has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), nice)
    with contextlib.suppress(OSError):  # where the kernel groups tasks by session, that is what counts
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))
