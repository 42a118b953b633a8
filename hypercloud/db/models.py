"""The tables. Times are seconds since the epoch (UTC), uuids are text."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from hypercloud.db.session import Base


class RoleRow(Base):
    """A role of Shipyard: ``admin``, ``user``, or one without rights."""

    __tablename__ = "roles"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class AccountRow(Base):
    """Somebody who may sign in."""

    __tablename__ = "accounts"
    id: Mapped[str] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    role: Mapped[str]  # the name: a role may be removed while accounts have it, they can do nothing then


class TokenRow(Base):
    """A token of ``/auth/login`` or of an API key: only its digest is kept."""

    __tablename__ = "tokens"
    digest: Mapped[str] = mapped_column(primary_key=True)  # SHA-256, hexadecimal
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]  # login | apikey | container
    name: Mapped[str]  # the user agent, the key's description, or the container's uuid
    created: Mapped[float]
    used: Mapped[float]
    id: Mapped[str] = mapped_column(unique=True)  # to name it without knowing it
    namespace: Mapped[str] = mapped_column(default="")  # of a container's token: the only one it is good for
    __table_args__ = (UniqueConstraint("account_id", "kind", "name"),)


class ServiceKeyRow(Base):
    """A service key of Shipyard: all rights. The API shows it in its list, so it is kept as it is."""

    __tablename__ = "service_keys"
    key: Mapped[str] = mapped_column(primary_key=True)
    description: Mapped[str]


class WebhookKeyRow(Base):
    """A webhook of Shipyard: whoever knows its key redeploys the containers of an image."""

    __tablename__ = "webhook_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    image: Mapped[str]


class EngineRow(Base):
    """A Docker-API engine; to Docker Cloud a node."""

    __tablename__ = "engines"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    addr: Mapped[str]
    cpus: Mapped[float]
    memory: Mapped[float]  # MiB
    labels: Mapped[list[str]] = mapped_column(JSON)
    ssl_cert: Mapped[str] = mapped_column(default="")
    ssl_key: Mapped[str] = mapped_column(default="")
    ca_cert: Mapped[str] = mapped_column(default="")
    nickname: Mapped[str] = mapped_column(default="")
    created: Mapped[float]


class EventRow(Base):
    """An event as Shipyard keeps them."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    type: Mapped[str]
    time: Mapped[float] = mapped_column(index=True)
    engine: Mapped[str] = mapped_column(default="")  # the engine's name
    container: Mapped[str] = mapped_column(default="")  # the container's id
    image: Mapped[str] = mapped_column(default="")
    message: Mapped[str] = mapped_column(default="")
    tags: Mapped[list[str]] = mapped_column(JSON)


class ExtensionRow(Base):
    """An extension of Shipyard: containers that are kept running."""

    __tablename__ = "extensions"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)


class StackRow(Base):
    """A stack of Docker Cloud."""

    __tablename__ = "stacks"
    uuid: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    nickname: Mapped[str]
    state: Mapped[str]
    created: Mapped[float]
    deployed: Mapped[float | None]
    destroyed: Mapped[float | None]


class ServiceRow(Base):
    """A service of Docker Cloud: what its containers should be."""

    __tablename__ = "services"
    uuid: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    nickname: Mapped[str]
    stack: Mapped[str | None] = mapped_column(ForeignKey("stacks.uuid"), index=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    target: Mapped[int]
    revision: Mapped[int]  # raised when the containers no longer are what the specification says
    generation: Mapped[int]  # raised by a redeploy: containers of an older one are to be replaced
    state: Mapped[str] = mapped_column(index=True)
    created: Mapped[float]
    deployed: Mapped[float | None]
    started: Mapped[float | None]
    stopped: Mapped[float | None]
    destroyed: Mapped[float | None]


class ContainerRow(Base):
    """A container of a service."""

    __tablename__ = "containers"
    uuid: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str] = mapped_column(index=True)
    service: Mapped[str] = mapped_column(ForeignKey("services.uuid"), index=True)
    number: Mapped[int]  # web-1, web-2, ...
    name: Mapped[str]
    engine: Mapped[str | None] = mapped_column(index=True)  # the engine's id
    docker_id: Mapped[str | None] = mapped_column(index=True)
    revision: Mapped[int]
    generation: Mapped[int]
    volumes_of: Mapped[str]  # the uuid that names its volumes: its own, or that of the container it replaced
    goal: Mapped[str]  # running | stopped | gone
    state: Mapped[str] = mapped_column(index=True)
    exit_code: Mapped[int | None]
    exit_msg: Mapped[str | None]
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)  # the service's at the time
    envvars: Mapped[dict[str, str]] = mapped_column(JSON)  # with the links' variables
    links: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    ports: Mapped[list[dict[str, Any]]] = mapped_column(JSON)  # inner, outer, protocol, published
    image_env: Mapped[list[str]] = mapped_column(JSON)
    private_ip: Mapped[str | None]
    created: Mapped[float]
    deployed: Mapped[float | None]
    started: Mapped[float | None]
    stopped: Mapped[float | None]
    destroyed: Mapped[float | None]


class ActionRow(Base):
    """An API call of Docker Cloud that changes something, and how far it has come."""

    __tablename__ = "actions"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    uuid: Mapped[str] = mapped_column(unique=True)
    namespace: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    operation: Mapped[str]  # what the reconciler does; empty = it was done within the request
    arguments: Mapped[dict[str, Any]] = mapped_column(JSON)
    kind: Mapped[str]  # of the object
    object: Mapped[str] = mapped_column(index=True)  # its uuid or name
    method: Mapped[str]
    path: Mapped[str]
    user: Mapped[str]
    user_agent: Mapped[str]
    ip: Mapped[str]
    start: Mapped[float] = mapped_column(index=True)
    end: Mapped[float | None]
    state: Mapped[str] = mapped_column(index=True)
    is_user: Mapped[bool]


class ActionLogRow(Base):
    """A line of an action's log."""

    __tablename__ = "action_logs"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    action: Mapped[str] = mapped_column(ForeignKey("actions.uuid", ondelete="CASCADE"), index=True)
    time: Mapped[float]
    text: Mapped[str]


class TriggerRow(Base):
    """An address that redeploys or scales a service without any credentials."""

    __tablename__ = "triggers"
    uuid: Mapped[str] = mapped_column(primary_key=True)
    service: Mapped[str] = mapped_column(ForeignKey("services.uuid", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    operation: Mapped[str]
    created: Mapped[float]


class RepositoryRow(Base):
    """A repository of somebody's registry and the credentials to pull from it."""

    __tablename__ = "repositories"
    id: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]  # my.registry.com/myrepo
    host: Mapped[str]  # of its registry, with the port
    username: Mapped[str]
    password: Mapped[str]
    __table_args__ = (UniqueConstraint("namespace", "name"), Index("ix_repositories_host", "host"))


class SettingRow(Base):
    """A value that is made once: the secret that signs sessions."""

    __tablename__ = "settings"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
