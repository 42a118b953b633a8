"""A client's half of SPDY/3.1, for tests: what it makes is written down here and not taken from the server's half."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from hyperd.stream.spdy import DICTIONARY

KINDS = {1: "SYN_STREAM", 2: "SYN_REPLY", 3: "RST_STREAM", 6: "PING", 7: "GOAWAY"}


@dataclass(frozen=True)
class Frame:
    """A frame of the server; ``stream`` of a data frame or the first number of a control frame."""

    kind: str
    stream: int
    flags: int
    body: bytes


class SpdyClient:
    """Makes frames and reads those of the server."""

    def __init__(self) -> None:
        self._pack = zlib.compressobj(zlib.Z_BEST_COMPRESSION, zdict=DICTIONARY)
        self._unpack = zlib.decompressobj(zdict=DICTIONARY)
        self._rest = b""

    def open(self, stream: int, headers: Mapping[str, str], *, end: bool = False) -> bytes:
        """Open a stream."""
        block = struct.pack("!I", len(headers))
        for name, value in headers.items():
            block += struct.pack("!I", len(name)) + name.lower().encode()
            block += struct.pack("!I", len(value)) + value.encode()
        return self.open_raw(stream, block, end=end)

    def open_raw(self, stream: int, block: bytes, *, end: bool = False) -> bytes:
        """Open a stream with such a block of headers."""
        packed = self._pack.compress(block) + self._pack.flush(zlib.Z_SYNC_FLUSH)
        return self.control(1, struct.pack("!IIBB", stream, 0, 0, 0) + packed, flags=int(end))

    def data(self, stream: int, data: bytes, *, end: bool = False) -> bytes:
        """Send bytes."""
        return struct.pack("!II", stream, int(end) << 24 | len(data)) + data

    def reset(self, stream: int) -> bytes:
        """Reset a stream."""
        return self.control(3, struct.pack("!II", stream, 5))

    def ping(self, number: int) -> bytes:
        """Ask whether the server is there."""
        return self.control(6, struct.pack("!I", number))

    def control(self, kind: int, body: bytes, *, flags: int = 0) -> bytes:
        """Make a control frame."""
        return struct.pack("!HHI", 0x8003, kind, flags << 24 | len(body)) + body

    def frames(self, data: bytes) -> list[Frame]:
        """Read whole frames; keep the rest."""
        self._rest += data
        found = []
        while len(self._rest) >= 8:
            first, second = struct.unpack_from("!II", self._rest)
            length = second & 0xFFFFFF
            if len(self._rest) < 8 + length:
                break
            body, self._rest = self._rest[8 : 8 + length], self._rest[8 + length :]
            if first >> 31:
                assert first >> 16 == 0x8003
                number = struct.unpack_from("!I", body)[0]
                found.append(Frame(KINDS[first & 0xFFFF], number, second >> 24, body))
            else:
                found.append(Frame("DATA", first, second >> 24, body))
        return found

    def reply_headers(self, frame: Frame) -> dict[str, str]:
        """Read the headers of a SYN_REPLY."""
        block = self._unpack.decompress(frame.body[4:])
        (count,) = struct.unpack_from("!I", block)
        found, at = {}, 4
        words = []
        for _ in range(2 * count):
            (size,) = struct.unpack_from("!I", block, at)
            words.append(block[at + 4 : at + 4 + size].decode())
            at += 4 + size
        found.update(zip(words[::2], words[1::2], strict=True))
        return found
