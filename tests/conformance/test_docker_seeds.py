"""The examples of the Docker Remote API's documents of 2013 and 2014: v1.8 (its reference) and v1.10 (its transcripts).

Each request is sent as it is printed there, names and ids aside, under its own version and without one; status, kind of
answer and keys must be as printed. What must run in a guest (builds, files) is tested with real ones elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import HyperdLauncher, UnixConnection
from tests.support.registry import Layer, RegistryServer, busybox_tar

pytestmark = [pytest.mark.root, pytest.mark.registry]

PREFIXES = ["/v1.8", "/v1.10", ""]
RAW = "application/vnd.docker.raw-stream"
CREATE = {
    "Hostname": "",
    "User": "",
    "Memory": 0,
    "MemorySwap": 0,
    "AttachStdin": False,
    "AttachStdout": True,
    "AttachStderr": True,
    "PortSpecs": None,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": ["date"],
    "Dns": None,
    "Image": "base",
    "VolumesFrom": "",
    "WorkingDir": "",
    "ExposedPorts": {"22/tcp": {}},
}
START = {
    "LxcConf": {"lxc.utsname": "docker"},
    "PortBindings": {"22/tcp": [{"HostPort": "11022"}]},
    "PublishAllPorts": False,
    "Privileged": False,
}
CONFIG_KEYS = {
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Cmd",
    "Dns",
    "Env",
    "Hostname",
    "Image",
    "Memory",
    "MemorySwap",
    "OpenStdin",
    "PortSpecs",
    "StdinOnce",
    "Tty",
    "User",
    "Volumes",
    "VolumesFrom",
    "WorkingDir",
}
INSPECT_KEYS = {
    "Id",
    "Created",
    "Path",
    "Args",
    "Config",
    "State",
    "Image",
    "NetworkSettings",
    "SysInitPath",
    "ResolvConfPath",
    "Volumes",
    "HostConfig",
}


class Caller:
    """Sends requests to the Docker socket of a daemon."""

    def __init__(self, daemon: HyperdLauncher) -> None:
        self._path = daemon.directory / "docker.sock"

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, str, bytes]:
        connection = UnixConnection(self._path)
        headers = {} if body is None else {"Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()

    def json(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        code, kind, data = self(method, path, body)
        assert (code, kind) == (status, "application/json"), data
        return json.loads(data)


@pytest.fixture(scope="module")
def daemon() -> Iterator[HyperdLauncher]:
    with RegistryServer() as registry, HyperdLauncher(driver="fake") as one:
        registry.push("base", "latest", [Layer(busybox_tar())])
        one.start("--docker-host", f"unix://{one.directory}/docker.sock")
        call = Caller(one)
        code, _, data = call("POST", f"/v1.8/images/create?fromImage=base&registry={registry.host}")
        assert code == 200, data
        for line in data.decode().splitlines():
            assert "error" not in json.loads(line), line
        code, _, data = call("POST", f"/images/{registry.host}/base/tag?repo=base")
        assert code == 201, data
        yield one


@pytest.fixture
def call(daemon: HyperdLauncher) -> Caller:
    return Caller(daemon)


@pytest.fixture(params=PREFIXES)
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def container(call: Caller, prefix: str) -> Iterator[str]:
    made = call.json("POST", f"{prefix}/containers/create", CREATE, status=201)
    yield made["Id"]
    call("DELETE", f"/containers/{made['Id']}?force=1")


def test_create(call: Caller, prefix: str) -> None:
    made = call.json("POST", f"{prefix}/containers/create?name=named_1", CREATE, status=201)
    assert set(made) == {"Id", "Warnings"}
    assert not made["Warnings"]
    assert call("DELETE", f"{prefix}/containers/{made['Id']}?v=1")[0] == 204
    assert call("POST", f"{prefix}/containers/create", {**CREATE, "Image": "nosuch"})[0] == 404


def test_the_transcript_of_2014(call: Caller, prefix: str) -> None:
    """Its request has no command: that of the image is meant."""
    body = {key: value for key, value in CREATE.items() if key not in ("Cmd", "ExposedPorts")}
    made = call.json("POST", f"{prefix}/containers/create", {**body, "Privileged": False, "Cmd": ["sh"]}, status=201)
    if prefix in PREFIXES[:2]:
        assert made["Warnings"] is None
    short = made["Id"][:12]
    assert call("POST", f"{prefix}/containers/{short}/start")[0] == 204
    assert call("POST", f"{prefix}/containers/{short}/stop")[0] in (204, 304)
    assert call("DELETE", f"{prefix}/containers/{short}")[0] == 204


def test_list(call: Caller, prefix: str, container: str) -> None:
    rows = call.json("GET", f"{prefix}/containers/json?all=1&size=1")
    found = next(row for row in rows if row["Id"] == container)
    assert {"Id", "Image", "Command", "Created", "Status", "Ports", "SizeRw", "SizeRootFs"} <= set(found)
    assert (found["Image"], found["Command"], found["Ports"]) == ("base", "date", [])
    assert isinstance(found["Created"], int)
    second = call.json("POST", f"{prefix}/containers/create", CREATE, status=201)["Id"]
    ids = [row["Id"] for row in call.json("GET", f"{prefix}/containers/json?all=1&before={second[:12]}&size=1")]
    assert container in ids
    assert second not in ids
    assert [row["Id"] for row in call.json("GET", f"{prefix}/containers/json?limit=1")] == [second]
    assert container not in [row["Id"] for row in call.json("GET", f"{prefix}/containers/json?since={container}")]
    assert call("GET", f"{prefix}/containers/json?limit=abc")[0] == 400
    assert call("DELETE", f"{prefix}/containers/{second}")[0] == 204


def test_inspect(call: Caller, container: str) -> None:
    found = call.json("GET", f"/v1.8/containers/{container[:12]}/json")
    assert set(found) >= INSPECT_KEYS
    assert found["Id"] == found["ID"] == container
    assert (found["Path"], found["Args"]) == ("date", [])
    assert set(found["Config"]) >= CONFIG_KEYS
    assert found["Config"]["Hostname"] == container[:12]
    assert set(found["State"]) >= {"Running", "Pid", "ExitCode", "StartedAt", "Ghost"}
    assert found["State"]["Running"] is False
    assert set(found["NetworkSettings"]) >= {"IpAddress", "IpPrefixLen", "Gateway", "Bridge", "PortMapping"}
    assert set(found["HostConfig"]) >= {
        "Binds",
        "ContainerIDFile",
        "LxcConf",
        "Privileged",
        "PortBindings",
        "Links",
        "PublishAllPorts",
    }
    transcript = call.json("GET", f"/v1.10/containers/{container[:12]}/json")
    assert set(transcript) >= {"Driver", "ExecDriver", "HostnamePath", "HostsPath", "Name", "VolumesRW"}
    assert set(transcript["NetworkSettings"]) >= {"IPAddress", "IPPrefixLen", "Ports"}
    assert set(transcript["Config"]) >= {"CpuShares", "Domainname", "Entrypoint", "ExposedPorts", "NetworkDisabled"}
    assert call("GET", "/v1.8/containers/nosuch/json")[0] == 404


def test_start_stop_restart_kill_wait_remove(call: Caller, prefix: str) -> None:
    body = {**CREATE, "Cmd": ["sleep", "1000"]}
    ident = call.json("POST", f"{prefix}/containers/create", body, status=201)["Id"][:12]
    assert call("POST", f"{prefix}/containers/{ident}/start", START)[0] == 204
    found = call.json("GET", f"{prefix}/containers/{ident}/json")
    assert found["NetworkSettings"]["Ports"]["22/tcp"][0]["HostPort"] == "11022"
    assert call("POST", f"/v1.30/containers/{ident}/start", START)[0] == 400
    assert call("POST", f"{prefix}/containers/{ident}/restart?t=5")[0] == 204
    assert call("POST", f"{prefix}/containers/{ident}/kill")[0] == 204
    assert set(call.json("POST", f"{prefix}/containers/{ident}/wait")) == {"StatusCode"}
    assert call("POST", f"{prefix}/containers/{ident}/stop?t=5")[0] in (204, 304)
    assert call("DELETE", f"{prefix}/containers/{ident}?v=1")[0] == 204
    for action in ("start", "stop?t=5", "restart?t=5", "kill", "wait", "attach?logs=1&stream=0&stdout=1"):
        assert call("POST", f"{prefix}/containers/{ident}/{action}")[0] == 404
    assert call("DELETE", f"{prefix}/containers/{ident}?v=1")[0] == 404


def test_attach(call: Caller, prefix: str, container: str) -> None:
    assert call("POST", f"{prefix}/containers/{container}/start")[0] == 204
    call("POST", f"{prefix}/containers/{container}/wait")
    code, kind, _ = call("POST", f"{prefix}/containers/{container[:12]}/attach?logs=1&stream=0&stdout=1")
    assert code == 200
    if prefix:
        assert kind == RAW


def test_images(call: Caller, prefix: str) -> None:
    rows = call.json("GET", f"{prefix}/images/json?all=0")
    found = next(row for row in rows if "base:latest" in row["RepoTags"])
    assert {"RepoTags", "Id", "Created", "Size"} <= set(found)
    if prefix:
        assert "VirtualSize" in found
        assert ":" not in found["Id"]


def test_image_inspect_and_history(call: Caller) -> None:
    old = call.json("GET", "/v1.8/images/base/json")
    assert {"id", "parent", "created", "container", "container_config", "Size"} <= set(old)
    assert "Id" in call.json("GET", "/v1.12/images/base/json")
    for prefix in PREFIXES:
        steps = call.json("GET", f"{prefix}/images/base/history")
        assert all({"Id", "Created", "CreatedBy"} <= set(step) for step in steps)
        assert call("GET", f"{prefix}/images/nosuch/history")[0] == 404
        assert call("GET", f"{prefix}/images/nosuch/json")[0] == 404


def test_tag_and_remove(call: Caller, prefix: str) -> None:
    code, _, _ = call("POST", f"{prefix}/images/base/tag?repo=myrepo&force=0")
    assert code == (200 if prefix == "/v1.8" else 201)
    assert call.json("DELETE", f"{prefix}/images/myrepo") == [{"Untagged": "myrepo:latest"}]
    assert call("DELETE", f"{prefix}/images/myrepo")[0] == 404
    assert call("POST", f"{prefix}/images/nosuch/tag?repo=myrepo")[0] == 404


def test_push_of_nothing(call: Caller, prefix: str) -> None:
    assert call("POST", f"{prefix}/images/nosuch/push")[0] == 404


def test_misc(call: Caller, prefix: str) -> None:
    info = call.json("GET", f"{prefix}/info")
    keys = {"Containers", "Images", "Debug", "NFd", "NGoroutines", "MemoryLimit", "SwapLimit", "IPv4Forwarding"}
    assert keys <= set(info)
    assert isinstance(info["MemoryLimit"], bool)
    assert {"Version", "GitCommit", "GoVersion"} <= set(call.json("GET", f"{prefix}/version"))
    assert call("GET", f"{prefix}/containers/ps")[0] == 200


def test_events(call: Caller, prefix: str, container: str) -> None:
    code, kind, data = call("GET", f"{prefix}/events?since=1&until={int(time.time()) + 1}")
    assert (code, kind) == (200, "application/json")
    found = [json.loads(line) for line in data.splitlines()]
    mine = next(event for event in found if event.get("id") == container)
    assert {"status", "id", "from", "time"} <= set(mine)
    assert (mine["status"], mine["from"]) == ("create", "base")


def test_copy_export_and_get_need_what_they_name(call: Caller, prefix: str) -> None:
    assert call("POST", f"{prefix}/containers/nosuch/copy", {"Resource": "test.txt"})[0] == 404
    assert call("GET", f"{prefix}/containers/nosuch/export")[0] == 404
    assert call("GET", f"{prefix}/containers/nosuch/changes")[0] == 404
    assert call("GET", f"{prefix}/containers/nosuch/top")[0] == 404
    assert call("GET", f"{prefix}/images/nosuch/get")[0] == 404
    code, kind, data = call("GET", f"{prefix}/images/base/get")
    assert (code, kind) == (200, "application/x-tar")
    assert len(data) > 10_000


def test_commit_of_nothing(call: Caller, prefix: str) -> None:
    assert call("POST", f"{prefix}/commit?container=nosuch&m=message&repo=myrepo")[0] == 404


def test_the_broken_example_of_auth_is_refused(call: Caller, prefix: str) -> None:
    """The document's own example is no JSON."""
    connection = UnixConnection(call._path)
    with contextlib.closing(connection):
        broken = b'{"username":"hannibal", "password:"xxxx", "email":"hannibal@a-team.com"}'
        connection.request("POST", f"{prefix}/auth", broken, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 400


def test_old_errors_are_text_and_new_ones_json(call: Caller) -> None:
    assert call("GET", "/v1.8/containers/nosuch/json")[1].startswith("text/plain")
    assert json.loads(call("GET", "/containers/nosuch/json")[2]) == {"message": "No such container: nosuch"}
