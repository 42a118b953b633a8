"""The database file and its sessions.

SQLite in WAL mode. Every transaction is BEGIN IMMEDIATE: with the driver's own deferred transactions two threads
that read and then write lose updates silently (``docs/decisions.md``, D4).
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from hyperd.errors import Busy, HostFault, OutOfSpace
from hyperd.failpoint import failpoint

_WRITE = re.compile(r'(?:INSERT|REPLACE|UPDATE|DELETE)(?: OR \w+)?(?: INTO| FROM)? "?(\w+)', re.IGNORECASE)


RESERVE = 2**20  # bytes
# Seconds to wait for SQLite's lock. Writers of this daemon queue before it, so whoever has it is another program.
BUSY_TIMEOUT = 5
# Seconds that a writer waits for the others of this daemon. Each takes milliseconds; a host without memory or with a
# stuck disk takes longer.
WRITERS_TIMEOUT = 60
_BROKEN = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    }
)


class Base(DeclarativeBase):
    """Base of all tables; each feature keeps its own tables in ``hyperd.db.models``."""


class Database:
    """One SQLite file.

    Args:
        path: the file; made when missing, its directory must exist.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reserve = path.with_name(f"{path.name}.reserve")
        self._written = _Written()
        self._versions: Counter[str] = Counter()
        self._listener: Callable[[frozenset[str]], None] = lambda _tables: None
        self._version_lock = threading.Lock()
        # SQLite lets those who wait try again now and then: of many, one can have bad luck for seconds. A lock wakes
        # the next one.
        self._writers = threading.RLock()
        self.engine = _make_engine(path, self._written)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        readers = self.engine.execution_options(hyperd_reading=True)
        self._readers = sessionmaker(readers, expire_on_commit=False, autoflush=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session whose transaction is committed at the end, rolled back on an exception.

        One thread at a time has such a session, and it must not open a second one inside it.

        Errors: OutOfSpace when the disk is full; Busy when another program or, for very long, other threads hold the
        database; HostFault when it is damaged or cannot be written; sqlalchemy's for what the statements do wrong.
        """
        try:
            with self._translated(), self._turn(), self._sessions.begin() as session:
                yield session
            failpoint("database.session.committed")
        finally:
            self._raise_versions()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other thread writes."""
        if not self._writers.acquire(timeout=WRITERS_TIMEOUT):
            raise Busy(
                f"the database {self.path} is busy",
                details=f"other requests have been writing for more than {WRITERS_TIMEOUT} s",
                resolution="try again; look whether the host's disk answers",
            )
        try:
            yield
        finally:
            self._writers.release()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that only reads: it waits for no writer, and sees one state of the database throughout.

        Errors: as for ``session``.
        """
        with self._translated(), self._readers.begin() as session:
            yield session

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what SQLite says of the file into our errors."""
        try:
            yield
        except DatabaseError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # without what extends it
            if code == sqlite3.SQLITE_FULL:
                raise OutOfSpace(
                    "the host's disk is full", details=f"writing {self.path}", resolution="remove pods or images"
                ) from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Busy(
                    f"the database {self.path} is locked by another program",
                    details=f"for more than {BUSY_TIMEOUT} s",
                    resolution="end that program and try again",
                ) from error
            if code in _BROKEN:
                raise HostFault(f"the database {self.path} cannot be used", details=str(error.orig)) from error
            raise

    def version(self, *tables: str) -> tuple[int, ...]:
        """Return numbers that are others than before once a transaction that wrote to one of these tables is over.

        What was read from the tables after this call is true for as long as the numbers stay (``hyperd.db.memo``).
        """
        return tuple([self._versions[name] for name in tables])

    def _raise_versions(self) -> None:
        """Note that the tables this thread's transaction has written to are others now."""
        names, self._written.tables = self._written.tables, frozenset()
        if names:
            with self._version_lock:
                self._versions.update(_with_dependents(names))
            self._listener(names)

    def listen(self, listener: Callable[[frozenset[str]], None]) -> None:
        """Let a function be called after transactions with the tables they have written to; it must not block."""
        self._listener = listener

    def sync(self) -> None:
        """Return when every change that was committed by now survives a power failure (decision D62).

        A commit alone does not wait for the disk. Errors: HostFault when the disk cannot be written.
        """
        wal = self.path.with_name(f"{self.path.name}-wal")
        try:
            descriptor = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # everything is in the database itself
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            raise HostFault("the database cannot be written to the disk", details=f"{wal}: {error}") from error
        finally:
            os.close(descriptor)

    def make_room(self) -> None:
        """Let some transactions be written although the disk is full: those of a removal, which makes room itself."""
        with contextlib.suppress(OSError):
            status = os.statvfs(self.path)
            if status.f_bavail * status.f_frsize < RESERVE:
                self._reserve.unlink(missing_ok=True)

    def reserve(self) -> None:
        """Keep some space of the disk for ``make_room``, unless there is little left."""
        with contextlib.suppress(OSError):
            status = os.statvfs(self.path)
            if not self._reserve.exists() and status.f_bavail * status.f_frsize > 16 * RESERVE:
                descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(descriptor, 0, RESERVE)
                finally:
                    os.close(descriptor)

    def finish(self) -> None:
        """Bring everything into the one file, whose journal is empty then; nobody else uses the database."""
        with self.engine.connect() as connection:
            connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def create_all(self) -> None:
        """Make every table (tests); the daemon migrates instead."""
        Base.metadata.create_all(self.engine)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


class _Written(threading.local):
    """The tables that the present thread has written to since its last transaction."""

    def __init__(self) -> None:
        self.tables: frozenset[str] = frozenset()


@cache
def _with_dependents(names: frozenset[str]) -> frozenset[str]:
    """Add the tables whose rows go with those of others (ON DELETE CASCADE)."""
    found = set(names)
    for table in Base.metadata.sorted_tables:  # parents first
        if any(key.ondelete and key.column.table.name in found for key in table.foreign_keys):
            found.add(table.name)
    return frozenset(found)


def _make_engine(path: Path, written: _Written) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False},
        max_overflow=-1,  # as many as there are threads: one that waits for a lock must not keep others from reading
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver shall not begin transactions by itself
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_TIMEOUT * 1000}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        reading = connection.get_execution_options().get("hyperd_reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    @event.listens_for(engine, "after_cursor_execute")
    def _on_execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found = _WRITE.match(statement)
        if found is not None:
            written.tables |= {found[1]}

    return engine
