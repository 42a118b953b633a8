"""What several APIs need: owners, health, networks, named volumes, execs with a specification.

Specifications leave the words of one API: the rows get the format 1 of ``hyperd.db.spec_codec``. How the version before
wrote them is written down here once more and stays as it is, whatever becomes of that API's schemas.
The lines down to ``depends_on`` are what Alembic asks of every version.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAMES: dict[str, str] = {
    "readOnly": "read_only",
    "additionalGroups": "additional_groups",
    "Name": "name",
    "Hard": "hard",
    "Soft": "soft",
    "containerPort": "container_port",
    "hostPort": "host_port",
    "restartPolicy": "restart_policy",
    "StopSignal": "stop_signal",
    "logPath": "log_path",
    "hostIP": "host_ip",
    "serviceIP": "service_ip",
    "servicePort": "service_port",
    "internalNetworks": "internal_networks",
    "externalNetworks": "external_networks",
    "portmappingWhiteLists": "portmapping_white_lists",
    "dnsOptions": "dns_options",
    "dnsSearch": "dns_search",
}
TABLES = {"labels", "sysctl", "config"}  # their keys are the users'


def converted(value: Any) -> Any:
    """Return a specification of the version before in the codec's format 1, without its version."""
    if isinstance(value, list):
        return [converted(item) for item in value]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        if item is None:
            continue
        if key == "envs":
            out["envs"] = [[pair["env"], pair.get("value", "")] for pair in item]
        else:
            out[NAMES.get(str(key), str(key))] = item if key in TABLES else converted(item)
    return out


def upgrade() -> None:
    """Apply."""
    connection = op.get_bind()
    _pods(connection)
    _containers(connection)
    _execs(connection)
    _networks()
    _volumes()
    _copies(connection)


def _pods(connection: sa.Connection) -> None:
    op.add_column("pods", sa.Column("owner", sa.String(), nullable=False, server_default="hyper"))
    for ident, text, labels in connection.execute(sa.text("SELECT id, spec, labels FROM pods")).all():
        spec = {"v": 1, **converted(json.loads(text)), "labels": json.loads(labels)}
        _rewrite(connection, "pods", ident, spec)
    op.drop_column("pods", "labels")  # they stand in the specification


def _containers(connection: sa.Connection) -> None:
    for ident, text in connection.execute(sa.text("SELECT id, spec FROM containers")).all():
        _rewrite(connection, "containers", ident, {"v": 1, **converted(json.loads(text))})
    op.add_column("containers", sa.Column("oom_killed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("containers", sa.Column("error", sa.String(), nullable=False, server_default=""))
    op.add_column("containers", sa.Column("auto_remove", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("containers", sa.Column("health", sa.JSON(), nullable=False, server_default="{}"))


def _rewrite(connection: sa.Connection, table: str, ident: str, spec: dict[str, Any]) -> None:
    rows = sa.table(table, sa.column("id"), sa.column("spec", sa.JSON()))
    connection.execute(rows.update().where(rows.c.id == ident).values(spec=spec))


def _execs(connection: sa.Connection) -> None:
    op.add_column("execs", sa.Column("spec", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("execs", sa.Column("pid", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("execs", sa.Column("started_at", sa.Double(), nullable=True))
    op.add_column("execs", sa.Column("finished_at", sa.Double(), nullable=True))
    for ident, command, tty in connection.execute(sa.text("SELECT id, command, tty FROM execs")).all():
        _rewrite(connection, "execs", ident, {"v": 1, "argv": json.loads(command), "tty": bool(tty)})
    op.drop_column("execs", "command")
    op.drop_column("execs", "tty")


def _networks() -> None:
    op.create_table(
        "networks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("driver", sa.String(), nullable=False),
        sa.Column("subnet", sa.String(), nullable=False),
        sa.Column("gateway", sa.String(), nullable=False),
        sa.Column("ip_range", sa.String(), nullable=False),
        sa.Column("internal", sa.Boolean(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.add_column("addresses", sa.Column("network_id", sa.String(), nullable=False, server_default=""))
    op.add_column("addresses", sa.Column("aliases", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("ports", sa.Column("host_ip", sa.String(), nullable=False, server_default=""))
    op.add_column("addresses", sa.Column("dns", sa.JSON(), nullable=False, server_default="[]"))
    op.create_index("ix_addresses_network_id", "addresses", ["network_id"])


def _volumes() -> None:
    op.create_table(
        "volumes",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("driver", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("mountpoint", sa.String(), nullable=False),
        sa.Column("anonymous", sa.Boolean(), nullable=False),
        sa.Column("populated", sa.Boolean(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "volume_refs",
        sa.Column("volume", sa.String(), nullable=False),
        sa.Column("container_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["volume"], ["volumes.name"]),
        sa.ForeignKeyConstraint(["container_id"], ["containers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("volume", "container_id"),
    )
    op.create_table(
        "shared_paths",
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("device", sa.BigInteger(), nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("shared_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("path"),
    )
    op.create_index("ix_volume_refs_container_id", "volume_refs", ["container_id"])


COPIED = {
    "layer": (("layers", "diff_id"), ("blobs", "diff_id")),
    "network": (("networks", "id"),),
    "volume": (("volumes", "name"),),
    "image": (
        ("images", "id"),
        ("image_layers", "image_id"),
        ("tags", "image_id"),
        ("repo_digests", "image_id"),
        ("manifests", "image_id"),
        ("image_signatures", "image_id"),
    ),
    "pod": (("pods", "id"), ("containers", "pod_id")),
}
COLUMNS = {
    "pods": "owner, spec",
    "containers": "name, pod_id, position, spec, image_id, image_name, auto_remove",
}


def _copies(connection: sa.Connection) -> None:
    """Make the notes of what has to be copied, and the triggers that write them."""
    op.create_table(
        "copies_due",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
        sa.UniqueConstraint("kind", "id"),
        sqlite_autoincrement=True,
    )
    note = "INSERT OR REPLACE INTO copies_due (kind, id) VALUES"
    for kind, tables in COPIED.items():
        for table, column in tables:
            update = f"UPDATE OF {COLUMNS[table]}" if table in COLUMNS else "UPDATE"
            new, old = (f" {note} ('{kind}', {row}.{column});" for row in ("NEW", "OLD"))
            for name, event, notes in (
                ("insert", "INSERT", new),
                ("update", update, old + new),
                ("delete", "DELETE", old),
            ):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER IF NOT EXISTS copy_{table}_{name} AFTER {event} ON {table} BEGIN{notes} END"
                )


def downgrade() -> None:
    """Refuse: rows in the words of the version before would have to be made up."""
    raise NotImplementedError("this version of the database cannot be taken back")
