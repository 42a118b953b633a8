"""What the daemon says of itself and its host."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from hyperd import __version__
from hyperd.config.model import Config
from hyperd.container.records import ContainerRecords
from hyperd.errors import InvalidInput
from hyperd.image.service import ImageService
from hyperd.pod.records import PodRecords
from hyperd.spec.model import Resource
from hyperd.vm.driver import HypervisorInfo


@dataclass(frozen=True, kw_only=True)
class SystemInfo:
    """The daemon and its host.

    Args:
        version: of hyperd. pid: of the daemon. root: directory of its state.
        host_name, operating_system: for people.
        memory: of the host, bytes. cpus: of the host.
        hypervisor: what the driver found when it was opened.
        guest: name of the kernel that VMs boot now, ``none`` without one.
        pods, containers, images: how many there are.

    """

    version: str
    pid: int
    root: Path
    host_name: str
    operating_system: str
    memory: int
    cpus: int
    hypervisor: HypervisorInfo
    guest: str
    pods: int
    containers: int
    images: int


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
        most = host_memory() // 2**20
        if size.memory > most:
            raise InvalidInput(f"{size.memory} MiB are more memory than this host has", details=f"it has {most} MiB")

    def info(self) -> SystemInfo:
        """Return what the daemon is, what it runs on and how much it owns."""
        return SystemInfo(
            version=__version__,
            pid=os.getpid(),
            root=self._config.root,
            host_name=platform.node(),
            operating_system=operating_system(),
            memory=host_memory(),
            cpus=os.cpu_count() or 1,
            hypervisor=self.hypervisor,
            guest=self._guest,
            pods=self._pods.count(),
            containers=self._containers.count(),
            images=self._images.count(),
        )


def host_memory() -> int:
    """Return the host's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def operating_system() -> str:
    """Return the name of the host's distribution, for people."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
