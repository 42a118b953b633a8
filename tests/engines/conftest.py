"""hypercloud over real engines: several minutes, so only ``scripts/test-engines`` runs it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

collect_ignore_glob = [] if os.environ.get("HYPERCLOUD_TEST_ENGINES") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sockets that an engine that was cut off leaves to the garbage collector are no fault of a test."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="module", autouse=True)
def sockets_go_with_their_module() -> Iterator[None]:
    """Collect such sockets here."""
    yield
    gc.collect()
