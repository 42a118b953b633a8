"""A web page cannot use the API over TCP: neither with its own origin nor by a name that leads here."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.ports import free_port

pytestmark = pytest.mark.root

Ports = tuple[int, int]


@pytest.fixture(scope="module")
def ports() -> Ports:
    return free_port(), free_port()


@pytest.fixture(scope="module")
def daemon(ports: Ports) -> Iterator[HyperdLauncher]:
    with HyperdLauncher(driver="fake", config='[api]\nallowed_hosts = ["node.example.com"]\n') as launcher:
        hyper, docker = (f"tcp://127.0.0.1:{port}" for port in ports)
        launcher.start("--host", hyper, "--docker-host", docker)
        yield launcher


def ask(port: int, headers: dict[str, str], method: str = "GET", path: str = "/version") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


FOREIGN = [
    ({"Origin": "http://evil.example.com"}, "web pages may not use this API"),
    ({"Origin": "null"}, "web pages may not use this API"),
    ({"Sec-Fetch-Site": "cross-site"}, "web pages may not use this API"),
    ({"Host": "rebound.example.com:2375"}, "the name of this host in the request is not known here"),
    ({"Host": "rebound.example.com", "Origin": "http://rebound.example.com"}, "is not known here"),
]


@pytest.mark.parametrize(("headers", "word"), FOREIGN)
def test_pages_are_refused(daemon: HyperdLauncher, ports: Ports, headers: dict[str, str], word: str) -> None:
    for method, path in (("GET", "/version"), ("POST", "/pod/stop?podId=x"), ("POST", "/containers/x/stop")):
        status, body = ask(ports[0], headers, method, path)
        assert status == 403
        assert word in body.decode()
        status, body = ask(ports[1], headers, method, path)
        assert status == 403
        assert word in json.loads(body)["message"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]:99", "node.example.com:2375", socket.gethostname()])
def test_clients_are_served(daemon: HyperdLauncher, ports: Ports, host: str) -> None:
    for port in ports:
        assert ask(port, {"Host": host})[0] == 200
        assert ask(port, {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"})[0] == 200


def test_unix_sockets_are_not_for_browsers(daemon: HyperdLauncher) -> None:
    headers = {"Origin": "http://evil.example.com", "Host": "anything"}
    assert daemon.request("GET", "/version", headers=headers)[0] == 200
