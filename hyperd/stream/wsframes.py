"""The frames of one WebSocket connection of a server (RFC 6455), whatever its messages mean."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError


class WebSocketFrames:
    """Reads and writes frames; pings and closes are answered here.

    Args:
        write: sends bytes to the client.
        piece: takes a piece of a message, and whether it is its last; messages of any length come in pieces.
        ended: called once, when the client has closed or broken the rules; nothing is read after it.

    """

    def __init__(
        self, *, write: Callable[[bytes], object], piece: Callable[[bytes, bool], object], ended: Callable[[], object]
    ) -> None:
        self._frames = Connection(ConnectionType.SERVER)
        self._write = write
        self._piece = piece
        self._ended = ended
        self.over = False

    def send(self, event: Event) -> None:
        """Send a message; after a close of either side nothing is sent."""
        with contextlib.suppress(LocalProtocolError):
            self._write(self._frames.send(event))

    def close(self) -> None:
        """Say that the server is done."""
        self.send(CloseConnection(code=CloseReason.NORMAL_CLOSURE))

    def receive(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self.over:
            return
        try:
            self._frames.receive_data(data)
            for event in self._frames.events():
                self._take(event)
        except RemoteProtocolError as error:
            code = error.event_hint.code if isinstance(error.event_hint, CloseConnection) else None
            self.send(CloseConnection(code=code or CloseReason.PROTOCOL_ERROR))
            self.end()

    def _take(self, event: Event) -> None:
        if isinstance(event, BytesMessage):
            self._piece(bytes(event.data), event.message_finished)
        elif isinstance(event, TextMessage):
            self._piece(event.data.encode(), event.message_finished)
        elif isinstance(event, Ping):
            self.send(event.response())
        elif isinstance(event, CloseConnection):
            self.send(event.response())
            self.end()

    def end(self) -> None:
        """Read nothing more: the client has ended, in whatever way."""
        if not self.over:
            self.over = True
            self._ended()
