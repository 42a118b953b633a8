"""``docker top``: the processes of a container in the columns of ``ps``."""

from __future__ import annotations

from flask import Response

from hyperd.api import psformat
from hyperd.api.context import engine
from hyperd.api.docker import answers, params
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.errors import Conflict


@blueprint.get("/containers/<name>/top")
def top(name: str) -> Response:
    """List the processes of a container; their numbers are those of its VM."""
    found = container(name)
    columns = psformat.columns(params.text("ps_args"))
    if not found.live:
        raise Conflict(f"Container {found.id} is not running")
    titles, rows = psformat.table(engine().containers.top.list(found.id), columns)
    return answers.as_json({"Titles": titles, "Processes": rows})
