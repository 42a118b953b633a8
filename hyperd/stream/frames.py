"""Framings of the client side: Docker's multiplexed stream and HTTP/1.1 chunks."""

from __future__ import annotations

import struct

STDIN, STDOUT, STDERR = 0, 1, 2
STREAM_NAMES = {STDOUT: "stdout", STDERR: "stderr"}
_HEADER = struct.Struct("!BxxxI")


def stdcopy(stream: int, data: bytes) -> bytes:
    """Frame data as Docker's multiplexed stream does: stream number, three zero bytes, length, data."""
    return _HEADER.pack(stream, len(data)) + data


def stdcopy_lines(stream: int, data: bytes) -> bytes:
    """Frame each line on its own, as ``stdcopy``."""
    lines = data.split(b"\n")
    last = lines.pop()
    heads = {length: _HEADER.pack(stream, length + 1) for length in set(map(len, lines))}
    framed = b"".join([heads[len(line)] + line + b"\n" for line in lines])
    return framed + stdcopy(stream, last) if last else framed


def chunk(data: bytes) -> bytes:
    """Frame data as one chunk of RFC 9112, section 7.1; empty data gives nothing, as it would end the body."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


LAST_CHUNK = b"0\r\n\r\n"
