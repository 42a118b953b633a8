"""Every domain that hyperd can ask for is valid by libvirt's own schema, and says what it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from hyperd.errors import InvalidInput
from hyperd.vm.driver import CONTROL_PORT, STREAM_PORT, DiskSpec, NicSpec, RbdSource, ShareSpec, VmSpec
from hyperd.vm.libvirt import clone, config, designer

SCHEMAS = Path("/usr/share/libvirt/schemas")  # Debian's libvirt0
DISK = DiskSpec(lun=0, path=Path("/images/scratch.raw"))
LAYER = DiskSpec(lun=254, path=Path("/images/layer.sqfs"), readonly=True)
QCOW2 = DiskSpec(lun=3, path=Path("/images/a b&<'\">.qcow2"), fmt="qcow2", cache="none")
VDI = DiskSpec(lun=27, path=Path("/images/volume.vdi"), fmt="vdi", cache="unsafe")
RBD = DiskSpec(lun=5, rbd=RbdSource(name="pool/a b&<'\">", monitors=(("ceph1.test", 6789), ("::1", 3300))))
NIC = NicSpec(mac="52:54:00:AB:CD:EF", tap="tap0", bridge="hyper0")
NIC_MTU = NicSpec(mac="52:54:00:00:00:02", tap="fifteen-letters", bridge="hyper0", mtu=1400)
NIC_USER = NicSpec(mac="52:54:00:00:00:03", tap="", bridge="")
SHARE = ShareSpec(tag="v0123456789abcdef", path=Path("/proc/123/fd/7"))
SHARE_ODD = ShareSpec(tag="t" * 31, path=Path("/srv/a b&<'\">"), readonly=True)

VARIANTS: dict[str, dict[str, object]] = {
    "bare": {},
    "disk": {"disks": (DISK,)},
    "disks": {"disks": (DISK, LAYER, QCOW2, VDI, RBD)},
    "many disks": {"disks": tuple(replace(LAYER, lun=lun) for lun in range(255))},
    "nic": {"nics": (NIC,)},
    "nics": {"nics": (NIC, NIC_MTU, NIC_USER)},
    "ten nics": {"nics": tuple(replace(NIC, mac=f"52:54:00:00:01:{n:02x}", tap=f"tap{n}") for n in range(10))},
    "user nic": {"nics": (NIC_USER,)},
    "share": {"shares": (SHARE,)},
    "shares": {"shares": tuple(replace(SHARE_ODD, tag=f"t{n}") for n in range(designer.MAX_SHARES))},
    "virtiofs": {"shares": (ShareSpec(tag="t0", socket=Path("/run/hyper/fs-1.sock")), SHARE)},
    "cpus": {"vcpu": 8},
    "big": {"vcpu": 64, "memory": 1 << 20},
    "small": {"memory": 48},
    "paused": {"paused": True},
    "user": {"uid": 1_879_048_193},
    "cmdline": {"cmdline": 'a="b c" <&>\''},
    "all": {"disks": (DISK, LAYER), "nics": (NIC, NIC_MTU), "vcpu": 2, "memory": 512, "paused": True},
}
PLATFORMS = {
    "tcg": designer.Platform(accelerator="tcg", root="/var/lib/hyper", firmware="/usr/share/qemu/qboot.rom"),
    "kvm": designer.Platform(accelerator="kvm", root="/var/lib/hyper", firmware="/usr/share/qemu/qboot.rom"),
    "plain": designer.Platform(accelerator="tcg", root="/r", emulator="/opt/qemu/bin/qemu-system-x86_64"),
}


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse(SCHEMAS / "domain.rng"))


def make_spec(**changes: object) -> VmSpec:
    values: dict[str, object] = {
        "vm_id": "vm-abcdefghij",
        "vcpu": 1,
        "memory": 128,
        "kernel": Path("/guest/kernel-minimal"),
        "initrd": Path("/guest/initrd-minimal"),
        "rundir": Path("/run/hyper/vm-abcdefghij"),
    }
    return VmSpec(**{**values, **changes})  # type: ignore[arg-type]


def test_qemu_is_told_of_its_namespace(schema: etree.RelaxNG) -> None:
    spec = make_spec(uid=1_879_113_728, mapped=True, shares=(replace(SHARE, descriptor=9),))
    domain = designer.domain(spec, PLATFORMS["tcg"], Path("/proc/7/ns/user"))
    for each in (domain, clone.clone_domain(domain, Path("/proc/7/fd/3"))):
        node = etree.fromstring(each.xml())
        assert schema.validate(node), schema.error_log
        (found,) = node.iterfind(f"{{{config.QEMU_NS}}}commandline/{{{config.QEMU_NS}}}env")
        assert dict(found.attrib) == {"name": "HYPERD_NAMESPACE", "value": "/proc/7/ns/user"}
    platform = PLATFORMS["tcg"]
    keys = {
        clone.template_key(each, platform, version="1", files=())
        for each in (spec, replace(spec, uid=5), replace(spec, mapped=False, shares=(SHARE,)))
    }
    assert len(keys) == 1  # clones of one template are of all kinds


def tree(spec: VmSpec, accelerator: str = "tcg") -> etree._Element:
    return etree.fromstring(designer.domain(spec, PLATFORMS[accelerator]).xml())


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_domain_is_valid(schema: etree.RelaxNG, variant: str, platform: str) -> None:
    node = tree(make_spec(**VARIANTS[variant]), platform)
    assert schema.validate(node), schema.error_log


def test_schema_refuses_what_is_wrong(schema: etree.RelaxNG) -> None:
    node = tree(make_spec())
    etree.SubElement(node.find("devices"), "nonsense")
    assert not schema.validate(node)


@pytest.mark.parametrize("device", [DISK, LAYER, QCOW2, VDI, RBD, NIC, NIC_MTU, NIC_USER], ids=str)
def test_hot_plugged_device_is_the_same_as_at_boot(schema: etree.RelaxNG, device: DiskSpec | NicSpec) -> None:
    if isinstance(device, DiskSpec):
        alone, spec = designer.disk(device).element(), make_spec(disks=(device,))
    else:
        alone, spec = designer.nic(device).element(), make_spec(nics=(device,))
    text = config.render(alone)
    booted = tree(spec).find(f"devices/{alone.tag}")
    plain = etree.fromstring(text)
    assert etree.tostring(booted, method="c14n", exclusive=True) == etree.tostring(plain, method="c14n", exclusive=True)


def test_block_device_is_told_from_a_file(schema: etree.RelaxNG) -> None:
    # Loop devices exist wherever tests run as root; what counts is the node's type, it is not opened.
    nodes = [path for path in Path("/dev").iterdir() if path.is_block_device()]
    assert nodes, "no block device on this host"
    node = tree(make_spec(disks=(DiskSpec(lun=1, path=nodes[0]),)))
    assert schema.validate(node), schema.error_log
    disk = node.find("devices/disk")
    assert disk.get("type") == "block"
    assert disk.find("source").get("dev") == str(nodes[0])


def test_user_of_its_own(schema: etree.RelaxNG) -> None:
    spec = make_spec(uid=70_001)
    domain = designer.domain(spec, replace(PLATFORMS["tcg"], gid=70_000))
    node = etree.fromstring(domain.xml())
    assert schema.validate(node), schema.error_log
    (label,) = node.iterfind("seclabel")
    assert dict(label.attrib) == {"type": "static", "model": "dac", "relabel": "no"}
    assert label.findtext("label") == "+70001:+70000"
    assert config.parse_live(domain.xml()).user == (70_001, 70_000)
    assert config.parse_live(designer.domain(make_spec(), PLATFORMS["tcg"]).xml()).user == (0, 0)


@pytest.mark.parametrize(
    ("disk", "details"),
    [
        (replace(DISK, lun=-1), "-1"),
        (replace(DISK, lun=255), "255"),
        (replace(DISK, fmt="vmdk"), "vmdk"),
    ],
)
def test_bad_disks_are_refused(disk: DiskSpec, details: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        designer.disk(disk)
    assert details in caught.value.details


def test_shares_are_what_was_asked_for() -> None:
    nodes = tree(make_spec(shares=(SHARE, SHARE_ODD))).findall("devices/filesystem")
    assert [(n.find("source").get("dir"), n.find("target").get("dir")) for n in nodes] == [
        (str(SHARE.path), SHARE.tag),
        (str(SHARE_ODD.path), SHARE_ODD.tag),
    ]
    assert [n.find("readonly") is not None for n in nodes] == [False, True]
    assert {n.get("accessmode") for n in nodes} == {"passthrough"}


def test_virtiofs_needs_shared_memory() -> None:
    node = tree(make_spec(shares=(ShareSpec(tag="t0", socket=Path("/run/hyper/fs-1.sock")),)))
    assert node.find("memoryBacking/access").get("mode") == "shared"
    assert node.find("devices/filesystem/source").get("socket") == "/run/hyper/fs-1.sock"
    assert tree(make_spec(shares=(SHARE,))).find("memoryBacking") is None


def test_devices_have_addresses_of_their_own() -> None:
    shares = tuple(replace(SHARE, tag=f"t{n}") for n in range(designer.MAX_SHARES))
    nics = tuple(replace(NIC, mac=f"52:54:00:00:01:{n:02x}", tap=f"tap{n}") for n in range(10))
    found = [
        (node.get("bus"), node.get("slot"), node.get("function"))
        for node in tree(make_spec(shares=shares, nics=nics)).iterfind("devices//address[@type='pci']")
    ]
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    "share", [replace(SHARE, tag=""), replace(SHARE, tag="t" * 32), replace(SHARE, path=Path("srv"))], ids=str
)
def test_bad_shares_are_refused(share: ShareSpec) -> None:
    with pytest.raises(InvalidInput):
        designer.domain(make_spec(shares=(share,)), PLATFORMS["tcg"])


def test_too_many_shares_are_refused() -> None:
    shares = tuple(replace(SHARE, tag=f"t{n}") for n in range(designer.MAX_SHARES + 1))
    with pytest.raises(InvalidInput):
        designer.domain(make_spec(shares=shares), PLATFORMS["tcg"])


@pytest.mark.parametrize("tap", ["", "sixteen-letters-"])
def test_bad_taps_are_refused(tap: str) -> None:
    with pytest.raises(InvalidInput):
        designer.nic(replace(NIC, tap=tap))


def test_targets_are_unique() -> None:
    names = [designer.target_name(lun) for lun in range(designer.MAX_LUN + 1)]
    assert len(set(names)) == 255
    assert (names[0], names[25], names[26], names[254]) == ("sda", "sdz", "sdaa", "sdiu")


def test_disk_is_found_by_its_lun() -> None:
    disk = tree(make_spec(disks=(LAYER,))).find("devices/disk")
    address = dict(disk.find("address").attrib)
    assert address == {"type": "drive", "controller": "0", "bus": "0", "target": "0", "unit": "254"}
    assert disk.find("readonly") is not None
    assert disk.find("shareable") is not None
    assert disk.find("driver").get("discard") is None
    assert tree(make_spec(disks=(DISK,))).find("devices/disk/driver").get("discard") == "unmap"


def test_ports_of_the_agent() -> None:
    channels = tree(make_spec()).findall("devices/channel")
    assert [(c.find("source").get("path"), c.find("target").get("name")) for c in channels] == [
        ("/run/hyper/vm-abcdefghij/control.sock", CONTROL_PORT),
        ("/run/hyper/vm-abcdefghij/stream.sock", STREAM_PORT),
    ]
    assert {c.find("source").get("mode") for c in channels} == {"bind"}


def test_every_nic_has_a_root_port_and_two_are_spare() -> None:
    for count in (0, 1, 9):
        nics = tuple(replace(NIC, mac=f"52:54:00:00:01:{n:02x}", tap=f"tap{n}") for n in range(count))
        ports = tree(make_spec(nics=nics)).findall("devices/controller[@model='pcie-root-port']")
        addresses = {(p.find("address").get("slot"), p.find("address").get("function")) for p in ports}
        assert len(addresses) == len(ports) == count + 2
        first = [p for p in ports if p.find("address").get("function") == "0x0"]
        assert all(p.find("address").get("multifunction") == "on" for p in first)


def test_user_mode_nic_needs_no_bridge() -> None:
    nic = tree(make_spec(nics=(NIC_USER,))).find("devices/interface")
    assert nic.get("type") == "user"
    assert nic.find("source") is None
    assert nic.find("target") is None


@pytest.mark.parametrize(
    ("accelerator", "vcpu", "there"), [("tcg", 1, True), ("tcg", 2, False), ("kvm", 1, False), ("kvm", 4, False)]
)
def test_apic_timer_is_only_given_up_for_one_emulated_cpu(accelerator: str, vcpu: int, there: bool) -> None:
    words = tree(make_spec(vcpu=vcpu, cmdline="last=1"), accelerator).findtext("os/cmdline").split()
    assert ("noapictimer" in words) is there
    assert words[0] == "console=ttyS0"
    assert words[-1] == "last=1"


def test_cpu_by_accelerator() -> None:
    assert tree(make_spec(), "kvm").find("cpu").get("mode") == "host-passthrough"
    assert tree(make_spec(), "kvm").get("type") == "kvm"
    assert tree(make_spec(), "kvm").find("features/tcg") is None
    assert tree(make_spec(), "tcg").find("cpu").get("mode") == "maximum"
    assert tree(make_spec(), "tcg").get("type") == "qemu"
    assert tree(make_spec(), "tcg").find("features/tcg/tb-cache").text == "64"


def test_what_a_vm_does_not_have() -> None:
    node = tree(make_spec())
    assert node.find("devices/controller[@type='usb']").get("model") == "none"
    assert not node.findall("devices/graphics")
    # libvirt 9.0 crashes the process when virtiofs is hot-plugged.
    assert not node.findall("devices/filesystem")
    assert {node.findtext(f"on_{why}") for why in ("poweroff", "reboot", "crash")} == {"destroy"}


def test_live_xml_is_read_back() -> None:
    spec = make_spec(disks=(DISK, LAYER), nics=(NIC, NIC_USER))
    domain = designer.domain(spec, PLATFORMS["tcg"])
    live = config.parse_live(domain.xml())
    assert live.root == "/var/lib/hyper"
    assert live.sockets == (str(spec.control_socket), str(spec.stream_socket))
    assert {lun: (disk.path, disk.target, disk.readonly) for lun, disk in live.disks.items()} == {
        0: ("/images/scratch.raw", "sda", False),
        254: ("/images/layer.sqfs", "sdiu", True),
    }
    assert {mac: nic.tap for mac, nic in live.interfaces.items()} == {NIC.mac.lower(): "tap0", NIC_USER.mac: ""}


def test_foreign_domain_has_no_root() -> None:
    live = config.parse_live("<domain type='qemu'><name>other</name><devices/></domain>")
    assert live == config.LiveDomain()
