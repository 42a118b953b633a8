"""Builds let this host fetch files only for callers who may have that."""

from __future__ import annotations

import contextlib
import http.client
from urllib.parse import urlencode

import pytest

from tests.support.builds import context
from tests.support.daemon import HyperdLauncher, UnixConnection
from tests.support.ports import free_port
from tests.support.web import web

pytestmark = pytest.mark.root

SECRET = b"what only this host can reach"
FORBIDDEN = "this host fetches files only for callers on its unix sockets"


def build(connection: http.client.HTTPConnection, path: str, *, body: bytes = b"", **query: str) -> tuple[int, str]:
    with contextlib.closing(connection):
        target = f"{path}?{urlencode({'t': 'built:t', **query})}"
        connection.request("POST", target, body=body, headers={"Content-Type": "application/tar"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("allowed", [False, True])
def test_over_tcp_only_where_the_configuration_says_so(*, allowed: bool) -> None:
    asked: list[str] = []
    ports = {"/image/build": free_port(), "/build": free_port()}
    config = f"[api]\nfetch_over_tcp = {'true' if allowed else 'false'}\n"
    inner = context({"Dockerfile": "FROM scratch\nLABEL a=b\n"})
    with web({"/c.tar": inner, "/secret": SECRET}, asked=asked) as url, HyperdLauncher(config=config) as daemon:
        docker = daemon.directory / "docker.sock"
        options = [f"tcp://127.0.0.1:{ports['/image/build']}", f"tcp://127.0.0.1:{ports['/build']}"]
        daemon.start("--docker-host", f"unix://{docker}", "--host", options[0], "--docker-host", options[1])
        adding = {
            "plain": context({"Dockerfile": f"FROM scratch\nADD {url}/secret /\n"}),
            "of a variable": context({"Dockerfile": f"FROM scratch\nARG U={url}/secret\nADD $U /\n"}),
        }
        for path, port in ports.items():
            code, said = build(http.client.HTTPConnection("127.0.0.1", port), path, remote=f"{url}/c.tar")
            assert (code, FORBIDDEN in said) == ((200, False) if allowed else (403, True)), said
            for body in adding.values():
                _, said = build(http.client.HTTPConnection("127.0.0.1", port), path, body=body)
                assert (FORBIDDEN in said) is not allowed, said
                assert ("fetch_over_tcp" in said) is not allowed, said
        assert set(asked) == ({"/c.tar", "/secret"} if allowed else set())
        for path, place in (("/image/build", daemon.socket), ("/build", docker)):
            code, said = build(UnixConnection(place), path, remote=f"{url}/c.tar")
            assert (code, FORBIDDEN in said) == (200, False), said
            _, said = build(UnixConnection(place), path, body=adding["plain"])
            assert FORBIDDEN not in said
