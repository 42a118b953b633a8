"""Alembic's environment: the connection is handed in by ``hyperd.db.migrate``."""

from __future__ import annotations

from alembic import context

import hyperd.db.models  # noqa: F401 - its import puts the tables into Base.metadata
from hyperd.db.session import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter most things in place
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
