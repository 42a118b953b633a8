"""The machine a run was made on, and what must be installed for it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

# Program and the Debian package that brings it.
NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "docker-registry": "docker-registry",
    "busybox": "busybox-static",
    "nft": "nftables",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "tar2sqfs": "squashfs-tools-ng",
}
PEERS = {"podman": "podman", "runc": "runc"}


def missing(programs: dict[str, str]) -> list[str]:
    """Return the packages of those programs that are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return sorted({package for program, package in programs.items() if shutil.which(program, path=path) is None})


def describe() -> dict[str, Any]:
    """Describe the machine: nothing that names it, all that explains its figures."""
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "cpu": _cpu_model(),
        "system": _system(),
        "python": platform.python_version(),
        "qemu": _first_line("qemu-system-x86_64", "--version"),
        "podman": _first_line("podman", "--version"),
        "runc": _first_line("runc", "--version"),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def available() -> float:
    """Return the memory that could be had without swapping, in MiB (proc(5), MemAvailable)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 1024


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _first_line(*command: str) -> str:
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return shown.splitlines()[0] if shown else ""
