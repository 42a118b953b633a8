"""Values about engines and what runs on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Health(StrEnum):
    """Whether an engine answers."""

    PENDING = "pending"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """An engine as it is registered. ``memory`` in MiB; ``name`` is what people call it."""

    id: str
    name: str
    addr: str
    cpus: float
    memory: float
    labels: tuple[str, ...] = ()
    ssl_cert: str = field(default="", repr=False)
    ssl_key: str = field(default="", repr=False)
    ca_cert: str = field(default="", repr=False)
    nickname: str = ""
    created: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What an engine says of itself, and whether it answers."""

    health: Health = Health.PENDING
    response_time: float = 0.0  # seconds of the last ping
    error: str = ""
    version: str = ""
    api_version: str = ""
    storage_driver: str = ""
    runtime: str = ""
    cpus: int = 0
    memory: int = 0  # bytes
    images: int = 0  # tags
    last_seen: float | None = None


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine, and how it does."""

    spec: EngineSpec
    facts: EngineFacts

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return self.facts.health is Health.UP


@dataclass(frozen=True, kw_only=True)
class PortMap:
    """A port of a container, and where it is reached on the engine. ``port`` 0 = not published, or chosen later."""

    proto: str
    container_port: int
    port: int = 0
    host_ip: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineContainer:
    """A container as its engine describes it."""

    engine: str  # the engine's id
    id: str
    name: str
    image: str
    image_id: str
    created: str
    running: bool
    restarting: bool
    pid: int
    started_at: str
    finished_at: str
    exit_code: int
    error: str
    oom_killed: bool
    env: tuple[str, ...]
    labels: Mapping[str, str]
    hostname: str
    domainname: str
    args: tuple[str, ...]
    entrypoint: tuple[str, ...]
    tty: bool
    cpu_shares: int
    nano_cpus: int
    cpuset: str
    memory: int  # bytes
    ports: tuple[PortMap, ...]
    asked_ports: tuple[PortMap, ...]
    links: tuple[str, ...]
    binds: tuple[str, ...]
    volumes: tuple[str, ...]
    restart: str
    restart_max: int
    network_mode: str
    addresses: Mapping[str, str]  # network -> IPv4 address
    publish_all: bool


def with_tag(image: str) -> str:
    """Return an image's name with its tag."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"
