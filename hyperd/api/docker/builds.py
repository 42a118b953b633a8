"""Builds with the classic builder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable

from flask import Response, g, request

from hyperd.api import bodies
from hyperd.api.background import Line, Progress
from hyperd.api.build_settings import MAX_MEMORY, cpus, known_network, strings, with_settings
from hyperd.api.context import engine, may_fetch
from hyperd.api.credentials import registry_config
from hyperd.api.docker import answers, params, versions
from hyperd.api.docker.routes import blueprint
from hyperd.api.jsonmessage import as_lines
from hyperd.build.order import BuildOrder
from hyperd.container.fetch import check_allowed
from hyperd.errors import InvalidInput, NotFound, NotSupported

# Parameters of the builder of BuildKit, or of hosts that are no virtual machines.
_REFUSED = {
    "squash": "squashing layers is not supported: use a build of several stages",
    "outputs": "outputs need BuildKit, which is not supported",
}


@blueprint.post("/build")
def build() -> Response:
    """Build an image from the context in the body, or from a URL; stream what happens."""
    for name, reason in _REFUSED.items():
        if params.flag(name):
            raise NotSupported(reason)
    if params.text("version", "1") == "2":
        raise NotSupported("BuildKit is not supported", resolution="set DOCKER_BUILDKIT=0 to use the classic builder")
    order = _order()
    with bodies.uploaded() as chunks:
        prepared = engine().builds.prepare(order, chunks)

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        prepared.run(progress=as_lines(line, coloured=True), cancelled=cancelled)

    return Progress("build", work, request_id=g.request_id).respond()


def _order() -> BuildOrder:
    period, quota = params.number("cpuperiod"), params.number("cpuquota")
    memory = params.number("memory")
    if not 0 <= memory <= MAX_MEMORY:
        raise InvalidInput("invalid memory limit of a build")
    order = BuildOrder(
        dockerfile=params.text("dockerfile").strip() or "Dockerfile",
        tags=[tag.strip() for tag in request.args.getlist("t") if tag.strip()],
        remote=params.text("remote").strip(),
        quiet=params.flag("q"),
        no_cache=params.flag("nocache"),
        pull=params.flag("pull"),
        remove=params.flag("rm", default=True) or params.flag("forcerm"),
        target=params.text("target").strip(),
        arguments=_map("buildargs"),
        labels=_map("labels"),
        memory=memory,
        vcpu=cpus(period, quota),
        auth=registry_config(request.headers.get("X-Registry-Config", "")),
        may_fetch=may_fetch(),
        classic=True,
    )
    return with_settings(order, request.args.getlist, known_network)


def _map(name: str) -> dict[str, str]:
    """Read a JSON object of strings. Errors: InvalidInput."""
    raw = params.text(name).strip()
    return strings(params.decode(raw.encode(), name) if raw else {}, name)


@blueprint.post("/images/<path:name>/insert")
def insert(name: str) -> Response:
    """Add a file of the web to an image, as API 1.11 and before could; the image keeps its name."""
    if versions.requested() >= (1, 12):
        raise NotFound("page not found")
    path, url = params.text("path"), params.text("url")
    if not path or not url or any(sign in path + url for sign in "\r\n"):
        raise InvalidInput("insert needs a path and a url")
    check_allowed("insert", may_fetch=may_fetch(), instead="build the image with the file in the context")
    dockerfile = f"FROM {engine().images.get(name).id}\nADD {json.dumps([url, path])}\n".encode()
    prepared = engine().builds.prepare(BuildOrder(tags=[name], may_fetch=True), iter([_context(dockerfile)]))

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        line({"status": "Inserting..."})
        prepared.run(progress=as_lines(line), cancelled=cancelled)

    return Progress("insert", work, request_id=g.request_id).respond()


def _context(dockerfile: bytes) -> bytes:
    """Return a context that has only a Dockerfile."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        about = tarfile.TarInfo("Dockerfile")
        about.size = len(dockerfile)
        archive.addfile(about, io.BytesIO(dockerfile))
    return data.getvalue()


@blueprint.post("/build/prune")
def prune_builds() -> Response:
    """Forget the results of build steps."""
    engine().builds.forget_steps()
    return answers.as_json({"CachesDeleted": None, "SpaceReclaimed": 0})  # layers go with the images that have them


@blueprint.post("/build/cancel")
def cancel_build() -> Response:
    """Refuse: builds end with their client's connection, they have no ids."""
    raise NotSupported("builds have no ids here", resolution="close the connection of the build to end it")
