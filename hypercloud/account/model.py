"""Values about people and what they may do."""

from __future__ import annotations

from dataclasses import dataclass

ADMIN = "admin"
USER = "user"


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Account:
    """Somebody who may sign in. The password's hash does not leave the database."""

    id: str
    username: str
    role: Role


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who makes a request. ``namespace``: the only one a container's token is good for, else empty."""

    username: str
    role: str
    account: str = ""  # empty for a service key
    namespace: str = ""

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return self.role == ADMIN and not self.namespace

    @property
    def has_rights(self) -> bool:
        """Whether anything is allowed: roles other than ``admin`` and ``user`` have no rights."""
        return self.role in {ADMIN, USER}


@dataclass(frozen=True, kw_only=True)
class ServiceKey:
    """A service key of Shipyard."""

    key: str
    description: str


@dataclass(frozen=True, kw_only=True)
class WebhookKey:
    """A webhook of Shipyard."""

    id: str
    key: str
    image: str


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """An API key of Docker Cloud, as it is listed: without its secret."""

    id: str
    description: str
    created: float
    used: float
