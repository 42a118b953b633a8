"""The contract between the VM service and whatever runs virtual machines.

Every method states what holds afterwards and what is undone on failure. Implementations: ``hyperd.vm.libvirt`` and,
for the quick tests, ``hyperd.vm.fake``. All methods may be called from any thread and may block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path

from hyperd.errors import NotFound

# NICs that can be plugged into a VM that booted without.
SPARE_NICS = 2
RESUME_TIMEOUT = 45.0  # seconds; longer than libvirt's own wait for a busy domain, 30
CONTROL_PORT = "hyperd.control.0"
STREAM_PORT = "hyperd.stream.0"

SHARED_TAG = "hyper"  # of the share that every VM has, if any (hyperd.vm.shares)
CONSOLE_LOG = "console.log"  # in a VM's rundir


class PowerState(StrEnum):
    """What the hypervisor says about a VM."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTOFF = "shutoff"


class Separation(IntEnum):
    """How far the process of a VM can be kept from the host and from other VMs."""

    NONE = 0  # it is the daemon's user
    USER = 1  # a user of its own, who can open files of the daemon that are its VM's, and no file of the host
    NAMESPACE = 2  # root of a user namespace of its own, which files of the host can be mapped into


@dataclass(frozen=True, kw_only=True)
class RbdSource:
    """An image in a Ceph cluster that this host's own Ceph configuration gives access to.

    Args:
        name: ``pool/image``.
        monitors: host and port of each; none = the host's configuration.

    """

    name: str
    monitors: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class DiskSpec:
    """A disk on the VM's one virtio-scsi controller.

    Args:
        lun: 0-254; the guest sees it as SCSI device 0:0:0:lun.
        path: image file or device on the host.
        descriptor: the file that ``path`` names, open (O_PATH), where it is not the daemon's and the VM has a user
            namespace: it is mapped into that. -1 = the VM's process can open ``path``.
        fmt: ``raw``, ``qcow2`` or ``vdi``.
        readonly: several VMs may share a read-only image.
        cache: libvirt's cache mode.
        rbd: where the image is instead of ``path``.

    """

    lun: int
    path: Path = Path("/")
    descriptor: int = -1
    fmt: str = "raw"
    readonly: bool = False
    cache: str = "writeback"
    rbd: RbdSource | None = None


@dataclass(frozen=True, kw_only=True)
class NicSpec:
    """A virtio NIC on a host bridge.

    Args:
        mac: the guest finds the NIC by it.
        tap: name of the host's tap device, at most 15 characters.
        bridge: the host bridge; empty = user-mode networking (no bridge, no root).
        mtu: 0 = the bridge's.
        loose: there is a tap, on no bridge.

    """

    mac: str
    tap: str
    bridge: str
    mtu: int = 0
    loose: bool = False


@dataclass(frozen=True, kw_only=True)
class ShareSpec:
    """A directory of the host that the guest can mount. It cannot be plugged later.

    Args:
        tag: 1-31 characters; the guest mounts it by this name.
        socket: where a virtiofsd waits; None = 9p, served by the hypervisor itself. ``server``: its process id.
        path: of 9p: a directory; it may be a link of ``/proc/PID/fd`` that stays open until ``create`` has returned.
        descriptor: of 9p: a directory that this process has open until then, instead of a path; -1 = none.
        readonly: the host refuses every change, whatever the guest asks.

    """

    tag: str
    path: Path = Path("/")
    descriptor: int = -1
    readonly: bool = False
    socket: Path | None = None
    server: int = 0


@dataclass(frozen=True, kw_only=True)
class Template:
    """A guest that has booted and waits for its first host, kept as files that clones share copy-on-write.

    Args:
        directory: holds the files, readable and writable for the hypervisor, though nobody changes them.

    """

    directory: Path

    @property
    def memory(self) -> Path:
        """The guest's memory, as long as that."""
        return self.directory / "memory"

    @property
    def state(self) -> Path:
        """CPUs and devices, in the hypervisor's own format."""
        return self.directory / "state"

    @property
    def disk(self) -> Path:
        """The writable disk that is mounted in the guest, if there is one; a clone needs a copy of it."""
        return self.directory / "disk"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a VM that goes on from a saved state must have in common with the one that was saved.

    Args:
        accelerator: ``kvm`` or ``tcg``.
        version: of hypervisor and library, for people; another one may have other devices.
        ports: how many NICs it has room for.
        places: in which of those places each NIC is, in the order of the NICs.
        cloned: it went on from a template.
        shared: it has the directory that every VM has, if any.

    """

    accelerator: str
    version: str
    ports: int
    places: tuple[int, ...] = ()
    cloned: bool = False
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A VM that stands still as a file: memory, CPUs and devices in the hypervisor's own format.

    Args:
        state: the file.
        machine: of the VM that was saved.

    """

    state: Path
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class VmSpec:
    """Everything needed to boot a VM.

    Args:
        vm_id: ``vm-`` + 10 letters; also the domain's name.
        vcpu: number of virtual CPUs.
        memory: MiB.
        kernel: path of the kernel image.
        initrd: path of the initramfs.
        cmdline: kernel command line additions (the driver adds console and accelerator specific words).
        rundir: existing directory, private to the VM: channel sockets and the console log live in it.
        disks: attached at boot. nics: attached at boot. shares: for the VM's whole life.
        foreign_files: the hypervisor must be able to open and change files of any owner, because a share or a disk
            is not hyperd's own.
        uid: the user whose process the VM is, who owns nothing but its writable disks; 0 = the daemon's user.
        mapped: that user is root of a user namespace, which has the ids from ``uid`` on (``Separation.NAMESPACE``).
        group: control group of the host, in all hierarchies, that the VM's lies in; empty = the daemon's.
        paused: start with the CPUs stopped.
        template: go on from it instead of booting: ``template_key`` must be that of the VM it was made of, whose disk,
            if it had one, must be there as a copy. The guest then still has that VM's MAC address, clock and random
            numbers.
        saved: go on from it instead of booting, with disks on the same LUNs that have the same content. The guest then
            still has what the saved one had, its connection to a host included.

    """

    vm_id: str
    vcpu: int
    memory: int
    kernel: Path
    initrd: Path
    rundir: Path
    cmdline: str = ""
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    shares: tuple[ShareSpec, ...] = ()
    foreign_files: bool = False
    uid: int = 0
    mapped: bool = False
    group: str = ""
    paused: bool = False
    template: Template | None = None
    saved: Saved | None = None

    @property
    def control_socket(self) -> Path:
        """Host side of the agent's control port; the hypervisor listens on it."""
        return self.rundir / "control.sock"

    @property
    def stream_socket(self) -> Path:
        """Host side of the agent's stream port."""
        return self.rundir / "stream.sock"

    @property
    def console_log(self) -> Path:
        """What the guest's kernel and agent print."""
        return self.rundir / CONSOLE_LOG


def own_shares(spec: VmSpec) -> bool:
    """Whether a VM has shares that others of its size have not: it cannot go on from a template."""
    return any(share.tag != SHARED_TAG for share in spec.shares)


@dataclass(frozen=True, kw_only=True)
class HypervisorInfo:
    """What VMs run on, for ``/info``.

    Args:
        driver: ``libvirt`` or ``fake``.
        accelerator: ``kvm``, ``tcg`` or ``fake``.
        reason: why this accelerator (``/dev/kvm does not exist``, ``a guest booted with it``, ``set in the config``).
        version: of hypervisor and library, for people.
        max_vcpu: of one VM.
        limits: what of each VM's processes the host's control groups limit, for people; empty = nothing has processes.

    """

    driver: str
    accelerator: str
    reason: str
    version: str
    max_vcpu: int
    limits: str = ""


@dataclass(frozen=True, kw_only=True)
class VmStats:
    """Counters of a VM as the hypervisor sees it. Times in ns, sizes in bytes."""

    cpu_total: int
    cpu_user: int
    cpu_system: int
    memory_rss: int
    per_cpu: Sequence[int] = ()  # of the virtual CPUs; empty where the hypervisor does not tell
    block: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    network: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class VmEventKind(StrEnum):
    """Why a listener is called."""

    STOPPED = "stopped"  # powered off by itself or by destroy()
    CRASHED = "crashed"  # QEMU died or the guest panicked


@dataclass(frozen=True)
class VmEvent:
    """A change that the driver noticed."""

    vm_id: str
    kind: VmEventKind


class VmDriver(ABC):
    """Runs virtual machines. See the module docstring for the rules.

    ``makes_taps``: its NICs on bridges have taps on this host.
    """

    makes_taps: bool = True

    @abstractmethod
    def open(self) -> HypervisorInfo:
        """Connect to the hypervisor and find out which accelerator works.

        After: every other method may be called; VMs of an earlier daemon with the same root are known again.
        Errors: DriverError when the hypervisor cannot be had; nothing is left open then.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the hypervisor. VMs run on. Calling it twice is fine."""

    @abstractmethod
    def subscribe(self, listener: Callable[[VmEvent], None]) -> None:
        """Call ``listener`` for every VM that stops, from a thread of the driver; the listener must only enqueue."""

    @abstractmethod
    def create(self, spec: VmSpec) -> None:
        """Boot a VM.

        After: the VM runs (or is paused if asked), its sockets accept connections. It says nothing about the agent
        being ready.
        On failure: no process, tap, socket or domain is left. Errors: DriverError; Conflict if the id exists.
        """

    def separates(self, kernel: Path, initrd: Path) -> Separation:  # noqa: ARG002 - for drivers that can
        """Return what processes VMs that boot these files can be (``VmSpec.uid``, ``VmSpec.mapped``)."""
        return Separation.NONE

    def namespace(self, vm_id: str) -> int:
        """Return a descriptor of the user namespace of a VM that has one; the caller closes it.

        Errors: NotFound, DriverError.
        """
        raise NotFound(f"the VM {vm_id} has no user namespace of its own")

    def take_back(self, path: Path, uid: int) -> None:  # noqa: B027 - a driver without users has given nothing away
        """Make the writable disk of a VM that is gone, or has let it go, the daemon's own again.

        Nothing is done to one that is not there or not the user's. Errors: DriverError, HostFault.
        """

    @abstractmethod
    def template_key(self, spec: VmSpec) -> str:
        """Name what VMs that are made of one template have in common, as a hexadecimal digest.

        Disks, the MAC address, the tap and the directory may differ. Empty: such a VM cannot be made of a template.
        """

    @abstractmethod
    def make_template(self, spec: VmSpec, template: Template, *, dress: Callable[[], None]) -> None:
        """Boot a VM until its agent waits, and keep it as a template; the VM is switched off then.

        ``dress`` is called when its sockets accept connections, and does what is to be done in the guest.

        After a failure the VM is gone, files may be left. Errors: DriverError, Timeout.
        """

    @abstractmethod
    def save(self, vm_id: str, file: int, nics: Sequence[str], *, cancelled: Callable[[], bool]) -> Machine:
        """Write memory, CPUs and devices of a paused VM to an open file; its disks are at rest then.

        Args:
            vm_id: the VM; it stays paused, and can be resumed whether this succeeds or not.
            file: descriptor. nics: MAC addresses of its NICs, in the order that ``Machine.places`` shall have.
            cancelled: asked again and again; the saving ends when it says so.

        Errors: NotFound, DriverError, NotSupported (it has what cannot be saved), OutOfSpace, Timeout, Cancelled.

        """

    @abstractmethod
    def destroy(self, vm_id: str) -> None:
        """Switch a VM off at once.

        After: its process is gone, its taps are gone, its sockets are removed; files of its disks stay. An unknown
        id is fine.
        """

    @abstractmethod
    def pause(self, vm_id: str) -> None:
        """Stop the VM's CPUs. A paused VM stays as it is. Errors: NotFound, DriverError."""

    @abstractmethod
    def resume(self, vm_id: str, *, timeout: float = RESUME_TIMEOUT) -> None:
        """Let the CPUs run again, within ``timeout`` seconds; fine for a running VM. Errors: NotFound, DriverError."""

    def yield_cpu(self, vm_id: str, *, yields: bool) -> None:  # noqa: B027 - a driver need not do it
        """Let a VM have only the CPU time that others leave, or as much as others. Best effort: never fails."""

    def regroup(self, vm_id: str, group: str, *, vcpu: int, memory: int) -> None:  # noqa: B027 - nothing has processes
        """Put a VM's processes into a control group that lies in ``group`` (``VmSpec.group``).

        They stay where they are if that one bounds memory at less than a VM of this size (MiB) needs.
        Errors: HostFault, InvalidInput.
        """

    @abstractmethod
    def attach_disk(self, vm_id: str, disk: DiskSpec) -> None:
        """Hot-plug a disk. After: the guest sees it soon (it waits for it). On failure: not attached.

        Errors: NotFound, DriverError.
        """

    @abstractmethod
    def detach_disk(self, vm_id: str, lun: int) -> None:
        """Unplug a disk the guest no longer uses. After: the file is closed by the hypervisor. An empty LUN is fine."""

    @abstractmethod
    def attach_nic(self, vm_id: str, nic: NicSpec) -> None:
        """Hot-plug a NIC. After: the tap exists and is in the bridge. On failure: no tap is left."""

    @abstractmethod
    def detach_nic(self, vm_id: str, mac: str) -> None:
        """Unplug a NIC. After: its tap is gone. An unknown MAC is fine."""

    @abstractmethod
    def forward_port(self, vm_id: str, *, protocol: str, host_port: int, address: str, port: int) -> None:
        """Let the hypervisor of a VM with a user-mode NIC listen on a port of the host.

        Args:
            vm_id: the VM.
            protocol: ``tcp`` or ``udp``.
            host_port: on every IPv4 address of the host.
            address, port: in the guest.

        Errors: NotFound, DriverError (also when the port is in use).

        """

    @abstractmethod
    def close_port(self, vm_id: str, *, protocol: str, host_port: int) -> None:
        """Undo ``forward_port``; a port that is not open is fine. Errors: NotFound, DriverError."""

    @abstractmethod
    def states(self) -> dict[str, PowerState]:
        """Every VM of this driver's root that has a process, by id."""

    @abstractmethod
    def stats(self, vm_id: str) -> VmStats:
        """Counters of a running or paused VM. Errors: NotFound, DriverError."""
