"""Containers: create in a pod, start, stop, signal, remove, rename, look at, logs."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Response, g

from hyperd.api import answers, params, psformat, takeover
from hyperd.api.background import Finishing, Waiting, inline_wait
from hyperd.api.bodies import Download, uploaded
from hyperd.api.context import engine, may_fetch
from hyperd.api.hyper import stats_views
from hyperd.api.hyper.container_views import container_info, path_stat
from hyperd.api.hyper.pod_spec import parse_container, parse_update
from hyperd.api.hyper.routes import blueprint
from hyperd.api.hyper.unknown_keys import container_warnings, refuse_manifest
from hyperd.api.waiting import HeadFirst
from hyperd.build.commit import CommitOrder
from hyperd.container.waits import WaitCondition
from hyperd.errors import ImageNotFound, InvalidInput, NotAlive, NotFound, Timeout
from hyperd.registry.reference import Reference
from hyperd.spec.limits import IDENTIFIER, beyond
from hyperd.spec.model import ContainerSpec
from hyperd.stream.logread import LogQuery

if TYPE_CHECKING:
    from hyperd.engine import Engine

_IMAGE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{4,64}")
TAR = "application/x-tar"


def container_name() -> str:
    """Return the request's container. Errors: InvalidInput when it is empty."""
    return params.needed("container", message="Empty container name")


def check_image(name: str, where: str) -> None:
    """Refuse what can never be an image: clients would try to pull it. Errors: InvalidInput."""
    if not _IMAGE_ID.fullmatch(name):
        try:
            Reference.parse(name)
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error.brief}", details=error.details) from None


@blueprint.post("/container/create")
def create_container() -> Response:
    """Add a container to a pod. Its only 404 is a missing image: clients pull and try again on it."""
    pod_id = params.needed("podId", message="podId is required to create a new container")
    given = params.body_json("the container")
    refuse_manifest(given)
    spec, warnings = parse_container(given), container_warnings(given)
    check_image(spec.image, "image")
    running = engine()
    create = partial(_created, running, pod_id, spec, may_fetch=may_fetch())

    def made(_cancelled: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        try:
            ident = create()
            told = [*warnings, *beyond(spec.limits, running.containers.records.pod_spec(pod_id).resource)]
            return {"ID": ident, **({"Warnings": told} if told else {})}
        except ImageNotFound:
            raise
        except NotFound as error:
            raise NotAlive(error.brief, details=error.details, resolution=error.resolution) from error

    if spec.files:  # the pod may say that they are to be fetched, and their servers may be slow
        return Waiting("create", made, request_id=g.request_id, status=HTTPStatus.CREATED).respond()
    return answers.env(made(), HTTPStatus.CREATED)


def _created(running: Engine, pod_id: str, spec: ContainerSpec, *, may_fetch: bool) -> str:
    """Make a container; the ports it publishes become the pod's, as at the pod's creation."""
    ports = tuple(port for port in spec.ports if port.host_port)
    ident = running.containers.create(pod_id, spec, may_fetch=may_fetch)
    if ports:
        try:
            running.pods.net.note_ports(pod_id, ports)
        except BaseException:
            running.containers.remove(ident)
            raise
    return ident


@blueprint.post("/container/start")
def start_container() -> Response:
    """Start a container; a running one is fine."""
    engine().pods.start_container(container_name())
    return answers.env({})


@blueprint.post("/container/stop")
def stop_container() -> Response:
    """Stop a container: its stop signal, then SIGKILL after ``t`` seconds."""
    name, containers, grace = container_name(), engine().containers, params.grace()
    return Finishing("stop", lambda: containers.stop(name, grace=grace), answers.env({})).respond()


@blueprint.post("/container/restart")
def restart_container() -> Response:
    """Stop a container if it runs, then start it; ``t`` is the grace in seconds."""
    name, pods, grace = container_name(), engine().pods, params.grace()
    return Finishing("restart", lambda: pods.restart_container(name, grace=grace), answers.env({})).respond()


@blueprint.post("/container/kill")
def kill_container() -> Response:
    """Send a signal. 201 is what the original answers."""
    number = params.signal_number()
    engine().containers.kill(container_name(), number)
    return answers.env({}, 201)


@blueprint.post("/container/remove")
def remove_container() -> Response:
    """Stop and forget a container."""
    name, pods = container_name(), engine().pods
    return Finishing("remove", lambda: pods.remove_container(name), answers.empty()).respond()


@blueprint.post("/container/update")
def update_container() -> Response:
    """Change limits, restart policy or labels; limits of a running container hold at once."""
    name = container_name()
    engine().containers.update(name, parse_update(params.body_json("the changes")))
    return answers.empty()


@blueprint.post("/container/rename")
def rename_container() -> Response:
    """Give a container another name."""
    old = params.needed("oldName", "oleName")
    new = params.needed("newName").removeprefix("/")
    if IDENTIFIER.fullmatch(new) is None:
        raise InvalidInput(f"{new[:80]!r} is not a container name", details=IDENTIFIER.pattern)
    engine().containers.rename(old, new)
    return answers.code(new)


@blueprint.get("/container/info")
def show_container() -> Response:
    """Describe a container."""
    return answers.plain_json(container_info(engine().containers.queries.inspect(container_name())))


@blueprint.get("/container/logs")
def container_logs() -> Response:
    """Stream a container's log, multiplexed unless it has a terminal."""
    name = container_name()
    stdout, stderr = params.flag("stdout"), params.flag("stderr")
    if not stdout and not stderr:
        raise InvalidInput("Bad parameters: you must choose at least one stream")
    query = LogQuery(
        stdout=stdout,
        stderr=stderr,
        follow=params.flag("follow"),
        timestamps=params.flag("timestamps", "timestamp"),
        since=params.moment("since") or None,
        tail=params.lines_of(params.text("tail").strip()),
    )
    return takeover.follow(engine().containers.streams.logs(name, query), "text/plain; charset=utf-8")


@blueprint.post("/container/commit")
def commit_container() -> Response:
    """Make an image of a container."""
    changes = [change for raw in params.texts("changes", "change") for change in _changes(raw)]
    body = params.body_json("the configuration") if params.body().strip() else None
    if body is not None and not isinstance(body, dict):
        raise InvalidInput("the configuration must be a JSON object")
    order = CommitOrder(
        container=container_name(),
        repository=params.text("repo").strip(),
        tag=params.text("tag").strip(),
        comment=params.text("comment", "message"),
        author=params.text("author"),
        pause=params.flag("pause"),
        changes=changes,
        body=body,
    )
    commits = engine().commits

    def ask(cancelled: Callable[[], bool]) -> dict[str, Any]:
        return {"Cause": "", "Code": 0, "ID": commits.commit(order, cancelled=cancelled)}

    return Waiting("commit", ask, request_id=g.request_id).respond()


def _changes(raw: str) -> list[str]:
    """Read one ``changes``: an instruction, or hyperctl's JSON array of them. Errors: InvalidInput."""
    if not raw.lstrip().startswith("["):
        return [raw]
    value = params.json_text(raw, "changes")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInput("changes must be instructions, or a JSON array of them")
    return list(value)


@blueprint.post("/attach")
def attach() -> Response:
    """Join the client to a container's terminal or standard streams."""
    return takeover.upgrade(engine().containers.streams.attach(container_name()))


@blueprint.get("/exitcode")
@blueprint.get("/container/exitcode")
def exit_code() -> Response:
    """Wait until a container or an exec has ended and give its exit code."""
    name, exec_id = container_name(), params.text("exec").strip()
    running = engine()
    if exec_id:
        running.containers.records.find(name)  # 404 for a container that is not there
        with suppress(Timeout), inline_wait() as seconds:  # most clients ask when the output has ended
            return answers.plain_json(running.execs.wait(exec_id, seconds=seconds))

    def ask(cancelled: Callable[[], bool]) -> int:
        return running.execs.wait(exec_id) if exec_id else running.containers.wait(name, cancelled=cancelled)

    return Waiting("exitcode", ask, request_id=g.request_id).respond()


@blueprint.get("/container/top")
def top() -> Response:
    """List the processes of a running container, as ps would; ``psArgs`` are its arguments."""
    name, columns = container_name(), psformat.columns(params.text("psArgs"))
    titles, rows = psformat.table(engine().containers.top.list(name), columns)
    return answers.plain_json({"titles": titles, "processes": rows})


@blueprint.get("/container/stats")
def container_counters() -> Response:
    """Return the counters of a running container; times in ns, sizes in bytes."""
    return answers.plain_json(stats_views.container_stats(engine().stats.container(container_name())))


@blueprint.get("/container/changes")
def changes() -> Response:
    """List what of its image a container has changed."""
    found = engine().containers.contents.changes(container_name())
    return answers.plain_json([{"path": change.path, "kind": str(change.kind)} for change in found])


@blueprint.get("/container/export")
def export() -> Response:
    """Send a container's whole file system as a tar, without what is mounted in it."""
    name = container_name()
    contents = engine().containers.contents
    engine().containers.records.find(name)
    return Download("export", lambda _left: contents.export(name), content_type=TAR).respond()


@blueprint.get("/container/archive")
def get_archive() -> Response:
    """Send a file or directory of a container as a tar."""
    _, pieces = engine().containers.contents.pack(container_name(), params.needed("path"))
    return Download("archive", lambda _left: pieces, content_type=TAR).respond()


@blueprint.get("/container/stat")
def stat_path() -> Response:
    """Describe a file or directory of a container; a link is not followed."""
    return answers.plain_json(path_stat(engine().containers.contents.stat(container_name(), params.needed("path"))))


@blueprint.put("/container/archive")
def put_archive() -> Response:
    """Unpack a tar into a directory of a container; with ``strict`` no directory replaces a file, nor a file one."""
    name, path = container_name(), params.needed("path")
    with uploaded() as chunks:
        engine().containers.contents.unpack(name, path, chunks, strict=params.flag("strict"))
    return answers.empty()


@blueprint.get("/container/wait")
def wait() -> Response:
    """Wait for a container: the answer's head comes at once, its body when what is waited for has happened."""
    raw = params.text("condition").strip() or WaitCondition.NOT_RUNNING
    if raw not in set(WaitCondition):
        raise InvalidInput(f"unknown condition {raw[:40]!r}", resolution="use " + ", ".join(WaitCondition))
    waiting = engine().containers.waits.register(container_name(), WaitCondition(raw))

    def ask(cancelled: Callable[[], bool]) -> dict[str, Any]:
        return {"exitCode": waiting.result(cancelled=cancelled).exit_code}

    return HeadFirst("wait", ask, failed=lambda error: {"error": str(error)}, close=waiting.close).respond()


@blueprint.post("/tty/resize")
def resize() -> Response:
    """Tell a terminal its size."""
    rows, columns = params.number("h", low=0, high=65_535), params.number("w", low=0, high=65_535)
    name, exec_id = container_name(), params.text("exec").strip()
    if exec_id:
        engine().execs.resize(exec_id, rows, columns)
    else:
        engine().containers.streams.resize(name, rows, columns)
    return answers.empty(200)
