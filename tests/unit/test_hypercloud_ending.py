"""A connection that is ended while somebody reads from it is closed by the reader: nobody gets its number before."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from hypercloud.engine.ending import Shared, hang_up
from hypercloud.kube.client import Stream
from hypercloud.kube.streams import PodSession


class Connection:
    """A connection whose reader is inside a call, and stays there until it is let go."""

    def __init__(self) -> None:
        self.sock, self.peer = socket.socketpair()
        self.inside, self.go = threading.Event(), threading.Event()

    def call(self, *_: object) -> bytes:
        self.inside.set()
        assert self.go.wait(60)
        return self.sock.recv(10)

    def recv_data(self) -> tuple[int, bytes]:
        return 8, self.call()

    def stream(self, _size: int) -> Any:
        yield b"line\n"
        yield self.call()

    def shutdown(self) -> None:
        hang_up(self.sock)

    def close(self) -> None:
        self.sock.close()


def pod_session(found: Connection) -> tuple[Callable[[], object], Callable[[], None]]:
    class Client:
        def socket(self, _pod: str, _command: list[str]) -> Connection:
            return found

    made = PodSession(cast("Any", Client()), "pod", ["sh"])  # it has the part of a client that is used
    return made.read, made.close


def cluster_stream(found: Connection) -> tuple[Callable[[], object], Callable[[], None]]:
    made = Stream(cast("Any", found), "there")  # the same, of an answer
    return lambda: list(made.lines()), made.close


def bare(found: Connection) -> tuple[Callable[[], object], Callable[[], None]]:
    shared = Shared(found.shutdown, found.close)

    def read() -> None:
        with shared.using() as alive:
            if alive:
                found.call()

    return read, shared.end


@pytest.mark.parametrize("kind", [bare, pod_session, cluster_stream])
def test_the_reader_closes_it(kind: Callable[[Connection], tuple[Callable[[], object], Callable[[], None]]]) -> None:
    found = Connection()
    read, end = kind(found)
    reader = threading.Thread(target=read)
    reader.start()
    assert found.inside.wait(60)
    end()
    end()
    assert found.sock.fileno() >= 0  # the number is not given away
    assert found.peer.recv(10) == b""  # but the connection is over
    found.go.set()
    reader.join(60)
    assert found.sock.fileno() == -1
    read()  # what has ended is not used again
    found.peer.close()


@pytest.mark.parametrize("kind", [bare, pod_session, cluster_stream])
def test_one_that_nobody_uses_is_closed_at_once(
    kind: Callable[[Connection], tuple[Callable[[], object], Callable[[], None]]],
) -> None:
    found = Connection()
    _, end = kind(found)
    end()
    assert found.sock.fileno() == -1
    found.peer.close()
