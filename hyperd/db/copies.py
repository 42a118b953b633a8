"""Copies of rows beside what they describe, so that losing the database does not mean losing pods and images.

::

    <root>/pods/<id>/pod.json              the pod and its containers, beside its disk
    <root>/images/rows/<hex>.image.json    an image, its names and manifests, beside the layers
    <root>/images/rows/<hex>.layer.json    a layer and the blobs it came from
    <root>/rows/networks/<id>.json, <root>/rows/volumes/<name>.json

Triggers note in ``copies_due`` whose copy is not up to date, in the transaction that changes the row, so no way of
writing is missed and a killed daemon goes on where it stopped. A thread writes the files after the commit; nobody waits
for it. A file is written after its rows have reached the disk, so a file without rows and without such a note means
that the database is older than its files (``hyperd.db.guard``).

A file holds the columns as SQLite has them and the version of the tables; ``hyperd.db.rebuild`` reads it. A migration
that changes one of these tables notes all of its objects, so that all copies are of one version.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, text

from hyperd.aside import remove_empty
from hyperd.db.models import COPIED, COPIED_TABLES
from hyperd.db.session import Database

log = structlog.get_logger(__name__)

RETRY = 60.0  # seconds after a file could not be written
# Seconds that changes are gathered: a start changes a pod's rows several times, and each file goes to the disk.
GATHER = 0.5
_AT_ONCE = 64  # objects whose rows are in memory together
_SUFFIXES = {"image": ".image.json", "layer": ".layer.json"}
_DIRECTORIES = {"network": "networks", "volume": "volumes"}
POD_FILE = "pod.json"


def copy_path(root: Path, kind: str, ident: str) -> Path:
    """Return where the copy of an object is."""
    if kind == "pod":
        return root / "pods" / ident / POD_FILE
    if kind in _SUFFIXES:
        return root / "images" / "rows" / (ident.removeprefix("sha256:") + _SUFFIXES[kind])
    return root / "rows" / _DIRECTORIES[kind] / f"{ident}.json"


def copies(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield kind, id and path of every copy that lies below a root."""
    for path in sorted((root / "pods").glob(f"*/{POD_FILE}")):
        yield "pod", path.parent.name, path
    for kind, suffix in _SUFFIXES.items():
        for path in sorted((root / "images" / "rows").glob(f"*{suffix}")):
            yield kind, f"sha256:{path.name.removesuffix(suffix)}", path
    for kind, directory in _DIRECTORIES.items():
        for path in sorted((root / "rows" / directory).glob("*.json")):
            yield kind, path.name.removesuffix(".json"), path


def pack(value: Any) -> Any:
    """Return a column's value as JSON has it."""
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def unpack(value: Any) -> Any:
    """Return what ``pack`` was given."""
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


class Copies:
    """Keeps the files up to date, in a thread of its own.

    Args:
        database: migrated.
        root: the daemon's.
        version: of the tables.

    """

    def __init__(self, database: Database, root: Path, *, version: str) -> None:
        self._db = database
        self._root = root
        self._version = version
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="row-copies", daemon=True)

    def open(self) -> None:
        """Begin; what has no copy yet gets one."""
        self._note_missing()
        self._db.listen(self._written)
        self._wake.set()
        self._thread.start()

    def close(self) -> None:
        """Write what is due and end."""
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def settle(self) -> bool:
        """Write every copy that is due; False when some could not be written."""
        with self._lock:
            self._db.reserve()
            with self._db.reading() as session:
                query = text("SELECT n, kind, id FROM copies_due ORDER BY n")
                due = [(row.n, row.kind, row.id) for row in session.execute(query)]
            done: list[dict[str, int]] = []
            for start in range(0, len(due), _AT_ONCE):
                done += self._write_some(due[start : start + _AT_ONCE])
            if done:
                with self._db.session() as session:
                    session.execute(text("DELETE FROM copies_due WHERE n = :n"), done)
            return len(done) == len(due)

    def _written(self, tables: frozenset[str]) -> None:
        if not tables.isdisjoint(COPIED_TABLES):
            self._wake.set()

    def _work(self) -> None:
        good = True
        while not self._closed.is_set():
            self._wake.wait(None if good else RETRY)
            self._closed.wait(GATHER)
            self._wake.clear()
            try:
                good = self.settle()
            except Exception as error:  # a database that is locked or full; the notes stay
                log.warning("copies.failed", error=str(error))
                good = False

    def _write_some(self, due: Sequence[tuple[int, str, str]]) -> list[dict[str, int]]:
        """Write some copies, whose rows reach the disk before; return the numbers of those that are done."""
        with self._db.reading() as session:
            rows = [read_rows(session.connection(), kind, ident) for _, kind, ident in due]
        if any(rows):
            self._db.sync()
        done = []
        for (number, kind, ident), found in zip(due, rows, strict=True):
            try:
                self._write(kind, ident, found)
                done.append({"n": number})
            except OSError as error:
                log.warning("copies.not_written", kind=kind, id=ident, error=str(error))
        return done

    def _write(self, kind: str, ident: str, rows: dict[str, list[dict[str, Any]]]) -> None:
        path = copy_path(self._root, kind, ident)
        if not rows:
            path.unlink(missing_ok=True)
            if kind == "pod":
                remove_empty(path.parent)
            return
        if kind == "pod" and not path.parent.is_dir():
            return  # it is being removed, which will be noted, too
        content = {"database": self._version, "kind": kind, "id": ident, "rows": rows}
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def _note_missing(self) -> None:
        """Note what has no file: it was not written, or somebody has removed it."""
        for part in (*self._root.glob("pods/*/*.json.part"), *self._root.glob("images/rows/*.json.part")):
            part.unlink(missing_ok=True)
        there = {(kind, ident) for kind, ident, _ in copies(self._root)}
        with self._db.session() as session:
            for kind, tables in COPIED.items():
                table, column = tables[0]
                for ident in session.scalars(text(f"SELECT {column} FROM {table}")):  # noqa: S608 - names of our own
                    if (kind, ident) not in there:
                        copy_path(self._root, kind, ident).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                        note = text("INSERT OR REPLACE INTO copies_due (kind, id) VALUES (:kind, :id)")
                        session.execute(note, {"kind": kind, "id": ident})


def read_rows(connection: Connection, kind: str, ident: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of an object by table, its own first; nothing when it does not exist."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table, column in COPIED[kind]:
        query = text(f"SELECT * FROM {table} WHERE {column} = :id ORDER BY rowid")  # noqa: S608 - names of our own
        rows = connection.execute(query, {"id": ident}).mappings()
        found[table] = [{name: pack(value) for name, value in row.items()} for row in rows]
        if not found[COPIED[kind][0][0]]:
            return {}
    return found
