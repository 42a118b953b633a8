"""Real answers against the OpenAPI document that the same daemon serves; VMs only pretend."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.daemon import HyperdLauncher
from tests.support.registry import Layer, RegistryServer, busybox_tar

pytestmark = [pytest.mark.root, pytest.mark.registry]


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.push("busybox", "latest", [Layer(busybox_tar())])
        yield server


@pytest.fixture(scope="module")
def api(registry: RegistryServer) -> Iterator[Api]:
    with HyperdLauncher(config="stop_grace = 1\n") as daemon:
        daemon.start()
        yield Api(daemon, f"{registry.host}/busybox")


def strict(value: Any) -> Any:
    """Let objects have no properties but those described: what the daemon adds must be in the document."""
    if isinstance(value, dict):
        found = {key: strict(item) for key, item in value.items()}
        if isinstance(found.get("properties"), dict) and found.get("type") == "object":
            found.setdefault("additionalProperties", False)
        return found
    return [strict(item) for item in value] if isinstance(value, list) else value


class Api:
    """Asks, and holds every answer against the document."""

    def __init__(self, daemon: HyperdLauncher, image: str) -> None:
        self.daemon = daemon
        self.image = image
        self.document: dict[str, Any] = daemon.json("GET", "/openapi.json")
        self.components = strict(copy.deepcopy(self.document["components"]))
        self.seen: set[str] = set()

    def operation(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        """Find the operation of a real path."""
        for pattern, methods in self.document["paths"].items():
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", pattern), path) and method.lower() in methods:
                return pattern, methods[method.lower()]
        raise AssertionError(f"{method} {path} is not in the document")

    def ask(self, method: str, path: str, *, status: int, accept: str = "", body: Any = None, **query: Any) -> Any:
        """Ask, check status, media type and body; give the body's value."""
        pattern, operation = self.operation(method, path)
        parameters = {one["name"] for one in operation["parameters"]}
        assert set(query) <= parameters, f"{set(query) - parameters} of {path} are not described"
        headers = {"Accept": accept} if accept else {}
        code, heads, data = self.daemon.request(method, path, body=body, headers=headers, **query)
        assert code == status, (path, code, data)
        self.seen.add(f"{method} {pattern}")
        described = operation["responses"][str(status)]
        media = heads.get("Content-Type", "")
        if "content" not in described:
            assert data == b"", (path, data)
            return None
        assert media in described["content"], (path, media, list(described["content"]))
        schema = described["content"][media].get("schema")
        if media != "application/json":
            if schema is not None:
                self.validate(schema, data.decode(), path)
            return data
        values = [json.loads(line) for line in data.splitlines()]
        for value in values:
            self.validate(schema, value, path)
        return values[0] if len(values) == 1 else values

    def validate(self, schema: Any, value: Any, path: str) -> None:
        """Check a value against a schema of the document."""
        validator = Draft202012Validator({**strict(schema), "components": self.components})
        wrong = [f"{path}: {error.json_path}: {error.message}" for error in validator.iter_errors(value)]
        assert not wrong, wrong

    def fails(self, method: str, path: str, *, status: int, body: Any = None, **query: Any) -> None:
        """Ask for an error in both its forms."""
        text = self.ask(method, path, status=status, body=body, **query)
        assert text.endswith(b"\n")
        found = self.ask(method, path, status=status, accept="application/json", body=body, **query)
        assert found["code"] == status
        assert found["message"]


def test_a_whole_life(api: Api):
    ask, image = api.ask, api.image
    started = time.time()
    lines = ask("POST", "/image/create", status=200, imageName=image)
    assert len(lines) > 3
    ask("GET", "/images/get", status=200)
    pod = {
        "id": "described",
        "labels": {"a": "b"},
        "containers": [{"name": "one", "image": image, "command": ["sh", "-c", "echo hi; sleep 100"]}],
    }
    ask("POST", "/pod/create", status=201, body=pod)
    ask("GET", "/pod/info", status=200, podName="described")
    ask("GET", "/container/info", status=200, container="one")
    ask("POST", "/pod/start", status=200, podId="described")
    for item in ("pod", "container", "vm"):
        ask("GET", "/list", status=201, item=item)
    ask("GET", "/pod/info", status=200, podName="described")
    ask("GET", "/pod/stats", status=200, podId="described")
    ask("POST", "/pod/labels", status=201, podId="described", labels='{"c":"d"}')
    second = {"name": "two", "image": image, "command": ["sh", "-c", "exit 3"]}
    ask("POST", "/container/create", status=201, podId="described", body=second)
    ask("POST", "/container/start", status=200, container="two")
    assert ask("GET", "/exitcode", status=200, container="two") == 3
    assert ask("GET", "/container/exitcode", status=200, container="two") == 3
    ask("GET", "/container/info", status=200, container="two")
    ask("POST", "/container/restart", status=200, container="two", t=1)
    ask("POST", "/container/rename", status=200, oldName="two", newName="three")
    ask("POST", "/container/remove", status=204, container="three")
    logs = ask("GET", "/container/logs", status=200, container="one", stdout="yes", tail=1)
    assert logs.endswith(b"hi\n")
    assert re.fullmatch("exec-[A-Za-z]{10}", ask("POST", "/exec/create", status=201, container="one", command='["ls"]'))
    ask("POST", "/tty/resize", status=409, container="one", h=10, w=20)
    ask("POST", "/pod/pause", status=204, podId="described")
    ask("POST", "/pod/unpause", status=204, podId="described")
    ask("GET", "/pod/described/portmappings", status=200)
    ask("GET", "/service/list", status=200, podId="described")
    ask("POST", "/container/kill", status=201, container="one", signal="HUP")
    ask("POST", "/pod/kill", status=200, podName="described", container="one", signal=1)
    ask("POST", "/container/stop", status=200, container="one")
    ask("POST", "/pod/stop", status=200, podId="described")
    ask("DELETE", "/pod", status=200, podId="described")
    vm = ask("POST", "/vm/create", status=200, cpu=1, mem=64)["ID"]
    ask("DELETE", "/vm", status=200, vm=vm)
    events = ask("GET", "/events", status=200, since=started, until=time.time())
    assert {event["Type"] for event in events} == {"pod", "container", "image", "vm", "network"}
    ask("DELETE", "/image", status=200, imageId=image)


def test_the_daemon_itself(api: Api):
    for path in ("/info", "/version", "/_ping", "/openapi.json"):
        api.ask("GET", path, status=200)
    _, heads, text = api.daemon.request("GET", "/metrics")
    assert heads["Content-Type"].startswith("text/plain")
    assert b"hyperd_build_info" in text


@pytest.mark.parametrize(
    ("method", "path", "status", "query"),
    [
        ("GET", "/pod/info", 404, {"podName": "none"}),
        ("POST", "/pod/start", 404, {"podId": "none"}),
        ("POST", "/pod/stop", 400, {}),
        ("DELETE", "/pod", 404, {"podId": "none"}),
        ("GET", "/pod/stats", 404, {"podId": "none"}),
        ("GET", "/list", 400, {"item": "planet"}),
        ("POST", "/pod/labels", 400, {"podId": "x", "labels": "["}),
        ("POST", "/container/start", 404, {"container": "none"}),
        ("GET", "/container/info", 404, {"container": "none"}),
        ("GET", "/container/logs", 400, {"container": "none"}),
        ("POST", "/container/kill", 400, {"container": "x", "signal": "NO"}),
        ("POST", "/exec/create", 404, {"container": "none", "command": '["ls"]'}),
        ("GET", "/exitcode", 404, {"container": "none"}),
        ("POST", "/attach", 404, {"container": "none"}),
        ("DELETE", "/vm", 404, {"vm": "none"}),
        ("DELETE", "/image", 404, {"imageId": "none"}),
        ("GET", "/events", 400, {"filters": "{"}),
        ("GET", "/events", 400, {"filters": '{"colour":["red"]}'}),
        ("GET", "/events", 400, {"since": "yesterday"}),
        ("GET", "/pod/none/portmappings", 404, {}),
        ("GET", "/service/list", 404, {"podId": "none"}),
    ],
)
def test_errors_in_both_forms(api: Api, method, path, status, query):
    api.fails(method, path, status=status, **query)


def test_bodies_that_are_refused(api: Api):
    api.fails("POST", "/pod/create", status=400, body={"containers": [{}]})
    api.fails("POST", "/pod/create", status=404, body={"containers": [{"image": "127.0.0.1:1/no:1"}]})
    api.fails("POST", "/auth", status=400, body=[1])
