"""Versions of the Docker API: the prefix of a path, what is too old or too new, and headers of every answer."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, g, request
from werkzeug.routing import BaseConverter

from hyperd import __version__
from hyperd.api.context import begin_request
from hyperd.api.origin import check_origin
from hyperd.api.takeover import close_failed_upgrade
from hyperd.errors import InvalidInput

Version = tuple[int, int]

NEWEST: Version = (1, 47)
OLDEST_ADVERTISED: Version = (1, 24)  # what clients are told; older ones are served in the legacy dialect
OLDEST: Version = (1, 8)
PLACEHOLDER = "api_version"
PREFIX = f"/v<version:{PLACEHOLDER}>"
_PREFIXED = re.compile(r"/v([0-9]{1,3})\.([0-9]{1,3})/")


class VersionConverter(BaseConverter):
    """A version of a path: two numbers."""

    regex = r"[0-9]{1,3}\.[0-9]{1,3}"


def text(version: Version) -> str:
    """Return a version as clients write it."""
    return ".".join(map(str, version))


def drop_version(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Take the version out of what a view gets of the path; ``requested`` gives it."""
    if values:
        values.pop(PLACEHOLDER, None)


def requested() -> Version:
    """Return the version that the client speaks; a path without one means the newest."""
    if "version" not in g:
        found = _PREFIXED.match(request.path)
        g.version = (int(found[1]), int(found[2])) if found else NEWEST
    version: Version = g.version
    return version


def is_legacy() -> bool:
    """Return whether the client speaks a version before 1.24, whose errors are plain text."""
    return requested() < OLDEST_ADVERTISED


def is_bare() -> bool:
    """Return whether the path has no version: such a client may be of today or of 2014."""
    return _PREFIXED.match(request.path) is None


def begin() -> None:
    """Begin a request. Errors: InvalidInput for a version that is not served, Forbidden for a web page."""
    begin_request()
    check_origin()
    version = requested()
    if version > NEWEST:
        raise InvalidInput(
            f"client version {text(version)} is too new. Maximum supported API version is {text(NEWEST)}"
        )
    if version < OLDEST:
        raise InvalidInput(
            f"client version {text(version)} is too old. Minimum supported API version is {text(OLDEST)}, "
            "please upgrade your client to a newer version"
        )


def finish(response: Response) -> Response:
    """Add the headers that clients look for in every answer."""
    response.headers["Api-Version"] = text(NEWEST)
    response.headers["Ostype"] = "linux"
    response.headers["Docker-Experimental"] = "false"
    response.headers["Server"] = f"Docker/{__version__} (linux)"
    return close_failed_upgrade(response) if request.method == "POST" else response
