"""Docker's ``/containers/X/attach/ws``: messages both ways on a container's streams."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from tests.support.daemon import HyperdLauncher, UnixConnection
from tests.support.registry import Layer, RegistryServer, busybox_tar

pytestmark = pytest.mark.root

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": KEY, "Sec-WebSocket-Version": "13"}


class Docker:
    """A daemon's Docker API."""

    def __init__(self, daemon: HyperdLauncher) -> None:
        self.daemon = daemon
        self.path = daemon.directory / "docker.sock"

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        with contextlib.closing(UnixConnection(self.path)) as connection:
            sent = {"Content-Type": "application/json", **(headers or {})}
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def run(self, image: str, command: list[str]) -> str:
        status, body = self.ask("POST", "/containers/create", {"Image": image, "Cmd": command, "OpenStdin": True})
        assert status == 201, body
        return str(json.loads(body)["Id"])


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with RegistryServer() as server:
        server.push("busybox", "latest", [Layer(busybox_tar())])
        yield f"{server.host}/busybox"


@pytest.fixture(scope="module")
def docker(image: str) -> Iterator[Docker]:
    with HyperdLauncher(driver="fake") as launcher:
        launcher.start("--docker-host", f"unix://{launcher.directory}/docker.sock")
        found = Docker(launcher)
        assert found.ask("POST", f"/images/create?fromImage={image}&tag=latest")[0] == 200
        yield found


class Page:
    """A WebSocket of a client."""

    def __init__(self, docker: Docker, target: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(docker.path))
        lines = [f"GET {target} HTTP/1.1", "Host: x", *(f"{key}: {value}" for key, value in HANDSHAKE.items())]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), (head, self.sock.recv(500))
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        self._frames = Connection(ConnectionType.CLIENT)

    def send(self, event: Any) -> None:
        self.sock.sendall(self._frames.send(event))

    def receive(self) -> Any:
        while True:
            for event in self._frames.events():
                return event
            self._frames.receive_data(self.sock.recv(65536) or None)


def test_what_goes_in_comes_out_until_the_client_closes(docker: Docker, image: str) -> None:
    ident = docker.run(image, ["sh", "-c", "cat; echo over >&2"])
    page = Page(docker, f"/containers/{ident}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1")
    assert docker.ask("POST", f"/containers/{ident}/start")[0] == 204
    page.send(BytesMessage(data=b"hello"))
    assert page.receive() == BytesMessage(data=b"hello")
    page.send(CloseConnection(code=1000))
    assert page.receive() == CloseConnection(code=1000, reason="")
    page.sock.close()
    assert json.loads(docker.ask("POST", f"/containers/{ident}/wait")[1])["StatusCode"] == 0


def test_the_end_of_the_container_closes_it(docker: Docker, image: str) -> None:
    ident = docker.run(image, ["echo", "done"])
    page = Page(docker, f"/v1.24/containers/{ident}/attach/ws?stream=1&stdout=1")
    assert docker.ask("POST", f"/containers/{ident}/start")[0] == 204
    assert page.receive() == TextMessage(data="done\n")
    assert page.receive() == CloseConnection(code=1000, reason="")
    page.sock.close()


def test_other_requests_are_refused(docker: Docker, image: str) -> None:
    ident = docker.run(image, ["true"])
    target = f"/containers/{ident}/attach/ws?stream=1"
    for headers in ({}, {**HANDSHAKE, "Sec-WebSocket-Version": "8"}, {**HANDSHAKE, "Upgrade": "tcp"}):
        status, body = docker.ask("GET", target, headers=headers)
        assert status == 400
        assert "this needs a WebSocket" in json.loads(body)["message"]
    assert docker.ask("GET", "/containers/nosuch/attach/ws", headers=HANDSHAKE)[0] == 404
