"""The daemon and its host in the words of hyperd's API."""

from __future__ import annotations

import os
from typing import Any

from hyperd import __version__
from hyperd.system import SystemInfo

INDEX_SERVER = "https://index.docker.io/v1/"  # what the original named


def info(system: SystemInfo) -> dict[str, Any]:
    """Return the object of ``GET /info``; ``MemTotal`` is in KiB, as the original's was."""
    found = system.hypervisor
    return {
        "Containers": system.containers,
        "DockerRootDir": str(system.root),
        "Driver": "squashfs-overlay",
        "DriverStatus": [
            ["Accelerator", found.accelerator],
            ["Accelerator reason", found.reason],
            ["Hypervisor", found.version],
            ["Guest", system.guest],
            *([["Limits of VMs", found.limits]] if found.limits else []),
        ],
        "ExecutionDriver": found.driver,
        "ID": system.pid,
        "Images": system.images,
        "IndexServerAddress": INDEX_SERVER,
        "MemTotal": system.memory // 1024,
        "Name": system.host_name,
        "Operating System": system.operating_system,
        "Pods": system.pods,
    }


def version() -> dict[str, Any]:
    """Return the object of ``GET /version``."""
    return {"ID": os.getpid(), "Version": __version__}
