"""Clients that never end their requests, and engines that never end theirs, hold nothing up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests.support.cloud import CloudProcess

HEAD = b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = CloudProcess(tmp_path_factory.mktemp("cloud"), extra="threads = 4").start()
    yield made
    made.stop()


@pytest.mark.parametrize("begun", [HEAD, HEAD + b"Content-Length: 4000\r\n\r\n{"], ids=["head", "body"])
def test_half_a_request(server, begun):
    """As many as there are threads, and each sends a byte now and then."""
    over = threading.Event()

    def trickle(client):
        with contextlib.suppress(OSError):
            while not over.wait(0.2):
                client.sendall(b"x")

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(6)]
        stack.callback(over.set)
        for one in clients:
            one.sendall(begun)
            threading.Thread(target=trickle, args=(one,), daemon=True).start()
        time.sleep(0.5)  # all threads have one
        began = time.monotonic()
        assert server.call("GET", "/web/static/app.js").status == 200
        assert time.monotonic() - began < 15
        clients[0].settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            while clients[0].recv(1000):
                pass  # an answer to half a body, or nothing: it is hung up in any case


def test_one_that_is_not_in_a_hurry(server):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        for piece in (HEAD[:10], HEAD[10:], b"Content-Length: 2\r\n\r\n", b"{", b"}"):
            client.sendall(piece)
            time.sleep(0.8)  # longer in all than PATIENCE
        client.settimeout(60)
        assert client.recv(100).startswith(b"HTTP/1.1 4")
