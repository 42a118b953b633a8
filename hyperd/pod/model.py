"""Values of pods, as the services give them. Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyperd.container.model import Container
from hyperd.network.ports import PortMapping
from hyperd.pod.states import PodState
from hyperd.spec.model import PodSpec, VolumeSpec


@dataclass(frozen=True, kw_only=True)
class PodSummary:
    """A pod with only what a list shows; ``outcome`` as for ``Pod``."""

    id: str
    vm_id: str
    state: PodState
    outcome: str


@dataclass(frozen=True, kw_only=True, eq=False)
class PodBrief:
    """A pod with what its specification and its row say alone: cheap to list every second.

    It is the same object until a row of its kind changes, and can be a key as itself.
    """

    id: str
    state: PodState
    created_at: float
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod.

    Args:
        spec: with what the daemon chose where the caller left it open (hostname, ports).
        outcome: ``succeeded`` or ``failed`` of a stopped pod, else empty. reason: why it stopped, for people.
        vm_id: empty while it has no VM.
        labels: as they were last set.
        addresses: with prefix length; none while it has no VM. ports: that are published.
        volumes: its own, those that containers define in place, those of images.

    """

    id: str
    spec: PodSpec
    state: PodState
    created_at: float
    outcome: str = ""
    reason: str = ""
    vm_id: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    labels: Mapping[str, str]
    addresses: tuple[str, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    containers: tuple[Container, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()
