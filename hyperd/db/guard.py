"""Whether a database may be used: asked before anything is opened, changed or cleaned up.

Start-up makes the host what the rows say. A database that is empty, old or damaged would have it stop VMs and remove
disks and layers, so a daemon that finds one does not start and touches nothing. ``hyperd recover`` is what a person can
do then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hyperd.db.copies import copies
from hyperd.db.migrate import HEAD, VERSIONS
from hyperd.db.models import COPIED
from hyperd.errors import Busy, HostFault

NAME = "hyper.db"
_BUSY = 10.0  # seconds
_RESOLUTION = "put back a copy of the database, or run `hyperd recover` to rebuild it from what lies in the directory"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found.

    Args:
        problem: empty when the database may be used: else ``missing``, ``damaged``, ``older`` or ``newer``.
        details: for people.
        version: of the tables; empty for a new database.

    """

    problem: str = ""
    details: str = ""
    version: str = ""


def check(root: Path) -> None:
    """Refuse a database that does not fit the files below the root.

    Errors: HostFault, which says what is wrong; Busy when another program has the database locked.
    """
    finding = examine(root)
    path = root / NAME
    if finding.problem == "missing":
        raise HostFault(
            f"the database {path} is missing or empty, but there are pods or images beside it",
            details=finding.details,
            resolution=_RESOLUTION,
        )
    if finding.problem == "damaged":
        raise HostFault(f"the database {path} is damaged", details=finding.details, resolution=_RESOLUTION)
    if finding.problem == "older":
        raise HostFault(
            f"the database {path} is older than the files beside it", details=finding.details, resolution=_RESOLUTION
        )
    if finding.problem == "newer":
        raise HostFault(
            f"the database {path} was written by a newer hyperd",
            details=finding.details,
            resolution="install that version again; databases cannot be taken back to an older one",
        )


def examine(root: Path) -> Finding:
    """Look at a root's database without changing anything. Errors: Busy, HostFault (it cannot be read at all)."""
    path = root / NAME
    if not path.exists() or path.stat().st_size == 0:  # SQLite would remove the journal of an empty file
        return _new(root)
    try:
        with _reading(path) as connection:
            version = _version(connection)
            if version and version not in VERSIONS:
                return Finding(problem="newer", details=f"its version is {version}, this hyperd knows {HEAD}")
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                return Finding(problem="damaged", details=str(said)[:300])
            if not version:
                return _new(root)
            strangers = _strangers(connection, root)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise Busy(f"another program has the database {path} locked") from error
        return Finding(problem="damaged", details=str(error))
    except sqlite3.DatabaseError as error:
        return Finding(problem="damaged", details=str(error))
    if strangers:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        return Finding(problem="older", version=version, details=f"it lacks {', '.join(strangers[:3])}{more}")
    return Finding(version=version)


def _new(root: Path) -> Finding:
    found = list(leftovers(root))
    return Finding(problem="missing", details="; ".join(found)) if found else Finding()


def leftovers(root: Path) -> Iterator[str]:
    """Yield what lies below a root that a new database would know nothing of, in words."""
    for words, pattern in (
        ("directories of pods", "pods/*"),
        ("layers of images", "images/layers/*.sqfs"),
        ("images", "images/rows/*.image.json"),
        ("networks", "rows/networks/*.json"),
        ("volumes", "volumes/[!.]*"),
        ("VMs", "libvirt/run/qemu/*.xml"),
    ):
        count = sum(1 for _ in root.glob(pattern))
        if count:
            yield f"{count} {words} in {root / pattern.rpartition('/')[0]}"


def _strangers(connection: sqlite3.Connection, root: Path) -> list[str]:
    """Return the objects that have a copy beside their files, but no row; older versions lack some of the tables."""
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    known = set(connection.execute("SELECT kind, id FROM copies_due")) if "copies_due" in there else set()
    for kind, tables in COPIED.items():
        table, column = tables[0]
        if table not in there:
            continue
        query = f"SELECT {column} FROM {table}"  # noqa: S608 - names of our own
        known |= {(kind, row[0]) for row in connection.execute(query)}
    return [f"{kind} {ident[:80]}" for kind, ident, _ in copies(root) if (kind, ident) not in known]


def _version(connection: sqlite3.Connection) -> str:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
        return ""
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else ""


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    uri = f"file:{quote(str(path))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY)) as connection:
        yield connection
