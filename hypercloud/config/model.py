"""The configuration's values; ``configs/hypercloud.toml`` explains every key.

Sections of the TOML file are the classes below; the field names are the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_HOST = "tcp://127.0.0.1:8080"


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """TLS on the ``tcp://`` addresses (``[tls]``)."""

    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, kw_only=True)
class EnginesConfig:
    """The Docker-API engines (``[engines]``)."""

    local: str = "unix:///var/run/docker.sock"  # engine "local", added at the first start; empty = none
    health_interval: float = 10.0  # seconds
    timeout: float = 60.0  # seconds that an engine may take to answer; pulls and streams have none
    connect_timeout: float = 3.0  # seconds
    networks: tuple[str, ...] = ()  # CIDRs that engines' addresses must be in; empty = all but special ones
    sockets: tuple[str, ...] = ()  # paths that unix:// engines may have, besides ``local``
    stop_timeout: int = 10  # seconds between SIGTERM and SIGKILL
    user_host_access: bool = False  # accounts that are no administrators may use host paths, privileges and the like


@dataclass(frozen=True, kw_only=True)
class KubernetesConfig:
    """A Kubernetes cluster instead of the engines (``[kubernetes]``)."""

    config: Path | None = None  # the kubeconfig; None = the engines are used
    context: str = ""  # of that file; empty = its current one
    namespace: str = "hypercloud"  # of the cluster: everything is made there
    storage_class: str = ""  # of managed volumes; empty = the cluster's default
    volume_size: str = "1Gi"
    patience: float = 300.0  # seconds that containers may take to run before an action gives up waiting


@dataclass(frozen=True, kw_only=True)
class LoginConfig:
    """Signing in (``[login]``)."""

    attempts: int = 5  # wrong passwords of one name or one address before it has to wait
    wait: float = 2.0  # seconds after that, doubled with every further one
    longest_wait: float = 300.0  # seconds
    session_hours: float = 12.0  # of the page, from signing in
    token_days: float = 365.0  # a Shipyard token that nobody uses so long ends


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """How long what is over can be looked at (``[history]``)."""

    days: float = 30.0  # terminated objects, actions and events


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings."""

    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    root: Path = Path("/var/lib/hypercloud")
    database: str = ""  # SQLAlchemy URL; empty = SQLite in the root
    public_url: str = ""  # under which clients and containers reach this server; empty = as the request says
    domain: str = "hypercloud.local"  # of the names that services and containers are shown with
    proxies: int = 0  # reverse proxies in front, whose X-Forwarded-* are believed
    threads: int = 96  # requests and streams at the same time
    log_level: str = "info"
    log_format: str = "logfmt"
    tls: TlsConfig = field(default_factory=TlsConfig)
    engines: EnginesConfig = field(default_factory=EnginesConfig)
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)
    login: LoginConfig = field(default_factory=LoginConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    organisations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> usernames

    @property
    def database_url(self) -> str:
        """The database's URL."""
        return self.database or f"sqlite:///{self.root / 'hypercloud.db'}"
