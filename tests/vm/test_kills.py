"""The daemon is killed at some of its named steps; ``scripts/kills`` does the same at all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.support import kills
from tests.support.registry import RegistryServer
from tests.vm.conftest import GUEST

pytestmark = [pytest.mark.vm, pytest.mark.registry]


@pytest.fixture(scope="module")
def world(registry: RegistryServer) -> Iterator[kills.World]:
    with kills.opened(registry, rng=random.Random(1), templates=GUEST.parent / "templates") as world:
        yield world


@pytest.mark.parametrize(
    "step",
    [
        "pod.start.plugged",
        "pod.delete.disk_removed",
        "exec.start.row_written",
        "volume.delete.directory_renamed",
    ],
)
def test_nothing_is_lost_or_left(world: kills.World, step: str) -> None:
    outcome = kills.attempt(world, step)
    assert outcome.died
    assert outcome.faults == []
