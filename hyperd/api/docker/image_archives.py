"""Archives of images: ``docker save``, ``docker load`` and ``docker commit``; what a registry has under a name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response, g, request

from hyperd.api import bodies
from hyperd.api.background import JSON, Line, Waiting
from hyperd.api.context import engine
from hyperd.api.docker import params, versions
from hyperd.api.docker.images import credentials, no_such_image
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.api.jsonmessage import as_lines
from hyperd.build.commit import CommitOrder
from hyperd.errors import ImageNotFound, InvalidInput

TAR = "application/x-tar"
RAW_STREAM = "application/vnd.docker.raw-stream"


@blueprint.get("/images/get")
def save_images() -> Response:
    """Return images as one tar."""
    names = [name for name in request.args.getlist("names") if name]
    if not names:
        raise InvalidInput("no images were named", resolution="give ?names=")
    return _save(names)


@blueprint.get("/images/<path:name>/get")
def save_image(name: str) -> Response:
    """Return an image, or all of a repository, as a tar."""
    return _save([name])


def _save(names: list[str]) -> Response:
    images = engine().images

    def make(left: Callable[[], bool]) -> Iterator[bytes]:
        try:
            yield from images.save(names, cancelled=left)
        except ImageNotFound as error:
            raise no_such_image(error.name or names[0]) from error

    return bodies.Download("save", make, content_type=TAR).respond()


@blueprint.post("/images/load")
def load_images() -> Response:
    """Load the images of an archive; what is wrong with it is told in the stream, as by dockerd."""
    lines: list[Line] = []
    try:
        with bodies.uploaded() as chunks:
            engine().images.load(chunks, progress=as_lines(lines.append))
    except InvalidInput as error:
        lines.append({"errorDetail": {"message": str(error)}, "error": str(error)})
    body = "".join(json.dumps(line, separators=(",", ":")) + "\r\n" for line in lines)
    return Response(body, 200, content_type="application/json")


@blueprint.post("/commit")
def commit() -> Response:
    """Make an image of a container."""
    found = container(params.text("container"))
    body = params.body(optional=True) if request.get_data(cache=True).strip() else None
    if body is None and params.text("run"):  # of API 1.10 and before
        body = params.decode(params.text("run").encode(), "run")
    if body is not None and not isinstance(body, dict):
        raise InvalidInput("invalid JSON: the configuration must be an object")
    order = CommitOrder(
        container=found.id,
        repository=params.text("repo").strip(),
        tag=params.text("tag").strip(),
        comment=params.text("comment") or params.text("m"),
        author=params.text("author"),
        pause=params.flag("pause", default=True),
        changes=[line for text in request.args.getlist("changes") for line in text.splitlines() if line.strip()],
        body=body or None,
    )
    commits, spoken = engine().commits, versions.requested()

    def ask(cancelled: Callable[[], bool]) -> dict[str, Any]:
        ident = commits.commit(order, cancelled=cancelled)
        return {"Id": ident if spoken >= (1, 22) else ident.removeprefix("sha256:")}

    kind = RAW_STREAM if versions.is_legacy() else JSON  # as documented then
    return Waiting("commit", ask, request_id=g.request_id, status=201, content_type=kind).respond()


@blueprint.get("/distribution/<path:name>/json")
def distribution(name: str) -> Response:
    """Tell what a registry has under a name."""
    images, auth = engine().images, credentials()

    def ask(_cancelled: Callable[[], bool]) -> dict[str, Any]:
        found = images.distribution(name, auth=auth)
        platforms = [
            {"architecture": one.architecture, "os": one.os, **({"variant": one.variant} if one.variant else {})}
            for one in found.platforms
        ]
        descriptor = {"mediaType": found.media_type, "digest": found.digest, "size": found.size}
        return {"Descriptor": descriptor, "Platforms": platforms}

    return Waiting("distribution", ask, request_id=g.request_id).respond()
