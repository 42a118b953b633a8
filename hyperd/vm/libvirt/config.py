"""libvirt's domain XML as objects. Only conversion lives here, every decision is in ``designer``.

The format is libvirt's "Domain XML format"; tests check each element against libvirt's own RelaxNG schema.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field

METADATA_NS = "https://hyperd.invalid/domain/1"
_METADATA_TAG = f"{{{METADATA_NS}}}vm"
# libvirt's "QEMU driver": "Pass-through of arbitrary QEMU commands".
QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"

ET.register_namespace("hyperd", METADATA_NS)
ET.register_namespace("qemu", QEMU_NS)


def _sub(parent: ET.Element, tag: str, text: str = "", **attributes: str) -> ET.Element:
    node = ET.SubElement(parent, tag, attributes)
    if text:
        node.text = text
    return node


def render(node: ET.Element) -> str:
    """Return an element as text."""
    return ET.tostring(node, encoding="unicode")


@dataclass(frozen=True, kw_only=True)
class PciAddress:
    """A fixed PCI address; ``bus`` 0 is the machine's own, others are behind root ports."""

    slot: int
    function: int = 0
    multifunction: bool = False
    bus: int = 0

    def add_to(self, parent: ET.Element) -> None:
        """Append the ``<address>`` element."""
        node = _sub(
            parent,
            "address",
            type="pci",
            domain="0x0000",
            bus=f"0x{self.bus:02x}",
            slot=f"0x{self.slot:02x}",
            function=f"0x{self.function:x}",
        )
        if self.multifunction:
            node.set("multifunction", "on")


@dataclass(frozen=True, kw_only=True)
class Controller:
    """A ``<controller>``."""

    kind: str
    index: int
    model: str = ""
    queues: int = 0
    ports: int = 0
    address: PciAddress | None = None

    def element(self) -> ET.Element:
        """Return the XML element."""
        node = ET.Element("controller", type=self.kind, index=str(self.index))
        if self.model:
            node.set("model", self.model)
        if self.ports:
            node.set("ports", str(self.ports))
        if self.queues:
            _sub(node, "driver", queues=str(self.queues))
        if self.address:
            self.address.add_to(node)
        return node


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A ``<disk>`` on the virtio-scsi controller 0, target 0."""

    lun: int
    path: str
    fmt: str
    target: str
    cache: str
    block_device: bool = False
    readonly: bool = False
    discard: str = ""
    rbd: str = ""
    monitors: tuple[tuple[str, int], ...] = ()

    def element(self) -> ET.Element:
        """Return the XML element."""
        kind, attribute = ("block", "dev") if self.block_device else ("file", "file")
        if self.rbd:
            kind = "network"
        node = ET.Element("disk", type=kind, device="disk")
        driver = _sub(node, "driver", name="qemu", type=self.fmt, cache=self.cache)
        if self.discard:
            driver.set("discard", self.discard)
        if self.rbd:
            source = _sub(node, "source", protocol="rbd", name=self.rbd)
            for host, port in self.monitors:
                _sub(source, "host", name=host, port=str(port))
        else:
            _sub(node, "source", **{attribute: self.path})
        _sub(node, "target", dev=self.target, bus="scsi")
        if self.readonly:
            _sub(node, "readonly")
            _sub(node, "shareable")
        _sub(node, "address", type="drive", controller="0", bus="0", target="0", unit=str(self.lun))
        return node


@dataclass(frozen=True, kw_only=True)
class Filesystem:
    """A ``<filesystem>``: a directory of the host over virtio-9p, or with ``socket`` over virtiofs."""

    tag: str
    path: str
    address: PciAddress
    readonly: bool = False
    socket: str = ""

    def element(self) -> ET.Element:
        """Return the XML element."""
        if self.socket:
            node = ET.Element("filesystem", type="mount")
            _sub(node, "driver", type="virtiofs", queue="1024")
            _sub(node, "source", socket=self.socket)
            _sub(node, "target", dir=self.tag)
            self.address.add_to(node)
            return node
        # passthrough: the guest sees and sets real owners. remap: inode numbers stay unique across the host's mounts.
        node = ET.Element("filesystem", type="mount", accessmode="passthrough", multidevs="remap")
        _sub(node, "source", dir=self.path)
        _sub(node, "target", dir=self.tag)
        if self.readonly:
            _sub(node, "readonly")
        self.address.add_to(node)
        return node


@dataclass(frozen=True, kw_only=True)
class Interface:
    """An ``<interface>``: on a bridge; without a bridge a ``loose`` tap, or user-mode."""

    mac: str
    bridge: str
    tap: str
    mtu: int = 0
    loose: bool = False
    address: PciAddress | None = None

    def element(self) -> ET.Element:
        """Return the XML element."""
        node = ET.Element("interface", type="bridge" if self.bridge else "ethernet" if self.loose else "user")
        _sub(node, "mac", address=self.mac)
        if self.bridge:
            _sub(node, "source", bridge=self.bridge)
        if self.bridge or self.loose:
            _sub(node, "target", dev=self.tap)
        _sub(node, "model", type="virtio")
        if (self.bridge or self.loose) and self.mtu:
            _sub(node, "mtu", size=str(self.mtu))
        # No option ROM: the guest never boots from the network.
        _sub(node, "rom", enabled="no")
        if self.address:
            self.address.add_to(node)
        return node


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A virtio-serial port that the hypervisor offers as a listening unix socket."""

    name: str
    path: str

    def element(self) -> ET.Element:
        """Return the XML element."""
        node = ET.Element("channel", type="unix")
        _sub(node, "source", mode="bind", path=self.path)
        _sub(node, "target", type="virtio", name=self.name)
        return node


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The ``<cpu>``: its mode, and features switched off."""

    mode: str
    disabled: tuple[str, ...] = ()

    def element(self) -> ET.Element:
        """Return the XML element."""
        node = ET.Element("cpu", mode=self.mode, check="none", migratable="off")
        for name in self.disabled:
            _sub(node, "feature", policy="disable", name=name)
        return node


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A ``<domain>``. Sizes in MiB; ``root`` is kept in the metadata and tells whose VM it is.

    ``emulator_args``: words of QEMU's command line that libvirt has no element for. ``environment``: what is added to
    its environment. ``user``: ids of user and group that QEMU runs as; None = libvirt's default.
    """

    virt_type: str
    name: str
    root: str
    vcpu: int
    memory: int
    kernel: str
    initrd: str
    cmdline: str
    firmware: str
    cpu: Cpu
    emulator: str
    console_log: str
    tb_cache: int = 0
    channels: tuple[Channel, ...] = ()
    controllers: tuple[Controller, ...] = ()
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    rng_address: PciAddress | None = None
    balloon_address: PciAddress | None = None
    disabled_timers: tuple[str, ...] = ()
    shared_memory: bool = False
    emulator_args: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    user: tuple[int, int] | None = None

    def element(self) -> ET.Element:
        """Return the XML element."""
        node = ET.Element("domain", type=self.virt_type)
        _sub(node, "name", self.name)
        _sub(_sub(node, "metadata"), _METADATA_TAG, root=self.root)
        _sub(node, "memory", str(self.memory), unit="MiB")
        if self.shared_memory:
            backing = _sub(node, "memoryBacking")
            _sub(backing, "source", type="memfd")
            _sub(backing, "access", mode="shared")
        _sub(node, "vcpu", str(self.vcpu))
        self._add_os(node)
        self._add_platform(node)
        for action in ("on_poweroff", "on_reboot", "on_crash"):
            _sub(node, action, "destroy")
        self._add_devices(_sub(node, "devices"))
        self._add_user(node)
        if self.emulator_args or self.environment:
            passed = _sub(node, f"{{{QEMU_NS}}}commandline")
            for word in self.emulator_args:
                _sub(passed, f"{{{QEMU_NS}}}arg", value=word)
            for name, value in self.environment:
                _sub(passed, f"{{{QEMU_NS}}}env", name=name, value=value)
        return node

    def xml(self) -> str:
        """Return the domain as text."""
        return render(self.element())

    def _add_user(self, node: ET.Element) -> None:
        if self.user is None:
            _sub(node, "seclabel", type="none")
            return
        # No relabelling: which files are whose is not libvirt's to decide.
        label = _sub(node, "seclabel", type="static", model="dac", relabel="no")
        _sub(label, "label", "+{}:+{}".format(*self.user))

    def _add_os(self, node: ET.Element) -> None:
        part = _sub(node, "os")
        _sub(part, "type", "hvm", arch="x86_64", machine="q35")
        if self.firmware:
            _sub(part, "loader", self.firmware, type="rom")
        _sub(part, "kernel", self.kernel)
        _sub(part, "initrd", self.initrd)
        _sub(part, "cmdline", self.cmdline)

    def _add_platform(self, node: ET.Element) -> None:
        features = _sub(node, "features")
        _sub(features, "acpi")
        _sub(features, "apic")
        _sub(features, "vmport", state="off")
        _sub(features, "smm", state="off")
        if self.tb_cache:
            _sub(_sub(features, "tcg"), "tb-cache", str(self.tb_cache), unit="MiB")
        node.append(self.cpu.element())
        clock = _sub(node, "clock", offset="utc")
        for name in self.disabled_timers:
            _sub(clock, "timer", name=name, present="no")

    def _add_devices(self, devices: ET.Element) -> None:
        if self.emulator:
            _sub(devices, "emulator", self.emulator)
        for disk in self.disks:
            devices.append(disk.element())
        for controller in self.controllers:
            devices.append(controller.element())
        for filesystem in self.filesystems:
            devices.append(filesystem.element())
        for interface in self.interfaces:
            devices.append(interface.element())
        serial = _sub(devices, "serial", type="file")
        _sub(serial, "source", path=self.console_log)
        _sub(serial, "target", port="0")
        for channel in self.channels:
            devices.append(channel.element())
        balloon = _sub(devices, "memballoon", model="virtio" if self.balloon_address else "none")
        if self.balloon_address:
            balloon.set("freePageReporting", "on")
            self.balloon_address.add_to(balloon)
        # pvpanic: otherwise a guest that panics looks like one that powers off.
        _sub(devices, "panic", model="isa")
        rng = _sub(devices, "rng", model="virtio")
        _sub(rng, "backend", "/dev/urandom", model="random")
        if self.rng_address:
            self.rng_address.add_to(rng)


@dataclass(frozen=True, kw_only=True)
class LiveDomain:
    """What hyperd needs to know of a domain that exists: parsed from libvirt's live XML.

    Args:
        root: whose it is; empty = not made by hyperd.
        sockets: paths of its channels.
        disks: by LUN.
        interfaces: by MAC address in lower case; ``tap`` is empty for user-mode NICs.
        user: ids of user and group that were chosen for its QEMU; zeros = none were.
        ports: how many PCIe root ports it has. buses: the PCI bus of each NIC, by MAC address.
        tags: of its shares. arguments: words of QEMU's command line that are hyperd's own.

    """

    root: str = ""
    sockets: tuple[str, ...] = ()
    disks: Mapping[int, Disk] = field(default_factory=dict)
    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    user: tuple[int, int] = (0, 0)
    ports: int = 0
    buses: Mapping[str, int] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def parse_live(text: str) -> LiveDomain:
    """Read a domain's live XML (libvirt's own output, not input from outside)."""
    node = ET.fromstring(text)  # noqa: S314 - made by libvirt from our own XML
    sockets = (_attribute(channel, "source", "path") for channel in node.iterfind("devices/channel[@type='unix']"))
    disks = [_parse_disk(disk) for disk in node.iterfind("devices/disk")]
    interfaces = [_parse_interface(interface) for interface in node.iterfind("devices/interface")]
    return LiveDomain(
        root=_attribute(node, f"metadata/{_METADATA_TAG}", "root"),
        sockets=tuple(path for path in sockets if path),
        disks={disk.lun: disk for disk in disks},
        interfaces={interface.mac: interface for interface in interfaces},
        user=_parse_user(node.findtext("seclabel[@model='dac']/label", "")),
        ports=len(node.findall("devices/controller[@model='pcie-root-port']")),
        buses={
            _attribute(interface, "mac", "address").lower(): int(_attribute(interface, "address", "bus") or "0", 16)
            for interface in node.iterfind("devices/interface")
        },
        tags=tuple(_attribute(one, "target", "dir") for one in node.iterfind("devices/filesystem")),
        arguments=tuple(one.get("value", "") for one in node.iterfind(f"{{{QEMU_NS}}}commandline/{{{QEMU_NS}}}arg")),
    )


def _parse_user(label: str) -> tuple[int, int]:
    uid, _, gid = label.replace("+", "").partition(":")
    return (int(uid), int(gid)) if uid.isdigit() and gid.isdigit() else (0, 0)


def _attribute(node: ET.Element, path: str, name: str) -> str:
    found = node.find(path)
    return "" if found is None else found.get(name, "")


def _parse_disk(node: ET.Element) -> Disk:
    block_device = node.get("type") == "block"
    return Disk(
        lun=int(_attribute(node, "address", "unit") or 0),
        path=_attribute(node, "source", "dev" if block_device else "file"),
        fmt=_attribute(node, "driver", "type"),
        target=_attribute(node, "target", "dev"),
        cache=_attribute(node, "driver", "cache"),
        block_device=block_device,
        readonly=node.find("readonly") is not None,
    )


def _parse_interface(node: ET.Element) -> Interface:
    bridge = _attribute(node, "source", "bridge")
    loose = node.get("type") == "ethernet"
    return Interface(
        mac=_attribute(node, "mac", "address").lower(),
        bridge=bridge,
        tap=_attribute(node, "target", "dev") if bridge or loose else "",
        loose=loose,
    )
