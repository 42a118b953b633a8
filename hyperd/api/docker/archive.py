"""Files of containers: ``docker cp``, ``docker export``, ``docker diff``."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response

from hyperd.api import bodies
from hyperd.api.context import engine
from hyperd.api.docker import answers, params, words
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.container.contents import ChangeKind, PathStat
from hyperd.errors import InvalidInput, NotFound

TAR = "application/x-tar"
STAT_HEADER = "X-Docker-Container-Path-Stat"
_KINDS = {ChangeKind.MODIFIED: 0, ChangeKind.ADDED: 1, ChangeKind.DELETED: 2}
# Bits of Go's os.FileMode.
_DIR, _LINK, _PIPE, _SOCKET, _DEVICE, _CHAR = 1 << 31, 1 << 27, 1 << 25, 1 << 24, 1 << 26, 1 << 21
_SETUID, _SETGID, _STICKY = 1 << 23, 1 << 22, 1 << 20
_TYPES = {
    stat.S_IFDIR: _DIR,
    stat.S_IFLNK: _LINK,
    stat.S_IFIFO: _PIPE,
    stat.S_IFSOCK: _SOCKET,
    stat.S_IFBLK: _DEVICE,
    stat.S_IFCHR: _DEVICE | _CHAR,
}


def go_mode(mode: int) -> int:
    """Return a mode of Linux as Go's ``os.FileMode``."""
    found = stat.S_IMODE(mode) & 0o777 | _TYPES.get(stat.S_IFMT(mode), 0)
    for bit, go_bit in ((stat.S_ISUID, _SETUID), (stat.S_ISGID, _SETGID), (stat.S_ISVTX, _STICKY)):
        if mode & bit:
            found |= go_bit
    return found


def stat_header(found: PathStat) -> str:
    """Return the value of the header that tells what a path is."""
    about = {
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": words.rfc3339(found.mtime),
        "linkTarget": found.target if found.link else "",
    }
    return base64.b64encode(json.dumps(about).encode()).decode()


def _path() -> str:
    path = params.text("path")
    if not path:
        raise InvalidInput("missing path", resolution="give ?path=")
    return path if path.startswith("/") else f"/{path}"


def _missing(error: NotFound, name: str, path: str) -> NotFound:
    return NotFound(f"Could not find the file {path[:300]} in container {name[:200]}", details=error.details)


@blueprint.route("/containers/<name>/archive", methods=["HEAD"])
def stat_path(name: str) -> Response:
    """Tell in a header what a path of a container is."""
    found, path = container(name), _path()
    try:
        status = engine().containers.contents.stat(found.id, path)
    except NotFound as error:
        raise _missing(error, name, path) from error
    response = answers.empty(200)
    response.headers[STAT_HEADER] = stat_header(status)
    return response


@blueprint.route("/containers/<name>/archive", methods=["GET"], provide_automatic_options=False)
def get_archive(name: str) -> Response:
    """Return a file or directory of a container as a tar."""
    found, path = container(name), _path()
    return _archive(found.id, name, path, TAR)


@blueprint.post("/containers/<name>/copy")
def copy(name: str) -> Response:
    """Return a file or directory as a tar, as API 1.8 asked for it."""
    resource = params.body_object().get("Resource")
    if not isinstance(resource, str) or not resource:
        raise InvalidInput("Path cannot be empty")
    path = resource if resource.startswith("/") else f"/{resource}"
    return _archive(container(name).id, name, path, "application/octet-stream")


def _archive(ident: str, name: str, path: str, content_type: str) -> Response:
    try:
        status, pieces = engine().containers.contents.pack(ident, path)
    except NotFound as error:
        raise _missing(error, name, path) from error

    def make(_left: Callable[[], bool]) -> Iterator[bytes]:
        return pieces

    download = bodies.Download("archive", make, content_type=content_type, headers={STAT_HEADER: stat_header(status)})
    return download.respond()


@blueprint.put("/containers/<name>/archive")
def put_archive(name: str) -> Response:
    """Unpack a tar into a directory of a container."""
    found, path = container(name), _path()
    strict = params.flag("noOverwriteDirNonDir")
    user = found.program.user if found.program else found.spec.user.name
    owner = user if params.flag("copyUIDGID") else ""
    try:
        with bodies.uploaded() as chunks:
            engine().containers.contents.unpack(found.id, path, chunks, strict=strict, owner=owner)
    except NotFound as error:
        raise _missing(error, name, path) from error
    return answers.empty(200)


@blueprint.get("/containers/<name>/export")
def export(name: str) -> Response:
    """Return the whole file system of a container as a tar."""
    found, contents = container(name), engine().containers.contents

    def make(_left: Callable[[], bool]) -> Iterator[bytes]:
        return contents.export(found.id)

    return bodies.Download("export", make, content_type="application/octet-stream").respond()


@blueprint.get("/containers/<name>/changes")
def changes(name: str) -> Response:
    """List what a container has changed of its image."""
    found = engine().containers.contents.changes(container(name).id)
    rows: list[dict[str, Any]] = [{"Path": change.path, "Kind": _KINDS[change.kind]} for change in found]
    return answers.as_json(rows or None)
