"""Whom a container's program began as. The lines down to ``depends_on`` are what Alembic asks of every version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("containers", sa.Column("user_ids", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    """Undo."""
    op.drop_column("containers", "user_ids")
