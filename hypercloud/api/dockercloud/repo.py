"""Registries and external repositories."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response
from marshmallow import fields, validate

from hypercloud.action.service import Request
from hypercloud.api.bodies import json_object, load
from hypercloud.api.context import cloud
from hypercloud.api.dockercloud import lists
from hypercloud.api.dockercloud.blueprint import answer, caller, namespace, route
from hypercloud.api.dockercloud.schemas import Loose
from hypercloud.api.dockercloud.uris import uri
from hypercloud.db.models import ActionRow
from hypercloud.errors import NotFound
from hypercloud.workload.repositories import HUB, Repository


class CredentialsSchema(Loose):
    """Credentials of a repository."""

    username = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=255))
    password = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=10_000))


class RepositorySchema(CredentialsSchema):
    """A repository with its credentials."""

    name = fields.String(required=True, validate=validate.Length(1, 500))


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    route(blueprint, "repo registry/", registries, "GET")
    route(blueprint, "repo registry/<host>/", registry, "GET")
    # As one line of the document says.
    blueprint.add_url_rule("/api/v1/registry/<host>/", view_func=registry, methods=["GET"])
    blueprint.add_url_rule("/api/v1/<namespace>/registry/<host>/", "registry_of", registry, methods=["GET"])
    route(blueprint, "repo repository/", repositories, "GET")
    route(blueprint, "repo repository/", add, "POST")
    route(blueprint, "repo repository/<path:name>/", repository, "GET")
    route(blueprint, "repo repository/<path:name>/", update, "PATCH")
    route(blueprint, "repo repository/<path:name>/", remove, "DELETE")


def registries() -> Response:
    """List registries: the Docker Hub, and those of the repositories."""
    found = [_registry(host) for host in (HUB, *cloud().repositories.hosts(namespace()))]
    return lists.page([one for one in found if lists.matches(one)], lambda one: one)


def registry(host: str) -> Response:
    """Show a registry."""
    if host != HUB and host not in cloud().repositories.hosts(namespace()):
        raise NotFound("the registry does not exist", details=host[:100])
    return answer(_registry(host))


def repositories() -> Response:
    """List external repositories."""
    found = [_repository(one) for one in cloud().repositories.repositories(namespace())]
    return lists.page([one for one in found if lists.matches(one)], lambda one: one)


def add() -> Response:
    """Add a repository's credentials."""
    data = load(RepositorySchema(), json_object())
    made = cloud().repositories.add(namespace(), data["name"], data["username"] or "", data["password"] or "")
    return answer(_repository(made), _done("Repository Create", made.name), 201)


def repository(name: str) -> Response:
    """Show a repository."""
    return answer(_repository(cloud().repositories.repository(namespace(), name)))


def update(name: str) -> Response:
    """Change a repository's credentials."""
    data = load(CredentialsSchema(), json_object())
    made = cloud().repositories.update(namespace(), name, data["username"], data["password"])
    return answer(_repository(made), _done("Repository Update", made.name))


def remove(name: str) -> Response:
    """Forget a repository."""
    cloud().repositories.remove(namespace(), name)
    return answer(None, _done("Repository Delete", name.strip("/")))


def _done(name: str, repository_name: str) -> ActionRow:
    return cloud().actions.record(caller(), Request(name=name, kind="repository", object=repository_name))


def _registry(host: str) -> dict[str, Any]:
    name, _, port = host.partition(":")
    return {
        "host": name,
        "is_docker_registry": host == HUB,
        "is_ssl": port not in {"80", "5000"},
        "name": "Docker Hub" if host == HUB else host,
        "port": int(port) if port.isdecimal() else 443,
        "resource_uri": uri("registry", host, namespace()),
    }


def _repository(one: Repository) -> dict[str, Any]:
    return {
        "in_use": one.in_use,
        "name": one.name,
        "registry": uri("registry", one.host, one.namespace),
        "resource_uri": uri("repository", one.name, one.namespace),
    }
