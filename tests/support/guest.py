"""A guest in plain QEMU (no libvirt, no daemon): two ports, disks, a console log."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import Self

from hyperd.guest.image import GuestFiles
from tests.support.agent import Host, Memory

FAST_CMDLINE = (
    "console=ttyS0 quiet panic=-1 no_timer_check noapictimer noreplace-smp mitigations=off cryptomgr.notests "
    "rcupdate.rcu_expedited=1 8250.nr_uarts=1 scsi_mod.scan=manual"
)


class Guest:
    """A running VM under software emulation.

    Args:
        files: what to boot.
        disks: (image, read-only) by LUN.
        cmdline: kernel command line.
        memory: MiB.

    """

    def __init__(
        self,
        files: GuestFiles,
        *,
        disks: Sequence[tuple[Path, bool]] = (),
        cmdline: str = FAST_CMDLINE,
        memory: int = 128,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
        self.control = self.directory / "control.sock"
        self.stream = self.directory / "stream.sock"
        self.console = self.directory / "console.log"
        self._monitor = self.directory / "qmp.sock"
        command = [
            "qemu-system-x86_64", "-name", "agent-test", "-machine", "q35,accel=tcg,usb=off", "-cpu", "max",
            "-m", str(memory),
            "-bios", "/usr/share/qemu/qboot.rom", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(files.kernel), "-initrd", str(files.initrd), "-append", cmdline,
            "-serial", f"file:{self.console}", "-qmp", f"unix:{self._monitor},server=on,wait=off",
            "-device", "virtio-serial-pci,max_ports=8",
            "-device", "virtio-scsi-pci,id=scsi0",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip
        for number, (name, path) in enumerate(
            (("hyperd.control.0", self.control), ("hyperd.stream.0", self.stream)), 1
        ):
            command += ["-chardev", f"socket,id=c{number},path={path},server=on,wait=off"]
            command += ["-device", f"virtserialport,chardev=c{number},name={name},nr={number}"]
        for lun, (path, readonly) in enumerate(disks):
            command += ["-drive", f"if=none,id=d{lun},format=raw,file={path},readonly={'on' if readonly else 'off'}"]
            command += ["-device", f"scsi-hd,bus=scsi0.0,channel=0,scsi-id=0,lun={lun},drive=d{lun}"]
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def connect(self, *, fresh: bool = False, memory: Memory | None = None, timeout: float = 60.0) -> Host:
        """Connect as a host does."""
        return Host(self.control, self.stream, fresh=fresh, memory=memory, timeout=timeout)

    def qmp(self, execute: str, **arguments: object) -> object:
        """Ask QEMU's monitor."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(60)
            link.connect(str(self._monitor))
            lines = link.makefile("rw")
            lines.readline()
            for command in ({"execute": "qmp_capabilities"}, {"execute": execute, "arguments": arguments}):
                lines.write(json.dumps(command) + "\n")
                lines.flush()
                while "event" in (answer := json.loads(lines.readline())):
                    pass
            lines.close()
        assert "return" in answer, answer
        return answer["return"]

    def close(self) -> None:
        """Switch off and remove everything."""
        self.process.kill()
        self.process.wait()
        rmtree(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
