"""Whether a request has come whole, judged from its bytes as they arrive (RFC 9112); no sockets, no threads.

It looks for the end of the request only. What the request says, and whether it is well formed, is the HTTP parser's
business, which gets the same bytes afterwards.
"""

from __future__ import annotations

from enum import Enum, auto

MAX_HEAD = 2**21  # bytes; /pod/create?podArgs= carries a whole pod in the request line, which has 1 MiB at most
MAX_BODY = 2**20  # bytes that are waited for; what is longer is read piece by piece by whoever wants it
MAX_SIZE_LINE = 1024  # bytes of the line before a chunk
_BLANK = b"\r\n\r\n"


class State(Enum):
    """What has come of a request."""

    NOTHING = auto()
    PARTIAL = auto()
    WHOLE = auto()
    LONG = auto()  # the head, and some of a body that is not waited for
    TOO_LARGE = auto()  # the head never ends
    LINE_TOO_LONG = auto()  # the request line alone is larger than a head may be


class RequestBuffer:
    """The bytes of one request (and of what the client sent behind it) until they are parsed."""

    def __init__(self) -> None:
        self.state = State.NOTHING
        self._data = bytearray()
        self._searched = 0  # so far there is no end of the head
        self._body = 0  # where the body begins, 0 = the head has not ended
        self._length = 0
        self._chunked = False
        self._expects = False  # the client sends its body only when it is told to
        self._next_chunk = 0

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> State:
        """Take further bytes; return what there is now."""
        if data:
            self._data += data
            self.state = State.PARTIAL
            if self._body or self._head_ended():
                self.state = self._body_state()
        return self.state

    def take(self) -> bytes:
        """Return the bytes away."""
        data, self._data = bytes(self._data), bytearray()
        return data

    def _head_ended(self) -> bool:
        """Look for the end of the head. A malformed or endless one sets the state and is no further looked at."""
        begin = 2 if self._data.startswith(b"\r\n") else 0  # one empty line before a request is ignored (2.2)
        found = self._data.find(_BLANK, max(begin, self._searched - 3))
        split = self._searched > 0 and self._data[self._searched - 1] == ord("\r")
        fresh = self._data[self._searched - split :]
        self._searched = len(self._data)
        if found < 0 or found > MAX_HEAD:
            # A bare LF is refused by the parser at once: it need not be waited for.
            if fresh.count(b"\n") != fresh.count(b"\r\n"):
                self.state = State.WHOLE
            elif len(self._data) > MAX_HEAD:
                line_ended = self._data.find(b"\r\n", begin, MAX_HEAD) >= 0
                self.state = State.TOO_LARGE if line_ended else State.LINE_TOO_LONG
            return False
        self._body = self._next_chunk = found + len(_BLANK)
        self._read_framing(bytes(self._data[begin:found]))
        return True

    def _read_framing(self, head: bytes) -> None:
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip()
            if name == b"content-length" and value.isdigit():
                self._length = int(value[:19])
            elif name == b"transfer-encoding":
                self._chunked = True
            elif name == b"expect":
                self._expects = True

    def _body_state(self) -> State:
        size = len(self._data) - self._body
        ended = self._chunks_ended() if self._chunked else size >= self._length
        if ended is None:
            return State.LONG
        if ended:
            return State.WHOLE
        return State.LONG if self._expects or max(size, self._length) > MAX_BODY else State.PARTIAL

    def _chunks_ended(self) -> bool | None:
        """Return whether the last chunk has come (section 7.1); None = it cannot be told."""
        while True:
            end = self._data.find(b"\r\n", self._next_chunk, self._next_chunk + MAX_SIZE_LINE)
            if end < 0:
                return None if len(self._data) - self._next_chunk > MAX_SIZE_LINE else False
            digits = bytes(self._data[self._next_chunk : end]).partition(b";")[0].strip()
            try:
                size = int(digits, 16)
            except ValueError:
                return None
            if size < 0:
                return None
            if size == 0:
                # Trailers end with an empty line, and that may come at once.
                return self._data.find(_BLANK, end) >= 0
            if size > MAX_BODY:
                return None
            if end + 2 + size + 2 > len(self._data):
                return False
            self._next_chunk = end + 2 + size + 2
