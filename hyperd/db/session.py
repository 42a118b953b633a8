"""The database file and its sessions.

SQLite in WAL mode. Every transaction is BEGIN IMMEDIATE: with the driver's own deferred transactions two threads
that read and then write lose updates silently (``docs/decisions.md``, D4).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from hyperd.errors import OutOfSpace


class Base(DeclarativeBase):
    """Base of all tables; each feature keeps its own tables in ``hyperd.db.models``."""


class Database:
    """One SQLite file.

    Args:
        path: the file; made when missing, its directory must exist.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = _make_engine(path)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        readers = self.engine.execution_options(hyperd_reading=True)
        self._readers = sessionmaker(readers, expire_on_commit=False, autoflush=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Give a session whose transaction is committed at the end, rolled back on an exception.

        Errors: OutOfSpace when the disk is full; sqlalchemy's.
        """
        try:
            with self._sessions.begin() as session:
                yield session
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OutOfSpace(
                    "the host's disk is full", details=f"writing {self.path}", resolution="remove pods or images"
                ) from error
            raise

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a session that only reads: it waits for no writer, and sees one state of the database throughout."""
        with self._readers.begin() as session:
            yield session

    def create_all(self) -> None:
        """Make every table (tests); the daemon migrates instead."""
        Base.metadata.create_all(self.engine)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _make_engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver shall not begin transactions by itself
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        reading = connection.get_execution_options().get("hyperd_reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine
