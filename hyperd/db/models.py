"""All tables. JSON columns hold what only one service reads; what is searched or must be unique has its own column."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String, UniqueConstraint, event
from sqlalchemy.orm import Mapped, mapped_column

from hyperd.db.session import Base


class PodRow(Base):
    """A pod: what should be."""

    __tablename__ = "pods"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    state: Mapped[str] = mapped_column(String)
    owner: Mapped[str] = mapped_column(String, default="hyper")  # the API that made it; never changed
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)  # a PodSpec, see hyperd.db.spec_codec
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    outcome: Mapped[str] = mapped_column(String, default="")  # succeeded | failed once stopped
    reason: Mapped[str] = mapped_column(String, default="")

    @property
    def labels(self) -> dict[str, str]:
        """The specification's labels."""
        return self.spec.get("labels") or {}

    @property
    def annotations(self) -> dict[str, str]:
        """The specification's annotations."""
        return self.spec.get("annotations") or {}


class ContainerRow(Base):
    """A container of a pod."""

    __tablename__ = "containers"
    id: Mapped[str] = mapped_column(String, primary_key=True)  # 64 hexadecimal digits
    name: Mapped[str] = mapped_column(String, unique=True)
    pod_id: Mapped[str] = mapped_column(ForeignKey("pods.id", ondelete="CASCADE"), index=True)
    position: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)  # a ContainerSpec, see hyperd.db.spec_codec
    image_id: Mapped[str] = mapped_column(String, index=True)
    image_name: Mapped[str] = mapped_column(String)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    exit_code: Mapped[int | None]
    killed: Mapped[bool] = mapped_column(default=False)
    oom_killed: Mapped[bool] = mapped_column(default=False)  # the last run ended so
    error: Mapped[str] = mapped_column(String, default="")  # why the last start failed
    auto_remove: Mapped[bool] = mapped_column(default=False)  # it goes when it has ended, whoever notices that
    health: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # of its health check; empty = it has none
    user_ids: Mapped[list[int]] = mapped_column(JSON, default=list)  # of user, group and groups of the last run
    stream_base: Mapped[int] = mapped_column(Integer, default=0)
    run_count: Mapped[int] = mapped_column(Integer, default=0)
    restart_count: Mapped[int] = mapped_column(Integer, default=0)  # by its policy, since it was last started
    restart_at: Mapped[float | None]  # when the next restart is due
    restart_delay: Mapped[float] = mapped_column(default=0.0)  # seconds, of the last restart

    @property
    def labels(self) -> dict[str, str]:
        """The specification's labels."""
        return self.spec.get("labels") or {}

    @property
    def annotations(self) -> dict[str, str]:
        """The specification's annotations."""
        return self.spec.get("annotations") or {}


class VmRow(Base):
    """A VM that exists or is being made."""

    __tablename__ = "vms"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    pod_id: Mapped[str | None] = mapped_column(String, unique=True)
    state: Mapped[str] = mapped_column(String)  # booting | idle | associated | paused
    vcpu: Mapped[int]
    memory: Mapped[int]
    created_at: Mapped[float]
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class AddressRow(Base):
    """An address of a bridge in use."""

    __tablename__ = "addresses"
    __table_args__ = (UniqueConstraint("bridge", "owner", "slot", "position"), UniqueConstraint("tap", "position"))
    bridge: Mapped[str] = mapped_column(String, primary_key=True)
    address: Mapped[str] = mapped_column(String, primary_key=True)
    owner: Mapped[str] = mapped_column(String, index=True)  # pod id, or VM id while the VM waits in the pool
    slot: Mapped[int] = mapped_column(Integer, default=0)  # the owner's first, second... NIC
    position: Mapped[int] = mapped_column(Integer, default=0)  # the NIC's first, second... address
    prefix: Mapped[int] = mapped_column(Integer, default=0)  # length, of an address that was asked for; 0 = the pool's
    mac: Mapped[str] = mapped_column(String)  # the NIC's, the same for all its addresses
    tap: Mapped[str] = mapped_column(String)
    network_id: Mapped[str] = mapped_column(String, default="", index=True)  # empty = the daemon's own bridge
    aliases: Mapped[list[str]] = mapped_column(JSON, default=list)  # further names of the owner on this network
    dns: Mapped[list[str]] = mapped_column(JSON, default=list)  # the owner's own name servers


class NetworkRow(Base):
    """A network that somebody has made; the daemon's own bridge has no row."""

    __tablename__ = "networks"
    id: Mapped[str] = mapped_column(String, primary_key=True)  # 64 hexadecimal digits
    name: Mapped[str] = mapped_column(String, unique=True)
    driver: Mapped[str] = mapped_column(String)
    subnet: Mapped[str] = mapped_column(String, default="")  # CIDR
    gateway: Mapped[str] = mapped_column(String, default="")
    ip_range: Mapped[str] = mapped_column(String, default="")  # CIDR; empty = the whole subnet
    internal: Mapped[bool] = mapped_column(default=False)
    labels: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    options: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    created_at: Mapped[float]


class GuardRow(Base):
    """Who may reach a pod; a pod without a row is open."""

    __tablename__ = "guards"
    owner: Mapped[str] = mapped_column(String, primary_key=True)  # pod id
    internal: Mapped[list[str]] = mapped_column(JSON)  # networks that may reach every port
    external: Mapped[list[str]] = mapped_column(JSON)  # networks that may reach published ports


class AddressCursorRow(Base):
    """The address of a bridge that was handed out last, so that the next one is not a just released one."""

    __tablename__ = "address_cursors"
    bridge: Mapped[str] = mapped_column(String, primary_key=True)
    last: Mapped[str] = mapped_column(String)


class PortRow(Base):
    """A published port."""

    __tablename__ = "ports"
    protocol: Mapped[str] = mapped_column(String, primary_key=True)
    host_port: Mapped[int] = mapped_column(Integer, primary_key=True)
    owner: Mapped[str] = mapped_column(String, index=True)  # pod id
    container_port: Mapped[int]
    address: Mapped[str] = mapped_column(String, default="")  # the pod's, empty while it has none
    host_ip: Mapped[str] = mapped_column(String, default="")  # the host's address it answers on, empty = all


class ImageRow(Base):
    """An image: its configuration blob."""

    __tablename__ = "images"
    id: Mapped[str] = mapped_column(String, primary_key=True)  # sha256:<hex> of the configuration
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    config_blob: Mapped[bytes]
    created_at: Mapped[float]
    size: Mapped[int] = mapped_column(BigInteger)  # sum of the uncompressed layers
    parent: Mapped[str] = mapped_column(String, default="", index=True)  # image it was built from here
    trim: Mapped[str] = mapped_column(String, default="", index=True)  # diff_id of the layer made here to lie on top


class ImageLayerRow(Base):
    """The layers of an image, bottom first."""

    __tablename__ = "image_layers"
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    diff_id: Mapped[str] = mapped_column(ForeignKey("layers.diff_id"), index=True)
    blob: Mapped[str] = mapped_column(String, default="", index=True)  # digest as it came, empty when made here
    media_type: Mapped[str] = mapped_column(String, default="")


class LayerRow(Base):
    """A layer that lies in the store as a squashfs image."""

    __tablename__ = "layers"
    diff_id: Mapped[str] = mapped_column(String, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)  # of the uncompressed tar
    image_size: Mapped[int] = mapped_column(BigInteger)  # of the squashfs file
    opaque_root: Mapped[bool] = mapped_column(default=False)  # hides every layer below it
    directories: Mapped[bytes | None] = mapped_column(deferred=True)  # hyperd.image.layer.directories; None = not known


class BlobRow(Base):
    """A layer as a registry sent it, kept in the store; which layer it is was checked, not believed."""

    __tablename__ = "blobs"
    digest: Mapped[str] = mapped_column(String, primary_key=True)
    diff_id: Mapped[str] = mapped_column(ForeignKey("layers.diff_id", ondelete="CASCADE"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)


class ManifestRow(Base):
    """A manifest that an image came with, so that it can be pushed and saved as it was."""

    __tablename__ = "manifests"
    digest: Mapped[str] = mapped_column(String, primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    media_type: Mapped[str] = mapped_column(String)
    body: Mapped[bytes]
    added_at: Mapped[float]


class TagRow(Base):
    """A name of an image."""

    __tablename__ = "tags"
    repository: Mapped[str] = mapped_column(String, primary_key=True)  # familiar name, such as busybox or host:5000/a/b
    tag: Mapped[str] = mapped_column(String, primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), index=True)
    digest: Mapped[str] = mapped_column(String, default="")  # of the manifest it was pulled with


class RepoDigestRow(Base):
    """A manifest (or index) that names an image in a repository."""

    __tablename__ = "repo_digests"
    repository: Mapped[str] = mapped_column(String, primary_key=True)
    digest: Mapped[str] = mapped_column(String, primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)


class ImageSignatureRow(Base):
    """A signature under an image's manifest that was checked when the image was pulled."""

    __tablename__ = "image_signatures"
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    repository: Mapped[str] = mapped_column(String, primary_key=True)  # the whole name, with its registry
    key: Mapped[str] = mapped_column(String, primary_key=True)  # fingerprint of the public key
    digest: Mapped[str] = mapped_column(String)  # of the manifest or index that is signed
    checked_at: Mapped[float]


class ExecRow(Base):
    """An additional process in a container."""

    __tablename__ = "execs"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    container_id: Mapped[str] = mapped_column(ForeignKey("containers.id", ondelete="CASCADE"), index=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)  # an ExecSpec, see hyperd.db.spec_codec
    state: Mapped[str] = mapped_column(String)  # created | running | exited
    exit_code: Mapped[int | None]
    stream_base: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    pid: Mapped[int] = mapped_column(default=0)  # in the guest; 0 = not known


class VolumeRow(Base):
    """A named volume of this host."""

    __tablename__ = "volumes"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    driver: Mapped[str] = mapped_column(String, default="local")
    kind: Mapped[str] = mapped_column(String, default="directory")
    mountpoint: Mapped[str] = mapped_column(String)  # path on the host
    anonymous: Mapped[bool] = mapped_column(default=False)  # it has no name of its own and may go with its container
    populated: Mapped[bool] = mapped_column(default=False)  # it has what the image brought, or nothing was to be copied
    labels: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    options: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    created_at: Mapped[float]


class SharedPathRow(Base):
    """A directory of the host that some guest could write to, once or now: links in it are not to be trusted."""

    __tablename__ = "shared_paths"
    path: Mapped[str] = mapped_column(String, primary_key=True)  # without links
    device: Mapped[int] = mapped_column(BigInteger)
    inode: Mapped[int] = mapped_column(BigInteger)
    shared_at: Mapped[float]  # for the last time


class VolumeRefRow(Base):
    """A container that uses a named volume, running or not."""

    __tablename__ = "volume_refs"
    volume: Mapped[str] = mapped_column(ForeignKey("volumes.name"), primary_key=True)
    container_id: Mapped[str] = mapped_column(
        ForeignKey("containers.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class CopyDueRow(Base):
    """An object whose copy beside its files is not up to date (``hyperd.db.copies``); written by triggers."""

    __tablename__ = "copies_due"
    __table_args__ = (UniqueConstraint("kind", "id"), {"sqlite_autoincrement": True})
    n: Mapped[int] = mapped_column(Integer, primary_key=True)  # another one at every change
    kind: Mapped[str] = mapped_column(String)
    id: Mapped[str] = mapped_column(String)


# What is copied: by kind the tables and the column that names the object, its own table first.
COPIED: dict[str, tuple[tuple[str, str], ...]] = {
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
COPIED_TABLES = frozenset(table for tables in COPIED.values() for table, _ in tables)
# The columns whose change is worth a copy, where not all are: a container's state changes at every run.
COPIED_COLUMNS = {
    "pods": ("owner", "spec"),
    "containers": ("name", "pod_id", "position", "spec", "image_id", "image_name", "auto_remove"),
}


def copy_triggers() -> list[str]:
    """Return the statements that make the triggers which note what has to be copied."""
    return [
        statement
        for kind, tables in COPIED.items()
        for table, column in tables
        for statement in _triggers(kind, table, column)
    ]


def _triggers(kind: str, table: str, column: str) -> list[str]:
    columns = COPIED_COLUMNS.get(table, ())
    note = "INSERT OR REPLACE INTO copies_due (kind, id) VALUES"
    return [
        f"CREATE TRIGGER IF NOT EXISTS copy_{table}_{name} AFTER {when} ON {table} BEGIN"
        + "".join(f" {note} ('{kind}', {row}.{column});" for row in rows)
        + " END"
        for name, when, rows in (
            ("insert", "INSERT", ("NEW",)),
            ("update", f"UPDATE OF {', '.join(columns)}" if columns else "UPDATE", ("OLD", "NEW")),
            ("delete", "DELETE", ("OLD",)),
        )
    ]


@event.listens_for(Base.metadata, "after_create")
def _make_triggers(_metadata: Any, connection: Any, **_: Any) -> None:
    for statement in copy_triggers():
        connection.exec_driver_sql(statement)
