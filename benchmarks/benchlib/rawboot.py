"""QEMU without libvirt and without a daemon: the floor below every start."""

from __future__ import annotations

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

from benchlib.machine import command, pod_domain
from benchlib.procs import cpu_seconds
from hyperd.agent import frames
from hyperd.vm.driver import CONSOLE_LOG

TIMEOUT = 60.0
# Bytes of the disks: a pod's writable one, and a small layer.
_DISKS = (10 << 30, 2 << 20)


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What a boot took until the agent's WELCOME: seconds of wall clock, and of QEMU's CPU time."""

    wall: float
    cpu: float


class RawVm:
    """One guest in plain QEMU; ``boot`` once, then ``close``.

    Args:
        kernel: kernel image. initrd: the guest's initramfs.
        machine: as for ``machine.command``.
        accelerator: ``kvm`` or ``tcg``, the one that the pods have.

    """

    def __init__(self, kernel: Path, initrd: Path, *, machine: str, accelerator: str = "tcg") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hyraw", dir="/tmp"))
        try:
            self._command = self._build(kernel, initrd, machine, accelerator)
        except BaseException:
            shutil.rmtree(self.directory)
            raise
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
                channel.connect(str(self.directory / "control.sock"))
                return
            except OSError:
                if self._running().poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"QEMU did not start: {self._console()}") from None
                time.sleep(0.002)

    def _build(self, kernel: Path, initrd: Path, machine: str, accelerator: str) -> list[str]:
        disks = tuple(self.directory / f"disk{number}" for number in range(len(_DISKS)))
        for disk, size in zip(disks, _DISKS, strict=True):
            disk.touch()
            os.truncate(disk, size)
        tap = f"hyraw{os.getpid() % 100000}"
        domain = pod_domain(kernel, initrd, rundir=self.directory, accelerator=accelerator, disks=disks, tap=tap)
        return command(domain, machine=machine)

    def _console(self) -> str:
        path = self.directory / CONSOLE_LOG
        return path.read_text(errors="replace")[-400:] if path.exists() else "no console"
