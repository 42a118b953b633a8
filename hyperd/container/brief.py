"""A container as lists that are asked for every second show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyperd.container.states import ContainerState


@dataclass(frozen=True, kw_only=True, eq=False)
class ContainerBrief:
    """A container with what its specification and its row say alone: cheap to list every second.

    It is the same object until a row of its kind changes, and can be a key as itself.
    """

    id: str
    pod_id: str
    state: ContainerState
    created_at: float
    image_id: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
