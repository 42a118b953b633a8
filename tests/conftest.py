"""What holds for all tests: their order, that those which need root say so instead of being skipped, a database."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from hyperd.db.session import Database
from hyperd.stream.relay import Relay

# Examples are judged by what they show, not by a clock: this may run on a loaded machine.
settings.register_profile("hyperd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hyperd")

# What a shell runs in its background ignores SIGINT, and programs pass that on: those tested here would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Files whose pods publish the same ports of the host: one after the other, where files run side by side (``-n``).
SAME_PORTS = (
    ("tests/conformance/test_wire.py", "tests/conformance/test_replay.py"),
    # The commands of README and docs/ and the examples, as they stand: 8080, 8081, 18080.
    ("tests/vm/test_docs_commands.py", "tests/vm/test_examples.py", "tests/vm/test_readme.py"),
)

ORDER = ("unit", "functional", "vm", "conformance", "perf")
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the quick tests first; within a directory the order stays."""

    def place(item: pytest.Item) -> int:
        parts = item.path.relative_to(_HERE).parts if item.path.is_relative_to(_HERE) else ("",)
        return ORDER.index(parts[0]) if parts[0] in ORDER else len(ORDER)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Let what collection has made stay out of the garbage collector's way: it takes milliseconds then."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _garbage() -> Iterator[None]:
    """Collect what a file leaves with its last test: a socket that nobody closed is no error of a later file."""
    yield
    gc.collect()


class Scheduling(LoadFileScheduling):
    """With ``-n``: a worker runs whole files, so that one daemon serves all tests of a file."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((files[0] for files in SAME_PORTS if file in files), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Return pytest-xdist what hands out the tests."""
    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail tests that need root clearly when there is none."""
    needs = [name for name in ("root", "vm") if item.get_closest_marker(name)]
    if needs and os.geteuid() != 0:
        pytest.fail(f"tests marked {needs[0]} make bridges, VMs or nftables tables: run them as root", pytrace=False)


@pytest.fixture
def relay() -> Iterator[Relay]:
    """A relay that runs."""
    made = Relay()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database with empty tables."""
    with closing(Database(tmp_path / "hyper.db")) as made:
        made.create_all()
        yield made
