"""Bringing a database up to this version's tables."""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlalchemy import inspect, text

from hypercloud.db.session import Database
from hypercloud.errors import HostFault

log = structlog.get_logger(__name__)

HEAD = "0001"


def migrate(database: Database) -> None:
    """Run the migrations that a database lacks.

    Errors: HostFault when the database is of a newer version, or none of this program.
    """
    found = current_version(database)
    if found == HEAD:
        return
    if found > HEAD:
        raise HostFault(
            "the database is of a newer hypercloud",
            details=f"it has version {found}, this program knows {HEAD}",
            resolution="start the newer hypercloud, or restore a backup",
        )
    from alembic import command
    from alembic.config import Config as AlembicConfig

    settings = AlembicConfig()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings.set_main_option("path_separator", "os")
    with database.engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")
    log.info("db.migrated", version=HEAD)


def current_version(database: Database) -> str:
    """Return the version of a database, empty for a new one. Errors: HostFault when it cannot be read."""
    try:
        with database.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return ""
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")
    except Exception as error:
        raise HostFault("the database cannot be read", details=str(error).splitlines()[0]) from error
