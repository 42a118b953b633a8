"""Many lines of output as Docker's json-file lines and back, a whole block at a time.

What one write of a log has taken are lines of one stream and one time, so the same bytes stand between any two texts:
a block is encoded by one replacement of its newlines, and decoded by jumping over that many bytes at each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecoder
from json.encoder import encode_basestring_ascii

START = b'{"log":"'
# White space (RFC 8259, 2) before the keys that only a first line has, so that one byte tells it from others: no text
# can hold it as it is.
MARK = b"\t"
# Bytes that are worked on at once: what is larger does not stay in the caches, and from 128 KiB on glibc maps it for
# itself each time (hyperd.server.memory), which costs more than all the rest.
CHUNK = 65_536
SAMPLE = 4096
_PLAIN = bytes(code for code in range(0x20, 0x7F) if code not in b'\\"') + b"\n"
# The backslash first: what stands for the others has one.
_ESCAPES = [
    (bytes([code]), encode_basestring_ascii(chr(code))[1:-1].encode())
    for code in (0x5C, *(code for code in range(0x80) if code not in _PLAIN and code != 0x5C))
]
_LOOSE = JSONDecoder(strict=False)  # newlines may stand in a string as they are
_TAIL = re.compile(rb'\\n","stream":"(stdout|stderr)","time":"[^"\\]*"\}\n')


def escape(text: bytes) -> bytes:
    """Return text as it stands in a JSON string (RFC 8259, 7), but newlines as they are.

    UTF-8 stays as it is; in a text that has other bytes each of them becomes a lone surrogate (PEP 383).
    """
    odd = text.translate(None, _PLAIN)
    if not odd:
        return text
    if not odd.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return _escape_any(text)
    for code, escaped in _ESCAPES:
        if code in odd:
            text = text.replace(code, escaped)
    return text


def _escape_any(text: bytes) -> bytes:
    escaped = encode_basestring_ascii(text.decode("utf-8", "surrogateescape"))[1:-1]
    # Pairs of backslashes out of the way: then a backslash before an n is a newline's.
    return escaped.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\\\").encode("ascii")


def unescape(text: bytes) -> bytes:
    """Do the opposite of ``escape``. Errors: ValueError."""
    if b"\\" not in text and b'"' not in text:
        return text
    decoded: str = _LOOSE.decode('"' + text.decode() + '"')
    return decoded.encode("utf-8", "surrogateescape")


def encode_block(text: bytes, *, stream: str, time: str, run: int, end: int) -> Iterator[bytes | memoryview]:
    """Write whole lines of output as lines of JSON; the first one says where it stands.

    Args:
        text: ends with a newline. time: RFC 3339.
        run: number of the container's run. end: offset of the text in that run's stream.

    Returns:
        pieces that belong one behind the other, so that nothing large is copied once more.

    """
    at = text.index(b"\n") + 1
    tail = b'\\n","stream":"%s","time":"%s"' % (stream.encode(), time.encode())
    first = b"".join((START, escape(text[: at - 1]), tail, b',%s"run":%d,"end":%d}\n' % (MARK, run, end + at)))
    if at == len(text):
        yield first
        return
    yield first + START
    between = tail + b"}\n" + START
    # As much text as will fit, if its first lines tell how long the others are.
    step = CHUNK * SAMPLE // (SAMPLE + text.count(b"\n", 0, SAMPLE) * len(between))
    while at < len(text):
        stop = text.rfind(b"\n", at, at + step) + 1 or text.index(b"\n", at) + 1
        lines = escape(text[at:stop]).replace(b"\n", between)
        yield lines if stop < len(text) else memoryview(lines)[: -len(START)]
        at = stop


def decode_block(lines: bytes) -> tuple[str, bytes] | None:
    """Return (stream, text) of lines that differ in nothing but their text; None when they are not such lines."""
    last = lines.find(b"\n") + 1
    found = _TAIL.fullmatch(lines, lines.rfind(b'\\n","stream":"', 0, last), last)
    if found is None or not lines.startswith(START) or not lines.endswith(found[0]):
        return None
    body, between = lines[len(START) : -len(found[0])], found[0] + START
    text = b"\n".join(re.split(rb'(?s)\\n",.{%d}' % (len(between) - 4), body))
    # Has it jumped over anything else? Writing it again is quicker than looking at each.
    if text.replace(b"\n", between) != body:
        return None
    try:
        return found[1].decode(), unescape(text) + b"\n"
    except ValueError:
        return None
