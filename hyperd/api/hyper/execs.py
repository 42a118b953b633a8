"""Commands in running containers and in the guest itself."""

from __future__ import annotations

import shlex

from flask import Response

from hyperd.api import answers, params, takeover
from hyperd.api.context import engine
from hyperd.api.hyper.containers import container_name
from hyperd.api.hyper.routes import blueprint
from hyperd.errors import InvalidInput, NotFound


def _command() -> list[str]:
    """Read the command: a JSON array of strings, or (as old clients send it) a command line. Errors: InvalidInput."""
    raw = params.needed("command").strip()
    if raw.startswith("["):
        words = params.json_words("command")
    else:
        try:
            words = shlex.split(raw)
        except ValueError as error:
            raise InvalidInput("command cannot be split into words", details=str(error)) from None
    if not words or not words[0]:
        raise InvalidInput("the command is empty")
    return words


@blueprint.post("/exec/create")
def create_exec() -> Response:
    """Prepare a command in a container."""
    exec_id = engine().execs.create(container_name(), _spec())
    return answers.plain_json(exec_id, 201)


@blueprint.post("/exec/start")
def start_exec() -> Response:
    """Run a prepared command and join the client to it."""
    return takeover.upgrade(engine().execs.start(container_name(), params.needed("exec")))


@blueprint.post("/execvm")
def exec_vm() -> Response:
    """Run a command in the guest's own root; its output is always raw."""
    pod_id = params.needed("pod", "podId", "podName")
    if not engine().pods.summaries(pod_id=pod_id):
        raise NotFound(f"Can not find pod({pod_id})")
    return takeover.upgrade(engine().execs.exec_vm(pod_id, _command()))
