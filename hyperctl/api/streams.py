"""Hijacked streams: taking Docker's stdcopy frames apart, and joining a socket with our own stdin and stdout.

stdcopy (Docker Remote API, "attach"): `[stream, 0, 0, 0, length as 4 bytes big endian]` and the payload;
stream 1 is stdout, 2 is stderr. With a terminal there are no frames.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator

from hyperctl.api.errors import ConnectionLost, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from hyperctl.api.transport import Socket

STDIN, STDOUT, STDERR = 0, 1, 2
_PIECE = 65536
_HEADER = 8
_DETACH_FIRST, _DETACH_SECOND = b"\x10", b"\x11"  # ctrl-p, ctrl-q


class Demultiplexer:
    """Take stdcopy frames apart, whatever pieces they arrive in; memory stays bounded by a piece."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        self._stream = STDOUT

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (stream, payload) for the bytes received.

        Raises:
            ProtocolError: a header is not one of stdcopy's.

        """
        view = memoryview(data)
        while view:
            if not self._left:
                missing = _HEADER - len(self._header)
                self._header += bytes(view[:missing])
                view = view[missing:]
                if len(self._header) == _HEADER:
                    self._begin()
                continue
            payload, view = bytes(view[: self._left]), view[self._left :]
            self._left -= len(payload)
            yield self._stream, payload

    def finish(self) -> None:
        """Check that the stream ended between two frames.

        Raises:
            ConnectionLost: it ended inside one.

        """
        if self._left or self._header:
            raise ConnectionLost("the connection to the daemon ended in the middle of the output")

    def _begin(self) -> None:
        header, self._header = self._header, b""
        if header[0] not in {0, STDOUT, STDERR} or header[1:4] != b"\0\0\0":
            raise ProtocolError(f"Unrecognized input header: {header[0]}")
        self._stream = header[0] or STDOUT
        self._left = int.from_bytes(header[4:], "big")


class DetachKeys:
    """Watch typed bytes for ctrl-p ctrl-q; a ctrl-p waits for the key after it."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return the bytes to pass on, and whether the keys were typed."""
        data, self._held = self._held + data, b""
        before, found, _ = data.partition(_DETACH_FIRST + _DETACH_SECOND)
        if found:
            return before, True
        if data.endswith(_DETACH_FIRST):
            data, self._held = data[:-1], _DETACH_FIRST
        return data, False


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, also to a descriptor that another process made non-blocking.

    Raises:
        BrokenPipeError: nobody reads any more.

    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


class Stream:
    """A connection that was taken over; what is written to it is the stdin of a process.

    Args:
        sock: the socket, ours from now on.
        early: bytes that came with the head of the answer.

    """

    def __init__(self, sock: Socket, early: bytes = b"") -> None:
        self._sock = sock
        self._early = early
        self._pending = b""  # typed, not yet taken by the socket
        self._input: int | None = None
        self._keys: DetachKeys | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def pump(
        self,
        *,
        raw: bool,
        stdin: int | None = STDIN,
        detach_keys: bool = False,
        wakeup: int | None = None,
        on_wakeup: Callable[[], None] = lambda: None,
    ) -> bool:
        """Copy both ways until the daemon closes the connection.

        Args:
            raw: the daemon sends no frames (terminals, execvm).
            stdin: descriptor to read; None closes the other side's stdin at once.
            detach_keys: leave on ctrl-p ctrl-q.
            wakeup: descriptor that gets a byte for every signal.
            on_wakeup: called when it got one.

        Returns:
            True when the other side ended, False when the detach keys were typed.

        Raises:
            BrokenPipeError: our stdout or stderr is closed.
            ProtocolError, ConnectionLost: the frames are broken or cut off.

        """
        frames = None if raw else Demultiplexer()
        self._keys = DetachKeys() if detach_keys else None
        self._input = stdin
        self._sock.setblocking(False)
        self._deliver(self._early, frames)
        if stdin is None:
            self._half_close()
        while True:
            ready = self._wait(wakeup)
            if wakeup in ready and wakeup is not None:
                os.read(wakeup, _PIECE)
                on_wakeup()
            detached = self._input is not None and self._input in ready and self._read_input(self._input)
            if self._pending:
                self._send()
            if detached:
                return False
            if self._sock.fileno() in ready and self._receive(frames):
                return True

    def _wait(self, wakeup: int | None) -> dict[int, int]:
        # poll, not epoll: stdin may be a regular file, which epoll refuses.
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._pending else 0))
        if self._input is not None and not self._pending:
            poll.register(self._input, select.POLLIN)
        if wakeup is not None:
            poll.register(wakeup, select.POLLIN)
        return dict(poll.poll())

    def _read_input(self, descriptor: int) -> bool:
        """Take what was typed; say whether the detach keys were among it."""
        try:
            data = os.read(descriptor, _PIECE)
        except BlockingIOError:
            return False
        except OSError:  # a closed descriptor, or a terminal that went away
            data = b""
        if not data:
            self._input = None
            self._half_close()
            return False
        if self._keys is None:
            self._pending += data
            return False
        passed, detached = self._keys.feed(data)
        self._pending += passed
        return detached

    def _send(self) -> None:
        try:
            self._pending = self._pending[self._sock.send(self._pending) :]
        except BlockingIOError:
            pass
        except OSError:  # the process does not read any more; its output may still come
            self._pending, self._input = b"", None

    def _half_close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._input = None

    def _receive(self, frames: Demultiplexer | None) -> bool:
        """Take output; say whether it has ended."""
        try:
            data = self._sock.recv(_PIECE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._deliver(data, frames)
            return False
        if frames is not None:
            frames.finish()
        return True

    def _deliver(self, data: bytes, frames: Demultiplexer | None) -> None:
        if frames is None:
            write_all(STDOUT, data)
            return
        for stream, payload in frames.feed(data):
            write_all(stream, payload)
