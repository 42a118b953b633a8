"""Lines that are sent to one client as they come to be: the stream of events.

A client that takes too little is told so in a last line and let go; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from hyperd.stream.connection import LINGER, ClientConnection
from hyperd.stream.relay import Relay

MAX_WAITING = 4096  # lines
# Takes a function that is to be called with every line; gives lines of the past and the end of the subscription.
Subscribe = Callable[[Callable[[bytes], None]], tuple[Sequence[bytes], Callable[[], None]]]


class FeedSession:
    """Sends lines to one client until it leaves, is too slow, or the time is up.

    Args:
        subscribe: see Subscribe; the function it is given may be called from any thread.
        last: line for a client that is too slow.
        until: seconds from now after which the stream ends, None = never.

    """

    tty = False

    def __init__(self, relay: Relay, subscribe: Subscribe, *, last: bytes, until: float | None = None) -> None:
        self.relay = relay
        self._subscribe = subscribe
        self._last = last
        self._until = until
        self._dropped = False
        self._waiting: list[bytes] | None = []  # live lines while the past is being sent

    def run(self, sock: socket.socket, early: bytes, *, chunked: bool = False) -> None:
        """Take the socket over; returns at once."""
        self.relay.spawn(self._serve(sock, early, chunked=chunked))

    def close(self) -> None:
        """Nothing is held before run()."""

    async def _serve(self, sock: socket.socket, early: bytes, *, chunked: bool) -> None:
        client = ClientConnection(self.relay, chunked=chunked, eof_is_gone=True)
        gone = asyncio.Event()
        client.on_closed = gone.set
        await client.open(sock, early)
        past, cancel = self._subscribe(lambda line: self.relay.soon(self._send, client, line))
        try:
            for line in past:
                if client.congested:
                    await client.drain()
                client.write(line)
            waiting, self._waiting = self._waiting or [], None
            for line in waiting:
                self._send(client, line)
            if self._until is None or self._until > 0:
                await asyncio.wait_for(gone.wait(), self._until)
        except TimeoutError:
            pass
        finally:
            cancel()
            client.finish()

    def _send(self, client: ClientConnection, line: bytes) -> None:
        if self._dropped or client.closed:
            return
        if self._waiting is not None and len(self._waiting) < MAX_WAITING:
            self._waiting.append(line)
            return
        if self._waiting is None and not client.congested:
            client.write(line)
            return
        self._dropped = True
        client.write(self._last)
        client.finish()
        self.relay.loop.call_later(2 * LINGER, client.abort)
