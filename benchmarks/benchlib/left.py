"""What is on the host because of pods: processes, taps, files, rules. Compared before a pod and after its removal."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchlib.procs import qemus
from benchlib.target import Target

LIBVIRT = "libvirt"  # directory below the daemon's root: libvirt's own pid files, logs and descriptions
TIMEOUT = 10.0
KINDS = ("process", "tap", "file", "rule")  # the first words of traces


def traces(target: Target) -> set[str]:
    """Name everything that a pod of this daemon may have on the host, libvirt's own files apart."""
    daemon = target.daemon
    found = {f"process {pid}" for pid in qemus(daemon.directory)}
    found |= {f"tap {path.name}" for path in Path(f"/sys/class/net/{daemon.bridge}/brif").iterdir()}
    found |= {f"file {path}" for path in _files(daemon.root) if path.relative_to(daemon.root).parts[0] != LIBVIRT}
    for family in ("ip", "bridge"):
        listed = subprocess.run(
            ["nft", "list", "table", family, daemon.table], capture_output=True, text=True, check=False
        )
        found |= {f"rule {family} {line.strip()}" for line in listed.stdout.splitlines()}
    return found


def libvirts(target: Target) -> set[str]:
    """Name libvirt's own files."""
    return {str(path) for path in _files(target.daemon.root / LIBVIRT)}


def seconds_until_gone(target: Target, before: set[str]) -> float:
    """Wait until libvirt has no other files than these; give the seconds. Errors: RuntimeError when that never is."""
    started = time.monotonic()
    while left := libvirts(target) - before:
        if time.monotonic() - started > TIMEOUT:
            raise RuntimeError(f"libvirt keeps {', '.join(sorted(left))[:300]}")
        time.sleep(0.005)  # between two looks: the figure is as exact as that
    return time.monotonic() - started


def free_port() -> int:
    """Return a TCP port of the host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _files(directory: Path) -> Iterator[Path]:
    for parent, directories, files in os.walk(directory):  # goes on where something vanishes meanwhile
        for name in (*directories, *files):
            yield Path(parent, name)
