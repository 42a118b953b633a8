"""Bringing a database up to this version's tables."""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlalchemy import inspect, text

from hyperd.db.session import Database

log = structlog.get_logger(__name__)

HEAD = "0002"


def migrate(database: Database) -> None:
    """Run the migrations a database lacks. Alembic (0.4 s to import) is loaded only when there are any.

    Errors: sqlalchemy's, when the file is no database of this program or of a newer version.
    """
    if current_version(database) == HEAD:
        return
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
    """Give the version of a database, empty for a new one."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")
