"""Further commands in running containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response

from hyperd.api import takeover
from hyperd.api.context import engine
from hyperd.api.docker import answers, params, schema, versions
from hyperd.api.docker.create import read_env, read_unset, read_user
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.api.docker.streams import console_size, size, stream_type
from hyperd.container.model import Exec
from hyperd.errors import Conflict, InvalidInput, NotFound
from hyperd.spec.model import ExecSpec

_CREATE, _START = schema.ExecCreate(), schema.ExecStart()


@blueprint.post("/containers/<name>/exec")
def create_exec(name: str) -> Response:
    """Prepare a command in a container."""
    found = container(name)
    given = schema.load(_CREATE, params.body_object())
    if not given["Cmd"]:
        raise InvalidInput("No exec command specified")
    if found.paused:
        raise Conflict(f"Container {found.id} is paused, unpause the container before exec")
    if not found.live:
        raise Conflict(f"Container {found.id} is not running")
    spec = ExecSpec(
        argv=tuple(given["Cmd"]),
        envs=tuple(read_env(entry) for entry in given["Env"] if "=" in entry),
        unset_envs=read_unset(given["Env"]),
        workdir=given["WorkingDir"],
        user=read_user(given["User"]),
        tty=given["Tty"],
        stdin=given["AttachStdin"],
        privileged=given["Privileged"],
        detach_keys=given["DetachKeys"],
        stdout=given["AttachStdout"],
        stderr=given["AttachStderr"],
        size=_size(given),
    )
    return answers.as_json({"Id": engine().execs.create(found.id, spec)}, 201)


def _size(given: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size of the terminal that is asked for. Errors: InvalidInput (also: there is no terminal)."""
    if given["ConsoleSize"] and not given["Tty"]:
        raise InvalidInput("console size is only supported when TTY is enabled")
    return console_size(given["ConsoleSize"])


@blueprint.post("/exec/<exec_id>/start")
def start_exec(exec_id: str) -> Response:
    """Run a prepared command; the client is joined to it unless it detaches.

    ``Tty`` of this request, not of the command, says what the client reads: raw bytes or frames. docker-py reads
    frames of a terminal, too.
    """
    given = schema.load(_START, params.body_object(optional=True))
    _exec(exec_id)
    size = _size(given)
    if given["Detach"]:
        engine().execs.start_detached(exec_id, size=size)
        return answers.empty(200)
    session = engine().execs.start("", exec_id, size=size, holds_keys=True)
    return takeover.upgrade_framed(session, stream_type(tty=given["Tty"]), raw=given["Tty"])


@blueprint.post("/exec/<exec_id>/resize")
def resize_exec(exec_id: str) -> Response:
    """Set the size of the terminal of a command."""
    rows, columns = size()
    _exec(exec_id)
    engine().execs.resize(exec_id, rows, columns)
    return answers.empty(200 if versions.requested() >= (1, 22) else 201)


@blueprint.get("/exec/<exec_id>/json")
def inspect_exec(exec_id: str) -> Response:
    """Tell about a command: does it run, how did it end."""
    return answers.as_json(exec_object(_exec(exec_id)))


def _exec(exec_id: str) -> Exec:
    try:
        return engine().execs.inspect(exec_id)
    except NotFound as error:
        raise NotFound(f"No such exec instance: {exec_id[:100]}") from error


def exec_object(found: Exec) -> dict[str, Any]:
    """Return the object of ``GET /exec/X/json``."""
    spec = found.spec
    return {
        "ID": found.id,
        "ContainerID": found.container_id,
        "Running": found.running,
        "ExitCode": found.exit_code,
        "Pid": found.pid,
        "OpenStdin": spec.stdin,
        "OpenStdout": spec.stdout,
        "OpenStderr": spec.stderr,
        "CanRemove": False,
        "DetachKeys": spec.detach_keys,
        "ProcessConfig": {
            "tty": spec.tty,
            "entrypoint": spec.argv[0] if spec.argv else "",
            "arguments": list(spec.argv[1:]),
            "privileged": spec.privileged,
            "user": spec.user.name + (f":{spec.user.group}" if spec.user.group else ""),
        },
    }
