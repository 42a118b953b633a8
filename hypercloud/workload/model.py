"""Values: what a service is to be, and the states of things."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """States of stacks, services and containers; not each of them has all."""

    NOT_RUNNING = "Not running"
    STARTING = "Starting"
    RUNNING = "Running"
    PARTLY_RUNNING = "Partly running"
    SCALING = "Scaling"
    REDEPLOYING = "Redeploying"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    TERMINATING = "Terminating"
    TERMINATED = "Terminated"


# While something is in one of these, the reconciler is at work on it.
MOVING = frozenset({State.STARTING, State.SCALING, State.REDEPLOYING, State.STOPPING, State.TERMINATING})


class Goal(StrEnum):
    """What a container is to be."""

    RUNNING = "running"
    STOPPED = "stopped"
    GONE = "gone"


class Restart(StrEnum):
    """When a container is started again after its program has ended."""

    OFF = "OFF"
    ON_FAILURE = "ON_FAILURE"
    ALWAYS = "ALWAYS"


class Destroy(StrEnum):
    """When a container is removed after its program has ended for good."""

    OFF = "OFF"
    ON_SUCCESS = "ON_SUCCESS"
    ALWAYS = "ALWAYS"


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port of a service's containers. ``outer`` 0 = chosen by the engine, if published."""

    protocol: str
    inner: int
    outer: int = 0
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Link:
    """A service that is linked to, and the name it is known by."""

    to: str  # uuid
    name: str


@dataclass(frozen=True, kw_only=True)
class Binding:
    """A volume. Only ``container_path``: managed; with ``host_path``: a directory of the node; or another service's."""

    host_path: str = ""
    container_path: str = ""
    writable: bool = True
    volumes_from: str = ""  # a service's uuid


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """What each container of a service is made from. Memory in MiB, 0 = no limit."""

    image: str
    command: str = ""
    entrypoint: str = ""
    ports: tuple[Port, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    bindings: tuple[Binding, ...] = ()
    autorestart: Restart = Restart.OFF
    autodestroy: Destroy = Destroy.OFF
    sequential: bool = False
    roles: tuple[str, ...] = ()
    privileged: bool = False
    strategy: str = "EMPTIEST_NODE"
    tags: tuple[str, ...] = ()
    autoredeploy: bool = False
    net: str = "bridge"
    pid: str = "none"
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    domainname: str = ""
    mac_address: str = ""
    cgroup_parent: str = ""
    tty: bool = False
    stdin_open: bool = False
    read_only: bool = False
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    cpu_shares: int = 0
    cpuset: str = ""
    memory: int = 0
    memory_swap: int = 0


# Changing these needs no new containers.
_LOOSE = frozenset({"autoredeploy", "strategy", "sequential"})


def encode(spec: ServiceSpec) -> dict[str, Any]:
    """Return a specification as JSON for the database."""
    return dataclasses.asdict(spec)


def decode(data: Mapping[str, Any]) -> ServiceSpec:
    """Return a specification from the database."""
    values: dict[str, Any] = dict(data)
    values["ports"] = tuple(Port(**one) for one in values.get("ports", ()))
    values["links"] = tuple(Link(**one) for one in values.get("links", ()))
    values["bindings"] = tuple(Binding(**one) for one in values.get("bindings", ()))
    values["autorestart"] = Restart(values.get("autorestart", "OFF"))
    values["autodestroy"] = Destroy(values.get("autodestroy", "OFF"))
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return ServiceSpec(**values)


def needs_redeploy(old: ServiceSpec, new: ServiceSpec) -> bool:
    """Say whether containers made from the one are not what the other says."""
    before, after = dataclasses.asdict(old), dataclasses.asdict(new)
    return any(before[key] != after[key] for key in before if key not in _LOOSE)
