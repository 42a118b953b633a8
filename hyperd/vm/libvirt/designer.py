"""Decides what a VM looks like to libvirt: the policy that fills ``config``'s objects."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyperd.errors import InvalidInput
from hyperd.vm.driver import CONTROL_PORT, SPARE_NICS, STREAM_PORT, DiskSpec, NicSpec, ShareSpec, VmSpec
from hyperd.vm.libvirt import config, emulator

MAX_LUN = 254
DISK_FORMATS = ("raw", "qcow2", "vdi")
# A tap's name must fit the kernel's IFNAMSIZ with its final NUL.
MAX_IFNAME = 15
# PCIe root ports beyond the NICs at boot: each is one NIC that can be plugged later, and about 10 ms of boot under TCG.
SPARE_PORTS = SPARE_NICS
# The functions of a slot that root ports share.
_PORTS_PER_SLOT = 8
_FIRST_PORT_SLOT = 0x10
# MiB. TCG's default is 1 GiB. A booted guest has used 29; a bound of 16 slows the boot by a sixth, one of 32 is free.
TB_CACHE = 64
# Shares sit on bus 0, eight to a slot; slots 6-15 are free for them.
_FIRST_SHARE_SLOT = 6
MAX_SHARES = (_FIRST_PORT_SLOT - _FIRST_SHARE_SLOT) * _PORTS_PER_SLOT
MAX_TAG = 31
# What costs under TCG and brings nothing: five-level page tables make page walks longer, and where the CPU claims quick
# byte-wise string instructions the kernel copies with `rep movsb`, which is emulated byte by byte.
_SLOW_FEATURES = ("la57", "erms", "fsrm")
# In Debian's qemu-system-data. Made for microvm, works with q35 too, boots a little sooner than SeaBIOS.
QBOOT_PATHS = (Path("/usr/share/qemu/qboot.rom"), Path("/usr/share/qemu-firmware/qboot.rom"))
# No calibration that emulation or paravirtualisation makes pointless, no self tests, no probing for absent ports;
# disks are looked for when the agent needs one (asking all 256 targets of the controller takes 80 ms).
_CMDLINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=1"
    " no_timer_check noreplace-smp scsi_mod.scan=manual"
)


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What the host offers.

    Args:
        accelerator: ``kvm`` or ``tcg``.
        root: mark of ownership in the domain's metadata.
        firmware: path of qboot; empty = the machine's default.
        emulator: empty = libvirt's choice.
        tsc_khz: speed of the host's time stamp counter, 0 = not known. An emulated guest reads that counter.
        gid: the group of VMs that have a user of their own.

    """

    accelerator: str
    root: str
    firmware: str = ""
    emulator: str = ""
    tsc_khz: int = 0
    gid: int = 0


def find_firmware() -> str:
    """Return the path of qboot on this host, empty when there is none."""
    return next((str(path) for path in QBOOT_PATHS if path.is_file()), "")


def kernel_cmdline(spec: VmSpec, platform: Platform) -> str:
    """Return the whole kernel command line of a VM."""
    words = _CMDLINE
    if platform.accelerator == "tcg" and spec.vcpu == 1:
        # The calibration takes long under emulation. With two CPUs the timers would get slow.
        words += " noapictimer"
    if platform.accelerator == "tcg" and platform.tsc_khz:
        words += f" tsc_early_khz={platform.tsc_khz}"
    return f"{words} {spec.cmdline}".strip()


def cpu(accelerator: str) -> config.Cpu:
    """Return the CPU: everything the accelerator has, so that images built for newer x86-64 levels run."""
    if accelerator == "kvm":
        return config.Cpu(mode="host-passthrough")
    return config.Cpu(mode="maximum", disabled=_SLOW_FEATURES)


def target_name(lun: int) -> str:
    """Return libvirt's name of a LUN (it must be unique and is not the guest's name): sda, ..., sdz, sdaa, ..."""
    name, rest = "", lun + 1
    while rest:
        rest, letter = divmod(rest - 1, 26)
        name = chr(ord("a") + letter) + name
    return f"sd{name}"


def disk(spec: DiskSpec) -> config.Disk:
    """Return the disk's XML object. Errors: InvalidInput (LUN, format or path out of bounds)."""
    if not 0 <= spec.lun <= MAX_LUN:
        raise InvalidInput("The LUN is out of bounds", details=f"{spec.lun} is not in 0-{MAX_LUN}")
    if spec.fmt not in DISK_FORMATS:
        raise InvalidInput("Unknown disk format", details=spec.fmt, resolution=f"one of {', '.join(DISK_FORMATS)}")
    try:
        block_device = stat.S_ISBLK(spec.path.stat().st_mode)
    except OSError:
        block_device = False  # libvirt or QEMU says what is wrong with it
    return config.Disk(
        lun=spec.lun,
        path=str(spec.path),
        fmt=spec.fmt,
        target=target_name(spec.lun),
        cache=spec.cache,
        block_device=block_device,
        readonly=spec.readonly,
        rbd=spec.rbd.name if spec.rbd else "",
        monitors=spec.rbd.monitors if spec.rbd else (),
        # What the guest frees becomes a hole in the host's file again.
        discard="" if spec.readonly else "unmap",
    )


def nic(spec: NicSpec, port: int = 0) -> config.Interface:
    """Return the XML object of a NIC, behind a certain root port (0 = any). Errors: InvalidInput (the tap's name)."""
    if (spec.bridge or spec.loose) and not 0 < len(spec.tap) <= MAX_IFNAME:
        raise InvalidInput("The tap's name is out of bounds", details=f"{spec.tap!r}: 1-{MAX_IFNAME} characters")
    return config.Interface(
        mac=spec.mac.lower(),
        bridge=spec.bridge,
        tap=spec.tap,
        mtu=spec.mtu,
        loose=spec.loose,
        address=config.PciAddress(slot=0, bus=port) if port else None,
    )


def filesystem(spec: ShareSpec, number: int) -> config.Filesystem:
    """Return the XML object of a VM's share. Errors: InvalidInput (tag, path or number out of bounds)."""
    if not 0 < len(spec.tag) <= MAX_TAG or not spec.path.is_absolute():
        raise InvalidInput("A share is out of bounds", details=f"{spec.tag!r} for {spec.path}")
    if number >= MAX_SHARES:
        raise InvalidInput(f"A VM can have at most {MAX_SHARES} shares")
    slot, function = divmod(number, _PORTS_PER_SLOT)
    address = config.PciAddress(slot=_FIRST_SHARE_SLOT + slot, function=function, multifunction=function == 0)
    daemon = str(spec.socket) if spec.socket else ""
    return config.Filesystem(tag=spec.tag, path=str(spec.path), address=address, readonly=spec.readonly, socket=daemon)


def domain(spec: VmSpec, platform: Platform, namespace: Path | None = None) -> config.Domain:
    """Return the domain of a VM; ``namespace``: the way to its user namespace, None = it has none.

    Never any virtiofs here for later: libvirt 9.0 crashes the process when a virtiofs device is hot-plugged.
    Errors: InvalidInput.
    """
    machine = spec.saved.machine if spec.saved else None
    places = machine.places if machine else (0,) * len(spec.nics)
    return config.Domain(
        virt_type="kvm" if platform.accelerator == "kvm" else "qemu",
        name=spec.vm_id,
        root=platform.root,
        vcpu=spec.vcpu,
        memory=spec.memory,
        kernel=str(spec.kernel),
        initrd=str(spec.initrd),
        cmdline=kernel_cmdline(spec, platform),
        firmware=platform.firmware,
        cpu=cpu(platform.accelerator),
        emulator=platform.emulator,
        console_log=str(spec.console_log),
        tb_cache=TB_CACHE if platform.accelerator == "tcg" else 0,
        channels=(
            config.Channel(name=CONTROL_PORT, path=str(spec.control_socket)),
            config.Channel(name=STREAM_PORT, path=str(spec.stream_socket)),
        ),
        controllers=_controllers(machine.ports if machine else len(spec.nics) + SPARE_PORTS),
        disks=tuple(disk(each) for each in spec.disks),
        interfaces=tuple(nic(each, port) for each, port in zip(spec.nics, places, strict=True)),
        filesystems=tuple(filesystem(each, number) for number, each in enumerate(spec.shares)),
        rng_address=config.PciAddress(slot=4),
        balloon_address=config.PciAddress(slot=5),
        # virtiofsd reads and writes the guest's memory.
        shared_memory=any(share.socket for share in spec.shares),
        user=(spec.uid, platform.gid) if spec.uid else None,
        environment=((emulator.VARIABLE, str(namespace)),) if namespace else (),
    )


def entering(domain: config.Domain, doors: Sequence[Path]) -> config.Domain:
    """Return a domain whose QEMU enters control groups by itself, by files that it can write to; none = as it is."""
    if not doors:
        return domain
    groups = emulator.SEPARATOR.join(map(str, doors))
    return replace(domain, environment=(*domain.environment, (emulator.GROUPS, groups)))


def _controllers(ports: int) -> tuple[config.Controller, ...]:
    """Return the controllers.

    What never leaves sits on bus 0: left to itself libvirt gives every device a root port of its own. NICs get root
    ports, on bus 0 they could not be unplugged.
    """
    fixed = (
        config.Controller(kind="usb", index=0, model="none"),
        config.Controller(kind="pci", index=0, model="pcie-root"),
        config.Controller(kind="virtio-serial", index=0, ports=4, address=config.PciAddress(slot=2)),
        config.Controller(kind="scsi", index=0, model="virtio-scsi", queues=1, address=config.PciAddress(slot=3)),
    )
    return fixed + tuple(_root_port(number) for number in range(ports))


def _root_port(number: int) -> config.Controller:
    slot, function = divmod(number, _PORTS_PER_SLOT)
    address = config.PciAddress(slot=_FIRST_PORT_SLOT + slot, function=function, multifunction=function == 0)
    return config.Controller(kind="pci", index=number + 1, model="pcie-root-port", address=address)
