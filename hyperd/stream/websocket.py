"""A client that speaks WebSocket (RFC 6455) behind the handshake: outputs are messages, its messages are input.

WebSocket has no half-close: a client that closes has ended its input, and gets nothing more.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from wsproto.events import BytesMessage, TextMessage
from wsproto.utilities import generate_accept_token

from hyperd.stream.connection import ClientConnection, nothing
from hyperd.stream.relay import Relay
from hyperd.stream.wsframes import WebSocketFrames


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
        self._frames = WebSocketFrames(write=self._wire.write, piece=self._take, ended=self._end)
        self._text = text
        self.on_data: Callable[[bytes], object] = nothing
        self.on_eof: Callable[[], object] = nothing
        self.on_closed: Callable[[], object] = nothing
        self.on_drained: Callable[[], object] = nothing
        self._wire.on_data = self._frames.receive
        self._wire.on_eof = self._frames.end
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
        return self._frames.over

    async def open(self, sock: socket.socket, early: bytes) -> None:
        """See Client."""
        await self._wire.open(sock, early)

    def output(self, _stream: int, data: bytes, *, raw: bool) -> None:
        """See Client."""
        del raw
        self._frames.send(TextMessage(data=data.decode("utf-8", "replace")) if self._text else BytesMessage(data=data))

    def pause_reading(self) -> None:
        """See Client."""
        self._wire.pause_reading()

    def resume_reading(self) -> None:
        """See Client."""
        self._wire.resume_reading()

    def finish(self) -> None:
        """See Client."""
        self._frames.close()
        self._wire.finish()

    def abort(self) -> None:
        """See Client."""
        self._wire.abort()

    def _closed(self) -> None:
        self.on_closed()

    def _drained(self) -> None:
        self.on_drained()

    def _take(self, data: bytes, _last: bool) -> None:
        self.on_data(data)

    def _end(self) -> None:
        self.on_eof()
        self._wire.finish()
