"""Specifications of pods and containers: frozen value objects without I/O.

Dialects (``hyperd.api``) make them from what clients send, services carry them out; nothing here is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hyperd.errors import InvalidInput

MAX_EXPANDED_PORTS = 65_535
MAX_NOFILE = 1_048_576  # open files of a process in a guest: Linux fs.nr_open


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Size of the pod's VM: ``vcpu`` CPUs, ``memory`` MiB."""

    vcpu: int = 0
    memory: int = 0


def one_address(host_ip: str) -> str:
    """Return the host's address that a port is published on, empty for the words that mean every address."""
    return "" if host_ip in ("0.0.0.0", "::") else host_ip  # noqa: S104 - nothing is bound


@dataclass(frozen=True, kw_only=True)
class PortSpec:
    """A published port or range, as text: ``80`` or ``8000-8010``.

    Without ``host_port``, or with a range of them for a single port, the daemon chooses free ones.
    ``host_ip``: the host's address it is published on, empty = all; ``0.0.0.0`` and ``::`` become empty.
    """

    container_port: str = ""
    host_port: str = ""
    protocol: str = "tcp"
    host_ip: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "host_ip", one_address(self.host_ip))

    def expand(self) -> list[tuple[str, int, int]]:
        """Return (protocol, host port, container port) for every single port.

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
    """A volume of the pod; ``format`` is empty (new volume), vfs, raw, qcow2, vdi, rbd, nas or volume.

    ``vfs``: ``source`` is a path of the host. ``volume``: ``source`` is the name of a named volume of this host.
    """

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
    """Where a container sees a volume; ``detail`` defines the volume in place.

    ``nocopy``: a new named volume does not get the image's content. ``subpath``: below the volume's root.
    ``propagation``: ``private`` (default), ``rslave``...
    """

    path: str = ""
    volume: str = ""
    read_only: bool = False
    detail: VolumeSpec | None = None
    nocopy: bool = False
    subpath: str = ""
    propagation: str = ""


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
    """Whom the container runs as, the image's user without a ``name``. Names or numbers, looked up in the container."""

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
class Limits:
    """What a container may use at most; 0 or an empty text = no limit of its own.

    Args:
        memory, memory_reservation: bytes. memory_swap: bytes of memory and swap together, -1 = all.
        cpus: in billionths of a CPU. cpu_shares: relative weight, 1024 is usual.
        cpu_period, cpu_quota: microseconds of the CFS scheduler; they win over ``cpus``.
        cpuset: list of CPUs of the VM, such as ``0-1``.
        pids: number of processes, -1 = unlimited, 0 = the daemon's default.

    """

    memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    cpus: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset: str = ""
    pids: int = 0


@dataclass(frozen=True, kw_only=True)
class Security:
    """What a container's processes may do inside their VM.

    Args:
        privileged: all capabilities, the guest's devices, no seccomp profile, nothing masked.
        cap_add, cap_drop: names without ``CAP_`` in upper case, or ``ALL``; applied to Docker's default set.
        seccomp: empty = the default profile, ``unconfined``, or a profile as JSON text (OCI runtime-spec).
        no_new_privileges: set-user-id programs gain nothing.
        masked_paths, readonly_paths: None = the defaults.
        group_add: additional groups, names or numbers.
        image_groups: whether the user is in the groups that the image's /etc/group gives it: ``all``, ``none``, or
            empty = when the user is named without a group.

    """

    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    seccomp: str = ""
    no_new_privileges: bool = False
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    group_add: tuple[str, ...] = ()
    image_groups: str = ""


@dataclass(frozen=True, kw_only=True)
class Healthcheck:
    """A command that tells whether a container is well.

    Args:
        argv: the command; one text and ``shell`` runs it with the container's ``/bin/sh -c``. ``disabled`` wins.
        interval, timeout, start_period, start_interval: seconds; 0 = the default (30, 30, 0, 5).
        retries: failures in a row that make it unhealthy; 0 = 3.

    """

    argv: tuple[str, ...] = ()
    shell: bool = False
    disabled: bool = False
    interval: float = 0.0
    timeout: float = 0.0
    start_period: float = 0.0
    start_interval: float = 0.0
    retries: int = 0


@dataclass(frozen=True, kw_only=True)
class Tmpfs:
    """A file system in memory at ``path``; ``size`` bytes (0 = half of the VM's memory), ``mode`` octal bits."""

    path: str
    size: int = 0
    mode: int = 0o1777
    options: tuple[str, ...] = ()  # such as noexec, nosuid, ro


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """A device of the guest given to a container; ``permissions`` of ``rwm``."""

    source: str
    target: str = ""
    permissions: str = "rwm"


@dataclass(frozen=True, kw_only=True)
class ExecSpec:
    """An additional process in a container. Empty values mean the container's own.

    ``stdout``, ``stderr``: which outputs its client gets. ``size``: rows and columns of its terminal.
    ``unset_envs``: names of variables of the container that it does not have.
    """

    argv: tuple[str, ...]
    envs: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: UserSpec = field(default_factory=UserSpec)
    tty: bool = False
    stdin: bool = True
    privileged: bool = False
    detach_keys: str = ""  # such as ctrl-p,ctrl-q; empty = the daemon's
    stdout: bool = True
    stderr: bool = True
    size: tuple[int, int] | None = None
    unset_envs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """One container. Empty values mean the image's own; ``tty`` None means the pod's.

    ``init``: a small init is process 1 and the program its child; else the program is process 1.
    ``stop_timeout``: seconds before SIGKILL, None = the daemon's. ``restart_max``: restarts of ``onFailure``, 0 = any.
    ``shm_size``: bytes of an own ``/dev/shm``, 0 = the pod's. ``log``: None = the pod's.
    ``unset_envs``: names of variables that it does not have, though its image or every container has them.
    ``device_rules``: devices of the VM that it may use if it makes nodes for them: ``c 7:128 rwm``, ``b *:* r``.
    ``exposed``: ports that it says it listens on, such as ``80/tcp``, beside the image's.
    ``pid_namespace``: empty = processes of its own, ``pod`` = those of all containers of the pod that say so, else the
    name or id of the container of the pod whose processes it sees. ``init`` is not needed then.
    ``auto_remove``: it is removed when it has ended. ``memory_limit`` and the like stand in ``limits``.
    """

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
    init: bool = False
    open_stdin: bool = True
    stdin_once: bool = False
    stop_timeout: float | None = None
    restart_max: int = 0
    limits: Limits = field(default_factory=Limits)
    security: Security = field(default_factory=Security)
    healthcheck: Healthcheck | None = None
    tmpfs: tuple[Tmpfs, ...] = ()
    devices: tuple[DeviceSpec, ...] = ()
    shm_size: int = 0
    oom_score_adj: int = 0
    log: LogSpec | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    auto_remove: bool = False
    unset_envs: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    device_rules: tuple[str, ...] = ()
    pid_namespace: str = ""


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
class NetworkAttachment:
    """How a pod is on a network.

    Args:
        network: name or id.
        aliases: further names of the pod that the network's DNS server knows.
        links: names of other pods' containers and the names by which this pod knows them.
        ipv4, ipv6: fixed addresses without a prefix length; empty = the daemon chooses.
        mac: fixed hardware address.
        link_local: further addresses of the NIC, of 169.254.0.0/16, without a prefix length.
        options: as the caller gave them; stored and shown, and otherwise not looked at.
        unused_ipv6: an address that was asked for on a network without IPv6; stored and shown.

    """

    network: str
    aliases: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    link_local: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    unused_ipv6: str = ""


@dataclass(frozen=True, kw_only=True)
class CniSpec:
    """The pod is on the network that this host's plugins make (Container Network Interface).

    Args:
        args: what they are told beside, by name.
        ports: of the host, for the plugin that publishes them.
        dns, dns_search, dns_options: for plugins that want to know the pod's settings.

    """

    args: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[PortSpec, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PodSpec:
    """A whole pod. An empty ``id`` or ``hostname`` is chosen by the pod service.

    ``owner``: the API that made it (``hyper``, ``docker``, ``cri``). ``implicit``: it was made for its containers: it
    stops when none of them runs and is removed with the last one.
    ``networks``: empty = the default bridge, unless ``interfaces`` names others. ``network_disabled``: only loopback.
    ``extra_hosts``: lines of ``/etc/hosts``: name and address. ``cni``: None = hyperd's own networks.
    ``cgroup_parent``: control group of the host that those of the VM's processes lie in; empty = the daemon's.
    """

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
    owner: str = "hyper"
    implicit: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    domainname: str = ""
    networks: tuple[NetworkAttachment, ...] = ()
    network_disabled: bool = False
    extra_hosts: tuple[tuple[str, str], ...] = ()
    cni: CniSpec | None = None
    cgroup_parent: str = ""
