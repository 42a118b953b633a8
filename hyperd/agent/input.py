"""Standard input of a guest's process: bytes wait here until the guest takes them. Belongs to the relay's thread."""

from __future__ import annotations

from collections.abc import Callable

from hyperd.agent.frames import MAX_CHUNK, WINDOW, FrameType, data_frame, offset_frame

HIGH_WATER = WINDOW


class GuestInput:
    """The host's end of one stdin stream.

    Bytes may be written before the process exists; they are sent once ``open`` was called. ``on_drained`` is called
    when there is room
    again after ``congested`` was true.
    """

    def __init__(self) -> None:
        self.closed = False
        self.on_drained: list[Callable[[], None]] = []
        self._send: Callable[[bytes], None] | None = None
        self._stream = 0
        self._queue = bytearray()
        self._base = 0  # offset of the first byte of the queue
        self._sent = 0  # offset of the next byte to send
        self._acked = 0
        self._eof = False
        self._eof_sent = False
        self._opened = False

    def bind(self, stream: int, send: Callable[[bytes], None]) -> None:
        """Say where bytes go."""
        self._stream, self._send = stream, send

    def open(self, received: int = 0, consumed: int = 0) -> None:
        """Start sending.

        Args:
            received: offset up to which the guest has the bytes (after a restart of the daemon).
            consumed: offset up to which its process has taken them; what lies between counts against the window.

        """
        self._opened = True
        self._base = self._sent = received
        self._acked = min(consumed, received)
        self._pump()

    @property
    def congested(self) -> bool:
        """More is waiting than fits into the guest's window."""
        return not self.closed and len(self._queue) >= HIGH_WATER

    def write(self, data: bytes) -> None:
        """Queue bytes; dropped after the end or when the process has closed its input."""
        if not self.closed and not self._eof:
            self._queue += data
            self._pump()

    def end(self) -> None:
        """Queue the end of the input; saying it twice is fine."""
        if not self._eof:
            self._eof = True
            self._pump()

    def acknowledged(self, offset: int, *, closed: bool) -> None:
        """Take the guest's acknowledgement."""
        if closed:
            self.closed = True
            self._queue.clear()
        was_congested = self.congested
        if self._acked < offset <= self._sent + 1:
            self._acked = min(offset, self._sent)
            taken = max(0, self._acked - self._base)
            del self._queue[:taken]
            self._base += taken
        self._pump()
        if (was_congested or closed) and not self.congested:
            for callback in tuple(self.on_drained):
                callback()

    def _pump(self) -> None:
        if self._send is None or not self._opened or self.closed:
            return
        end = self._base + len(self._queue)
        while self._sent < end and self._sent - self._acked < WINDOW:
            size = min(MAX_CHUNK, end - self._sent, WINDOW - (self._sent - self._acked))
            start = self._sent - self._base
            self._send(data_frame(self._stream, self._sent, bytes(self._queue[start : start + size])))
            self._sent += size
        if self._eof and not self._eof_sent and self._sent == end:
            self._eof_sent = True
            self._send(offset_frame(FrameType.EOF, self._stream, end))
