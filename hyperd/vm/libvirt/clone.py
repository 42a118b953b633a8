"""Templates: a booted guest kept as files, and VMs that go on from it instead of booting.

The guest's memory is a file that clones map privately, so that they share every page they have not written to. CPUs
and devices are QEMU's migration stream without the memory (``x-ignore-shared``), read back by ``-incoming``. libvirt
knows nothing of it: to it a clone is a VM that was started with its CPUs stopped. A VM that is saved with its memory
(``save_whole``) comes back the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from hyperd.errors import Cancelled, DriverError, HyperError, NotSupported, OutOfSpace, Timeout
from hyperd.vm.driver import SHARED_TAG, Machine, Saved, Template, VmSpec
from hyperd.vm.libvirt import config, designer
from hyperd.vm.libvirt.guest import Guest

log = structlog.get_logger(__name__)

# Name of the memory in QEMU, and so in the stream.
_MEMORY = "template"
# Seconds. Reading a state takes 10 ms on an idle machine.
LOAD_TIMEOUT = 20.0
SAVE_TIMEOUT = 60.0
WHOLE_TIMEOUT = 1800.0  # with the memory, which may be large
MIN_LEFT = 1 << 20  # bytes that a file system has free that is not full
_UNLIMITED = 1 << 40  # bytes a second
_NO_REASON = "its reason is in the VM's file in libvirt/log/qemu, below the daemon's directory"
_MOVING = ("setup", "active", "device", "pre-switchover", "cancelling")
# Between two looks at what QEMU is doing: it tells by events, which only libvirt hears.
_POLL = 0.002
# A guest is at rest when QEMU has used less than this much CPU (seconds) in an interval (seconds).
_REST_CPU, _REST_INTERVAL, _REST_TIMEOUT = 0.011, 0.1, 10.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NOBODYS_NIC = "52:54:00:00:00:00"
# A NIC whose state says that its guest can announce itself loses its timer with ``announce_rounds=0``, and QEMU (7.2)
# crashes when the guest resets it, which it does when the NIC is unplugged (virtio_net_reset in hw/net/virtio-net.c).
_NO_ANNOUNCEMENTS = ("-global", "virtio-net-pci.guest_announce=off")


def template_key(spec: VmSpec, platform: designer.Platform, *, version: str, files: Iterable[Path]) -> str:
    """Return the digest of everything a template and its clones have in common.

    Args:
        spec: of any of them.
        platform: of the host.
        version: of hypervisor and library.
        files: what the guest and the emulated machine are made of, QEMU included; a changed one makes another template.

    A template does not outlive the host's boot: what was being written when the power failed may be anything.

    """
    # To the guest a tap is a tap, wherever it is plugged into.
    nics = tuple(
        replace(nic, mac=_NOBODYS_NIC, tap="tap", bridge="bridge" if nic.bridge or nic.loose else "", loose=False)
        for nic in spec.nics
    )
    shares = tuple(replace(share, path=Path("/"), descriptor=-1) for share in spec.shares)
    common = replace(spec, vm_id="vm", rundir=Path("/"), disks=(), nics=nics, shares=shares, paused=False)
    common = replace(common, foreign_files=False, uid=0, mapped=False, saved=None)
    # The emulator may be a script that lies in the daemon's root: the program that it becomes is one of the files.
    domain = designer.domain(replace(common, template=None), replace(platform, root="", emulator=""))
    digest = hashlib.sha256(domain.xml().encode())
    for path in files:
        info = path.stat()
        digest.update(f"{path} {info.st_dev} {info.st_ino} {info.st_size} {info.st_mtime_ns}\n".encode())
    digest.update(" ".join((*_NO_ANNOUNCEMENTS, version)).encode() + _BOOT_ID.read_bytes())
    return digest.hexdigest()[:40]


def template_domain(domain: config.Domain, template: Template) -> config.Domain:
    """Return the domain whose guest becomes a template."""
    return _on_file(domain, template.memory, shared=True)


def clone_domain(domain: config.Domain, memory: Path) -> config.Domain:
    """Return the domain that goes on from a template, whose memory QEMU finds at ``memory``."""
    made = _on_file(domain, memory, shared=False)
    return replace(made, emulator_args=(*made.emulator_args, "-incoming", "defer"))


def saved_domain(domain: config.Domain, saved: Saved) -> config.Domain:
    """Return the domain that goes on from a saved state.

    One that went on from a template has its memory by the template's name, and the NICs that clones have.
    """
    incoming = ("-incoming", "defer")
    if not saved.machine.cloned:
        return replace(domain, emulator_args=(*domain.emulator_args, *incoming))
    memory = f"memory-backend-ram,id={_MEMORY},size={domain.memory}M"
    return replace(domain, balloon_address=None, emulator_args=(*_backed(memory), *incoming))


def machine_of(live: config.LiveDomain, nics: Sequence[str], *, accelerator: str, version: str) -> Machine:
    """Return what the successor of a VM must have in common with it. Errors: NotSupported."""
    strange = [tag for tag in live.tags if tag != SHARED_TAG]
    if strange:
        raise NotSupported("a VM with directories of the host that it was booted with cannot be saved")
    return Machine(
        accelerator=accelerator,
        version=version,
        ports=live.ports,
        places=_places(live, nics),
        cloned=f"memory-backend={_MEMORY}" in live.arguments,
        shared=SHARED_TAG in live.tags,
    )


def _places(live: config.LiveDomain, nics: Sequence[str]) -> tuple[int, ...]:
    """Return the buses of NICs. The only one may have got another address in the guest than libvirt knows."""
    if len(nics) == len(live.buses) == 1:
        return tuple(live.buses.values())
    try:
        return tuple(live.buses[mac.lower()] for mac in nics)
    except KeyError as error:
        raise NotSupported("a VM whose NICs have other addresses cannot be saved", details=str(error)) from error


def _on_file(domain: config.Domain, file: Path, *, shared: bool) -> config.Domain:
    """Let a file be the guest's memory.

    No balloon: with it a guest could have pages discarded, which QEMU does by making holes in the file, under all
    clones.
    """
    memory = (
        f"memory-backend-file,id={_MEMORY},size={domain.memory}M,mem-path={_escaped(file)}"
        f",share={'on' if shared else 'off'}"
    )
    return replace(domain, balloon_address=None, emulator_args=_backed(memory))


def _backed(memory: str) -> tuple[str, ...]:
    return ("-object", memory, "-machine", f"memory-backend={_MEMORY}", *_NO_ANNOUNCEMENTS)


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")  # QEMU's rule for values of options


def save(guest: Guest, template: Template, *, pid: int | None) -> None:
    """Stop a guest that is at rest and write its state. It cannot go on afterwards.

    Args:
        guest: booted with ``template_domain``; nobody is connected to its agent.
        template: where the state goes.
        pid: of its QEMU.

    Errors: DriverError, Timeout.

    """
    _wait(lambda: _listens(guest), "the agent opens its ports", SAVE_TIMEOUT)
    if pid is not None:
        _rest(pid)
    guest.pause()
    _ignore_memory(guest)
    with template.state.open("wb") as file:
        guest.command("getfd", files=[file.fileno()], fdname="state")
        guest.command("migrate", uri="fd:state")
        _wait(lambda: _saved(guest), "the state is written", SAVE_TIMEOUT)
        os.fsync(file.fileno())


def load(guest: Guest, template: Template) -> None:
    """Give a VM that was started with ``clone_domain`` and stopped CPUs the template's state.

    Errors: DriverError, Timeout.
    """
    _ignore_memory(guest)
    # Or else the host would tell the network of a MAC address that is the template's.
    guest.command("migrate-set-parameters", announce_rounds=0)
    with template.state.open("rb") as file:
        guest.command("getfd", files=[file.fileno()], fdname="state")
        guest.command("migrate-incoming", uri="fd:state")
    _wait(lambda: guest.command("query-status")["status"] != "inmigrate", "the state is read", LOAD_TIMEOUT)


def save_whole(guest: Guest, file: int, *, cancelled: Callable[[], bool]) -> None:
    """Write a paused VM with its memory to an open file; it can go on afterwards.

    Errors: DriverError, NotSupported, OutOfSpace, Timeout, Cancelled.
    """
    _ignore_memory(guest, ignore=False)
    guest.command("migrate-set-parameters", max_bandwidth=_UNLIMITED)
    guest.command("getfd", files=[file], fdname="state")
    try:
        guest.command("migrate", uri="fd:state")
    except DriverError as error:
        with contextlib.suppress(HyperError):
            guest.command("closefd", fdname="state")
        raise NotSupported("the VM cannot be saved as it is", details=error.details) from error
    try:
        _wait(lambda: _saved(guest) or _ask(cancelled), "the state is written", WHOLE_TIMEOUT)
        os.fsync(file)
    except BaseException as error:
        guest.command("migrate_cancel")
        _wait(lambda: not _active(guest), "the saving has ended", SAVE_TIMEOUT)
        room = os.fstatvfs(file)
        if isinstance(error, DriverError | OSError) and room.f_bavail * room.f_frsize < MIN_LEFT:
            raise OutOfSpace("there is no room for the VM's memory", details=str(error)) from error
        raise


def load_whole(guest: Guest, saved: Saved) -> None:
    """Give a VM that was started with ``saved_domain`` and stopped CPUs the saved state. Errors: DriverError, Timeout.

    QEMU ends when the state is not one of its machine; it says so in libvirt's log.
    """
    with saved.state.open("rb") as file:
        guest.command("getfd", files=[file.fileno()], fdname="state")
        guest.command("migrate-incoming", uri="fd:state")
    _wait(lambda: guest.command("query-status")["status"] != "inmigrate", "the state is read", WHOLE_TIMEOUT)


def end_saving(guest: Guest) -> None:
    """End a saving that an earlier daemon has begun: the VM would stop when it is done. Errors: DriverError."""
    if _active(guest):
        guest.command("migrate_cancel")
        _wait(lambda: not _active(guest), "the saving has ended", SAVE_TIMEOUT)


def _active(guest: Guest) -> bool:
    return guest.command("query-migrate").get("status") in _MOVING


def _ask(cancelled: Callable[[], bool]) -> bool:
    if cancelled():
        raise Cancelled("the saving of a VM was given up")
    return False


def _ignore_memory(guest: Guest, *, ignore: bool = True) -> None:
    guest.command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": ignore}])


def _listens(guest: Guest) -> bool:
    ports = [port for port in guest.command("query-chardev") if port["label"].startswith("charchannel")]
    return bool(ports) and all(port["frontend-open"] for port in ports)


def _saved(guest: Guest) -> bool:
    status = guest.command("query-migrate")
    if status.get("status") in {"failed", "cancelled"}:
        raise DriverError("QEMU could not save a VM's state", details=str(status.get("error-desc") or _NO_REASON))
    return bool(status.get("status") == "completed")


def _rest(pid: int) -> None:
    """Wait until a guest has nothing to do; what it is busy with each clone would do again."""
    end = time.monotonic() + _REST_TIMEOUT
    used = _cpu(pid)
    while time.monotonic() < end:
        time.sleep(_REST_INTERVAL)  # the interval that is measured
        before, used = used, _cpu(pid)
        if used - before < _REST_CPU:
            return


def _cpu(pid: int) -> float:
    """Return the CPU time a process has used, seconds (proc(5), ``schedstat`` of its threads)."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        total += int(path.read_text().split()[0])
    return total / 1e9


def _wait(ready: Callable[[], bool], what: str, timeout: float) -> None:
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() >= end:
            raise Timeout(f"Waited {timeout:g} s until {what}", details="QEMU or the guest hangs")
        time.sleep(_POLL)
