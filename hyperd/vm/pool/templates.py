"""Templates of VMs: a guest is booted once for each shape of VM, and later ones go on from where it stood.

A template is made of a VM that nobody has used, so there is nothing of anybody's in it. What must differ between VMs
is renewed in each before anything else runs there (``renew``). A VM that is given a new writable disk goes on from a
template that has one mounted, with a copy of that one.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import string
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import structlog

from hyperd.agent.plan import Op, Plan
from hyperd.errors import DriverError, HyperError
from hyperd.failpoint import failpoint
from hyperd.vm.driver import DiskSpec, NicSpec, Template, VmDriver, VmSpec
from hyperd.vm.model import SCRATCH_LUN
from hyperd.vm.scratch import make_scratch

log = structlog.get_logger(__name__)

DIRECTORY = "templates"  # below the daemon's root
PREFIX = "tm-"  # of the names of VMs that templates are made of
# Each is the memory that a guest has used when it has booted: 40 MiB of one with 128 MiB.
MAX_TEMPLATES = 6
# MiB. A clone cannot give memory back to the host (``hyperd.vm.libvirt.clone``), which should cost little.
MAX_MEMORY = 512
# After so many in a row that were of no use the daemon boots its VMs until it is started again.
MAX_UNFIT = 3
# So many VMs in a row may be late before their template goes: the host may have too much to do.
MAX_LATE = 8
# Seconds after a VM has booted; the pod it is for starts meanwhile.
_DELAY = 0.7
_ENTROPY = 64
_GIVE_UP = 20.0
# The agent puts it where containers read the UUID of the machine's DMI tables.
_OWN_UUID = "/run/product_uuid"


class UnfitTemplate(DriverError):
    """A VM could not go on from a template."""


class Templates:
    """Keeps templates as files, and makes those that are wanted in a thread of its own.

    Args:
        driver: runs the VMs.
        directory: several daemons may share it.
        run: gets the sockets of the VM a template is made of, whose paths must be short.
        bridge: the only one that the VM a template is made of is ever plugged into; others are not the daemon's.
        dress: prepares the VM that a template with a disk is made of.
        prove: lets a VM go on from a template that was just made, and switches it off; raises what is wrong.
        enabled: False = there are none.

    """

    def __init__(
        self,
        driver: VmDriver,
        directory: Path,
        *,
        run: Path,
        bridge: str,
        dress: Callable[[VmSpec], None],
        prove: Callable[[VmSpec, Template], None],
        enabled: bool,
    ) -> None:
        self._driver = driver
        self._directory = directory
        self._run = run
        self._bridge = bridge
        self._dress = dress
        self._prove = prove
        self._enabled = enabled
        self._unfit = 0
        self._late = 0
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._wanted: SimpleQueue[tuple[VmSpec, int] | None] = SimpleQueue()
        self._asked: set[str] = set()
        self._closed = threading.Event()
        self._vm = ""  # the one that a template is being made of
        self._thread: threading.Thread | None = None

    def find(self, spec: VmSpec, disk: int = 0) -> Template | None:
        """Return the template a VM can go on from, if there is one.

        ``disk``: size in bytes of the new writable disk that the VM shall have; 0 = it has none or a used one.
        """
        key = self._key(spec, disk)
        template = Template(directory=self._directory / key)
        if not key or not template.state.is_file():
            return None
        with contextlib.suppress(OSError):
            os.utime(template.directory)  # the one that was not used for longest goes first
        return template

    def want(self, spec: VmSpec, disk: int = 0) -> None:
        """Let a template be made soon for VMs like this one, unless there is one or it was tried before."""
        key = self._makeable(spec, disk)
        with self._lock:
            if not key or key in self._asked or self._closed.is_set():
                return
            self._asked.add(key)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="vm-templates", daemon=True)
                self._thread.start()
        self._wanted.put((spec, disk))

    def make(self, spec: VmSpec, disk: int = 0) -> Template | None:
        """Return a template for a VM, made now if there is none; None when that does not work."""
        key = self._makeable(spec, disk)
        if not key:
            return self.find(spec, disk)
        with self._making:
            found = self.find(spec, disk)
            if found is not None or self._closed.is_set():
                return found
            with self._lock:
                self._asked.add(key)
            try:
                return self._make(spec, disk, key)
            except (HyperError, OSError) as error:
                log.warning("template.failed", error=str(error))
                return None

    def accept(self) -> None:
        """Tell that a VM has gone on from a template."""
        self._unfit = self._late = 0

    def reject(self, template: Template, *, late: bool = False) -> None:
        """Tell that a VM could not go on from a template, which is removed; too many in a row end the making.

        ``late``: the VM only took too long. The template stays then, unless many VMs in a row were late.
        """
        key = template.directory.name
        with self._lock:
            self._late += late
            if late and self._late < MAX_LATE:
                log.warning("template.late", key=key, count=self._late)
                return
            self._late = 0
            self._unfit += 1
            self._asked.discard(key)
        shutil.rmtree(template.directory, ignore_errors=True)
        log.warning("template.unfit", key=key, count=self._unfit)

    def close(self) -> None:
        """Make no more; one that is being made is given up."""
        self._closed.set()
        self._wanted.put(None)
        if self._vm:
            with contextlib.suppress(HyperError):
                self._driver.destroy(self._vm)
        if self._thread is not None:
            self._thread.join(_GIVE_UP)

    def _key(self, spec: VmSpec, disk: int) -> str:
        if not self._enabled or self._unfit >= MAX_UNFIT or spec.memory > MAX_MEMORY:
            return ""
        try:
            key = self._driver.template_key(spec)
        except OSError:
            return ""  # the kernel is being replaced
        return f"{key}-{disk:x}" if key else ""

    def _makeable(self, spec: VmSpec, disk: int) -> str:
        return self._key(spec, disk) if all(nic.loose or nic.bridge == self._bridge for nic in spec.nics) else ""

    def _work(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            if not self._closed.wait(_DELAY):
                self.make(*wanted)

    def _make(self, spec: VmSpec, disk: int, key: str) -> Template:
        started = time.monotonic()
        self.remove_parts()
        self._tidy()
        self._check_space(spec)
        self._vm = PREFIX + "".join(random.choices(string.ascii_letters, k=8))
        part, rundir = self._directory / f".part-{os.getpid()}-{key}", self._run / self._vm
        try:
            part.mkdir(mode=0o700)
            rundir.mkdir(mode=0o700)
            failpoint("template.make.directories_made")
            ours, template = _nobodys(spec, self._vm, rundir), Template(directory=part)
            if disk:
                make_scratch(template.disk, disk)
                ours = replace(ours, disks=(DiskSpec(lun=SCRATCH_LUN, path=template.disk),))
            self._driver.make_template(ours, template, dress=lambda: self._dress(ours) if disk else None)
            failpoint("template.make.saved")
            self._prove(ours, template)
            failpoint("template.make.proved")
            with contextlib.suppress(OSError):  # another daemon was quicker
                part.rename(self._directory / key)
            failpoint("template.make.named")
        finally:
            self._vm = ""
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(rundir, ignore_errors=True)
        log.info("template.made", key=key, ms=round((time.monotonic() - started) * 1e3))
        return Template(directory=self._directory / key)

    def _check_space(self, spec: VmSpec) -> None:
        """Refuse to fill a file system. Errors: DriverError."""
        free = shutil.disk_usage(self._directory).free
        if free < 2 * spec.memory << 20:
            raise DriverError("There is too little space for a template of a VM", details=f"{free} bytes are free")

    def remove_parts(self) -> None:
        """Remove what daemons that died left half-made; other daemons may be making some now."""
        for part in self._directory.glob(".part-*"):
            maker = part.name.split("-")[1]
            if maker == str(os.getpid()) or not _is_daemon(maker):
                shutil.rmtree(part, ignore_errors=True)

    def _tidy(self) -> None:
        """Remove templates that were not used for long."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = sorted(self._directory.glob("[0-9a-f]*"), key=_used, reverse=True)
        for old in kept[MAX_TEMPLATES - 1 :]:
            shutil.rmtree(old, ignore_errors=True)


def _nobodys(spec: VmSpec, vm_id: str, rundir: Path) -> VmSpec:
    """Describe the VM that a template for others is made of."""
    nics = tuple(
        replace(nic, mac=_mac(number), tap=f"{vm_id}-{number}" if nic.tap else "")
        for number, nic in enumerate(spec.nics)
    )
    shares = tuple(replace(share, path=rundir, descriptor=-1) for share in spec.shares)  # the guest does not look there
    plain = replace(spec, vm_id=vm_id, rundir=rundir, disks=(), nics=nics, shares=shares, template=None)
    return replace(plain, foreign_files=False, uid=0, mapped=False, group="", paused=False, saved=None)


def renew(nics: Sequence[NicSpec]) -> Plan:
    """Return the plan that makes a clone a VM of its own: clock, random numbers, the machine's UUID, MAC addresses."""
    now = time.time_ns()
    plan = Plan().add(Op.TIME, now // 10**9, now % 10**9).add(Op.ENTROPY, os.urandom(_ENTROPY))
    plan.write(_OWN_UUID, f"{uuid.uuid4()}\n", 0o400)
    for number, nic in enumerate(nics):
        plan.add(Op.MAC, _mac(number), nic.mac)
    return plan


def _mac(number: int) -> str:
    """Return the MAC address of a template's NIC: one that no pod has, from QEMU's own range."""
    return f"52:54:00:00:00:{number + 1:02x}"


def _is_daemon(pid: str) -> bool:
    """Tell whether a process is a hyperd: numbers are given again after the host's restart."""
    try:
        return b"hyperd" in Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return False


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
