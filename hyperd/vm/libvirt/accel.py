"""Finds out whether KVM works here, by booting the guest with it.

``/dev/kvm`` can exist and answer and still never run a kernel (nested and paravirtual hosts), so the only proof is a
guest whose agent has said WELCOME. The verdict holds for one boot of the host, one QEMU and one guest kernel, and is
kept in a file.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from hyperd.agent import frames
from hyperd.vm.driver import CONTROL_PORT, STREAM_PORT

log = structlog.get_logger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KVM_DEVICE = Path("/dev/kvm")
# Seconds for a guest to boot under KVM; it takes less than one where KVM works.
DEADLINE = 8.0
# linux/kvm.h: KVM_GET_API_VERSION, and the only version there is.
_KVM_GET_API_VERSION = 0xAE00
_KVM_API_VERSION = 12


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The accelerator and why."""

    accelerator: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ProbeGuest:
    """What to boot for the proof."""

    emulator: str
    kernel: Path
    initrd: Path
    firmware: str = ""


def choose(*, guest: ProbeGuest | None, emulator_version: str, cache: Path) -> Choice:
    """Choose between KVM and TCG for the setting ``auto``.

    Args:
        guest: None = the guest is not built (then nothing is remembered).
        emulator_version: part of what the verdict holds for.
        cache: file that keeps the verdict; its directory exists.

    """
    if reason := device_fault():
        return Choice(accelerator="tcg", reason=reason)
    if guest is None:
        return Choice(accelerator="tcg", reason="there is no guest kernel to try KVM with")
    key = _key(guest, emulator_version)
    if known := _load(cache, key):
        return known
    choice = _verdict(guest)
    _store(cache, key, choice)
    log.info("accelerator.chosen", accelerator=choice.accelerator, reason=choice.reason)
    return choice


def device_fault(device: Path = KVM_DEVICE) -> str:
    """Return why KVM cannot be used without trying, empty when it may work."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"{device} does not exist"
    except OSError as error:
        return f"{device} cannot be opened: {error.strerror}"
    try:
        version = fcntl.ioctl(fd, _KVM_GET_API_VERSION)
    except OSError as error:
        return f"{device} does not answer: {error.strerror}"
    finally:
        os.close(fd)
    return "" if version == _KVM_API_VERSION else f"{device} has API version {version}, not {_KVM_API_VERSION}"


def _key(guest: ProbeGuest, emulator_version: str) -> dict[str, str]:
    stamps = []
    for path in (guest.kernel, guest.initrd):
        info = path.stat()
        stamps.append(f"{path}:{info.st_size}:{info.st_mtime_ns}")
    return {"boot": BOOT_ID.read_text().strip(), "emulator": emulator_version, "guest": " ".join(stamps)}


def _load(cache: Path, key: dict[str, str]) -> Choice | None:
    try:
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["key"] == key and kept["accelerator"] in {"kvm", "tcg"}:
            return Choice(accelerator=kept["accelerator"], reason=str(kept["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no verdict, or one that a crash cut off: try again
    return None


def _store(cache: Path, key: dict[str, str], choice: Choice) -> None:
    part = cache.with_name(cache.name + ".part")
    try:
        part.write_text(
            json.dumps({"key": key, "accelerator": choice.accelerator, "reason": choice.reason}), encoding="utf-8"
        )
        part.replace(cache)
    except OSError as error:
        log.warning("accelerator.not_remembered", error=str(error))


def _verdict(guest: ProbeGuest) -> Choice:
    started = time.monotonic()
    try:
        proof = boots(guest, accelerator="kvm", deadline=DEADLINE)
    except OSError as error:
        return Choice(accelerator="tcg", reason=f"KVM could not be tried: {error}")
    took = time.monotonic() - started
    if proof:
        return Choice(accelerator="kvm", reason=f"a guest booted with it in {took:.2f} s")
    how = "QEMU gave up" if took < DEADLINE else "nothing was heard of it"
    return Choice(
        accelerator="tcg", reason=f"{KVM_DEVICE} exists, but no guest booted with it: {how} after {took:.1f} s"
    )


def boots(guest: ProbeGuest, *, accelerator: str, deadline: float) -> bool:
    """Boot a guest and say whether its agent answered in time (seconds). Leaves nothing. Errors: OSError."""
    with tempfile.TemporaryDirectory(prefix="hyperd-probe-") as name:
        path = Path(name) / "control.sock"
        with subprocess.Popen(
            _command(guest, accelerator, path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                return _answers(path, process, time.monotonic() + deadline)
            finally:
                process.kill()


def _command(guest: ProbeGuest, accelerator: str, path: Path) -> list[str]:
    # If hyperd is killed meanwhile, the kernel kills the probe.
    guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    return [
        *guard,
        guest.emulator,
        *("-accel", accelerator, "-machine", "q35", "-cpu", "host" if accelerator == "kvm" else "max"),
        *("-m", "128", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *(("-bios", guest.firmware) if guest.firmware else ()),
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd)),
        *("-append", "console=ttyS0 quiet panic=-1", "-serial", "null"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=c0,path={path},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=c0,name={CONTROL_PORT}"),
        # The agent answers once it has both its ports.
        *("-chardev", "null,id=c1", "-device", f"virtserialport,chardev=c1,name={STREAM_PORT}"),
    ]


def _answers(path: Path, process: subprocess.Popen[bytes], until: float) -> bool:
    """Greet the agent and wait for its WELCOME."""
    nonce = os.urandom(frames.NONCE_SIZE)
    with socket.socket(socket.AF_UNIX) as channel:
        while True:
            try:
                channel.connect(str(path))
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    return False
                time.sleep(0.01)
        channel.sendall(frames.hello_frame(nonce))
        welcome = frames.Welcome(nonce)
        while (left := until - time.monotonic()) > 0:
            channel.settimeout(left)
            try:
                data = channel.recv(65536)
                if not data:
                    return False
                if welcome.feed(data) is not None:
                    return True
            except (OSError, frames.ProtocolError):
                return False
    return False
