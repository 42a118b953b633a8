"""A real hypercloud over two small engines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.cloud import CloudProcess, over_one_engine
from tests.support.described import Described
from tests.support.docker_engine import FakeEngine

DIALECTS = ("shipyard", "dockercloud")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sockets that a killed server or a hung-up engine leaves to the garbage collector are no fault of a test."""
    for item in items:
        if item.path.parent.name == "cloud":
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[FakeEngine, FakeEngine]]:
    """Two engines: "local" (labels local, dev) and "other" (label prod)."""
    made = (FakeEngine(), FakeEngine())
    yield made
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def cloud(engines: tuple[FakeEngine, FakeEngine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """The server, with both engines registered; each of its answers must be as its OpenAPI documents say."""
    server = CloudProcess(tmp_path_factory.mktemp("cloud"), tables='[organisations]\nexampleorg = ["alice"]').start()
    try:
        server.look = Described(server.call("GET", f"/openapi/{name}.json").json for name in DIALECTS)
        assert server.add_engine("local", engines[0].url, ["local", "dev"]).status == 201
        assert server.add_engine("other", engines[1].url, ["prod"]).status == 201
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    """The one engine of ``running``."""
    with contextlib.closing(FakeEngine()) as made:
        yield made


@pytest.fixture(scope="module")
def running(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """A server with one engine, for tests that break either."""
    with over_one_engine(tmp_path_factory.mktemp("cloud"), engine, "one") as made:
        yield made
