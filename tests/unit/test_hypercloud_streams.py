"""What websockets share."""

from __future__ import annotations

import pytest
from simple_websocket import ConnectionClosed

from hypercloud.api.context import forget_input, say


class Socket:
    """A client that has sent things to nobody, and has gone."""

    def __init__(self):
        self.waiting = ["a", b"b", "c"]

    def send(self, _data):
        raise BrokenPipeError

    def receive(self, timeout):
        assert timeout == 0
        return self.waiting.pop(0) if self.waiting else None


def test_a_client_that_has_gone():
    with pytest.raises(ConnectionClosed):
        say(Socket(), "x")


def test_input_is_not_kept():
    socket = Socket()
    forget_input(socket)
    assert not socket.waiting
