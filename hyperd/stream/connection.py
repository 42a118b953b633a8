"""A client's socket after the take-over, as the relay sees it."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from typing import cast

import structlog

from hyperd.stream.frames import LAST_CHUNK, chunk, stdcopy
from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)

HIGH_WATER = 1 << 20
MAX_BEHIND = 1 << 24  # bytes that wait for a client; far more than those who look at ``congested`` ever send
LINGER = 5.0
SWEEP = 10.0


def nothing(*_: object) -> None:
    """Stand in for a callback nobody set."""


class ClientConnection(asyncio.Protocol):
    """One taken-over connection, a Client (``hyperd.stream.client``) that is a plain stream. It belongs to the loop.

    Args:
        on_data: called with bytes from the client. on_eof: the client will send no more. on_closed: the connection
        is gone.
        on_drained: called when the client has taken enough of what was written to go on.
        eof_is_gone: the client has nothing to say (followers), so its EOF means that it left.
        raw: it gets output as it is (True) or in Docker's multiplexed frames (False); None = as its process has it.

    """

    def __init__(
        self, relay: Relay, *, chunked: bool = False, eof_is_gone: bool = False, raw: bool | None = None
    ) -> None:
        self.relay = relay
        self.raw = raw
        self.chunked = chunked
        self.eof_is_gone = eof_is_gone
        self.closed = False
        self.congested = False
        self.on_data: Callable[[bytes], object] = nothing
        self.on_eof: Callable[[], object] = nothing
        self.on_closed: Callable[[], object] = nothing
        self.on_drained: Callable[[], object] = nothing
        self._transport: asyncio.Transport | None = None
        self._finishing = False
        self._eof = False
        self._writable = asyncio.Event()
        self._writable.set()

    async def open(self, sock: socket.socket, early: bytes) -> None:
        """Take the socket into the loop; ``early`` are bytes the HTTP server had read already."""
        sock.setblocking(False)
        await self.relay.loop.connect_accepted_socket(lambda: self, sock)
        if early:
            self.on_data(early)

    @property
    def half_closed(self) -> bool:
        """Whether the client will send no more."""
        return self._eof

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport (asyncio's callback)."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER, low=HIGH_WATER // 4)

    def data_received(self, data: bytes) -> None:
        """Hand bytes on (asyncio's callback)."""
        if not self._finishing:
            self.on_data(data)

    def eof_received(self) -> bool:
        """Handle the client's half-close (asyncio's callback); True keeps our side open."""
        self._eof = True
        if self._finishing or self.eof_is_gone or self._hung_up():
            return False
        self.on_eof()
        self.relay.loop.call_later(SWEEP, self._sweep)
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        """Tell the owner (asyncio's callback)."""
        self.closed = True
        self.congested = False
        self._writable.set()
        self.on_closed()

    def pause_writing(self) -> None:
        """The client is slow (asyncio's callback)."""
        self.congested = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up (asyncio's callback)."""
        self.congested = False
        self._writable.set()
        self.on_drained()

    def write(self, data: bytes) -> None:
        """Send bytes; never blocks. Look at ``congested`` before sending much.

        Answers to what a client sends (pings, new streams) wait as well: one that takes none of them is dropped.
        """
        if self._transport is None or self.closed or self._finishing:
            return
        if self.congested and self._transport.get_write_buffer_size() > MAX_BEHIND:
            log.warning("stream.client_takes_nothing", waiting=self._transport.get_write_buffer_size())
            self.abort()
            return
        self._transport.write(chunk(data) if self.chunked else data)

    def output(self, stream: int, data: bytes, *, raw: bool) -> None:
        """Send output of a process: as it is where there is one output only, else in Docker's multiplexed frames."""
        self.write(data if (raw if self.raw is None else self.raw) else stdcopy(stream, data))

    async def drain(self) -> None:
        """Wait until the client has taken enough."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """Take no more from the client for now."""
        if self._transport is not None and not self.closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again."""
        if self._transport is not None and not self.closed and not self._transport.is_closing():
            self._transport.resume_reading()

    def finish(self) -> None:
        """Send what is queued, then end; our EOF goes first, so that nothing the client still sends resets it."""
        if self.closed or self._finishing or self._transport is None:
            return
        if self.chunked:
            self._transport.write(LAST_CHUNK)
        self._finishing = True
        self.resume_reading()
        if self._eof:
            self._transport.close()
            return
        with contextlib.suppress(OSError, RuntimeError):
            self._transport.write_eof()
        self.relay.loop.call_later(LINGER, self._transport.close)

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _hung_up(self) -> bool:
        """Tell a full close from a half-close, where the kernel can (unix sockets)."""
        if self._transport is None:
            return True
        sock = self._transport.get_extra_info("socket")
        poller = select.poll()
        poller.register(sock.fileno(), 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poller.poll(0))

    def _sweep(self) -> None:
        """Notice a client that half-closed first and left later, though nothing is written to it."""
        if self.closed:
            return
        if self._hung_up():
            self.abort()
        else:
            self.relay.loop.call_later(SWEEP, self._sweep)
