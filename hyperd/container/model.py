"""Values of containers and execs, as the services give them. Times are seconds since 1970, sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from hyperd.container.plan import Program
from hyperd.container.states import LIVE, ContainerState
from hyperd.network.ports import PortMapping
from hyperd.spec.model import ContainerSpec, ExecSpec


@dataclass(frozen=True, kw_only=True)
class Mount:
    """Where a container sees a volume.

    Args:
        volume: name of the volume. path: in the container.
        format: of the volume (``VolumeSpec.format``); empty = a new directory on the pod's disk.
        source: path of the host, image or name of a named volume; empty for a new directory.
        from_image: the image asks for it (``VOLUME``), not the specification.

    """

    volume: str
    path: str
    read_only: bool = False
    format: str = ""
    source: str = ""
    from_image: bool = False
    propagation: str = ""


class HealthState(StrEnum):
    """What a container's health check says."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, kw_only=True)
class HealthResult:
    """One run of a health check; ``exit_code`` -1 = it took too long or could not be run."""

    started_at: float
    finished_at: float
    exit_code: int
    output: str


@dataclass(frozen=True, kw_only=True)
class Health:
    """The health of a container that has a check; ``log`` has the last five results, the newest last."""

    state: HealthState
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ContainerSummary:
    """A container with only what a list shows."""

    id: str
    name: str
    pod_id: str
    state: ContainerState
    exit_code: int | None


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container.

    Args:
        spec: as it was asked for; its ports are those it was made with.
        program: what it runs, merged with the image; None when the image is gone or has nothing to run.
        exit_code: of the last run, None before the first has ended.
        error: why the last start failed, empty when it did not.
        pid: number of the program in its guest, 0 when it does not run or nobody knows.
        stop_signal: number of the signal that stops it. warnings: for people, such as a stop signal nobody knows.
        paused: its pod is paused. killed: its last end was asked for.
        user_ids: numbers of user, group and all groups of the last run at its beginning; empty = nobody knows.
        run_count: starts. restart_count: restarts by its policy since it was last started.
        restart_at: when the next restart is due. restart_policy: its own, else the pod's, else ``never``.
        mounts: its volumes and those of its image.
        health: None without a health check.
        log_driver: name of the driver. log_path: the file of its log; None when the driver keeps none.
        ports: published ports of its pod. addresses: of its pod, with prefix length; none while it has no VM.

    """

    id: str
    name: str
    pod_id: str
    spec: ContainerSpec
    image_id: str
    image_name: str
    program: Program | None
    state: ContainerState
    created_at: float
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    pid: int = 0
    user_ids: tuple[int, ...] = ()
    stop_signal: int = 15
    warnings: tuple[str, ...] = ()
    paused: bool = False
    killed: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    run_count: int = 0
    restart_count: int = 0
    restart_at: float | None = None
    restart_policy: str = "never"
    labels: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()
    health: Health | None = None
    log_driver: str = ""
    log_path: Path | None = None
    ports: tuple[PortMapping, ...] = ()
    addresses: tuple[str, ...] = ()
    hostname: str = ""

    @property
    def running(self) -> bool:
        """Whether its program runs, also while the pod is paused."""
        return self.state == ContainerState.RUNNING

    @property
    def live(self) -> bool:
        """Whether it runs or is being started."""
        return self.state in LIVE


@dataclass(frozen=True, kw_only=True)
class ContainerUpdate:
    """What is to be changed of a container; None leaves it as it is. ``labels`` replace all of them.

    Args:
        limits: the limits that change, by the names of ``Limits``.

    """

    limits: Mapping[str, int | str] = field(default_factory=dict)
    restart_policy: str | None = None
    restart_max: int | None = None
    labels: Mapping[str, str] | None = None


class ExecState(StrEnum):
    """What an exec is doing."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, kw_only=True)
class Exec:
    """An additional process in a container.

    Args:
        exit_code: None before its end. pid: in the guest, 0 unless it runs.

    """

    id: str
    container_id: str
    spec: ExecSpec
    state: ExecState
    created_at: float
    exit_code: int | None = None
    pid: int = 0
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.state == ExecState.RUNNING
