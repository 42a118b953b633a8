"""Engines and extensions."""

from __future__ import annotations

import time
import uuid

from flask import Blueprint, Response, jsonify

from hypercloud.api.bodies import json_object, load
from hypercloud.api.context import cloud
from hypercloud.api.shipyard import views
from hypercloud.api.shipyard.blueprint import nothing, text
from hypercloud.api.shipyard.schemas import EngineSchema, ExtensionSchema, extension_of
from hypercloud.engine.model import EngineSpec


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    add = blueprint.add_url_rule
    add("/api/engines", view_func=engines, methods=["GET"])
    add("/api/engines", view_func=add_engine, methods=["POST"])
    add("/api/engines/<key>", view_func=engine, methods=["GET"])
    add("/api/engines/<key>", view_func=remove_engine, methods=["DELETE"])
    add("/api/extensions", view_func=extensions, methods=["GET"])
    add("/api/extensions", view_func=add_extension, methods=["POST"])
    add("/api/extensions/<key>", view_func=extension, methods=["GET"])
    add("/api/extensions/<key>", view_func=remove_extension, methods=["DELETE"])


def engines() -> Response:
    """List engines."""
    return jsonify([views.engine(one) for one in cloud().engines.engines()])


def engine(key: str) -> Response:
    """Show an engine, by its name or its id."""
    return jsonify(views.engine(cloud().engines.engine(key)))


def add_engine() -> Response:
    """Register an engine."""
    data = load(EngineSchema(), json_object())
    inner = data["engine"]
    spec = EngineSpec(
        id=str(uuid.uuid4()),
        name=inner["id"],
        addr=inner["addr"],
        cpus=inner["cpus"],
        memory=inner["memory"],
        labels=tuple(dict.fromkeys(label for label in inner["labels"] or () if label)),
        ssl_cert=data["ssl_cert"] or "",
        ssl_key=data["ssl_key"] or "",
        ca_cert=data["ca_cert"] or "",
        created=time.time(),
    )
    cloud().engines.add(spec)
    return text("", 201)


def remove_engine(key: str) -> Response:
    """Take an engine off the list; its containers run on."""
    cloud().engines.remove(key)
    return nothing()


def extensions() -> Response:
    """List extensions."""
    return jsonify([views.extension(one) for one in cloud().extensions.extensions()])


def extension(key: str) -> Response:
    """Show an extension."""
    return jsonify(views.extension(cloud().extensions.extension(key)))


def add_extension() -> Response:
    """Add an extension."""
    cloud().extensions.add(extension_of(load(ExtensionSchema(), json_object())))
    return nothing()


def remove_extension(key: str) -> Response:
    """Remove an extension and its containers."""
    cloud().extensions.remove(key)
    return nothing()
