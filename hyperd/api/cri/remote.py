"""The client of an exec or of a running container: input, outputs, how it ended, the size of its terminal.

Each has a channel of one connection. Belongs to the relay's thread.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from typing import Any

from hyperd.container.process import GuestProcess
from hyperd.stream.connection import nothing
from hyperd.stream.links import Link

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)  # numbers of the channels over WebSocket
ROLES: Mapping[str, int] = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
_MAX_SIZE = 4096  # bytes that may wait for the rest of a size
_CELLS = 65_535


def success() -> bytes:
    """Return the status of what went well."""
    return json.dumps({"metadata": {}, "status": "Success"}).encode()


def exited(code: int) -> bytes:
    """Return the status of a program that ended with this code."""
    if code == 0:
        return success()
    return _failure(
        f"command terminated with non-zero exit code: exit status {code}",
        reason="NonZeroExitCode",
        details={"causes": [{"reason": "ExitCode", "message": str(code)}]},
    )


def failed(message: str) -> bytes:
    """Return the status of what could not be done."""
    return _failure(message, reason="InternalError", details={"causes": [{"message": message}]}, code=500)


def _failure(message: str, **more: Any) -> bytes:
    return json.dumps({"metadata": {}, "status": "Failure", "message": message, **more}).encode()


class RemoteClient:
    """A Client (``hyperd.stream.client``) whose bytes go through channels of a link.

    Args:
        link: open, and not started.
        channels: of each role, the link's.
        process: gives the process, for its end and the size of its terminal.
        tells_code: the status has the exit code; else it only says that the end has come.

    """

    def __init__(
        self, link: Link, channels: Mapping[int, int], *, process: Callable[[], GuestProcess], tells_code: bool
    ) -> None:
        self.on_data: Callable[[bytes], object] = nothing
        self.on_eof: Callable[[], object] = nothing
        self.on_closed: Callable[[], object] = nothing
        self.on_drained: Callable[[], object] = nothing
        self._link = link
        self._channels = channels
        self._roles = {channel: role for role, channel in channels.items()}
        self._process = process
        self._tells_code = tells_code
        self._eof = False
        self._finishing = False
        self._sizes = ""
        link.on_data = self._received
        link.on_end = link.on_reset = self._ended
        link.on_closed = self._closed
        link.on_drained = self._drained

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._link.closed

    @property
    def congested(self) -> bool:
        """Whether the client has not taken what was sent."""
        return self._link.congested

    @property
    def half_closed(self) -> bool:
        """Whether the client will send no more."""
        return self._eof

    async def open(self, _sock: socket.socket, _early: bytes) -> None:
        """Begin: the link has the socket already, and may have lost it while the session was made."""
        self._link.start()
        if self._link.closed:
            self._closed()

    def output(self, stream: int, data: bytes, *, raw: bool) -> None:
        """See Client."""
        del raw
        channel = self._channels.get(stream)
        if channel is not None:
            self._link.send(channel, data)

    def pause_reading(self) -> None:
        """See Client."""
        self._link.pause(self)

    def resume_reading(self) -> None:
        """See Client."""
        self._link.resume(self)

    def finish(self) -> None:
        """Send what is queued and how it ended, which may not be known yet; then end."""
        if self._finishing:
            return
        self._finishing = True
        process = self._process()
        if not self._tells_code:
            self._leave(success())
        elif process.exit_code is not None:
            self._leave(exited(process.exit_code))
        else:
            process.on_settled.append(lambda: self._leave(exited(process.exit_code or 0)))

    def abort(self) -> None:
        """See Client."""
        self._link.abort()

    def _leave(self, status: bytes) -> None:
        if self.closed:
            return
        leave(self._link, self._channels, status)

    def _received(self, channel: int, data: bytes) -> None:
        role = self._roles.get(channel)
        if role == STDIN and not self._eof:
            self.on_data(data)
        elif role == RESIZE:
            self._resize(data)

    def _ended(self, channel: int) -> None:
        if self._roles.get(channel) == STDIN:
            self._end_input()

    def _closed(self) -> None:
        self._end_input()
        self.on_closed()

    def _drained(self) -> None:
        self.on_drained()

    def _end_input(self) -> None:
        if not self._eof:
            self._eof = True
            self.on_eof()

    def _resize(self, data: bytes) -> None:
        """Take sizes, JSON objects one behind the other."""
        self._sizes = (self._sizes + data.decode("utf-8", "replace")).lstrip()
        while self._sizes:
            try:
                size, at = json.JSONDecoder().raw_decode(self._sizes)
            except ValueError:
                self._sizes = self._sizes if len(self._sizes) < _MAX_SIZE else ""
                return
            self._sizes = self._sizes[at:].lstrip()
            rows, columns = (_cells(size, key) for key in ("Height", "Width"))
            if rows and columns:
                self._process().resize(rows, columns)


def _cells(size: object, key: str) -> int:
    number = size.get(key) if isinstance(size, dict) else None
    return number if isinstance(number, int) and 0 < number <= _CELLS else 0


def leave(link: Link, channels: Mapping[int, int], status: bytes) -> None:
    """Send the status and end all that we send."""
    link.send(channels[ERROR], status)
    for role in (STDOUT, STDERR, ERROR):
        if role in channels:
            link.end(channels[role])
    link.finish()
