"""``hyperd recover``: a database made of the copies that lie beside disks and layers (``hyperd.db.copies``).

A database that can be read is kept and gets the rows it lacks; one that is damaged is put aside and a new one is made.
A new one is built under another name and renamed when it is complete, so a recovery that is killed can be made again.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, OperationalError

from hyperd.aside import Aside
from hyperd.db.copies import copies, unpack
from hyperd.db.guard import NAME, examine
from hyperd.db.migrate import HEAD, VERSIONS, migrate
from hyperd.db.session import Database
from hyperd.errors import HostFault

log = structlog.get_logger(__name__)

ORDER = ("layer", "network", "volume", "image", "pod")  # what others refer to comes first
NAMES = {"tags", "repo_digests", "manifests", "blobs"}
LOST_EXIT = 137  # of a container whose end nobody has seen


@dataclass(kw_only=True)
class Recovered:
    """What a recovery has done.

    Args:
        database: ``kept``, ``new`` or ``replaced``.
        added: objects that got their rows back, by kind.
        failed: what could not be brought back, and why.
        aside: where a damaged database is now, empty when there was none.

    """

    database: str
    added: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Copy:
    kind: str
    ident: str
    rows: Mapping[str, list[dict[str, Any]]]


def recover(root: Path) -> Recovered:
    """Rebuild the database of a root; no daemon may run there.

    Errors: HostFault when the database is of a newer hyperd or cannot be written; Busy when it is locked.
    """
    finding = examine(root)
    path = root / NAME
    if finding.problem == "newer":
        raise HostFault(
            f"the database {path} was written by a newer hyperd", details=finding.details, resolution="use that version"
        )
    kept = finding.problem in ("", "older") and path.exists() and path.stat().st_size > 0
    done = Recovered(database="kept" if kept else "replaced" if finding.problem == "damaged" else "new")
    target = path if kept else root / f"{NAME}.part"
    if not kept:
        for name in (target, *_journals(target)):
            name.unlink(missing_ok=True)
    database = Database(target)
    try:
        _fill(database, root, done, version=finding.version)
        if not kept:
            database.finish()
    finally:
        database.close()
    if not kept:
        _replace(root, target, done)
    return done


def _fill(database: Database, root: Path, done: Recovered, *, version: str) -> None:
    """Insert what has a copy and no row, each in the form of the version that wrote it."""
    found: dict[str, list[_Copy]] = defaultdict(list)
    for kind, ident, path in copies(root):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found[str(content["database"])].append(_Copy(kind, ident, content["rows"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            done.failed.append(f"{kind} {ident}: its copy {path} cannot be read ({error})")
    for newer in sorted(found.keys() - set(VERSIONS)):
        done.failed += [f"{copy.kind} {copy.ident}: its copy is of a newer hyperd ({newer})" for copy in found[newer]]
    for at in VERSIONS:
        if at < version:
            continue
        migrate(database, at)
        for kind in ORDER:
            for copy in found[at]:
                if copy.kind == kind:
                    _add(database, root, done, copy)
    migrate(database, HEAD)


def _add(database: Database, root: Path, done: Recovered, copy: _Copy) -> None:
    kind, ident, rows = copy.kind, copy.ident, copy.rows
    if kind == "layer" and not (root / "images" / "layers" / f"{ident.removeprefix('sha256:')}.sqfs").is_file():
        done.failed.append(f"layer {ident}: its file is gone")
        return
    if kind == "pod":
        rows = _stopped(rows, started=(root / "pods" / ident / "scratch.img").exists())
    try:
        with database.session() as session:
            if _exists(session.connection(), rows):
                return
            for table, entries in rows.items():
                for entry in entries:
                    _insert(session.connection(), table, entry)
    except (IntegrityError, OperationalError) as error:
        done.failed.append(f"{kind} {ident}: {error.orig}")
        return
    done.added[kind] += 1


def _exists(connection: Connection, rows: Mapping[str, list[dict[str, Any]]]) -> bool:
    table, entries = next(iter(rows.items()))
    key, value = next(iter(entries[0].items()))
    query = text(f"SELECT 1 FROM {_name(table)} WHERE {_name(key)} = :value")  # noqa: S608 - names are checked
    return connection.execute(query, {"value": value}).first() is not None


def _insert(connection: Connection, table: str, entry: Mapping[str, Any]) -> None:
    columns = [_name(column) for column in entry]
    names, places = ", ".join(f'"{column}"' for column in columns), ", ".join(f":{column}" for column in columns)
    # A name that two copies claim: one was written when it had moved and the other was not yet.
    kind = "INSERT OR IGNORE" if table in NAMES else "INSERT"
    query = f"{kind} INTO {_name(table)} ({names}) VALUES ({places})"
    connection.execute(text(query), {column: unpack(value) for column, value in entry.items()})


def _name(word: str) -> str:
    """Return the name of a table or column as a file has it. Errors: HostFault when it is none."""
    if not (word.isascii() and word.isidentifier()):
        raise HostFault("a copy of rows is damaged", details=f"{word[:80]!r} is no name of a table or column")
    return word


def _stopped(rows: Mapping[str, list[dict[str, Any]]], *, started: bool) -> dict[str, list[dict[str, Any]]]:
    """Return a pod's rows without what only its VM can know: it is stopped, and nothing starts by itself."""
    reason = "recovered" if started else ""
    pod = {"state": "stopped" if started else "pending", "outcome": "failed" if started else "", "reason": reason}
    ended = {"state": "exited", "exit_code": LOST_EXIT} if started else {"state": "created", "exit_code": None}
    container = {**ended, "restart_at": None, "killed": 1}
    return {
        table: [{**entry, **(pod if table == "pods" else container)} for entry in entries]
        for table, entries in rows.items()
    }


def _replace(root: Path, target: Path, done: Recovered) -> None:
    """Put the old database aside, with its journals, and the new one in its place."""
    path = root / NAME
    aside = Aside(root)
    for old in (*_journals(path), path):
        if old.exists() and (moved := aside.put(old, reason="a damaged or empty database")) is not None:
            done.aside.append(moved)
    target.replace(path)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for journal in _journals(target):
        journal.unlink(missing_ok=True)


def _journals(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
