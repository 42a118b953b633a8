"""Several APIs in one daemon: the socket that a caller comes through decides which one answers."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator

import pytest

from tests.support.daemon import HyperdLauncher, UnixConnection
from tests.support.ports import free_port

pytestmark = pytest.mark.root

NO_CACHE = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
PING = {"Api-Version": "1.47", "Ostype": "linux", "Docker-Experimental": "false", "Builder-Version": "1"}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def daemon(port: int) -> Iterator[HyperdLauncher]:
    with HyperdLauncher(driver="fake") as launcher:
        docker = f"unix://{launcher.directory}/docker.sock"
        launcher.start("--docker-host", docker, "--docker-host", f"tcp://127.0.0.1:{port}")
        yield launcher


def ask(connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def docker(daemon: HyperdLauncher, method: str, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    return ask(UnixConnection(daemon.directory / "docker.sock"), method, path)


@pytest.mark.parametrize("path", ["/_ping", "/v1.47/_ping", "/v1.24/_ping", "/v1.8/_ping"])
def test_ping(daemon: HyperdLauncher, path: str) -> None:
    status, headers, body = docker(daemon, "GET", path)
    assert (status, body, headers["Content-Type"]) == (200, b"OK", "text/plain; charset=utf-8")
    wanted = {**NO_CACHE, **PING, "Swarm": "inactive"}
    assert {key: headers[key] for key in wanted} == wanted
    status, headers, body = docker(daemon, "HEAD", path)
    assert (status, body) == (200, b"")
    assert {key: headers[key] for key in wanted} == wanted


def test_version(daemon: HyperdLauncher) -> None:
    status, headers, body = docker(daemon, "GET", "/version")
    found = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert (found["ApiVersion"], found["MinAPIVersion"], found["Os"]) == ("1.47", "1.24", "linux")
    assert found["Components"][0]["Details"]["ApiVersion"] == "1.47"
    assert set(json.loads(docker(daemon, "GET", "/v1.8/version")[2])) == {"Version", "GitCommit", "GoVersion"}


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1.99/version", 400, "client version 1.99 is too new. Maximum supported API version is 1.47"),
        ("/v1.99/nothing", 400, "client version 1.99 is too new. Maximum supported API version is 1.47"),
        ("/v1.44/nothing", 404, "page not found"),
        ("/pod/info", 404, "page not found"),
    ],
)
def test_errors_are_json(daemon: HyperdLauncher, path: str, status: int, message: str) -> None:
    code, headers, body = docker(daemon, "GET", path)
    assert (code, headers["Content-Type"], json.loads(body)) == (status, "application/json", {"message": message})


def test_old_clients_get_plain_errors(daemon: HyperdLauncher) -> None:
    code, headers, body = docker(daemon, "GET", "/v1.7/version")
    assert (code, headers["Content-Type"]) == (400, "text/plain; charset=utf-8")
    assert body.startswith(b"client version 1.7 is too old. Minimum supported API version is 1.8")


def test_each_socket_has_its_own_dialect(daemon: HyperdLauncher, port: int) -> None:
    assert daemon.request("GET", "/list", item="pod")[0] == 201
    assert daemon.request("GET", "/containers/json")[0] == 404
    assert docker(daemon, "GET", "/list?item=pod")[0] == 404
    _, headers, _ = ask(http.client.HTTPConnection("127.0.0.1", port), "GET", "/_ping")
    assert headers["Api-Version"] == "1.47"
    assert daemon.request("GET", "/_ping")[1]["Api-Version"] == "1.17"
    # One kept-alive connection of each at the same time.
    with daemon.connection() as one, contextlib.closing(UnixConnection(daemon.directory / "docker.sock")) as other:
        for _ in range(3):
            for connection, version in ((one, "1.17"), (other, "1.47")):
                connection.request("GET", "/_ping")
                answer = connection.getresponse()
                assert (answer.read(), answer.headers["Api-Version"]) == (b"OK", version)


def test_the_docker_socket_goes_with_the_daemon() -> None:
    with HyperdLauncher(driver="fake") as launcher:
        path = launcher.directory / "docker.sock"
        launcher.start("--docker-host", f"unix://{path}")
        assert path.is_socket()
        launcher.stop()
        assert not path.exists()
        launcher.start()
        assert not path.exists()  # off by default
