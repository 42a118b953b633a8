"""The daemon itself: is it there, and which versions it speaks."""

from __future__ import annotations

import platform
from typing import Any

from flask import Response

from hyperd import __version__
from hyperd.api.answers import plain_json
from hyperd.api.docker.routes import blueprint
from hyperd.api.docker.versions import NEWEST, OLDEST_ADVERTISED, is_legacy, requested, text

CLASSIC_BUILDER = "1"  # BuildKit would be 2
# Go's names of architectures, which this API uses.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@blueprint.get("/_ping")
def ping() -> Response:
    """Say that the daemon answers; clients read the headers."""
    response = Response("OK", content_type="text/plain; charset=utf-8")
    response.headers["Builder-Version"] = CLASSIC_BUILDER
    response.headers["Swarm"] = "inactive"
    response.headers["Cache-Control"] = "no-cache, no-store, must-revalidate"
    response.headers["Pragma"] = "no-cache"
    return response


@blueprint.get("/version")
def version() -> Response:
    """Tell the versions of the daemon, of the API and of the host."""
    old: dict[str, Any] = {"Version": __version__, "GitCommit": "", "GoVersion": ""}
    host = platform.uname()
    if is_legacy():
        more = {
            "ApiVersion": text(NEWEST),
            "Os": "linux",
            "Arch": ARCHITECTURES.get(host.machine, host.machine),
            "KernelVersion": host.release,
        }
        return plain_json({**old, **more} if requested() >= (1, 12) else old)
    details = {
        "ApiVersion": text(NEWEST),
        "Arch": ARCHITECTURES.get(host.machine, host.machine),
        "Experimental": "false",
        "KernelVersion": host.release,
        "MinAPIVersion": text(OLDEST_ADVERTISED),
        "Os": "linux",
    }
    return plain_json(
        {
            "Platform": {"Name": "hyperd"},
            "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
            **old,
            "ApiVersion": text(NEWEST),
            "MinAPIVersion": text(OLDEST_ADVERTISED),
            "Os": "linux",
            "Arch": details["Arch"],
            "KernelVersion": host.release,
            "BuildTime": "",
        }
    )
