"""QEMU without libvirt and without a daemon: the floor below every start."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchlib.procs import cpu_seconds
from hyperd.agent import frames
from hyperd.vm.driver import CONTROL_PORT, STREAM_PORT
from hyperd.vm.libvirt.tsc import TscClock

TIMEOUT = 60.0
# As hyperd's for one CPU under TCG; the floor must not win by a worse kernel command line, nor lose.
CMDLINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=1"
    " no_timer_check noreplace-smp noapictimer scsi_mod.scan=manual"
)
_FIRMWARE = ("/usr/share/qemu/qboot.rom", "/usr/share/qemu-firmware/qboot.rom")
# No ACPI tables, no PCI: the least that boots. The timer chip stays, the command line above needs it.
_MICROVM = ("-M", "microvm,acpi=off,pit=on,pic=on,rtc=on,x-option-roms=off")
_Q35 = ("-M", "q35,hpet=off,smm=off,vmport=off")


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What a boot took until the agent's WELCOME: seconds of wall clock, and of QEMU's CPU time."""

    wall: float
    cpu: float


@functools.cache
def _cmdline() -> str:
    khz = TscClock().khz()
    return f"{CMDLINE} tsc_early_khz={khz}" if khz else CMDLINE


class RawVm:
    """One guest in plain QEMU; ``boot`` once, then ``close``.

    Args:
        kernel: kernel image. initrd: the guest's initramfs.
        machine: ``microvm`` (agent's ports only), or ``q35`` with the devices a pod has.
        memory: MiB.

    """

    def __init__(self, kernel: Path, initrd: Path, *, machine: str, memory: int = 128) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hyraw", dir="/tmp"))
        self._command = self._build(kernel, initrd, machine, memory)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._running().pid

    def boot(self) -> Boot:
        """Start it and wait for the agent. Errors: RuntimeError with the console's last words."""
        started = time.monotonic()
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        nonce = os.urandom(frames.NONCE_SIZE)
        welcome = frames.Welcome(nonce)
        with socket.socket(socket.AF_UNIX) as channel:
            self._connect(channel, started + TIMEOUT)
            channel.sendall(frames.hello_frame(nonce))
            channel.settimeout(TIMEOUT)
            try:
                while welcome.feed(data := channel.recv(65536)) is None:
                    if not data:
                        raise RuntimeError(f"QEMU ended: {self._console()}")
            except TimeoutError:
                raise RuntimeError(f"no agent within {TIMEOUT:g} s: {self._console()}") from None
            return Boot(wall=time.monotonic() - started, cpu=cpu_seconds(self.pid))

    def close(self) -> None:
        """Switch off and remove everything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("not booted")
        return self._process

    def _connect(self, channel: socket.socket, until: float) -> None:
        while True:
            try:
                channel.connect(str(self.directory / "control"))
                return
            except OSError:
                if self._running().poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"QEMU did not start: {self._console()}") from None
                time.sleep(0.002)

    def _console(self) -> str:
        path = self.directory / "console"
        return path.read_text(errors="replace")[-400:] if path.exists() else "no console"

    def _build(self, kernel: Path, initrd: Path, machine: str, memory: int) -> list[str]:
        micro = machine == "microvm"
        firmware = next((path for path in _FIRMWARE if Path(path).is_file()), "")
        words = ["qemu-system-x86_64", *(_MICROVM if micro else _Q35)]
        words += ["-accel", "tcg,tb-size=64", "-cpu", "max,la57=off,erms=off,fsrm=off", "-m", str(memory)]
        words += ["-nodefaults", "-no-user-config", "-display", "none"]
        words += ["-no-reboot", *(("-bios", firmware) if firmware else ())]
        words += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", _cmdline()]
        words += ["-serial", f"file:{self.directory}/console"]
        words += ["-device", "virtio-serial-device" if micro else "virtio-serial-pci,addr=2"]
        for number, (name, file) in enumerate(((CONTROL_PORT, "control"), (STREAM_PORT, "stream")), start=1):
            words += ["-chardev", f"socket,id=c{number},path={self.directory}/{file},server=on,wait=off"]
            words += ["-device", f"virtserialport,chardev=c{number},name={name},nr={number}"]
        return words if micro else words + self._pod_devices()

    def _pod_devices(self) -> list[str]:
        """What a pod's VM has beside the agent's ports: two disks, a NIC, spare root ports, rng and balloon."""
        words = ["-device", "virtio-scsi-pci,id=scsi0,addr=3"]
        for lun, size in enumerate((10 << 30, 2 << 20)):
            disk = self.directory / f"disk{lun}"
            disk.touch()
            os.truncate(disk, size)
            readonly = "on" if lun else "off"
            words += ["-drive", f"if=none,id=d{lun},format=raw,file={disk},readonly={readonly}"]
            words += ["-device", f"scsi-hd,bus=scsi0.0,channel=0,scsi-id=0,lun={lun},drive=d{lun}"]
        for port in range(3):
            place = f"addr=10.{port},chassis={port + 1},port={port}"
            words += ["-device", f"pcie-root-port,id=rp{port},{place}{',multifunction=on' if not port else ''}"]
        words += ["-netdev", f"tap,id=n0,ifname=hyraw{os.getpid() % 100000},script=no,downscript=no"]
        words += ["-device", "virtio-net-pci,netdev=n0,bus=rp0,romfile="]
        words += ["-object", "rng-random,id=rng0,filename=/dev/urandom"]
        words += ["-device", "virtio-rng-pci,rng=rng0,addr=4"]
        return [*words, "-device", "virtio-balloon-pci,free-page-reporting=on,addr=5"]
