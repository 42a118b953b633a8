"""Another API over the services, in about a hundred lines: containers as JSON, without a change below ``api``.

It is thrown away after the test. It shows what a dialect needs: routes, its own statuses and words, and the engine.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import pytest
from flask import Flask, Response, current_app, jsonify, request
from flask.testing import FlaskClient

from hyperd.build.importer import ImportOrder
from hyperd.config.model import Config, HypervisorConfig, NetworkConfig
from hyperd.container.model import Container
from hyperd.container.waits import WaitCondition
from hyperd.engine import Engine
from hyperd.errors import Conflict, HyperError, InvalidInput, NotAlive, NotFound
from hyperd.spec.model import ContainerSpec, PodSpec
from hyperd.stream.frames import STDERR, STDOUT
from hyperd.stream.logread import LogQuery
from tests.support.registry import busybox_tar

pytestmark = pytest.mark.root

# -- the dialect

STATUSES: dict[type[HyperError], HTTPStatus] = {
    InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    NotAlive: HTTPStatus.CONFLICT,
}
STREAMS = {STDOUT: "out", STDERR: "err"}


def engine() -> Engine:
    """Return the engine of this application."""
    return cast("Engine", current_app.extensions["second"])


def view(found: Container) -> dict[str, Any]:
    """Return a container in the words of this API."""
    return {"ref": found.id, "title": found.name, "phase": found.state.value, "code": found.exit_code}


def create() -> tuple[Response, int]:
    """``POST /things``: a pod of one container, which goes with it."""
    body = request.get_json()
    spec = ContainerSpec(name=body["title"], image=body["from"], command=tuple(body["run"]), open_stdin=False)
    pod = engine().pods.create(PodSpec(owner="second", implicit=True, restart_policy="never", containers=(spec,)))
    (made,) = engine().containers.queries.of_pod(pod)
    return jsonify(view(made)), HTTPStatus.CREATED


def start(ref: str) -> Response:
    """``POST /things/REF/start``."""
    engine().pods.start_container(ref)
    return jsonify(view(engine().containers.queries.inspect(ref)))


def wait(ref: str) -> Response:
    """``GET /things/REF/wait``: answers when it has ended."""
    ended = engine().containers.waits.register(ref, WaitCondition.NOT_RUNNING).result()
    return jsonify({"ref": ended.container_id, "code": ended.exit_code})


def logs(ref: str) -> Response:
    """``GET /things/REF/logs``: what it has written, as an array of its lines."""
    session = engine().containers.streams.logs(ref, LogQuery())
    ours, theirs = socket.socketpair()
    session.run(theirs, b"")
    with ours, ours.makefile("rb") as file:
        found = []
        while head := file.read(8):
            text = file.read(int.from_bytes(head[4:])).decode(errors="replace")
            found += [{"from": STREAMS[head[0]], "line": line} for line in text.splitlines()]
    return jsonify(found)


def failed(error: HyperError) -> tuple[Response, int]:
    """Answer an error with this API's status and words."""
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)
    return jsonify({"oops": error.brief}), int(status)


def create_second_app(running: Engine) -> Flask:
    """Return the application that serves ``running``."""
    app = Flask("second", static_folder=None)
    app.extensions["second"] = running
    app.post("/things")(create)
    app.post("/things/<ref>/start")(start)
    app.get("/things/<ref>/wait")(wait)
    app.get("/things/<ref>/logs")(logs)
    app.register_error_handler(HyperError, failed)
    return app


# -- its test


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    root: Path = tmp_path_factory.mktemp("second")
    network = NetworkConfig(bridge="hysecond0", subnet="10.214.8.0/24", nft_table="hyperd_second")
    running = Engine(Config(root=root, network=network, hypervisor=HypervisorConfig(driver="fake", pool=0)))
    running.open()
    try:
        running.imports.from_body(ImportOrder(source="-", name="busybox:latest"), iter([busybox_tar()]))
        yield create_second_app(running).test_client()
        running.stop_pods()
        for pod in running.pods.summaries():
            running.pods.remove(pod.id)
    finally:
        running.network.destroy()
        running.close()


def make(client: FlaskClient, title: str, script: str) -> str:
    made = client.post("/things", json={"title": title, "from": "busybox", "run": ["sh", "-c", script]})
    assert (made.status_code, made.json["title"], made.json["phase"]) == (201, title, "created"), made.json
    return str(made.json["ref"])


def test_a_container_from_its_creation_to_its_log(client: FlaskClient) -> None:
    ref = make(client, "one", "echo said; echo shouted >&2; exit 3")
    assert client.post(f"/things/{ref}/start").status_code == 200
    assert client.get(f"/things/{ref}/wait").json == {"ref": ref, "code": 3}
    found = client.get(f"/things/{ref}/logs").json
    assert sorted(found, key=str) == [{"from": "err", "line": "shouted"}, {"from": "out", "line": "said"}]


def test_a_container_by_its_name_whose_input_is_empty(client: FlaskClient) -> None:
    ref = make(client, "two", "echo up; read line || exit 7")
    assert client.post("/things/two/start").json["ref"] == ref
    assert client.get("/things/two/wait").json == {"ref": ref, "code": 7}
    assert client.get("/things/two/logs").json == [{"from": "out", "line": "up"}]


def test_errors_in_its_own_words(client: FlaskClient) -> None:
    assert client.get("/things/nothing/wait").status_code == 404
    assert set(client.get("/things/nothing/logs").json) == {"oops"}
    make(client, "three", "true")
    again = client.post("/things", json={"title": "three", "from": "busybox", "run": ["true"]})
    assert (again.status_code, set(again.json)) == (409, {"oops"})
    bad = client.post("/things", json={"title": "four", "from": "no such image!", "run": ["true"]})
    assert bad.status_code in {404, 422}
