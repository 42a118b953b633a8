"""Repositories of other registries and the credentials to pull from them."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from sqlalchemy import select

from hypercloud.db.models import RepositoryRow, ServiceRow
from hypercloud.db.session import Database
from hypercloud.errors import Conflict, InvalidInput, NotFound

HUB = "registry-1.docker.io"
_NAME = re.compile(r"(?P<host>[A-Za-z0-9.-]+(?::\d{1,5})?)/(?P<path>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository; its password does not leave this module but for a pull."""

    namespace: str
    name: str
    host: str
    in_use: bool


class RepositoryService:
    """Keeps credentials.

    Args:
        database: where they are kept.

    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def repositories(self, namespace: str) -> list[Repository]:
        """Return a namespace's repositories by name."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(RepositoryRow).where(RepositoryRow.namespace == namespace).order_by(RepositoryRow.name)
            ).all()
            specs = session.scalars(
                select(ServiceRow.spec).where(ServiceRow.namespace == namespace, ServiceRow.state != "Terminated")
            ).all()
        used = {repository_of(str(spec.get("image", ""))) for spec in specs}
        return [Repository(namespace=namespace, name=row.name, host=row.host, in_use=row.name in used) for row in rows]

    def repository(self, namespace: str, name: str) -> Repository:
        """Return a repository. Errors: NotFound."""
        for one in self.repositories(namespace):
            if one.name == name.strip("/"):
                return one
        raise NotFound("the repository does not exist", details=name[:200])

    def add(self, namespace: str, name: str, username: str, password: str) -> Repository:
        """Keep credentials for a repository. Errors: InvalidInput, Conflict."""
        found = _NAME.fullmatch(name)
        host = found["host"] if found else ""
        if not found or not ("." in host or ":" in host or host == "localhost"):
            raise InvalidInput(
                "the name must be that of a repository on a registry",
                details=name[:200],
                resolution="such as my.registry.com/myrepo",
            )
        with self._database.session() as session:
            query = select(RepositoryRow).where(RepositoryRow.namespace == namespace, RepositoryRow.name == name)
            if session.scalar(query) is not None:
                raise Conflict("the repository exists", details=name)
            session.add(
                RepositoryRow(
                    id=str(uuid.uuid4()),
                    namespace=namespace,
                    name=name,
                    host=host,
                    username=username,
                    password=password,
                )
            )
        return self.repository(namespace, name)

    def update(self, namespace: str, name: str, username: str | None, password: str | None) -> Repository:
        """Change credentials. Errors: NotFound."""
        with self._database.session() as session:
            row = session.scalar(
                select(RepositoryRow).where(RepositoryRow.namespace == namespace, RepositoryRow.name == name.strip("/"))
            )
            if row is None:
                raise NotFound("the repository does not exist", details=name[:200])
            row.username = username if username is not None else row.username
            row.password = password if password is not None else row.password
        return self.repository(namespace, name)

    def remove(self, namespace: str, name: str) -> None:
        """Forget a repository; nothing happens on its registry. Errors: NotFound."""
        with self._database.session() as session:
            row = session.scalar(
                select(RepositoryRow).where(RepositoryRow.namespace == namespace, RepositoryRow.name == name.strip("/"))
            )
            if row is None:
                raise NotFound("the repository does not exist", details=name[:200])
            session.delete(row)

    def hosts(self, namespace: str) -> list[str]:
        """Return the registries that a namespace has repositories on."""
        return sorted({one.host for one in self.repositories(namespace)})

    def credentials(self, namespace: str, image: str) -> dict[str, str]:
        """Return what a pull of an image is to be made with; empty = nothing."""
        with self._database.reading() as session:
            row = session.scalar(
                select(RepositoryRow).where(
                    RepositoryRow.namespace == namespace, RepositoryRow.name == repository_of(image)
                )
            )
        if row is None or not row.username:
            return {}
        return {"username": row.username, "password": row.password, "serveraddress": row.host}

    def all_credentials(self, namespace: str) -> dict[str, dict[str, str]]:
        """Return a namespace's credentials by the host of their registry, for builds; one for each host."""
        with self._database.reading() as session:
            query = select(RepositoryRow).where(RepositoryRow.namespace == namespace).order_by(RepositoryRow.name)
            rows = [row for row in session.scalars(query) if row.username]
        return {row.host: {"username": row.username, "password": row.password} for row in rows}


def repository_of(image: str) -> str:
    """Return an image's name without tag and digest."""
    name = image.partition("@")[0]
    head, _, tail = name.rpartition(":")
    return head if head and "/" not in tail else name
