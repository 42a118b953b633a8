"""The database and its sessions: SQLite by default, PostgreSQL by URL.

SQLite runs in WAL mode and every transaction that may write is BEGIN IMMEDIATE: with the driver's own deferred
transactions two threads that read and then write lose updates. On PostgreSQL a lock of the transaction does the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from hypercloud.errors import HostFault, InvalidInput

WRITERS = 0x68797063  # the number of the lock that writers take one after the other


class Base(DeclarativeBase):
    """Base of all tables (``hypercloud.db.models``)."""


class Database:
    """One database.

    Args:
        url: SQLAlchemy's; ``sqlite:///FILE`` or ``postgresql+psycopg://...``.

    Errors: InvalidInput when the URL is none, or of another kind.

    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise InvalidInput("database is no URL", details=str(error)) from None
        backend = parsed.get_backend_name()
        if backend not in {"sqlite", "postgresql"}:
            raise InvalidInput("the database must be SQLite or PostgreSQL", details=backend)
        self.engine = _sqlite(url, parsed.database) if backend == "sqlite" else _postgresql(url)
        self._writers = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(
            self.engine.execution_options(hypercloud_reading=True), expire_on_commit=False, autoflush=False
        )

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session whose transaction is committed at the end, rolled back on an exception.

        Errors: HostFault when the database cannot be used; sqlalchemy's.
        """
        try:
            with self._writers.begin() as session:
                yield session
        except OperationalError as error:
            raise HostFault("the database cannot be written", details=str(error.orig)) from error

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that only reads: it waits for no writer."""
        with self._readers.begin() as session:
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _postgresql(url: str) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=True, pool_size=20, max_overflow=80)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "the driver for PostgreSQL is not installed",
            details=str(error),
            resolution="pip install 'hyperd[cloud-postgresql]', and write the URL as postgresql+psycopg://",
        ) from None

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        if not connection.get_execution_options().get("hypercloud_reading"):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")

    return engine


def _sqlite(url: str, path: str | None) -> Engine:
    if path:
        Path(path).touch(mode=0o600)  # it holds registries' passwords and engines' keys
    engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False}, pool_size=20, max_overflow=80)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver shall not begin transactions by itself
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        reading = connection.get_execution_options().get("hypercloud_reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine
