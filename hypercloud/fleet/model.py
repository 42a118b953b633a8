"""Values of Shipyard: what to run, and what runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypercloud.engine.model import Engine, EngineContainer, PortMap


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a container is made from. Memory in MiB."""

    name: str
    container_name: str = ""
    cpus: float = 0.0
    cpuset: str = ""
    memory: float = 0.0
    entrypoint: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    domainname: str = ""
    args: tuple[str, ...] = ()
    type: str = "service"
    labels: tuple[str, ...] = ()
    bind_ports: tuple[PortMap, ...] = ()
    user_data: Mapping[str, Any] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    restart: str = ""
    restart_max: int = 0
    publish: bool = False
    network_mode: str = ""


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container, what it was made from, and where it is."""

    engine: Engine
    image: Image
    seen: EngineContainer


@dataclass(frozen=True, kw_only=True)
class ClusterInfo:
    """The sums over all engines. Memory in MiB."""

    cpus: float
    memory: float
    reserved_cpus: float
    reserved_memory: float
    container_count: int
    image_count: int
    engine_count: int


@dataclass(frozen=True, kw_only=True)
class Extension:
    """Containers that are kept running on one engine or on each."""

    id: str
    name: str
    image: str
    author: str = ""
    description: str = ""
    version: str = ""
    url: str = ""
    container_name: str = ""
    cpus: float = 0.0
    memory: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    ports: tuple[PortMap, ...] = ()
    deploy_per_engine: bool = False
    prompt_args: bool = False
    prompt_env: bool = False
    engine: str = ""  # the id of the engine where its one container is
