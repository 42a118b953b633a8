"""The daemon's configuration: one frozen object, read once, handed down.

``configs/hyperd.toml`` explains every key. Sections of the TOML file are the classes below; the field names are the
keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

IDS_PER_VM = 65536  # images have users up to 65535
DEFAULT_HOST = "unix:///var/run/hyper.sock"


@dataclass(frozen=True, kw_only=True)
class HypervisorConfig:
    """How VMs are run (``[hypervisor]``)."""

    driver: str = "libvirt"  # libvirt | fake
    accelerator: str = "auto"  # auto | kvm | tcg
    uri: str = ""  # empty = the embedded driver below the root directory
    emulator: str = ""  # empty = libvirt's choice
    kernel: Path | None = None  # None = the minimal kernel when built, else the distribution's
    initrd: Path | None = None
    guest_dir: Path | None = None  # where kernels and initramfs images lie; None = <root>/guest
    boot_timeout: float = 60.0
    default_vcpu: int = 1
    default_memory: int = 128
    pool: int = 1  # VMs of the default size booted and paused ahead of time
    templates: bool = True  # VMs go on from the memory of one that has booted (emulated ones only)
    template_dir: Path | None = None  # where that is kept; None = <root>/templates
    uid_range: str = "1879048192-2147352575"  # FIRST-LAST: users of the VMs' processes; empty = all are the daemon's
    limits: bool = True  # control groups of the host limit what each VM's processes use
    cgroup_parent: str = ""  # of those groups, in all hierarchies; empty = the daemon's own (v1), the top (v2)

    @property
    def uids(self) -> range:
        """The ids of ``uid_range``, which are users' and, the first one, a group's; none when it is empty."""
        if not self.uid_range:
            return range(0)
        first, last = (int(text) for text in self.uid_range.split("-"))
        return range(first, last + 1)

    @property
    def blocks(self) -> range:
        """The first ids of those that each VM has to itself; none when ``uid_range`` has too few."""
        uids = self.uids
        return range(uids.start + IDS_PER_VM, uids.stop - IDS_PER_VM + 1, IDS_PER_VM)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The pods' network (``[network]``)."""

    bridge: str = "hyper0"
    subnet: str = "192.168.123.0/24"  # the bridge has the first address
    nft_table: str = "hyperd"
    mtu: int = 1500
    nat: bool = True
    subnets: str = "172.16.0.0/12"  # where networks that name no subnet get theirs
    dns: tuple[str, ...] = ()  # empty = the host's resolv.conf


@dataclass(frozen=True, kw_only=True)
class RegistryConfig:
    """Where images come from (``[registry]``)."""

    default: str = "docker.io"
    mirrors: tuple[str, ...] = ()  # asked before docker.io
    insecure: tuple[str, ...] = ()  # host[:port] or CIDR: plain HTTP or unchecked TLS; loopback always is
    ca_file: Path | None = None
    parallel_layers: int = 3
    max_layer_bytes: int = 20 * 2**30
    timeout: float = 30.0
    min_rate: int = 1024  # bytes a second that a transfer makes at least, 0 = none
    min_rate_seconds: float = 60.0  # of waiting, of which that is the average


@dataclass(frozen=True, kw_only=True)
class SignatureRule:
    """What images of one registry, namespace or repository must show (``[[images.signatures.rule]]``).

    ``prefix``: whole parts of a name that begins with the registry. ``require``: files of public keys, any of which
    must have signed; empty = anything is accepted. ``bundles``: sigstore bundles count, which name no repository.
    """

    prefix: str
    require: tuple[Path, ...] = ()
    bundles: bool = False


@dataclass(frozen=True, kw_only=True)
class SignatureConfig:
    """Whose images may be pulled and run (``[images.signatures]``)."""

    default: str = "accept"  # accept | require: what holds where no rule does
    keys: tuple[Path, ...] = ()  # of the default ``require``
    bundles: bool = False  # sigstore bundles count for it
    rule: tuple[SignatureRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """What images may be (``[images]``)."""

    signatures: SignatureConfig = field(default_factory=SignatureConfig)


@dataclass(frozen=True, kw_only=True)
class CriConfig:
    """Kubernetes' Container Runtime Interface (``[cri]``)."""

    address: str = ""  # unix:///path; empty = nowhere
    cni_conf_dir: Path | None = None  # of network configurations; None = pods are on hyperd's own bridge
    cni_bin_dirs: tuple[Path, ...] = (Path("/opt/cni/bin"), Path("/usr/lib/cni"))
    stream_cert: Path | None = None  # with stream_key: streams are over TLS
    stream_key: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """What callers may do (``[api]``)."""

    fetch_over_tcp: bool = False  # files by URI for callers that are not on the unix socket
    allowed_hosts: tuple[str, ...] = ()  # further names of this host, for callers over TCP without TLS


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Container logs (``[log]``)."""

    driver: str = "json-file"
    max_size: int = 0  # bytes, 0 = no rotation
    max_file: int = 1
    directory: Path | None = None  # of log files; None = below the root
    pod_id_in_path: bool = True  # a directory for each pod in it
    syslog_address: str = ""  # empty = /dev/log
    syslog_facility: str = "daemon"
    syslog_format: str = "rfc3164"
    syslog_tls_ca_cert: str = ""  # paths, for tcp+tls addresses; empty = the host's authorities
    syslog_tls_cert: str = ""
    syslog_tls_key: str = ""
    syslog_tls_skip_verify: bool = False
    tag: str = "{{.ID}}"
    journal_socket: Path = Path("/run/systemd/journal/socket")


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """TLS for ``tcp://`` addresses (``[tls]``)."""

    enabled: bool = False
    verify: bool = False  # only clients with a certificate of ``ca``; means ``enabled``
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def on(self) -> bool:
        """Whether TCP is TLS."""
        return self.enabled or self.verify


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything the daemon can be told."""

    root: Path = Path("/var/lib/hyper")
    runtime_dir: Path | None = None  # sockets of VMs; None = <root>/run; short, a socket's path has 107 bytes
    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    docker_hosts: tuple[str, ...] = ()  # where the Docker API answers; empty = nowhere
    socket_mode: int = 0o660
    socket_group: str = ""  # empty = hyper if there is one (docker for docker_hosts)
    log_level: str = "info"
    log_format: str = "logfmt"  # logfmt | json | console
    on_exit: str = "leave"  # leave | stop: what SIGTERM does with the pods
    threads: int = 32
    stop_grace: float = 5.0
    max_pods: int = 1024
    scratch_size: int = 10 * 2**30  # bytes of a pod's writable disk (sparse)
    hypervisor: HypervisorConfig = field(default_factory=HypervisorConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    log: LogConfig = field(default_factory=LogConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    cri: CriConfig = field(default_factory=CriConfig)
    api: ApiConfig = field(default_factory=ApiConfig)

    @property
    def run(self) -> Path:
        """Directory of the VMs' sockets."""
        return self.runtime_dir or self.root / "run"

    @property
    def guest(self) -> Path:
        """Directory of kernels and initramfs images."""
        return self.hypervisor.guest_dir or self.root / "guest"
