"""The daemon is killed at steps at which something was once left; VMs only pretend (``scripts/kills --pretend``)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.support import kills
from tests.support.registry import Layer, RegistryServer, busybox_tar

pytestmark = [pytest.mark.root, pytest.mark.registry]


@pytest.fixture(scope="module")
def world() -> Iterator[kills.World]:
    with RegistryServer() as registry:
        registry.push("busybox", "latest", [Layer(busybox_tar())])
        with kills.opened(registry, rng=random.Random(1), real=False) as world:
            yield world


@pytest.mark.parametrize(
    "step",
    [
        "container.delete.log_removed",
        "container.delete.row_deleted",
        "cni.add.plugin_done",
        "cni.delete.plugin_done",
        "vm.disk.file_made",
        "image.push.layer_sent",
    ],
)
def test_nothing_is_left(world: kills.World, step: str) -> None:
    outcome = kills.attempt(world, step)
    assert outcome.died
    assert outcome.faults == []
