"""Values of the VM service: a VM that runs, what it boots from, how the API shows it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperd.agent.client import AgentClient
from hyperd.errors import InvalidInput, NotAlive, NotSupported
from hyperd.vm.driver import DiskSpec, NicSpec, Saved, Separation, ShareSpec

SCRATCH_LUN = 0
MAX_LUN = 254
RECONNECT_TIMEOUT = 20.0
BOOTING, IDLE, ASSOCIATED, PAUSED, POOLED = "booting", "idle", "associated", "paused", "pooled"
# What of a VM is in its row.
KEPT = (
    "shared",
    "disks",
    "layers",
    "nics",
    "renamed",
    "services",
    "services_sure",
    "shares",
    "volumes",
    "images",
    "spare_disk",
    "uid",
    "mapped",
    "by_records",
)
HEALTH_TIMEOUT = 5.0
CLONE_TIMEOUT = 30.0  # for the agent of a VM that goes on from a template; milliseconds on an idle machine


@dataclass(frozen=True, kw_only=True)
class BootFiles:
    """What a VM boots from."""

    kernel: Path
    initrd: Path
    has_9p: bool = True  # or else only virtiofs for directories of the host


@dataclass(frozen=True, kw_only=True)
class VmView:
    """A VM as ``GET /list?item=vm`` shows it."""

    id: str
    pod_id: str
    status: str


@dataclass(frozen=True, kw_only=True)
class HostFiles:
    """What of the host a pod's VM is booted with.

    Args:
        shares: directories; what their paths name must stay open during the boot.
        known: what ``Vm.shares`` says of them, by volume.
        foreign: files that are not hyperd's own will be opened, and not only what is bound into a shared directory.
        rooted: files of the host are opened by the VM's process, or may be.
        unmapped: why they cannot be mapped into a user namespace of the VM; empty = they can.
        cache: libvirt's cache mode of the pod's writable disk.

    """

    shares: tuple[ShareSpec, ...] = ()
    known: Mapping[str, dict[str, bool]] = field(default_factory=dict)
    foreign: bool = False
    rooted: bool = False
    unmapped: str = ""
    cache: str = ""

    def require_none(self) -> None:
        """Refuse a VM that has booted already. Errors: NotSupported."""
        if self.shares:
            raise NotSupported(
                "a VM that runs already cannot be given directories of the host",
                details="it gets them when it boots",
                resolution="start the pod without naming a VM",
            )

    def separation(self, best: Separation) -> Separation:
        """Return what process the pod's VM can be, where the host can do ``best``."""
        if not self.rooted or (best is Separation.NAMESPACE and not self.unmapped):
            return best
        return Separation.NONE

    def fits(self, vm: Vm) -> bool:
        """Whether a VM that has booted already is such that its process can open these files."""
        return not vm.uid or not self.rooted or (vm.mapped and not self.unmapped)

    @property
    def any(self) -> bool:
        """Whether a VM of the pool will not do."""
        return bool(self.shares or self.foreign or self.cache not in ("", DiskSpec.cache))


NO_FILES = HostFiles()


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """What a VM is booted with before it waits in the pool.

    Args:
        scratch: a writable disk, which becomes that of the pod; made at the boot.
        layers: of an image that the next pod will probably use, bottom first.
        nics: with addresses that become the pod's.

    """

    scratch: Path | None = None
    layers: tuple[Path, ...] = ()
    nics: tuple[NicSpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A VM that goes on from a saved state.

    Args:
        vcpu, memory: of the one that was saved; MiB.
        disks, layers: as of ``Vm``: with the LUNs that they had, and which of them are mounted layers.
        scratch: the path among ``disks`` that is the pod's writable disk.
        services: the guest's load balancer may have some.

    """

    pod_id: str
    vcpu: int
    memory: int
    disks: Mapping[str, int]
    layers: Mapping[str, int]
    scratch: str
    saved: Saved
    services: bool = False


@dataclass(kw_only=True)
class Vm:
    """A VM that runs.

    ``disks`` maps image files to LUNs; ``layers`` maps layer files to LUNs mounted in the guest. Of volumes, by name:
    ``shares`` says what of the host it has (``readonly``, ``file``): since its boot, or, when it is ``shared``, what
    has been bound into its shared directory (``hyperd.vm.shares``). ``volumes`` says where it is mounted in the guest,
    ``images`` the image file and whether it is read-only.
    ``nics`` are the MAC addresses that the guest uses; ``renamed`` maps such an address to the one that the NIC was
    made with, where that is another.
    ``services`` is what the guest's load balancer has (``hyperd.network.ipvs``), or may have unless ``services_sure``.
    ``uid`` is the user of its process, 0 the daemon's. A VM can be given files of the host if it is the daemon's, or
    ``mapped``: then that user is root of a user namespace of the VM's own, which has ``uid`` and the ids after it.
    ``spare_disk`` is the path of the writable disk of a VM of the pool, also when a pod has it by another name.
    """

    id: str
    vcpu: int
    memory: int
    rundir: Path
    agent: AgentClient
    pod_id: str = ""
    state: str = BOOTING
    created_at: float = 0.0
    disks: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    nics: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    services: list[dict[str, Any]] = field(default_factory=list)
    services_sure: bool = True
    shared: bool = False
    shares: dict[str, dict[str, bool]] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    images: dict[str, tuple[str, bool]] = field(default_factory=dict)
    spare_disk: str = ""
    group: str = ""  # control group of the host that its own shall lie in; not known of one that was adopted
    uid: int = 0
    mapped: bool = False
    ending: bool = False
    hidden: bool = False
    pooled: bool = False  # boots for the pool, where nobody waits for it
    mounted: bool = False  # its writable disk was mounted in the template it went on from
    connected: bool = True
    waking: bool = False  # taken from the pool, and not answering yet
    saving: bool = False  # it stands still for a moment, in which it is written to a file
    by_records: bool = True  # its agent knows them (``hyperd.agent.bulk``)
    carries: bool = False  # its carrier was plugged by this daemon
    carrying: threading.Lock = field(default_factory=threading.Lock)  # whoever uses its carrier has it
    lock: threading.RLock = field(default_factory=threading.RLock)

    def made_as(self, mac: str) -> str:
        """Return the MAC address that the hypervisor knows a NIC by."""
        return self.renamed.get(mac, mac)

    def free_lun(self) -> int:
        """Return a LUN that no disk has. Errors: InvalidInput."""
        used = set(self.disks.values())
        lun = next((n for n in range(1, MAX_LUN + 1) if n not in used), None)
        if lun is None:
            raise InvalidInput(f"the pod needs more disks than a VM can have ({MAX_LUN})")
        return lun


def number_disks(layers: Sequence[Path], scratch: Path | None) -> dict[str, int]:
    """Return the LUN of each disk a VM is booted with. Errors: InvalidInput (too many layers)."""
    luns = {str(path): number for number, path in enumerate(dict.fromkeys(layers), start=1)}
    if len(luns) > MAX_LUN:
        raise InvalidInput(f"{len(luns)} layers are more than a VM can have ({MAX_LUN})")
    if scratch is not None:
        luns[str(scratch)] = SCRATCH_LUN
    return luns


def require_running(vm: Vm | None, pod_id: str) -> Vm:
    """Return the pod's VM if its agent can be asked. Errors: NotAlive."""
    if vm is None:
        raise NotAlive(f"cannot complete the operation, because the pod {pod_id} is not running")
    if vm.state == PAUSED:
        raise NotAlive(f"cannot complete the operation, because the pod {pod_id} is paused")
    return vm


def last_words(path: Path) -> str:
    """Return the end of a console log, for messages."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 600))
            return file.read().decode("utf-8", "replace").strip() or "none"
    except OSError:
        return "none"
