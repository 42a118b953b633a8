"""A database belongs to a back end as long as there are containers on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypercloud import backends
from hypercloud.config.model import Config, KubernetesConfig
from hypercloud.db.migrate import migrate
from hypercloud.db.models import ServiceRow
from hypercloud.db.session import Database
from hypercloud.errors import Conflict
from hypercloud.event.bus import Bus
from hypercloud.workload.model import ServiceSpec, State, encode
from hypercloud.workload.store import Store

ENGINES = Config()
CLUSTER = Config(kubernetes=KubernetesConfig(config=Path("/nowhere/kubeconfig")))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'c.db'}")
    migrate(made)
    yield made
    made.close()


@pytest.mark.parametrize(("first", "second"), [(ENGINES, CLUSTER), (CLUSTER, ENGINES)])
def test_containers_of_the_other_back_end_are_not_taken_for_gone(
    database: Database, first: Config, second: Config
) -> None:
    backends.remember(database, first)
    store = Store(database, Bus())
    with store.writing() as tx:
        service = ServiceRow(
            uuid="s", namespace="admin", name="web", nickname="", stack=None, target=1, revision=1, generation=1,
            spec=encode(ServiceSpec(image="a:1")), state=State.RUNNING, created=0.0, deployed=None, started=None,
            stopped=None, destroyed=None,
        )  # fmt: skip
        tx.session.add(service)
        tx.session.flush()
        container = tx.add_container(service, 1).uuid
    backends.remember(database, first)
    with pytest.raises(Conflict, match="web-1"):
        backends.remember(database, second)
    with store.writing() as tx:
        tx.set_container(tx.container(container), State.TERMINATED)
    backends.remember(database, second)
    backends.remember(database, second)


def test_a_database_from_before_is_of_engines(database: Database) -> None:
    backends.remember(database, ENGINES)
    backends.remember(database, CLUSTER)  # nothing runs
