"""An engine without an API, and what its tests need."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hyperd.build.importer import ImportOrder
from hyperd.engine import Engine
from tests.support.registry import busybox_tar
from tests.support.services import opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with opened(tmp_path_factory.mktemp("services")) as running:
        running.imports.from_body(ImportOrder(source="-", name="busybox:latest"), iter([busybox_tar()]))
        yield running


@pytest.fixture
def engine(shared: Engine) -> Iterator[Engine]:
    yield shared
    for left in shared.pods.summaries():
        shared.pods.remove(left.id)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
