"""The page's own requests: signing in, API keys, images, stack files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint, Response, jsonify, send_from_directory
from marshmallow import Schema, fields, validate

from hypercloud import __version__
from hypercloud.api.bodies import json_object, load
from hypercloud.api.context import address, cloud, identity
from hypercloud.api.session import begin, end
from hypercloud.api.web.blueprint import admin_only
from hypercloud.api.web.transfers import ImageSchema
from hypercloud.errors import InvalidInput

STATIC = Path(__file__).parent / "static"


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few of them can stand for more than fits into memory, or for themselves."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Make a node, unless it is an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported")
        return super().compose_node(parent, index)


class _Login(Schema):
    username = fields.String(required=True, validate=validate.Length(max=100))
    password = fields.String(required=True)


class _Key(Schema):
    description = fields.String(required=True, validate=validate.Length(1, 200))


class _Text(Schema):
    text = fields.String(required=True, validate=validate.Length(max=200_000))


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    add = blueprint.add_url_rule
    add("/", view_func=page, methods=["GET"])
    add("/web/static/<path:name>", view_func=static, methods=["GET"])
    add("/web/login", view_func=login, methods=["POST"])
    add("/web/logout", view_func=logout, methods=["POST"])
    add("/web/me", view_func=me, methods=["GET"])
    add("/web/apikeys", view_func=api_keys, methods=["GET"])
    add("/web/apikeys", view_func=add_api_key, methods=["POST"])
    add("/web/apikeys/<key>", view_func=remove_api_key, methods=["DELETE"])
    add("/web/stackfile", view_func=stackfile, methods=["POST"])
    add("/web/images", view_func=images, methods=["GET"])
    add("/web/images/remove", view_func=remove_image, methods=["POST"])
    add("/web/containers/<prefix>/start", view_func=start, methods=["POST"])


def page() -> Response:
    """Return the page."""
    return send_from_directory(STATIC, "index.html")


def static(name: str) -> Response:
    """Return a file of the page, or of the libraries that ``scripts/build-web`` has fetched."""
    return send_from_directory(STATIC, name)


def login() -> Response:
    """Sign in."""
    data = load(_Login(), json_object())
    who = cloud().accounts.login(data["username"], data["password"], address())
    return jsonify({"username": who.username, "role": who.role, "csrf": begin(who), "version": __version__})


def logout() -> Response:
    """Sign out."""
    end()
    return jsonify({})


def me() -> Response:
    """Tell who has signed in."""
    who = identity()
    return jsonify({"username": who.username, "role": who.role, "version": __version__})


def api_keys() -> Response:
    """List the caller's API keys."""
    found = cloud().keys.api_keys(identity())
    return jsonify([{"id": one.id, "description": one.description, "created": one.created} for one in found])


def add_api_key() -> Response:
    """Make an API key; it is shown this once."""
    description = load(_Key(), json_object())["description"]
    return jsonify({"key": cloud().keys.new_token(identity().account, "apikey", description)})


def remove_api_key(key: str) -> Response:
    """Revoke an API key."""
    cloud().keys.revoke_api_key(identity(), key)
    return jsonify({})


def stackfile() -> Response:
    """Return the content of a stack file as JSON."""
    try:
        found: Any = yaml.load(load(_Text(), json_object())["text"], _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInput("the stack file is no YAML", details=str(error)[:300]) from None
    if not isinstance(found, dict):
        raise InvalidInput("the stack file must be a map of services")
    return jsonify(found)


def images() -> Response:
    """List the images of all engines."""
    found = []
    for engine in cloud().engines.engines():
        if engine.up:
            for one in cloud().engines.images(engine.spec.id):
                tags = [tag for tag in one.get("RepoTags") or [] if tag != "<none>:<none>"]
                found.append({"engine": engine.spec.name, "tags": tags, "size": one.get("Size"), "id": one.get("Id")})
    return jsonify(found)


def remove_image() -> Response:
    """Remove an image from an engine."""
    admin_only()
    data = load(ImageSchema(), json_object())
    cloud().engines.client(data["engine"]).remove_image(data["name"])
    return jsonify({})


def start(prefix: str) -> Response:
    """Start a stopped container (Shipyard's API has no request for that)."""
    admin_only()
    cloud().fleet.start(prefix)
    return jsonify({})
