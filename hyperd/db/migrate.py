"""Bringing a database up to this version's tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import structlog
from sqlalchemy import inspect, text

from hyperd.db.session import Database
from hyperd.errors import HostFault

log = structlog.get_logger(__name__)

VERSIONS = ("0001", "0002", "0003", "0004")
HEAD = VERSIONS[-1]
TIMEOUT = 600  # seconds


def migrate(database: Database, version: str = HEAD) -> None:
    """Run the migrations a database lacks up to ``version``.

    Alembic (0.4 s to import) is loaded only when there are any.
    Errors: sqlalchemy's, when the file is no database of this program or of a newer version.
    """
    now = current_version(database)
    if now == version or (now in VERSIONS and VERSIONS.index(now) > VERSIONS.index(version)):
        return
    from alembic import command
    from alembic.config import Config as AlembicConfig

    settings = AlembicConfig()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings.set_main_option("path_separator", "os")
    with database.engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, version)
    log.info("db.migrated", version=version)


def migrate_apart(database: Database) -> None:
    """Do the same in a process of its own: alembic and what it imports would stay in a daemon's memory, 12 MB.

    Errors: HostFault when it fails; sqlalchemy's when the file is no database.
    """
    if current_version(database) == HEAD:
        return
    code = f"from hyperd.db.migrate import _main; _main({str(database.path)!r})"
    path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        reason = (done.stderr[-1000:].strip() or f"it ended with {done.returncode}") if done.returncode else ""
    except OSError as error:  # Python does not know where it is, or may not be run a second time
        log.warning("db.migrated_here", program=sys.executable, error=str(error))
        migrate(database)
        return
    except subprocess.TimeoutExpired:
        reason = f"not done within {TIMEOUT} s"
    if reason:
        raise HostFault(
            "the database cannot be brought to this version",
            details=f"{database.path}: {reason.splitlines()[-1]}",
            resolution="was it written by a newer hyperd?",
        )
    log.info("db.migrated", version=HEAD)


def _main(path: str) -> None:
    database = Database(Path(path))
    try:
        migrate(database)
    finally:
        database.close()


def current_version(database: Database) -> str:
    """Return the version of a database, empty for a new one."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")
