"""The choice of the accelerator: what is proof, and what is remembered."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperd.vm.libvirt import accel

# Stands for QEMU: finds the socket's path in its arguments and plays the agent, or does not.
EMULATOR = """#!{python}
import re, socket, sys, time
sys.path.insert(0, {tree!r})
open({calls!r}, "a").write("x")
if {behaviour!r} == "dies":
    raise SystemExit(1)
path = re.search(r"path=([^,]+)", " ".join(sys.argv))[1]
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
link = server.accept()[0]
hello = link.recv(65536)
if {behaviour!r} == "answers":
    from hyperd.agent.frames import Decoder, welcome_frame
    [frame] = Decoder().feed(hello)
    link.sendall(b"rubbish from the console" + welcome_frame(frame.payload[:16], bytes(16)))
elif {behaviour!r} == "lies":
    from hyperd.agent.frames import welcome_frame
    link.sendall(welcome_frame(bytes(16), bytes(16)))
elif {behaviour!r} == "hangs up":
    link.close()
    server.close()
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def usable_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts differ in their /dev/kvm; these tests are about what comes after it."""
    monkeypatch.setattr(accel, "device_fault", lambda: "")


def make_guest(tmp_path: Path, behaviour: str) -> accel.ProbeGuest:
    emulator = tmp_path / "qemu"
    tree = str(Path(__file__).resolve().parents[2])
    emulator.write_text(
        EMULATOR.format(python=sys.executable, tree=tree, calls=str(tmp_path / "calls"), behaviour=behaviour)
    )
    emulator.chmod(0o755)
    for name in ("kernel", "initrd"):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes(b"x")
    return accel.ProbeGuest(emulator=str(emulator), kernel=tmp_path / "kernel", initrd=tmp_path / "initrd")


def tries(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text()) if (tmp_path / "calls").exists() else 0


def choose(tmp_path: Path, guest: accel.ProbeGuest | None, version: str = "QEMU 1") -> accel.Choice:
    return accel.choose(guest=guest, emulator_version=version, cache=tmp_path / "accelerator.json")


def test_kvm_when_the_agent_answers(tmp_path: Path) -> None:
    choice = choose(tmp_path, make_guest(tmp_path, "answers"))
    assert choice.accelerator == "kvm"
    assert "booted" in choice.reason


@pytest.mark.parametrize("behaviour", ["dies", "hangs up", "lies", "is silent"])
def test_tcg_without_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str) -> None:
    monkeypatch.setattr(accel, "DEADLINE", 1.5)
    started = time.monotonic()
    choice = choose(tmp_path, make_guest(tmp_path, behaviour))
    assert choice.accelerator == "tcg"
    assert str(accel.KVM_DEVICE) in choice.reason
    assert time.monotonic() - started < 20


def test_nothing_is_left_of_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert not accel.boots(make_guest(tmp_path, "is silent"), accelerator="kvm", deadline=0.5)
    assert not list(tmp_path.glob("hyperd-probe-*"))
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "qemu") not in running


def test_verdict_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "DEADLINE", 1.0)
    guest = make_guest(tmp_path, "dies")
    first = choose(tmp_path, guest)
    assert (choose(tmp_path, guest), tries(tmp_path)) == (first, 1)
    choose(tmp_path, guest, "QEMU 2")
    assert tries(tmp_path) == 2
    guest.kernel.write_bytes(b"another kernel")
    choose(tmp_path, guest, "QEMU 2")
    assert tries(tmp_path) == 3


def test_verdict_ends_with_the_boot_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "DEADLINE", 1.0)
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(accel, "BOOT_ID", boot)
    guest = make_guest(tmp_path, "dies")
    for number, text in enumerate(("one", "one", "two")):
        boot.write_text(text)
        choose(tmp_path, guest)
        assert tries(tmp_path) == (1, 1, 2)[number]


@pytest.mark.parametrize(
    "rubbish", [b"", b"{", b"[]", b"null", b'{"key": 1}', b'{"key": {}, "accelerator": "kvm"}', b"\xff"]
)
def test_damaged_verdict_is_no_verdict(tmp_path: Path, rubbish: bytes) -> None:
    (tmp_path / "accelerator.json").write_bytes(rubbish)
    assert choose(tmp_path, make_guest(tmp_path, "answers")).accelerator == "kvm"
    assert json.loads((tmp_path / "accelerator.json").read_text())["accelerator"] == "kvm"


def test_verdict_that_cannot_be_kept_is_still_a_verdict(tmp_path: Path) -> None:
    guest = make_guest(tmp_path, "answers")
    cache = tmp_path / "missing" / "accelerator.json"
    assert accel.choose(guest=guest, emulator_version="1", cache=cache).accelerator == "kvm"


def test_without_a_guest_nothing_is_remembered(tmp_path: Path) -> None:
    assert choose(tmp_path, None).accelerator == "tcg"
    assert not (tmp_path / "accelerator.json").exists()


def test_emulator_that_cannot_be_run(tmp_path: Path) -> None:
    guest = make_guest(tmp_path, "answers")
    Path(guest.emulator).unlink()
    assert choose(tmp_path, guest).accelerator == "tcg"


class TestDevice:
    """The real ``device_fault``."""

    fault = staticmethod(accel.device_fault)

    def test_missing(self, tmp_path: Path) -> None:
        assert self.fault(tmp_path / "kvm") == f"{tmp_path / 'kvm'} does not exist"

    def test_not_a_device(self, tmp_path: Path) -> None:
        (tmp_path / "kvm").touch()
        assert "does not answer" in self.fault(tmp_path / "kvm")

    def test_directory(self, tmp_path: Path) -> None:
        assert "cannot be opened" in self.fault(tmp_path)

    def test_another_device(self) -> None:
        assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
        assert "does not answer" in self.fault(Path("/dev/null"))
