"""Reading lines of Docker's json-file form quickly: by blocks where they are plain, one by one where they are not.

In a line that ``hyperd.stream.logs`` (or Docker) has written a quotation mark or a newline of the output is escaped, so
what stands between two quotation marks followed by the next key is the text, whatever a guest has printed.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from json import loads
from typing import BinaryIO

from hyperd.stream.jsonblocks import CHUNK, MARK, START, decode_block

BLOCK = CHUNK
SAMPLE = 8192  # bytes of a block that tell what the others are like
FEW = 3  # writes in them up to which it pays to look at each
_STDERR = b'","stream":"stderr",'
# What lies between the texts of two lines of a stream.
_END = r'","stream":"%s","time":"[^"]*"(?:,\t?"run":\d+,"end":\d+)?\}\n(?:\{"log":")?'
_ENDS = {name: re.compile((_END % name).encode()) for name in ("stdout", "stderr")}
# A line without escapes, but for the newline at its end.
_PLAIN = re.compile(
    rb'\{"log":"([^"\\]*)(\\n)?","stream":"(stdout|stderr)","time":"([^"\\]*)"(?:,\t?"[a-z]+":\d+)*\}\n'
)


@dataclass(frozen=True)
class Entry:
    """One line of a log: ``time`` as RFC 3339, ``text`` as the container has written it."""

    stream: str
    time: str
    text: bytes


def parse(line: bytes) -> Entry | None:
    """Return the entry of one line, None if the line is not one."""
    found = _PLAIN.fullmatch(line)
    if found is not None:
        text, newline, stream, time = found.groups()
        return Entry(stream.decode(), time.decode("ascii", "replace"), text + b"\n" if newline else text)
    try:
        entry = loads(line)
        text, stream, time = entry["log"].encode("utf-8", "surrogateescape"), entry["stream"], entry["time"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    known = stream in ("stdout", "stderr") and isinstance(time, str)
    return Entry(stream, time.encode("ascii", "replace").decode(), text) if known else None


def outputs(block: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what stands in a block of whole lines, as (stream, text), neighbours of one stream in one piece."""
    for stream, group in groupby(_pieces(block), lambda piece: piece[0]):
        yield stream, b"".join(text for _, text in group)


def _pieces(block: bytes) -> Iterator[tuple[str, bytes]]:
    if block.count(MARK, 0, SAMPLE) > FEW:
        yield from _single(block)
        return
    at = 0
    while at < len(block):
        mark = block.find(MARK, at)
        start = len(block) if mark < 0 else max(at, block.rfind(b"\n", at, mark) + 1)
        if start > at:
            piece = decode_block(block[at:start])
            yield from _single(block[at:start]) if piece is None else (piece,)
        at = len(block) if mark < 0 else block.find(b"\n", mark) + 1
        if at > start:
            entry = parse(block[start:at])
            if entry is not None:
                yield entry.stream, entry.text


def _single(block: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what stands in a block of lines that have little in common."""
    for stream in _ENDS:
        text = _text(block, stream)
        if text is not None:
            yield stream, text
            return
    lines = block.split(b"\n")
    lines.pop()
    for stderr, group in groupby(lines, lambda line: _STDERR in line):
        part = [line + b"\n" for line in group]
        stream = "stderr" if stderr else "stdout"
        text = _text(b"".join(part), stream)
        if text is not None:
            yield stream, text
        else:
            yield from ((entry.stream, entry.text) for entry in map(parse, part) if entry is not None)


def _text(block: bytes, stream: str) -> bytes | None:
    """Return the output in a block whose lines are all of this stream; None when they are not."""
    count = block.count(b"\n")
    if not block.startswith(START):
        return None
    pieces = _ENDS[stream].split(block[len(START) :])
    if len(pieces) != count + 1:
        return None
    try:
        text: str = loads(b'"%s"' % b"".join(pieces))
        return text.encode("utf-8", "surrogateescape")
    except ValueError:
        return None


def whole_blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the whole lines from where the file stands, in blocks; leave it before an unfinished line."""
    size = BLOCK
    while True:
        position = file.tell()
        block = file.read(size)
        end = block.rfind(b"\n") + 1
        if end:
            file.seek(position + end)
            yield block[:end]
            size = BLOCK
        else:
            file.seek(position)
            if len(block) < size:
                return
            size *= 2  # a very long line


def last_lines(file: BinaryIO, count: int, wanted: Callable[[bytes], bool]) -> list[bytes]:
    """Return the last lines that are wanted, oldest first, read from the end; leave the file behind its last line."""
    found: deque[bytes] = deque()
    at = file.seek(0, io.SEEK_END)
    stop: int | None = None
    rest = b""
    while at > 0 and (stop is None or len(found) < count):
        size = min(BLOCK, at)
        at -= size
        file.seek(at)
        block = file.read(size)
        if stop is None:
            end = block.rfind(b"\n") + 1
            if not end and at:
                continue  # still inside an unfinished last line
            stop, block = at + end, block[:end]
        lines = (block + rest).split(b"\n")
        rest = lines.pop(0) + b"\n" if at else b""  # its beginning is in the block before
        lines.pop()
        for line in reversed(lines):
            if len(found) < count and wanted(line + b"\n"):
                found.appendleft(line + b"\n")
    file.seek(stop or 0)
    return list(found)
