"""Connections to ports of a sandbox: each has a channel for its bytes and one for what went wrong.

Belongs to the relay's thread; sessions are made in threads of services.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from hyperd.container.process import AttachSession
from hyperd.errors import HyperError
from hyperd.stream.connection import nothing
from hyperd.stream.frames import STDOUT
from hyperd.stream.links import Link
from hyperd.stream.relay import Relay

MAX_ERROR = 4096  # bytes

Connect = Callable[[int], Awaitable[AttachSession]]


class Forwards:
    """The connections of one link.

    Args:
        relay: whose loop this is. link: of the client, and its socket.
        connect: makes the session of a connection to a port. Errors: HyperError.
        on_idle: called when the last connection has ended.

    """

    def __init__(
        self,
        relay: Relay,
        link: Link,
        sock: socket.socket,
        connect: Connect,
        *,
        on_idle: Callable[[], object] = nothing,
    ) -> None:
        self._relay = relay
        self._link = link
        self._sock = sock
        self._connect = connect
        self._on_idle = on_idle
        self._by_channel: dict[int, _Connection] = {}
        link.on_data = self._received
        link.on_end = self._ended
        link.on_reset = self._reset
        link.on_closed = self._closed
        link.on_drained = self._drained

    def add(self, port: int, *, data: int, error: int) -> None:
        """Connect to a port; the channels are the client's."""
        one = self._by_channel[data] = _Connection(self._link, data=data, error=error, port=port, gone=self._gone)
        self._relay.task(self._begin(one))

    async def _begin(self, one: _Connection) -> None:
        try:
            session = await self._connect(one.port)
        except HyperError as error:
            one.tell(str(error))
            one.finish()
            return
        except BaseException:
            one.tell("internal error: see the daemon's log")
            one.finish()
            raise
        session.run(self._sock, b"", make=lambda _relay: one)

    def _received(self, channel: int, data: bytes) -> None:
        if channel in self._by_channel:
            self._by_channel[channel].received(data)

    def _ended(self, channel: int) -> None:
        if channel in self._by_channel:
            self._by_channel[channel].ended()

    def _reset(self, channel: int) -> None:
        one = self._by_channel.get(channel)
        if one is not None:
            one.finish()

    def _closed(self) -> None:
        for one in tuple(self._by_channel.values()):
            one.close()

    def _drained(self) -> None:
        for one in tuple(self._by_channel.values()):
            one.on_drained()

    def _gone(self, channel: int) -> None:
        self._by_channel.pop(channel, None)
        if not self._by_channel:
            self._on_idle()


class _Connection:
    """A Client (``hyperd.stream.client``): stdout is what the program in the sandbox sends, stderr why it cannot."""

    def __init__(self, link: Link, *, data: int, error: int, port: int, gone: Callable[[int], object]) -> None:
        self.port = port
        self.closed = link.closed
        self.half_closed = False
        self.on_data: Callable[[bytes], object] = nothing
        self.on_eof: Callable[[], object] = nothing
        self.on_closed: Callable[[], object] = nothing
        self.on_drained: Callable[[], object] = nothing
        self._link = link
        self._data = data
        self._error = error
        self._gone = gone
        self._open = False
        self._early: list[bytes] = []
        self._told = 0

    @property
    def congested(self) -> bool:
        """Whether the client has not taken what was sent."""
        return not self.closed and self._link.congested

    async def open(self, _sock: socket.socket, _early: bytes) -> None:
        """Begin: the link has the socket already."""
        self._open = True
        early, self._early = self._early, []
        for data in early:
            self.on_data(data)
        if self.half_closed:
            self.on_eof()
        if self.closed:
            self.on_closed()
        self._link.resume(self)

    def output(self, stream: int, data: bytes, *, raw: bool) -> None:
        """See Client."""
        del raw
        if stream == STDOUT:
            self._link.send(self._data, data)
        else:
            self.tell(data.decode("utf-8", "replace"))

    def tell(self, message: str) -> None:
        """Say what went wrong."""
        text = message.encode()[: MAX_ERROR - self._told]
        self._told += len(text)
        if text:
            self._link.send(self._error, text)

    def received(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self._open:
            self.on_data(data)
        elif not self.closed:
            self._early.append(data)
            self._link.pause(self)

    def ended(self) -> None:
        """Take the end of the client's bytes."""
        self.half_closed = True
        if self._open:
            self.on_eof()

    def close(self) -> None:
        """Let it go: the client has left, or everything is sent."""
        if self.closed:
            return
        self.closed = True
        self._link.resume(self)
        if self._open:
            self.on_closed()
        self._gone(self._data)

    def pause_reading(self) -> None:
        """See Client."""
        if not self.closed:
            self._link.pause(self)

    def resume_reading(self) -> None:
        """See Client."""
        self._link.resume(self)

    def finish(self) -> None:
        """See Client."""
        self._link.end(self._data)
        self._link.end(self._error)
        self.close()

    def abort(self) -> None:
        """See Client."""
        self._link.abort()
