"""A client that speaks WebSocket (RFC 6455) behind the handshake: outputs are messages, its messages are input.

WebSocket has no half-close: a client that closes has ended its input, and gets nothing more.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token

from hyperd.stream.connection import ClientConnection, nothing
from hyperd.stream.relay import Relay


def accept_token(key: str) -> str:
    """Return the value of ``Sec-WebSocket-Accept`` for a client's key (section 4.2.2)."""
    return str(generate_accept_token(key.encode("latin-1")).decode("ascii"))


class WebSocketClient:
    """A Client (``hyperd.stream.client``). Outputs are not told apart: both come as bytes, as Docker sends them.

    Args:
        text: send text messages instead of binary ones, as API versions before 1.28 did. Bytes that are no UTF-8
            are replaced.

    """

    def __init__(self, relay: Relay, *, text: bool = False) -> None:
        self._wire = ClientConnection(relay)
        self._frames = Connection(ConnectionType.SERVER)
        self._text = text
        self._ended = False  # the client has closed, or broken the rules
        self.on_data: Callable[[bytes], object] = nothing
        self.on_eof: Callable[[], object] = nothing
        self.on_closed: Callable[[], object] = nothing
        self.on_drained: Callable[[], object] = nothing
        self._wire.on_data = self._received
        self._wire.on_eof = self._end
        self._wire.on_closed = self._closed
        self._wire.on_drained = self._drained

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._wire.closed

    @property
    def congested(self) -> bool:
        """Whether the client has not taken what was sent."""
        return self._wire.congested

    @property
    def half_closed(self) -> bool:
        """Whether the client will send no more."""
        return self._ended

    async def open(self, sock: socket.socket, early: bytes) -> None:
        """See Client."""
        await self._wire.open(sock, early)

    def output(self, _stream: int, data: bytes, *, raw: bool) -> None:
        """See Client."""
        del raw
        self._send(TextMessage(data=data.decode("utf-8", "replace")) if self._text else BytesMessage(data=data))

    def pause_reading(self) -> None:
        """See Client."""
        self._wire.pause_reading()

    def resume_reading(self) -> None:
        """See Client."""
        self._wire.resume_reading()

    def finish(self) -> None:
        """See Client."""
        self._send(CloseConnection(code=CloseReason.NORMAL_CLOSURE))
        self._wire.finish()

    def abort(self) -> None:
        """See Client."""
        self._wire.abort()

    def _closed(self) -> None:
        self.on_closed()

    def _drained(self) -> None:
        self.on_drained()

    def _send(self, event: Event) -> None:
        # After a close of either side nothing can be sent.
        with contextlib.suppress(LocalProtocolError):
            self._wire.write(self._frames.send(event))

    def _received(self, data: bytes) -> None:
        if self._ended:
            return
        try:
            self._frames.receive_data(data)
            for event in self._frames.events():
                self._take(event)
        except RemoteProtocolError as error:
            code = error.event_hint.code if isinstance(error.event_hint, CloseConnection) else None
            self._send(CloseConnection(code=code or CloseReason.PROTOCOL_ERROR))
            self._end()

    def _take(self, event: Event) -> None:
        # Messages of any length come in pieces: none is kept.
        if isinstance(event, BytesMessage):
            self.on_data(bytes(event.data))
        elif isinstance(event, TextMessage):
            self.on_data(event.data.encode())
        elif isinstance(event, Ping):
            self._send(event.response())
        elif isinstance(event, CloseConnection):
            self._send(event.response())
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.on_eof()
            self._wire.finish()
