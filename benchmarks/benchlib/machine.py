"""A domain as hyperd gives it to libvirt, written as a plain QEMU command: so the raw guests have what pods have.

Only the policy's outcome is read (libvirt's "Domain XML format"). What is not known here is an error, not left out: a
pod that gets a new device must not be compared with a guest that has none.
"""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from hyperd.config.model import HypervisorConfig
from hyperd.vm.driver import NicSpec, VmSpec
from hyperd.vm.hotplug import disk_of
from hyperd.vm.libvirt import designer
from hyperd.vm.libvirt.tsc import TscClock

# No ACPI tables, no PCI: the least that boots. The timer chip stays: with ``noapictimer`` there is no other.
_MICROVM = "microvm,acpi=off,pit=on,pic=on,rtc=on,x-option-roms=off"
# Of the platform: where QEMU's machine has a switch, and libvirt's element of the same meaning.
_SWITCHES = ("vmport", "smm")
# What is read below, or means nothing to QEMU.
_KNOWN = {
    "name",
    "metadata",
    "memory",
    "memoryBacking",
    "vcpu",
    "os",
    "features",
    "cpu",
    "clock",
    "devices",
    "seclabel",
}
_KNOWN |= {"on_poweroff", "on_reboot", "on_crash"}
_CPU_MODELS = {"maximum": "max", "host-passthrough": "host"}
_TAP = "hyraw"


class UnknownDevice(RuntimeError):
    """Pods have something that the raw guest cannot be given yet."""


def pod_domain(
    kernel: Path, initrd: Path, *, rundir: Path, accelerator: str, disks: tuple[Path, ...] = (), tap: str = ""
) -> ET.Element:
    """Return the domain of a pod's VM of the default size.

    Args:
        kernel: kernel image. initrd: initramfs.
        rundir: where its sockets and its console log will be.
        accelerator: ``kvm`` or ``tcg``.
        disks: the first one is writable.
        tap: of its one NIC.

    """
    settings = HypervisorConfig()
    spec = VmSpec(
        vm_id="vm-raw",
        vcpu=settings.default_vcpu,
        memory=settings.default_memory,
        kernel=kernel,
        initrd=initrd,
        rundir=rundir,
        disks=tuple(disk_of(str(path), lun, scratch=lun == 0) for lun, path in enumerate(disks)),
        nics=(NicSpec(mac="02:00:00:00:00:01", tap=tap, bridge=_TAP, mtu=1500),) if tap else (),
    )
    platform = designer.Platform(
        accelerator=accelerator,
        root=str(rundir),
        firmware=designer.find_firmware(),
        tsc_khz=_tsc_khz() if accelerator == "tcg" else 0,
    )
    return designer.domain(spec, platform).element()


@functools.cache
def _tsc_khz() -> int:
    return TscClock().khz()


def command(domain: ET.Element, *, machine: str) -> list[str]:
    """Return the command line of QEMU.

    Args:
        domain: of ``pod_domain``.
        machine: ``q35`` with all of the domain's devices; ``ports``: the same machine with console and agent's ports
            alone, the least that a kernel boots on that knows virtio over PCI only; ``microvm``: the least of all,
            with the same ports.

    Errors: UnknownDevice.

    """
    for node in domain:
        if node.tag not in _KNOWN:
            raise UnknownDevice(node.tag)
    words = [domain.findtext("devices/emulator") or "qemu-system-x86_64", "-M", _machine(domain, machine)]
    words += [*_accelerator(domain), "-cpu", _cpu(domain)]
    words += [*_memory(domain), "-smp", domain.findtext("vcpu", "1")]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    for option, path in (("-bios", "loader"), ("-kernel", "kernel"), ("-initrd", "initrd"), ("-append", "cmdline")):
        if text := domain.findtext(f"os/{path}"):
            words += [option, text]
    console = domain.find("devices/serial/source[@path]")
    if console is not None:
        words += ["-serial", f"file:{console.get('path')}"]
    words += _ports(domain, "virtio-serial-device" if machine == "microvm" else "virtio-serial-pci")
    return words + list(_devices(domain)) if machine == "q35" else words


def _machine(domain: ET.Element, machine: str) -> str:
    if machine == "microvm":
        return _MICROVM
    words = [_attribute(domain, "os/type", "machine")]
    words += [f"{name}={state}" for name in _SWITCHES if (state := _attribute(domain, f"features/{name}", "state"))]
    for timer in domain.iterfind("clock/timer"):
        if timer.get("name") != "hpet":
            raise UnknownDevice(f"the timer {timer.get('name')}")
        words.append("hpet=off" if timer.get("present") == "no" else "hpet=on")
    return ",".join(words)


def _accelerator(domain: ET.Element) -> list[str]:
    if domain.get("type") == "kvm":
        return ["-accel", "kvm"]
    size = domain.findtext("features/tcg/tb-cache")
    return ["-accel", f"tcg,tb-size={size}" if size else "tcg"]


def _memory(domain: ET.Element) -> list[str]:
    size = domain.findtext("memory", "0")
    if domain.find("memoryBacking") is None:
        return ["-m", size]
    if _attribute(domain, "memoryBacking/source", "type") != "memfd":
        raise UnknownDevice("the memory")
    share = "on" if _attribute(domain, "memoryBacking/access", "mode") == "shared" else "off"
    backend = f"memory-backend-memfd,id=ram,size={size}M,share={share}"
    return ["-m", size, "-object", backend, "-machine", "memory-backend=ram"]


def _cpu(domain: ET.Element) -> str:
    node = domain.find("cpu")
    if node is None:
        raise UnknownDevice("no CPU")
    features = [f"{feature.get('name')}=off" for feature in node if feature.get("policy") == "disable"]
    if len(features) != len(node):
        raise UnknownDevice(f"a CPU with {ET.tostring(node, encoding='unicode')}")
    return ",".join([_CPU_MODELS[node.get("mode", "")], f"migratable={node.get('migratable', 'on')}", *features])


def _ports(domain: ET.Element, driver: str) -> list[str]:
    """Return the agent's ports and what they hang on."""
    controller = domain.find("devices/controller[@type='virtio-serial']")
    if controller is None:
        raise UnknownDevice("no controller of the agent's ports")
    place = "" if driver == "virtio-serial-device" else _address(controller)
    words = ["-device", f"{driver},id=ports,max_ports={controller.get('ports', '31')}{place}"]
    for number, channel in enumerate(domain.iterfind("devices/channel"), start=1):
        path, name = _attribute(channel, "source", "path"), _attribute(channel, "target", "name")
        words += ["-chardev", f"socket,id=c{number},path={path},server=on,wait=off"]
        words += ["-device", f"virtserialport,bus=ports.0,chardev=c{number},name={name},nr={number}"]
    return words


def _devices(domain: ET.Element) -> Iterator[str]:
    """Yield everything but console and ports, controllers before what hangs on them."""
    known = {
        "controller": _controller,
        "disk": _disk,
        "interface": _interface,
        "memballoon": _balloon,
        "panic": lambda _node: iter(("-device", "pvpanic")),
        "rng": _rng,
    }
    nodes = [node for node in domain.iterfind("devices/*") if node.tag not in ("emulator", "serial", "channel")]
    for node in sorted(nodes, key=lambda node: node.tag != "controller"):
        if node.tag not in known:
            raise UnknownDevice(f"the device {node.tag}")
        yield from known[node.tag](node)


def _controller(node: ET.Element) -> Iterator[str]:
    kind, index = node.get("type", ""), int(node.get("index", "0"))
    model = node.get("model", "")
    if kind == "virtio-serial" or model in ("none", "pcie-root"):
        return
    if model == "pcie-root-port":
        slot, function = _place(node)
        port = f"chassis={index},port={slot * 8 + function}"  # as libvirt numbers them
        yield from ("-device", f"pcie-root-port,id=pci.{index},{port}{_address(node)}")
    elif model == "virtio-scsi":
        queues = _attribute(node, "driver", "queues")
        count = f",num_queues={queues}" if queues else ""
        yield from ("-device", f"virtio-scsi-pci,id=scsi{index}{count}{_address(node)}")
    else:
        raise UnknownDevice(f"the controller {kind} {model}")


def _disk(node: ET.Element) -> Iterator[str]:
    lun, driver = _attribute(node, "address", "unit"), node.find("driver")
    if driver is None or node.get("type") != "file":
        raise UnknownDevice(f"the disk {ET.tostring(node, encoding='unicode')}")
    readonly = "on" if node.find("readonly") is not None else "off"
    discard = f",discard={driver.get('discard')}" if driver.get("discard") else ""
    drive = f"if=none,id=d{lun},format={driver.get('type')},cache={driver.get('cache')},readonly={readonly}{discard}"
    yield from ("-drive", f"{drive},file={_attribute(node, 'source', 'file')}")
    share = ",share-rw=on" if node.find("shareable") is not None else ""
    yield from ("-device", f"scsi-hd,bus=scsi0.0,channel=0,scsi-id=0,lun={lun},drive=d{lun}{share}")


def _interface(node: ET.Element) -> Iterator[str]:
    """Yield a NIC on the first root port, as libvirt places it; the tap is in no bridge."""
    mac, mtu = _attribute(node, "mac", "address"), _attribute(node, "mtu", "size")
    yield from ("-netdev", f"tap,id=n0,ifname={_attribute(node, 'target', 'dev')},script=no,downscript=no")
    size = f",host_mtu={mtu}" if mtu else ""
    rom = ",romfile=" if _attribute(node, "rom", "enabled") == "no" else ""
    yield from ("-device", f"virtio-net-pci,netdev=n0,bus=pci.1,addr=0,mac={mac}{size}{rom}")


def _balloon(node: ET.Element) -> Iterator[str]:
    if node.get("model") != "none":
        reporting = node.get("freePageReporting", "off")
        yield from ("-device", f"virtio-balloon-pci,free-page-reporting={reporting}{_address(node)}")


def _rng(node: ET.Element) -> Iterator[str]:
    yield from ("-object", f"rng-random,id=rng0,filename={node.findtext('backend')}")
    yield from ("-device", f"virtio-rng-pci,rng=rng0{_address(node)}")


def _place(node: ET.Element) -> tuple[int, int]:
    return int(_attribute(node, "address", "slot"), 16), int(_attribute(node, "address", "function"), 16)


def _address(node: ET.Element) -> str:
    """Return the PCI address as further properties of a device, nothing where it has none."""
    if node.find("address[@type='pci']") is None:
        return ""
    slot, function = _place(node)
    many = ",multifunction=on" if _attribute(node, "address", "multifunction") == "on" else ""
    return f",bus=pcie.0,addr={slot:#x}.{function:#x}{many}"


def _attribute(node: ET.Element, path: str, name: str) -> str:
    found = node.find(path)
    return "" if found is None else found.get(name, "")
