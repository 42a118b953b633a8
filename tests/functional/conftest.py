"""A daemon that only has the answers that a test wrote down, and hyperctl that asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_hyperd import FakeHyperd
from tests.support.hyperctl_process import Runner


@pytest.fixture
def fake() -> Iterator[FakeHyperd]:
    """The daemon."""
    with FakeHyperd() as server:
        yield server


@pytest.fixture
def hyperctl(fake: FakeHyperd, tmp_path: Path) -> Runner:
    """hyperctl in an empty home."""
    return Runner(fake.address, tmp_path)
