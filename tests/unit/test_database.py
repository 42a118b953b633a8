"""The database: no lost update, migrations give what the models say."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import inspect

from hyperd.db import spec_codec
from hyperd.db.copies import Copies
from hyperd.db.guard import check
from hyperd.db.migrate import HEAD, VERSIONS, current_version, migrate, migrate_apart
from hyperd.db.models import AddressRow, ContainerRow, ExecRow, PodRow
from hyperd.db.rebuild import recover
from hyperd.db.session import Base, Database
from hyperd.errors import Busy, HostFault
from hyperd.pod.records import PodRecords
from hyperd.spec.model import ContainerSpec, ExecSpec, PodSpec, PortSpec, VolumeRef


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "hyper.db")
    yield database
    database.close()


def test_read_modify_write_from_eight_threads_loses_nothing(database):
    migrate(database)
    with database.session() as session:
        session.add(PodRow(id="p", state="pending", spec={"n": 0}, created_at=0.0, outcome="", reason=""))

    def work():
        for _ in range(50):
            with database.session() as session:
                row = session.get(PodRow, "p")
                row.spec = {"n": row.spec["n"] + 1}

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.session() as session:
        assert session.get(PodRow, "p").spec == {"n": 400}


def test_a_writer_waits_for_the_other_threads_longer_than_for_another_program(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperd.db.session.BUSY_TIMEOUT", 0)  # SQLite itself waits for nobody
    database = Database(tmp_path / "hyper.db")
    migrate(database)
    refused = []

    def add(name: str) -> None:
        try:
            write(database, PodRow(id=name, state="pending", spec={}, created_at=0.0, outcome="", reason=""))
        except Busy as error:
            refused.append(str(error))

    with database.session() as session:
        session.add(PodRow(id="a", state="pending", spec={}, created_at=0.0, outcome="", reason=""))
        session.flush()  # SQLite's lock is taken
        second = threading.Thread(target=add, args=("b",))
        second.start()
        second.join(0.5)  # it waits; without its turn it would be refused at once
        assert second.is_alive()
        monkeypatch.setattr("hyperd.db.session.WRITERS_TIMEOUT", 0)
        third = threading.Thread(target=add, args=("c",))
        third.start()
        third.join()
    second.join()
    with database.reading() as session:
        assert session.get(PodRow, "b") is not None
    assert [text[text.index(" is ") :][:8] for text in refused] == [" is busy"]
    database.close()


def test_a_database_that_another_program_holds_is_busy_and_can_be_read(database):
    migrate(database)
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with database.reading() as session:
            assert session.get(PodRow, "p") is None
        with pytest.raises(Busy, match="locked by another program"):
            write(database, PodRow(id="p", state="pending", spec={}, created_at=0.0, outcome="", reason=""))
        other.execute("ROLLBACK")
    with database.session() as session:
        assert session.get(PodRow, "p") is None


def test_a_database_that_breaks_while_it_is_used_is_a_fault_of_the_host(database):
    migrate(database)
    database.close()
    database.path.write_bytes(b"x" * 8192)
    with pytest.raises(HostFault, match="cannot be used"):
        write(database, PodRow(id="p", state="pending", spec={}, created_at=0.0, outcome="", reason=""))


def test_what_was_synced_survives_a_power_failure(database, tmp_path, monkeypatch):
    """The files as they were at the last sync are what the disk has for sure; what came later may be lost."""
    migrate(database)
    database.finish()
    safe = tmp_path / "safe"
    safe.mkdir()
    synced = os.fdatasync

    def keep(descriptor):
        synced(descriptor)
        for name in ("hyper.db", "hyper.db-wal"):
            shutil.copy(database.path.with_name(name), safe)

    monkeypatch.setattr(os, "fdatasync", keep)
    records = PodRecords(database)
    records.insert(PodSpec(id="told"))
    records.complete("told")
    records.insert(PodSpec(id="untold"))
    after = Database(safe / "hyper.db")
    assert [(row.id, PodRecords(after).half_made(row.id)) for row in PodRecords(after).all()] == [("told", False)]
    after.close()


def write(database, row):
    with database.session() as session:
        session.add(row)


def test_an_exception_rolls_back(database):
    migrate(database)

    def fail():
        with database.session() as session:
            session.add(PodRow(id="p", state="pending", spec={}, created_at=0.0, outcome="", reason=""))
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
        assert {(c["name"], str(c["type"]), c["nullable"]) for c in migrated.get_columns(table)} == {
            (c["name"], str(c["type"]), c["nullable"]) for c in modelled.get_columns(table)
        }
    plain.close()


OLD_ROWS = """
INSERT INTO pods VALUES ('web', 'running',
  '{"id": "web", "hostname": "web", "labels": {"a": "old"}, "restartPolicy": "always", "tty": false,
    "resource": {"vcpu": 1, "memory": 128}, "portmappings":
    [{"containerPort": "80", "hostPort": "8080", "protocol": "tcp"}], "containers": []}',
  '{"a": "new", "b": "2"}', 1.5, 2.5, NULL, '', '');
INSERT INTO containers VALUES ('c0', 'web-1', 'web', 0, 'running',
  '{"name": "web-1", "image": "busybox", "command": ["sleep", "9"], "tty": null,
    "envs": [{"env": "A", "value": "b=c"}],
    "readOnly": true, "StopSignal": "INT",
    "volumes": [{"path": "/d", "volume": "v", "readOnly": true, "detail": null}]}',
  'sha256:1', 'busybox:latest', 1.5, 2.5, NULL, NULL, 0, 7, 1, 0, NULL, 0.0);
INSERT INTO execs VALUES ('exec-a', 'c0', '["sh", "-c", "true"]', 1, 'running', NULL, 9, 3.5);
INSERT INTO addresses VALUES ('hyper0', '192.168.123.2', 'web', 0, 0, 0, '52:54:c0:a8:7b:02', 'hyper0-2');
"""


def test_rows_of_the_version_before_are_kept(database):
    migrate(database, "0002")
    with database.engine.begin() as connection:
        for statement in OLD_ROWS.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    migrate(database)
    with database.session() as session:
        pod, container = session.get(PodRow, "web"), session.get(ContainerRow, "c0")
        spec = spec_codec.load(PodSpec, pod.spec)
        assert (pod.owner, pod.state, pod.started_at, pod.labels) == ("hyper", "running", 2.5, {"a": "new", "b": "2"})
        assert spec.labels == pod.labels
        assert spec.restart_policy == "always"
        assert spec.portmappings == (PortSpec(container_port="80", host_port="8080"),)
        inner = spec_codec.load(ContainerSpec, container.spec)
        assert (inner.envs, inner.read_only, inner.stop_signal) == ((("A", "b=c"),), True, "INT")
        assert inner.volumes == (VolumeRef(path="/d", volume="v", read_only=True),)
        assert (container.stream_base, container.oom_killed, container.auto_remove) == (7, False, False)
        assert (container.health, container.labels) == ({}, {})
        execution = session.get(ExecRow, "exec-a")
        assert spec_codec.load(ExecSpec, execution.spec) == ExecSpec(argv=("sh", "-c", "true"), tty=True)
        assert (execution.state, execution.stream_base, execution.pid) == ("running", 9, 0)
        address = session.get(AddressRow, ("hyper0", "192.168.123.2"))
        assert (address.owner, address.network_id, address.aliases) == ("web", "", [])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_of_any_version_is_compared_with_the_files_beside_it(tmp_path, version):
    newest = Database(tmp_path / "hyper.db")
    migrate(newest)
    PodRecords(newest).insert(PodSpec(id="later"))
    copy = tmp_path / "pods" / "later" / "pod.json"
    copy.parent.mkdir(parents=True)
    assert Copies(newest, tmp_path, version=HEAD).settle()
    assert copy.is_file()
    check(tmp_path)
    newest.close()
    for path in tmp_path.glob("hyper.db*"):
        path.unlink()
    old = Database(tmp_path / "hyper.db")
    migrate(old, version)
    old.close()
    with pytest.raises(HostFault, match="older than the files beside it") as caught:
        check(tmp_path)
    assert caught.value.details == "it lacks pod later"
    assert recover(tmp_path).added == {"pod": 1}
    check(tmp_path)
    copy.unlink()  # a database of before there were copies, with its pods
    check(tmp_path)


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


def test_migrations_that_databases_have_behind_them_are_not_changed():
    """A change of the tables is a new migration, with its line here."""
    known = {
        "0001_the_first_tables.py": "847e88473cb2315552181a0d0ca663d87b527ad6721b7b48e40f23dccc6c44bc",
        "0002_signatures.py": "a99b25879493b1519135ad491266a2674f6bc438c8a7abb846c02c3370703b83",
        "0003_services_of_several_apis.py": "5d1b682d7d89a3bacfcc5ba9f8d6b5409849cb70216f6527a3696b19fa3f5b1f",
        "0004_whom_programs_are.py": "1513a8f582e6ceb92f4d28d020e2a6a740ed1dd0604bc2451da423f5bbab3247",
    }
    files = (Path(migrate.__code__.co_filename).parent / "migrations" / "versions").glob("0*.py")
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files} == known
