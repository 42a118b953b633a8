"""The database: no lost update, migrations give what the models say."""

from __future__ import annotations

import sys
import threading

import pytest
from sqlalchemy import inspect

from hyperd.db.migrate import HEAD, current_version, migrate, migrate_apart
from hyperd.db.models import PodRow
from hyperd.db.session import Base, Database
from hyperd.errors import HostFault


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "hyper.db")
    yield database
    database.close()


def test_read_modify_write_from_eight_threads_loses_nothing(database):
    migrate(database)
    with database.session() as session:
        session.add(PodRow(id="p", state="pending", spec={}, labels={"n": "0"}, created_at=0.0, outcome="", reason=""))

    def work():
        for _ in range(50):
            with database.session() as session:
                row = session.get(PodRow, "p")
                row.labels = {"n": str(int(row.labels["n"]) + 1)}

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.session() as session:
        assert session.get(PodRow, "p").labels == {"n": "400"}


def test_an_exception_rolls_back(database):
    migrate(database)

    def fail():
        with database.session() as session:
            session.add(PodRow(id="p", state="pending", spec={}, labels={}, created_at=0.0, outcome="", reason=""))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.session() as session:
        assert session.get(PodRow, "p") is None


def test_migrations_make_the_tables_of_the_models(database, tmp_path):
    migrate(database)
    assert current_version(database) == HEAD
    migrate(database)
    plain = Database(tmp_path / "plain.db")
    plain.create_all()
    migrated, modelled = inspect(database.engine), inspect(plain.engine)
    assert set(migrated.get_table_names()) - {"alembic_version"} == set(Base.metadata.tables)
    for table in Base.metadata.tables:
        assert [(c["name"], str(c["type"]), c["nullable"]) for c in migrated.get_columns(table)] == [
            (c["name"], str(c["type"]), c["nullable"]) for c in modelled.get_columns(table)
        ]
    plain.close()


def test_migrating_in_a_process_of_its_own(database):
    migrate_apart(database)
    assert current_version(database) == HEAD


def test_a_migration_that_is_killed_has_failed(database, tmp_path, monkeypatch):
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(HostFault, match="cannot be brought to this version") as caught:
        migrate_apart(database)
    assert "ended with -9" in caught.value.details
