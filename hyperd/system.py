"""What the daemon says of itself and its host: ``/info`` and ``/version``."""

from __future__ import annotations

import os
import platform
from typing import Any

from hyperd import __version__
from hyperd.config.model import Config
from hyperd.container.records import ContainerRecords
from hyperd.errors import InvalidInput
from hyperd.image.service import ImageService
from hyperd.pod.records import PodRecords
from hyperd.spec.model import Resource
from hyperd.vm.driver import HypervisorInfo

INDEX_SERVER = "https://index.docker.io/v1/"


class SystemService:
    """See the module's docstring. ``hypervisor`` is what the driver found when it was opened."""

    def __init__(
        self,
        *,
        config: Config,
        images: ImageService,
        pods: PodRecords,
        containers: ContainerRecords,
        hypervisor: HypervisorInfo,
        guest: str,
    ) -> None:
        self._config = config
        self._images = images
        self._pods = pods
        self._containers = containers
        self.hypervisor = hypervisor
        self._guest = guest

    def check_vcpu(self, count: int) -> None:
        """Check that a VM can have so many CPUs. Errors: InvalidInput."""
        most = self.hypervisor.max_vcpu
        if count > most:
            raise InvalidInput(f"{count} CPUs are more than a VM can have here", details=f"at most {most}")

    def check_size(self, size: Resource) -> None:
        """Check that this host can have a VM of a size at all. Errors: InvalidInput."""
        self.check_vcpu(size.vcpu)
        most = _memory_kib() // 1024
        if size.memory > most:
            raise InvalidInput(f"{size.memory} MiB are more memory than this host has", details=f"it has {most} MiB")

    def info(self) -> dict[str, Any]:
        """Give the object of ``GET /info``; ``MemTotal`` is in KiB, as the original's was."""
        found = self.hypervisor
        return {
            "Containers": len(self._containers.all()),
            "DockerRootDir": str(self._config.root),
            "Driver": "squashfs-overlay",
            "DriverStatus": [
                ["Accelerator", found.accelerator],
                ["Accelerator reason", found.reason],
                ["Hypervisor", found.version],
                ["Guest", self._guest],
            ],
            "ExecutionDriver": found.driver,
            "ID": os.getpid(),
            "Images": self._images.count(),
            "IndexServerAddress": INDEX_SERVER,
            "MemTotal": _memory_kib(),
            "Name": platform.node(),
            "Operating System": _operating_system(),
            "Pods": self._pods.count(),
        }

    def version(self) -> dict[str, Any]:
        """Give the object of ``GET /version``."""
        return {"ID": os.getpid(), "Version": __version__}


def _memory_kib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
