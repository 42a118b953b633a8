"""The page's requests that carry much: pulls and builds with their progress, files of containers up and down."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import structlog
from flask import Blueprint, Response, jsonify, request
from marshmallow import Schema, fields, validate

from hypercloud.api.bodies import json_object, load
from hypercloud.api.context import cloud, identity
from hypercloud.api.web.blueprint import admin_only
from hypercloud.engine import transfer
from hypercloud.engine.model import with_tag
from hypercloud.errors import CloudError, InvalidInput

log = structlog.get_logger(__name__)

LARGEST = 8 * 2**30  # bytes of an upload; it is passed on as it comes
LARGEST_LIST = 64 * 2**20  # bytes of the names of files
CHUNK = 2**16  # bytes
OFTEN = 0.2  # seconds between two messages about the progress of one layer


class ImageSchema(Schema):
    """An image on an engine."""

    engine = fields.String(required=True)
    name = fields.String(required=True, validate=validate.Length(1, 500))


class _Build(Schema):
    engine = fields.String(required=True)
    tag = fields.String(required=True, validate=validate.Length(1, 500))
    dockerfile = fields.String(load_default="Dockerfile", validate=validate.Length(1, 1000))


class _Context(Schema):
    ignore = fields.String(required=True, validate=validate.Length(max=200_000))
    names = fields.List(fields.String(validate=validate.Length(max=4000)), required=True)
    dockerfile = fields.String(required=True, validate=validate.Length(1, 1000))


class _Path(Schema):
    path = fields.String(required=True, validate=validate.Length(1, 4000))


class _Upload(_Path):
    name = fields.String(required=True, validate=validate.Length(1, 255))


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    add = blueprint.add_url_rule
    add("/web/images/pull", view_func=pull, methods=["POST"])
    add("/web/images/context", view_func=context, methods=["POST"])
    add("/web/images/build", view_func=build, methods=["POST"])
    add("/web/containers/<prefix>/files", view_func=download, methods=["GET"])
    add("/web/containers/<prefix>/files", view_func=upload, methods=["PUT"])


def pull() -> Response:
    """Pull an image on an engine; the answer is its progress, one JSON object a line."""
    admin_only()
    data = load(ImageSchema(), json_object())
    client = cloud().engines.client(data["engine"])
    auth = cloud().repositories.credentials(identity().username, data["name"])
    log.info("web.pull", engine=client.name, image=data["name"], user=identity().username)
    return _progress(client.pull(with_tag(data["name"]), auth))


def context() -> Response:
    """Return which files of a directory are sent to a build, as its .dockerignore says."""
    admin_only()
    request.max_content_length = LARGEST_LIST
    data = load(_Context(), json_object())
    return jsonify({"names": transfer.included(data["ignore"], data["names"], data["dockerfile"])})


def build() -> Response:
    """Build an image from the context in the body (a tar archive); the answer is its output, one JSON object a line."""
    admin_only()
    data = load(_Build(), request.args.to_dict())
    client = cloud().engines.client(data["engine"])
    size = _begin_upload()
    log.info("web.build", engine=client.name, image=data["tag"], bytes=size, user=identity().username)
    pieces = iter(lambda: request.stream.read(CHUNK), b"")
    auths = cloud().repositories.all_credentials(identity().username)
    return _progress(
        transfer.build(client, pieces, tag=with_tag(data["tag"]), dockerfile=data["dockerfile"], auths=auths)
    )


def download(prefix: str) -> Response:
    """Return a file of a container, or a directory as a tar archive."""
    admin_only()
    data = load(_Path(), request.args.to_dict())
    seen = cloud().engines.container(prefix)
    log.info("web.download", container=seen.id, path=data["path"], user=identity().username)
    found = transfer.download(cloud().engines.client(seen.engine), seen.id, data["path"])
    kind = "application/x-tar" if found.archive else "application/octet-stream"
    response = Response(found.content, mimetype=kind)
    name = f"{found.name}.tar" if found.archive else found.name
    response.headers.set("Content-Disposition", "attachment", filename=name)
    if found.size is not None:
        response.content_length = found.size
    return response


def upload(prefix: str) -> Response:
    """Put the body into a container as a file."""
    admin_only()
    data = load(_Upload(), request.args.to_dict())
    seen = cloud().engines.container(prefix)
    size = _begin_upload()
    log.info("web.upload", container=seen.id, path=data["path"], name=data["name"], user=identity().username)
    client = cloud().engines.client(seen.engine)
    transfer.upload(client, seen.id, data["path"], name=data["name"], size=size, read=request.stream.read)
    return jsonify({"size": size})


def _begin_upload() -> int:
    """Allow a large body that takes its time; return its size. Errors: InvalidInput."""
    size = request.content_length
    if size is None:
        raise InvalidInput("the upload's size is missing", resolution="send Content-Length")
    if size > LARGEST:
        raise InvalidInput("the upload is too large", details=f"{size} of {LARGEST} bytes")
    request.max_content_length = LARGEST
    reader: Any = getattr(request.environ.get("wsgi.input"), "reader", None)
    if hasattr(reader, "each_its_time"):  # the server's own; it bounds bodies of others as a whole
        reader.each_its_time()
    return size


def _progress(lines: Generator[Mapping[str, Any], None, None]) -> Response:
    """Return an answer that is a JSON object a line; an error before the first one is an ordinary error."""
    first = next(lines, None)

    def body() -> Iterator[str]:
        with contextlib.closing(lines):
            try:
                for one in _thinned(itertools.chain([first] if first is not None else [], lines)):
                    yield json.dumps(one) + "\n"
            except CloudError as error:
                yield json.dumps({"error": error.brief, "details": error.details}) + "\n"

    return Response(body(), mimetype="application/x-ndjson", headers={"X-Accel-Buffering": "no"})


def _thinned(lines: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Leave out messages about a layer that come soon after one with the same words."""
    said: dict[str, tuple[str, float]] = {}
    for one in lines:
        layer, status, now = str(one.get("id") or ""), str(one.get("status") or ""), time.monotonic()
        before = said.get(layer)
        if layer and before is not None and before[0] == status and now - before[1] < OFTEN:
            continue
        if layer:
            said[layer] = (status, now)
        yield one
