"""Commands in running containers and in the guest itself."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from flask import Response, g

from hyperd.api import answers, params, takeover
from hyperd.api.background import Waiting
from hyperd.api.context import engine
from hyperd.api.hyper.container_views import exec_object
from hyperd.api.hyper.containers import container_name
from hyperd.api.hyper.routes import blueprint
from hyperd.container.detach import parse_keys
from hyperd.errors import InvalidInput, NotFound
from hyperd.spec.model import ExecSpec, UserSpec

MAX_RUN_SECONDS = 3600
MAX_RUN_OUTPUT = 16 * 2**20


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


def _spec() -> ExecSpec:
    """Read what is to be run. Errors: InvalidInput."""
    envs = []
    for text in params.texts("env"):
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidInput(f"env must be NAME=value, not {text[:40]!r}")
        envs.append((key, value))
    workdir = params.text("workdir")
    if workdir and not workdir.startswith("/"):
        raise InvalidInput(f"workdir must be an absolute path, not {workdir[:80]!r}")
    keys = params.text("detachKeys")
    parse_keys(keys)
    name, _, group = params.text("user").partition(":")
    if group and not name:
        raise InvalidInput("user must be a user, or user:group")
    return ExecSpec(
        argv=tuple(_command()),
        envs=tuple(envs),
        workdir=workdir,
        user=UserSpec(name=name, group=group),
        tty=params.strict_flag("tty"),
        stdin=params.flag("stdin", default=True),
        privileged=params.flag("privileged"),
        detach_keys=keys,
    )


@blueprint.post("/exec/create")
def create_exec() -> Response:
    """Prepare a command in a container."""
    return answers.plain_json(engine().execs.create(container_name(), _spec()), 201)


@blueprint.post("/exec/start")
def start_exec() -> Response:
    """Run a prepared command and join the client to it; with ``detach`` it runs without a client."""
    name, exec_id = container_name(), params.needed("exec")
    if params.flag("detach"):
        return answers.plain_json(exec_object(engine().execs.start_detached(exec_id, container=name)))
    return takeover.upgrade(engine().execs.start(name, exec_id))


@blueprint.get("/exec/info")
def exec_info() -> Response:
    """Describe an exec; one that has ended is known for ten minutes."""
    return answers.plain_json(exec_object(engine().execs.inspect(params.needed("exec"))))


@blueprint.get("/exec/list")
def list_execs() -> Response:
    """List the execs of a container, oldest first."""
    return answers.plain_json([exec_object(one) for one in engine().execs.list(container_name())])


@blueprint.post("/exec/kill")
def kill_exec() -> Response:
    """Send a signal to an exec's process."""
    number = params.signal_number()
    engine().execs.signal(params.needed("exec"), number)
    return answers.env({})


@blueprint.post("/exec/run")
def run_exec() -> Response:
    """Run a command in a container without a client and give what it said; it is killed when its time is over."""
    name, spec = container_name(), _spec()
    timeout = params.number("timeout", low=1, high=MAX_RUN_SECONDS, default=30)
    limit = params.number("limit", low=0, high=MAX_RUN_OUTPUT, default=2**20)
    execs = engine().execs

    def ask(_cancelled: Callable[[], bool]) -> dict[str, Any]:
        found = execs.run(name, spec, timeout=timeout, limit=limit)
        return {
            "stdout": found.stdout.decode("utf-8", "replace"),
            "stderr": found.stderr.decode("utf-8", "replace"),
            "exitCode": found.exit_code,
            "timedOut": found.timed_out,
            "truncated": found.truncated,
        }

    return Waiting("exec-run", ask, request_id=g.request_id).respond()


@blueprint.post("/execvm")
def exec_vm() -> Response:
    """Run a command in the guest's own root; its output is always raw."""
    pod_id = params.needed("pod", "podId", "podName")
    if not engine().pods.summaries(pod_id=pod_id):
        raise NotFound(f"Can not find pod({pod_id})")
    return takeover.upgrade(engine().execs.exec_vm(pod_id, _command()))
