"""Frames and records of the agent protocol (``docs/protocol.md``), without any input or output.

The same code encodes and decodes for both sides, so the fake guest of the tests uses it too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"HYFR"
TRAILER = b"RFYH"
HEADER = struct.Struct("!4sBBHII")
MAX_PAYLOAD = 262_144
MAX_CHUNK = 65_536
WINDOW = 262_144
PIECE = 32_768  # bytes decoded at a time, so that with a frame before them they are no large block of memory
NONCE_SIZE = 16
PROTOCOL_VERSION = 1
RESYNC_PADDING = bytes(MAX_PAYLOAD + HEADER.size + len(TRAILER))
CLOSED = 1  # flag of ACK
AGED = 2  # DATA that came before this host, with its age; of a HELLO: it is wanted

_U64 = struct.Struct("!Q")
_RECORD = struct.Struct("!HH")
_LENGTH = struct.Struct("!I")


class FrameType(IntEnum):
    """Types of frames."""

    HELLO = 1
    WELCOME = 2
    REQUEST = 3
    RESPONSE = 4
    ERROR = 5
    EVENT = 6
    DATA = 8
    ACK = 9
    EOF = 10
    RESUME = 11


class Method(IntEnum):
    """Requests the agent answers."""

    PING = 1
    RUN = 2
    START = 3
    SIGNAL = 4
    RESIZE = 5
    LIST = 6
    FORGET = 7
    STATS = 8
    SHUTDOWN = 9
    READFILE = 10
    QUIESCE = 11


class Event(IntEnum):
    """What the agent tells unasked."""

    EXITED = 1
    OOM = 2


class ProtocolError(ValueError):
    """Bytes that no well-behaved peer sends."""


@dataclass(frozen=True)
class Frame:
    """One frame. ``code`` is a method, an event or an errno; ``ident`` a request or stream id."""

    type: int
    ident: int = 0
    code: int = 0
    flags: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes for the wire."""
        if len(self.payload) > MAX_PAYLOAD:
            raise ProtocolError(f"payload of {len(self.payload)} bytes is over {MAX_PAYLOAD}")
        head = HEADER.pack(MAGIC, self.type, self.flags, self.code, self.ident, len(self.payload))
        return b"".join((head, self.payload, TRAILER))


@dataclass(frozen=True)
class Record:
    """One operation or result with its arguments."""

    op: int
    args: tuple[bytes, ...]


def encode_records(records: Iterable[tuple[int, Sequence[str | bytes | int]]]) -> bytes:
    """Encode (op, arguments) pairs. Text is encoded as UTF-8 with surrogate escapes, numbers as decimal.

    Errors: ProtocolError for over 65,535 arguments.
    """
    out: list[bytes] = []
    for op, args in records:
        if len(args) > 0xFFFF:
            raise ProtocolError(f"{len(args)} arguments are over 65535")
        out.append(_RECORD.pack(op, len(args)))
        for arg in args:
            if isinstance(arg, int):
                data = b"%d" % arg
            elif isinstance(arg, str):
                data = arg.encode("utf-8", "surrogateescape")
            else:
                data = bytes(arg)
            out += (_LENGTH.pack(len(data)), data)
    return b"".join(out)


def decode_records(payload: bytes) -> list[Record]:
    """Decode a payload of records. Errors: ProtocolError when it is cut short."""
    records, at, end = [], 0, len(payload)
    while at < end:
        if end - at < _RECORD.size:
            raise ProtocolError("record header cut short")
        op, count = _RECORD.unpack_from(payload, at)
        at += _RECORD.size
        args = []
        for _ in range(count):
            if end - at < _LENGTH.size:
                raise ProtocolError("argument length cut short")
            (size,) = _LENGTH.unpack_from(payload, at)
            at += _LENGTH.size
            if end - at < size:
                raise ProtocolError("argument cut short")
            args.append(payload[at : at + size])
            at += size
        records.append(Record(op, tuple(args)))
    return records


def data_frame(stream: int, offset: int, data: bytes) -> bytes:
    """Encode a DATA frame; ``offset`` is that of the first byte."""
    return Frame(FrameType.DATA, stream, payload=_U64.pack(offset) + data).encode()


def offset_frame(kind: FrameType, stream: int, offset: int, *, flags: int = 0) -> bytes:
    """Encode ACK, EOF or RESUME."""
    return Frame(kind, stream, flags=flags, payload=_U64.pack(offset)).encode()


def split_offset(frame: Frame) -> tuple[int, bytes]:
    """Take the offset (and bytes) out of a DATA, ACK, EOF or RESUME frame. Errors: ProtocolError."""
    if len(frame.payload) < _U64.size:
        raise ProtocolError("stream frame without an offset")
    return _U64.unpack_from(frame.payload)[0], frame.payload[_U64.size :]


def age_of(frame: Frame) -> tuple[float, Frame]:
    """Return how many seconds ago the bytes of a DATA frame came, and the frame without that. Errors: ProtocolError."""
    if frame.type != FrameType.DATA or not frame.flags & AGED:
        return 0.0, frame
    if len(frame.payload) < _U64.size + _LENGTH.size:
        raise ProtocolError("stream frame without its age")
    (age,) = _LENGTH.unpack_from(frame.payload, _U64.size)
    payload = frame.payload[: _U64.size] + frame.payload[_U64.size + _LENGTH.size :]
    return age / 1000, Frame(frame.type, frame.ident, flags=frame.flags & ~AGED, payload=payload)


def hello_frame(nonce: bytes) -> bytes:
    """Encode HELLO, which asks for the age of what came before."""
    return Frame(FrameType.HELLO, flags=AGED, payload=nonce + _LENGTH.pack(PROTOCOL_VERSION)).encode()


def welcome_frame(nonce: bytes, boot_id: bytes) -> bytes:
    """Encode WELCOME (the guest's side)."""
    return Frame(FrameType.WELCOME, payload=nonce + _LENGTH.pack(PROTOCOL_VERSION) + boot_id).encode()


class Decoder:
    """Turn received bytes into frames, resynchronising after rubbish as the protocol says.

    ``dropped`` counts bytes that were part of no good frame.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.dropped = 0

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Add bytes and give every frame that is now whole."""
        view = memoryview(data)
        for at in range(0, len(view), PIECE):
            self._buffer += view[at : at + PIECE]
            yield from self._frames()

    def _frames(self) -> Iterator[Frame]:
        while True:
            self._skip_to_magic()
            if len(self._buffer) < HEADER.size:
                return
            _, kind, flags, code, ident, size = HEADER.unpack_from(self._buffer)
            if size > MAX_PAYLOAD:
                self._drop(len(MAGIC))
                continue
            whole = HEADER.size + size + len(TRAILER)
            if len(self._buffer) < whole:
                return
            if self._buffer[whole - len(TRAILER) : whole] != TRAILER:
                # The whole frame goes: nothing inside a payload may ever be taken for a frame.
                self._drop(whole)
                continue
            with memoryview(self._buffer) as buffer:
                payload = bytes(buffer[HEADER.size : HEADER.size + size])
            del self._buffer[:whole]
            yield Frame(kind, ident, code, flags, payload)

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self.dropped += count

    def _skip_to_magic(self) -> None:
        if self._buffer.startswith(MAGIC):
            return
        at = self._buffer.find(MAGIC)
        if at < 0:
            # The tail may be the start of a magic.
            keep = next((n for n in (3, 2, 1) if self._buffer.endswith(MAGIC[:n])), 0)
            at = len(self._buffer) - keep
        if at:
            self.dropped += at - self._buffer[:at].count(0)
            del self._buffer[:at]


class Welcome:
    """Find the WELCOME that answers a HELLO in a stream that may begin with old bytes."""

    def __init__(self, nonce: bytes) -> None:
        self._nonce = nonce
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> tuple[bytes, bytes] | None:
        """Add bytes; give (boot id, bytes after the frame) once found. Errors: ProtocolError on another version."""
        self._buffer += data
        head = HEADER.pack(MAGIC, FrameType.WELCOME, 0, 0, 0, NONCE_SIZE + 4 + 16) + self._nonce
        at = self._buffer.find(head)
        if at < 0:
            if len(self._buffer) > len(head):
                del self._buffer[: len(self._buffer) - len(head)]
            return None
        whole = HEADER.size + NONCE_SIZE + 4 + 16 + len(TRAILER)
        if len(self._buffer) - at < whole:
            return None
        body = bytes(self._buffer[at + HEADER.size + NONCE_SIZE : at + whole - len(TRAILER)])
        (version,) = _LENGTH.unpack_from(body)
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"the agent speaks protocol {version}, the daemon {PROTOCOL_VERSION}")
        return body[4:20], bytes(self._buffer[at + whole :])
