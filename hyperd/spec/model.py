"""What a pod is asked to be: frozen value objects, in snake_case of the wire's names.

``hyperd.pod.spec`` reads them from JSON and checks them; nothing here is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hyperd.errors import InvalidInput

MAX_EXPANDED_PORTS = 4096
MAX_NOFILE = 1_048_576  # open files of a process in a guest: Linux fs.nr_open


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Size of the pod's VM: ``vcpu`` CPUs, ``memory`` MiB."""

    vcpu: int = 0
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class PortSpec:
    """A published port or range, as text: ``80`` or ``8000-8010``.

    Without ``host_port``, or with a range of them for a single port, the daemon chooses free ones.
    """

    container_port: str = ""
    host_port: str = ""
    protocol: str = "tcp"

    def expand(self) -> list[tuple[str, int, int]]:
        """Give (protocol, host port, container port) for every single port.

        Errors: InvalidInput for text that is no port, ranges of different sizes, or an unknown protocol.
        """
        if self.protocol not in ("tcp", "udp"):
            raise InvalidInput(f"unrecognized protocol {self.protocol}", resolution="use tcp or udp")
        inner = parse_ports(self.container_port)
        if self.automatic:
            return []
        outer = parse_ports(self.host_port)
        if len(inner) != len(outer):
            raise InvalidInput(
                "port range mismatch",
                details=f"cannot map host ports {self.host_port} to container ports {self.container_port}",
                resolution="give ranges of the same size",
            )
        return [(self.protocol, host, guest) for host, guest in zip(outer, inner, strict=True)]

    @property
    def automatic(self) -> bool:
        """Whether the daemon has to choose host ports. Errors: InvalidInput."""
        return not self.host_port or len(parse_ports(self.host_port)) > 1 == len(parse_ports(self.container_port))


def parse_ports(text: str) -> range:
    """Read ``80`` or ``8000-8010`` (1-65535). Errors: InvalidInput."""
    first, dash, last = text.partition("-")
    low, high = _port(first, text), _port(last if dash else first, text)
    if high < low:
        raise InvalidInput(f"bad port range {text!r}", details="the end is below the start")
    return range(low, high + 1)


def _port(text: str, whole: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise InvalidInput(f"bad port {whole!r}", resolution="use a number from 1 to 65535, or first-last")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class VolumeOption:
    """Access to a Ceph volume."""

    user: str = ""
    keyring: str = ""
    monitors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VolumeSpec:
    """A volume of the pod; ``format`` is empty (new volume), vfs, raw, qcow2, vdi, rbd or nas."""

    name: str = ""
    source: str = ""
    format: str = ""
    fstype: str = ""
    cache: str = ""
    option: VolumeOption | None = None


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """A file put into containers: ``content`` (raw or base64) or fetched from ``uri``."""

    name: str = ""
    encoding: str = "raw"
    uri: str = ""
    content: str = ""


@dataclass(frozen=True, kw_only=True)
class VolumeRef:
    """Where a container sees a volume; ``detail`` defines the volume in place."""

    path: str = ""
    volume: str = ""
    read_only: bool = False
    detail: VolumeSpec | None = None


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """Where a container gets a file; a ``path`` that ends in ``/`` gets ``filename`` appended."""

    path: str = ""
    filename: str = ""
    perm: str = "0755"
    user: str = ""
    group: str = ""
    detail: FileSpec | None = None

    @property
    def target(self) -> str:
        """Absolute path of the file in the container."""
        return self.path + self.filename if self.path.endswith("/") else self.path

    @property
    def mode(self) -> int:
        """Permission bits."""
        return int(self.perm, 8)


@dataclass(frozen=True, kw_only=True)
class UserSpec:
    """Whom the container runs as, if ``name`` is set. Names or numbers, looked up in the container."""

    name: str = ""
    group: str = ""
    additional_groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ulimit:
    """A resource limit by its name without ``RLIMIT_`` in lower case (``nofile``); -1 = unlimited."""

    name: str
    hard: int
    soft: int


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """One container. Empty values mean the image's own; ``tty`` None means the pod's."""

    name: str = ""
    id: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    workdir: str = ""
    envs: tuple[tuple[str, str], ...] = ()
    tty: bool | None = None
    user: UserSpec = field(default_factory=UserSpec)
    volumes: tuple[VolumeRef, ...] = ()
    files: tuple[FileRef, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    sysctl: Mapping[str, str] = field(default_factory=dict)
    restart_policy: str = ""
    stop_signal: str = ""
    ulimits: tuple[Ulimit, ...] = ()
    log_path: str = ""
    read_only: bool = False
    cache: str = ""


@dataclass(frozen=True, kw_only=True)
class InterfaceSpec:
    """A NIC. ``ip``: CIDRs joined by commas, empty = automatic. ``ifname``: host tap. ``mtu`` 0 = the bridge's."""

    id: str = ""
    bridge: str = ""
    ip: str = ""
    ifname: str = ""
    mac: str = ""
    mtu: int = 0
    gateway: str = ""


@dataclass(frozen=True, kw_only=True)
class ServiceHost:
    """A backend of a service."""

    host_ip: str = ""
    host_port: int = 0


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """A load-balanced address inside the pod; ``protocol`` in lower case."""

    service_ip: str = ""
    service_port: int = 0
    protocol: str = "tcp"
    hosts: tuple[ServiceHost, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WhiteLists:
    """CIDRs that may reach the pod; both empty = no firewall in the guest."""

    internal_networks: tuple[str, ...] = ()
    external_networks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LogSpec:
    """Log driver and its options; an empty type = the daemon's default."""

    type: str = ""
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PodSpec:
    """A whole pod. An empty ``id`` or ``hostname`` is chosen by the pod service."""

    id: str = ""
    hostname: str = ""
    type: str = ""
    restart_policy: str = ""
    tty: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    resource: Resource = field(default_factory=Resource)
    containers: tuple[ContainerSpec, ...] = ()
    files: tuple[FileSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()
    interfaces: tuple[InterfaceSpec, ...] = ()
    services: tuple[ServiceSpec, ...] = ()
    portmappings: tuple[PortSpec, ...] = ()
    portmapping_white_lists: WhiteLists = field(default_factory=WhiteLists)
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    log: LogSpec = field(default_factory=LogSpec)
