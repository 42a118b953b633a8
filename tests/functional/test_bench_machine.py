"""The raw guests of the benchmark have the machine that libvirt makes for pods, by libvirt's own translation."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchlib.machine import UnknownDevice, command, pod_domain

# libvirt's loop must run, and is one per process: so this is one of its own.
TRANSLATE = """
import sys
from pathlib import Path
import libvirt
from hyperd.vm.libvirt.host import qemu_conf, start_event_loop
root = Path(sys.argv[1])
(root / "etc").mkdir()
(root / "etc/qemu.conf").write_text(qemu_conf(privileged=True))
start_event_loop()
connection = libvirt.open(f"qemu:///embed?root={root}")
print(connection.domainXMLToNative("qemu-argv", sys.stdin.read(), 0))
connection.close()
"""
# Of the machine: what libvirt says beside, which changes nothing in the guest.
INDIFFERENT = {"usb", "dump-guest-core", "memory-backend"}


@pytest.fixture
def pod(tmp_path: Path) -> ET.Element:
    kernel, initrd, *disks = files = [tmp_path / name for name in ("kernel", "initrd", "scratch", "layer")]
    for file in files:
        file.touch()
    return pod_domain(kernel, initrd, rundir=tmp_path, accelerator="tcg", disks=tuple(disks), tap="hyrawt")


def options(words: list[str]) -> dict[str, list[str]]:
    """Every option with its values; those without a value have an empty one."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("-"):
            name = word
            found.setdefault(name, []).append("")
        elif name:
            found[name][-1] = word
    return found


def devices(values: list[str]) -> Iterator[tuple[str, str, str]]:
    """Driver, bus and address of each; the serial console and names of buses that each side chooses are left out."""
    for value in values:
        if value.startswith("{"):
            fields = {key: str(each) for key, each in json.loads(value).items()}
        else:
            driver, *rest = value.split(",")
            fields = {"driver": driver, **dict(word.partition("=")[::2] for word in rest)}
        slot, _, function = fields.get("addr", "").partition(".")
        place = f"{int(slot, 0):x}.{int(function or '0', 0):x}" if slot else fields.get("lun", fields.get("nr", ""))
        if fields["driver"] != "isa-serial":
            yield fields["driver"], fields["bus"] if "addr" in fields else "", place


@pytest.mark.root
def test_raw_guest_has_what_libvirt_gives_a_pod(pod: ET.Element) -> None:
    with tempfile.TemporaryDirectory(prefix="hy", dir="/tmp") as root:  # short: QEMU's sockets are below it
        done = subprocess.run(
            [sys.executable, "-c", TRANSLATE, root],
            input=ET.tostring(pod, encoding="unicode"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    theirs = options(shlex.split(done.stdout))
    ours = options(command(pod, machine="q35"))
    for name in ("-accel", "-cpu", "-m", "-bios", "-kernel", "-initrd", "-append"):
        assert ours.get(name) == theirs.get(name), name
    assert sorted(devices(ours["-device"])) == sorted(devices(theirs["-device"]))
    machine, *switches = ours["-M"][0].split(",")
    said = dict(word.partition("=")[::2] for word in theirs["-machine"][0].split(",")[1:])
    assert machine in theirs["-machine"][0]
    assert set(switches) == {f"{key}={value}" for key, value in said.items() if key not in INDIFFERENT}


def test_floor_has_cpu_memory_and_words_of_a_pod(pod: ET.Element) -> None:
    pods, floor = options(command(pod, machine="q35")), options(command(pod, machine="microvm"))
    for name in ("-accel", "-cpu", "-m", "-smp", "-append", "-serial", "-chardev"):
        assert floor[name] == pods[name], name
    assert [value.split(",")[0] for value in floor["-device"]] == ["virtio-serial-device", *["virtserialport"] * 2]
    ports = options(command(pod, machine="ports"))
    assert ports["-M"] == pods["-M"]
    assert len(ports["-device"]) == 3


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("devices", "<sound model='ich9'/>"),
        ("devices", "<controller type='sata' index='1'/>"),
        (".", "<iommu/>"),
        ("clock", "<timer name='kvmclock' present='yes'/>"),
        ("cpu", "<topology sockets='2'/>"),
    ],
)
def test_what_is_not_known_is_an_error(pod: ET.Element, place: str, text: str) -> None:
    node = pod.find(place)
    assert node is not None
    node.append(ET.fromstring(text))  # noqa: S314 - the text is this test's
    with pytest.raises(UnknownDevice):
        command(pod, machine="q35")


def test_timer_that_pods_lack_is_lacking(pod: ET.Element) -> None:
    clock = pod.find("clock")
    assert clock is not None
    clock.append(ET.fromstring("<timer name='hpet' present='no'/>"))  # noqa: S314 - ours
    assert "hpet=off" in options(command(pod, machine="q35"))["-M"][0]
