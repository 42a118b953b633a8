"""Connections that carry several channels, over WebSocket or SPDY. All of it belongs to the relay's thread.

A link takes bytes from the beginning and gives none of them to its owner before ``start``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

import structlog
from wsproto.events import BytesMessage

from hyperd.stream.connection import ClientConnection, nothing
from hyperd.stream.frames import STDOUT
from hyperd.stream.relay import Relay
from hyperd.stream.spdy import Gone, Opened, SpdyError, SpdyServer
from hyperd.stream.wsframes import WebSocketFrames

log = structlog.get_logger(__name__)

HELD = 1 << 18  # bytes that are taken before the start
HELD_ITEM = 256  # bytes that each thing that happens counts for then, also without data
CLOSE = 255  # in version 5 of the channels: the next byte is that of a channel which the client has ended


class Wire(Protocol):
    """A connection whose bytes are a link's: see ``hyperd.stream.client``."""

    on_data: Callable[[bytes], object]
    on_eof: Callable[[], object]
    on_closed: Callable[[], object]
    on_drained: Callable[[], object]

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""

    @property
    def congested(self) -> bool:
        """Whether the client has not taken what was sent."""

    async def open(self, sock: socket.socket, early: bytes) -> None:
        """Take the socket into the loop."""

    def output(self, stream: int, data: bytes, *, raw: bool) -> None:
        """Send bytes; never blocks."""

    def pause_reading(self) -> None:
        """Take no more for now."""

    def resume_reading(self) -> None:
        """Take more again."""

    def finish(self) -> None:
        """Send what is queued, then end."""

    def abort(self) -> None:
        """Drop the connection at once."""


class Link:
    """What all links have; ``on_*`` are their owner's.

    Args:
        on_data: called with a channel and bytes of it. on_end: a channel gives no more. on_reset: and takes no more.
        on_closed: the connection is gone. on_drained: the client has taken what was sent.

    """

    def __init__(self, wire: Wire) -> None:
        self.on_data: Callable[[int, bytes], object] = nothing
        self.on_end: Callable[[int], object] = nothing
        self.on_reset: Callable[[int], object] = nothing
        self.on_closed: Callable[[], object] = nothing
        self.on_drained: Callable[[], object] = nothing
        self.wire = wire
        self._held: list[Callable[[], object]] | None = []
        self._size = 0
        self._paused: set[object] = set()
        wire.on_data = self._received
        wire.on_eof = self._ended
        wire.on_closed = self._closed
        wire.on_drained = self._drained

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self.wire.closed

    @property
    def congested(self) -> bool:
        """Whether the client has not taken what was sent."""
        return self.wire.congested

    async def open(self, sock: socket.socket, early: bytes) -> None:
        """Take the socket into the loop; ``early`` are bytes that were read already."""
        await self.wire.open(sock, early)

    def start(self) -> None:
        """Give what has come to the owner, and what comes."""
        held, self._held = self._held, None
        for deliver in held or ():
            deliver()
        self.resume(self)

    def pause(self, who: object) -> None:
        """Take no more until ``who`` resumes: one of several whose channels these are."""
        self._paused.add(who)
        self.wire.pause_reading()

    def resume(self, who: object) -> None:
        """Take again, if nobody else has paused."""
        self._paused.discard(who)
        if not self._paused:
            self.wire.resume_reading()

    def send(self, channel: int, data: bytes) -> None:
        """Send bytes on a channel; never blocks."""
        raise NotImplementedError

    def end(self, channel: int) -> None:
        """Say that nothing more comes on a channel, where that can be said."""
        raise NotImplementedError

    def finish(self) -> None:
        """Send what is queued, then end."""
        self.wire.finish()

    def abort(self) -> None:
        """Drop the connection at once."""
        self.wire.abort()

    def _received(self, data: bytes) -> None:
        raise NotImplementedError

    def _closed(self) -> None:
        self.on_closed()

    def _drained(self) -> None:
        self.on_drained()

    def _ended(self) -> None:
        """Take the end of what the client sends: of none of these is half a connection of use."""
        self.finish()

    def _deliver(self, channel: int, data: bytes, *, ended: bool = False, reset: bool = False) -> None:
        if self._held is not None:
            self._held.append(lambda: self._deliver(channel, data, ended=ended, reset=reset))
            self._size += len(data) + HELD_ITEM
            if self._size > HELD:
                self.pause(self)
            return
        if data:
            self.on_data(channel, data)
        if ended:
            self.on_end(channel)
        if reset:
            self.on_reset(channel)


class WebSocketLink(Link):
    """Channels as Kubernetes has them over WebSocket: the first byte of a message is the channel.

    Args:
        ends: the client can end a channel (version 5).

    """

    def __init__(self, relay: Relay, *, ends: bool) -> None:
        self._wire = ClientConnection(relay)
        super().__init__(self._wire)
        self._ends = ends
        self._frames = WebSocketFrames(write=self._wire.write, piece=self._piece, ended=self._wire.finish)
        self._channel: int | None = None  # of the message under way

    def _received(self, data: bytes) -> None:
        self._frames.receive(data)

    def send(self, channel: int, data: bytes) -> None:
        """See Link."""
        self._frames.send(BytesMessage(data=bytes([channel]) + data))

    def end(self, channel: int) -> None:
        """See Link; the server cannot say it."""

    def finish(self) -> None:
        """See Link."""
        self._frames.close()
        self._wire.finish()

    def _piece(self, data: bytes, last: bool) -> None:
        if self._channel is None and data:
            self._channel, data = data[0], data[1:]
        if self._channel == CLOSE and self._ends:
            for channel in data:
                self._deliver(channel, b"", ended=True)
        elif self._channel is not None and data:
            self._deliver(self._channel, data)
        if last:
            self._channel = None


class Openings(Protocol):
    """Who is told of streams that a client opens."""

    def __call__(self, stream: int, headers: dict[str, str], /) -> None:
        """Take a new stream; nothing of it has been delivered."""


class SpdyLink(Link):
    """Streams of SPDY/3.1; a channel is the number of a stream.

    Args:
        wire: a connection, or a WebSocket whose messages are the bytes of one.
        on_open: is told of new streams, also before the start.

    """

    def __init__(self, wire: Wire, on_open: Openings) -> None:
        super().__init__(wire)
        self._spdy = SpdyServer()
        self._on_open = on_open
        self._over = False

    def send(self, channel: int, data: bytes) -> None:
        """See Link."""
        self._spdy.send(channel, data)
        self._flush()

    def end(self, channel: int) -> None:
        """See Link."""
        self._spdy.send(channel, b"", end=True)
        self._flush()

    def refuse(self, channel: int) -> None:
        """Reset a stream."""
        self._spdy.reset(channel)
        self._flush()

    def finish(self) -> None:
        """See Link."""
        self._leave(failed=False)

    def _received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            for event in self._spdy.receive(data):
                if isinstance(event, Opened):
                    self._on_open(event.stream, event.headers)
                    if event.ended:
                        self._deliver(event.stream, b"", ended=True)
                elif isinstance(event, Gone):
                    self._deliver(event.stream, b"", reset=True)
                else:
                    self._deliver(event.stream, event.data, ended=event.ended)
        except SpdyError as error:
            log.debug("stream.bad_spdy", error=str(error))
            self._leave(failed=True)
        self._flush()

    def _flush(self) -> None:
        data = self._spdy.to_send()
        if data:
            self.wire.output(STDOUT, data, raw=True)

    def _leave(self, *, failed: bool) -> None:
        if not self._over:
            self._over = True
            self._spdy.go_away(failed=failed)
            self._flush()
            self.wire.finish()
