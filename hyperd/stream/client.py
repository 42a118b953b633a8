"""What a hub and a session want of a client, whatever it speaks. All methods belong to the relay's thread."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

from hyperd.stream.relay import Relay


class Client(Protocol):
    """A client's connection.

    Who owns the client sets ``on_data`` (called with bytes for the input), ``on_eof`` (no more will come),
    ``on_closed`` (the connection is gone) and ``on_drained`` (the client has taken enough to be sent more).
    ``congested``: it has not. ``closed``: it is gone.
    """

    closed: bool
    congested: bool
    on_data: Callable[[bytes], object]
    on_eof: Callable[[], object]
    on_closed: Callable[[], object]
    on_drained: Callable[[], object]

    @property
    def half_closed(self) -> bool:
        """Whether the client will send no more."""

    async def open(self, sock: socket.socket, early: bytes) -> None:
        """Take the socket into the loop; ``early`` are bytes that the HTTP server had read already."""

    def output(self, stream: int, data: bytes, *, raw: bool) -> None:
        """Send output of a process; never blocks.

        Args:
            stream: stdout (1) or stderr (2).
            data: the bytes.
            raw: the process has one output only (a terminal): there is nothing to tell apart.

        """

    def pause_reading(self) -> None:
        """Take no more from the client for now."""

    def resume_reading(self) -> None:
        """Take from the client again."""

    def finish(self) -> None:
        """Send what is queued, then end."""

    def abort(self) -> None:
        """Drop the connection at once."""


# Makes a session's client; the default is a plain connection (``hyperd.stream.connection``).
MakeClient = Callable[[Relay], Any]
