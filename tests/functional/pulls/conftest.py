"""A store of images, and a registry that can fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperd.registry import client as client_module
from tests.support.faulty import FaultyRegistry
from tests.support.pulls import Host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(client_module, "_BACKOFF", 0.01)
    made = Host(tmp_path / "host")
    yield made
    made.close()


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as made:
        yield made
