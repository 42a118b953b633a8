"""SPDY/3.1 (draft-mbelshe-httpbis-spdy-00) without input or output: the server's half, as Kubernetes uses it.

Streams are opened by the client and answered without headers. There is no flow control by stream: Kubernetes' library
neither sends nor heeds WINDOW_UPDATE, so who cannot take more stops to read the connection.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

VERSION = 3
FIN = 1  # flag: the sender's last frame of the stream
MAX_STREAMS = 1024  # open at a time
MAX_CONTROL = 65_536  # bytes of a control frame
MAX_HEADERS = 65_536  # bytes of a header block, unpacked
MAX_DATA = (1 << 24) - 1  # bytes of a data frame
PIECE = 1 << 16  # bytes of the data frames that are sent
_LAST_ID = 0x7FFFFFFF
_HEAD = struct.Struct("!II")
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
)
_MORE = ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
# What both sides know of header blocks beforehand (section 2.6.10.1).
DICTIONARY = (
    b"".join(struct.pack("!I", len(word)) + word.encode() for word in (*_WORDS.split(), *_MORE)) + _TAIL.encode()
)


class Kind(IntEnum):
    """Types of control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Reset(IntEnum):
    """Why a stream is reset."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9


class SpdyError(Exception):
    """The client keeps to no rule; the connection must be closed."""


@dataclass(frozen=True)
class Opened:
    """A stream was opened; ``ended``: nothing comes on it."""

    stream: int
    headers: dict[str, str]
    ended: bool


@dataclass(frozen=True)
class Data:
    """Bytes came; ``ended``: they are the last."""

    stream: int
    data: bytes
    ended: bool


@dataclass(frozen=True)
class Gone:
    """The client has reset a stream."""

    stream: int


Event = Opened | Data | Gone


@dataclass
class _Stream:
    theirs: bool = True  # the client may still send
    ours: bool = True  # we may


@dataclass
class _Payload:
    """A data frame under way: its bytes are handed on as they come."""

    stream: int
    flags: int
    left: int


@dataclass
class SpdyServer:
    """One connection. ``receive`` gives what has happened; ``to_send`` what must be sent for it, and for the calls."""

    _received: bytearray = field(default_factory=bytearray)
    _payload: _Payload | None = None
    _streams: dict[int, _Stream] = field(default_factory=dict)
    _last: int = 0
    _out: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin the two compressed streams of header blocks, which last as long as the connection."""
        self._unpack = zlib.decompressobj(zdict=DICTIONARY)
        self._pack = zlib.compressobj(zdict=DICTIONARY)

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take bytes of the client. Errors: SpdyError."""
        self._received += data
        while True:
            if self._payload is not None:
                if self._received or not self._payload.left:
                    yield from self._part(self._payload)
                if self._payload is not None:
                    return
            elif len(self._received) < _HEAD.size:
                return
            else:
                first, second = _HEAD.unpack_from(self._received)
                length, flags = second & MAX_DATA, second >> 24
                if not first >> 31:
                    del self._received[: _HEAD.size]
                    self._payload = _Payload(first, flags, length)
                    continue
                if first >> 16 & 0x7FFF != VERSION:
                    raise SpdyError(f"version {first >> 16 & 0x7FFF}")
                if length > MAX_CONTROL:
                    raise SpdyError(f"a control frame of {length} bytes")
                if len(self._received) < _HEAD.size + length:
                    return
                body = bytes(self._received[_HEAD.size : _HEAD.size + length])
                del self._received[: _HEAD.size + length]
                yield from self._control(first & 0xFFFF, flags, body)

    def to_send(self) -> bytes:
        """Take what must be sent."""
        found, self._out = b"".join(self._out), []
        return found

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes on a stream; on one that has ended they are dropped."""
        state = self._streams.get(stream)
        if state is None or not state.ours:
            return
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            self._out += (_HEAD.pack(stream, len(piece)), piece)
        if end:
            self._out.append(_HEAD.pack(stream, FIN << 24))
            state.ours = False
            self._forget(stream)

    def reset(self, stream: int, reason: Reset = Reset.PROTOCOL_ERROR) -> None:
        """End a stream at once, in both directions."""
        self._streams.pop(stream, None)
        self._frame(Kind.RST_STREAM, struct.pack("!II", stream, reason))

    def go_away(self, *, failed: bool = False) -> None:
        """Say that the connection ends."""
        self._frame(Kind.GOAWAY, struct.pack("!II", self._last, int(failed)))

    def _part(self, payload: _Payload) -> Iterator[Event]:
        data = bytes(self._received[: payload.left])
        del self._received[: payload.left]
        payload.left -= len(data)
        if payload.left:
            ended = False
        else:
            self._payload = None
            ended = bool(payload.flags & FIN)
        state = self._streams.get(payload.stream)
        if state is None or not state.theirs:
            if self._payload is None:  # once for a frame
                reason = Reset.INVALID_STREAM if state is None else Reset.STREAM_ALREADY_CLOSED
                self.reset(payload.stream, reason)
            return
        if ended:
            state.theirs = False
            self._forget(payload.stream)
        if data or ended:
            yield Data(payload.stream, data, ended)

    def _control(self, kind: int, flags: int, body: bytes) -> Iterator[Event]:
        if kind == Kind.SYN_STREAM:
            yield from self._opened(flags, body)
        elif kind == Kind.RST_STREAM:
            stream = _number(body)
            if self._streams.pop(stream, None) is not None:
                yield Gone(stream)
        elif kind == Kind.PING:
            if _number(body) % 2:  # else it answers one of ours, and we send none
                self._frame(Kind.PING, body[:4])
        elif kind in (Kind.HEADERS, Kind.SYN_REPLY):
            self._headers(body[4:])  # every block belongs to the one compressed stream
            if kind == Kind.HEADERS and flags & FIN:
                yield from self._ended(_number(body))
        # SETTINGS, WINDOW_UPDATE, GOAWAY and kinds that nobody knows change nothing here.

    def _opened(self, flags: int, body: bytes) -> Iterator[Event]:
        if len(body) < 10:
            raise SpdyError("a short SYN_STREAM")
        headers = self._headers(body[10:])
        stream = _number(body)
        if stream % 2 == 0 or stream <= self._last:
            raise SpdyError(f"stream {stream} after {self._last}")
        self._last = stream
        if len(self._streams) >= MAX_STREAMS:
            self.reset(stream, Reset.REFUSED_STREAM)
            return
        ended = bool(flags & FIN)
        self._streams[stream] = _Stream(theirs=not ended)
        packed = self._pack.compress(struct.pack("!I", 0)) + self._pack.flush(zlib.Z_SYNC_FLUSH)
        self._frame(Kind.SYN_REPLY, struct.pack("!I", stream) + packed)
        yield Opened(stream, headers, ended)

    def _ended(self, stream: int) -> Iterator[Event]:
        state = self._streams.get(stream)
        if state is not None and state.theirs:
            state.theirs = False
            self._forget(stream)
            yield Data(stream, b"", ended=True)

    def _forget(self, stream: int) -> None:
        state = self._streams[stream]
        if not state.theirs and not state.ours:
            del self._streams[stream]

    def _headers(self, packed: bytes) -> dict[str, str]:
        try:
            block = self._unpack.decompress(packed, MAX_HEADERS)
        except zlib.error as error:
            raise SpdyError(f"a header block: {error}") from error
        if self._unpack.unconsumed_tail:
            raise SpdyError("a header block is too large")
        found: dict[str, str] = {}
        count, at = _number(block), 4
        for _ in range(count):
            name, at = _text(block, at)
            value, at = _text(block, at)
            found[name.lower()] = value
        if at != len(block):
            raise SpdyError("a header block has more than its headers")
        return found

    def _frame(self, kind: Kind, body: bytes) -> None:
        self._out.append(_HEAD.pack(1 << 31 | VERSION << 16 | kind, len(body)) + body)


def _number(data: bytes, at: int = 0) -> int:
    if len(data) < at + 4:
        raise SpdyError("a short frame")
    return int.from_bytes(data[at : at + 4], "big") & (_LAST_ID if not at else 0xFFFFFFFF)


def _text(block: bytes, at: int) -> tuple[str, int]:
    stop = at + 4 + _number(block, at)
    if stop > len(block):
        raise SpdyError("a header block is too short")
    return block[at + 4 : stop].decode("latin-1"), stop
