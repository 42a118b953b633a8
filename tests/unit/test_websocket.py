"""Clients that speak WebSocket, as a hub and a session see them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from hyperd.stream import connection
from hyperd.stream.connection import ClientConnection
from hyperd.stream.frames import STDERR, STDOUT
from hyperd.stream.hub import OutputHub
from hyperd.stream.links import HELD, HELD_ITEM, SpdyLink
from hyperd.stream.relay import Relay
from hyperd.stream.websocket import WebSocketClient, accept_token
from tests.support.spdy import SpdyClient


class Page:
    """The other side: a socket and a client's half of the protocol."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(60)
        self._frames = Connection(ConnectionType.CLIENT)

    def send(self, event: Event) -> None:
        self.sock.sendall(self._frames.send(event))

    def receive(self) -> Any:
        while True:
            for event in self._frames.events():
                return event
            data = self.sock.recv(65536)
            self._frames.receive_data(data or None)


class Pair:
    """Both sides, and what has been told to the owner of the client."""

    def __init__(self, relay: Relay, *, text: bool = False, early: bytes = b"") -> None:
        ours, theirs = socket.socketpair()
        self.relay = relay
        self.page = Page(theirs)
        self.input = bytearray()
        self.eof, self.closed = threading.Event(), threading.Event()
        self.client = WebSocketClient(relay, text=text)
        self.client.on_data = self.input.extend
        self.client.on_eof = self.eof.set
        self.client.on_closed = self.closed.set
        relay.call(self.client.open(ours, early), timeout=10)

    def output(self, stream: int, data: bytes) -> None:
        self.relay.soon(lambda: self.client.output(stream, data, raw=False))


@pytest.fixture
def pair(relay: Relay) -> Iterator[Pair]:
    made = Pair(relay)
    yield made
    made.page.sock.close()
    assert made.closed.wait(60)


def test_the_token_of_the_standard() -> None:
    assert accept_token("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_outputs_are_messages_without_frames_of_dockers(pair: Pair) -> None:
    pair.output(STDOUT, b"\xff out")
    pair.output(STDERR, b"err")
    assert [pair.page.receive().data for _ in range(2)] == [b"\xff out", b"err"]


def test_old_clients_get_text(relay: Relay) -> None:
    pair = Pair(relay, text=True)
    pair.output(STDOUT, "für\xff".encode("latin-1"))
    assert pair.page.receive() == TextMessage(data="f\ufffdr\ufffd", frame_finished=True, message_finished=True)
    pair.page.sock.close()


def test_messages_are_input_until_the_client_closes(pair: Pair) -> None:
    pair.page.send(BytesMessage(data=b"one "))
    pair.page.send(TextMessage(data="zwö "))
    pair.page.send(Ping(payload=b"?"))
    assert pair.page.receive() == Pong(payload=b"?")
    pair.page.send(BytesMessage(data=b"x" * 200_000))
    pair.page.send(CloseConnection(code=1000))
    assert pair.eof.wait(60)
    assert bytes(pair.input) == "one zwö ".encode() + b"x" * 200_000
    assert pair.page.receive() == CloseConnection(code=1000, reason="")
    assert pair.client.half_closed


def test_bytes_behind_the_handshake_are_not_lost(relay: Relay) -> None:
    early = Connection(ConnectionType.CLIENT).send(BytesMessage(data=b"early"))
    pair = Pair(relay, early=early)
    pair.page.send(CloseConnection(code=1000))
    assert pair.eof.wait(60)
    assert bytes(pair.input) == b"early"
    pair.page.sock.close()


@pytest.mark.parametrize("data", [b"\x81\x05hello", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"])
def test_who_breaks_the_rules_is_let_go(pair: Pair, data: bytes) -> None:
    """Among them are messages without a mask, which only servers send."""
    pair.page.sock.sendall(data)
    assert pair.eof.wait(60)
    assert pair.page.receive().code == 1002
    assert pair.input == b""


def test_a_client_that_is_cut_off_is_gone_and_has_ended_nothing(pair: Pair) -> None:
    """As for plain connections: what the process reads must not end because a cable was pulled."""
    pair.page.sock.close()
    assert pair.closed.wait(60)
    assert not pair.eof.is_set()


def test_a_hub_says_when_it_is_over(pair: Pair) -> None:
    hub = OutputHub(pair.relay, tty=False)

    def use() -> None:
        hub.attach(pair.client)
        hub.emit(STDERR, b"last words")
        hub.end()

    pair.relay.soon(use)
    assert pair.page.receive().data == b"last words"
    assert pair.page.receive() == CloseConnection(code=1000, reason="")


@pytest.mark.parametrize("spdy", [False, True])
def test_who_asks_for_ever_and_takes_no_answer_is_dropped(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, spdy: bool
) -> None:
    monkeypatch.setattr(connection, "MAX_BEHIND", connection.HIGH_WATER + 1)
    ours, theirs = socket.socketpair()
    closed = threading.Event()
    made = SpdyLink(ClientConnection(relay), lambda *_: None) if spdy else WebSocketClient(relay)
    made.on_closed = closed.set
    relay.call(made.open(ours, b""), timeout=10)
    ping = SpdyClient().ping(1) if spdy else Connection(ConnectionType.CLIENT).send(Ping(payload=b"?" * 125))
    asks = ping * (100_000 // len(ping))
    theirs.settimeout(20)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        theirs.sendall(asks * 100)
    assert closed.wait(20)
    theirs.close()


def test_what_happens_before_the_start_is_bounded_without_data_too(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that come and go say nothing, and have to be kept."""
    wire, paused = ClientConnection(relay), threading.Event()
    monkeypatch.setattr(wire, "pause_reading", paused.set)
    SpdyLink(wire, lambda *_: None)
    client = SpdyClient()
    for number in range(HELD // HELD_ITEM):
        wire.on_data(client.open(2 * number + 1, {}) + client.reset(2 * number + 1))
    assert not paused.is_set()
    wire.on_data(client.open(99_999, {}) + client.reset(99_999))
    assert paused.is_set()
