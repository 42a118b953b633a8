"""The streams of the fake guest's programs: offsets, windows, acknowledgement, resumption (``docs/protocol.md``).

Everything here belongs to the thread of the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from hyperd.agent.frames import CLOSED, MAX_CHUNK, WINDOW, FrameType, data_frame, offset_frame

Send = Callable[[bytes], None]


class Output:
    """One output stream of a process: kept until acknowledged."""

    def __init__(self, ident: int, fd: int, send: Send) -> None:
        self.ident = ident
        self.acked = self.produced = 0
        self.ended = self.settled = False
        self.held = False  # after HELLO until RESUME
        self._fd = fd
        self._send = send
        self._buffer = bytearray()
        self._sent = 0
        self._eof_sent = False
        self._reading = False
        os.set_blocking(fd, False)
        self._read_if_room()

    def _read_if_room(self) -> None:
        room = not self.ended and len(self._buffer) < WINDOW
        if room != self._reading:
            self._reading = room
            loop = asyncio.get_running_loop()
            if room:
                loop.add_reader(self._fd, self._readable)
            else:
                loop.remove_reader(self._fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, MAX_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the other side of the terminal is gone
        if data:
            self._buffer += data
            self.produced += len(data)
        else:
            self.end()
        self._read_if_room()
        self.pump()

    def end(self) -> None:
        """Read no more."""
        if not self.ended:
            self.ended = True
            self._read_if_room()
            os.close(self._fd)

    def pump(self) -> None:
        """Send what the window allows."""
        if self.held:
            return
        while self._sent < self.produced and self._sent - self.acked < WINDOW:
            start = self._sent - self.acked
            size = min(MAX_CHUNK, WINDOW - start)
            chunk = bytes(self._buffer[start : start + size])
            self._send(data_frame(self.ident, self._sent, chunk))
            self._sent += len(chunk)
        if self.ended and self._sent == self.produced and not self._eof_sent:
            self._eof_sent = True
            self._send(offset_frame(FrameType.EOF, self.ident, self.produced))

    def acknowledge(self, offset: int) -> None:
        """Drop what the host has consumed."""
        if offset == self.produced + 1 and self.ended:
            self.settled = True
        upto = min(offset, self.produced)
        if upto > self.acked:
            del self._buffer[: upto - self.acked]
            self.acked = upto
            self._sent = max(self._sent, upto)
        self._read_if_room()
        self.pump()

    def resume(self, offset: int) -> None:
        """Send again from the offset on."""
        self._sent = min(max(offset, self.acked), self.produced)
        self._eof_sent = self.held = False
        self.pump()


class Input:
    """The input stream of a process."""

    def __init__(self, ident: int, fd: int | None, send: Send, *, tty: bool) -> None:
        self.ident = ident
        self.received = 0
        self._fd = fd
        self._send = send
        self._tty = tty
        self._buffer = bytearray()
        self._final: int | None = None
        self._writing = False
        if fd is not None:
            os.set_blocking(fd, False)

    def data(self, offset: int, data: bytes) -> None:
        """Take bytes from the host; what came before is dropped, a gap is ignored."""
        if offset > self.received:
            return
        fresh = data[self.received - offset :]
        self.received += len(fresh)
        self._buffer += fresh
        self._write()

    def eof(self, offset: int) -> None:
        """Close the input once everything is written (a terminal gets its end-of-file character)."""
        if self._final is None:
            self._final = offset
            if self._tty:
                self._buffer += b"\x04"
        self._write()

    def close(self) -> None:
        """Close the process's side."""
        if self._fd is not None:
            self._wait(wanted=False)
            if not self._tty:
                os.close(self._fd)
            self._fd = None

    def _write(self) -> None:
        if self._fd is None:
            self._send(offset_frame(FrameType.ACK, self.ident, self.received, flags=CLOSED))
            return
        try:
            while self._buffer:
                del self._buffer[: os.write(self._fd, self._buffer)]
        except BlockingIOError:
            self._wait(wanted=True)
        except OSError:
            self._buffer.clear()
            self.close()
            self._write()
            return
        if not self._buffer:
            self._wait(wanted=False)
        end = self._final is not None and not self._buffer
        self._send(offset_frame(FrameType.ACK, self.ident, self.received - len(self._buffer) + int(end)))
        if end:
            self.close()

    def _wait(self, *, wanted: bool) -> None:
        if wanted != self._writing and self._fd is not None:
            self._writing = wanted
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_writer(self._fd, self._write)
            else:
                loop.remove_writer(self._fd)
