"""Where a container's json-file log stands: what the last lines of each stream say about the offsets of a run."""

from __future__ import annotations

from json import loads
from pathlib import Path
from typing import BinaryIO

import structlog

from hyperd.stream.jsonlines import outputs

log = structlog.get_logger(__name__)

BLOCK = 262_144  # bytes read at a time, more than any line has
STREAMS = ("stdout", "stderr")
MARK = b'"run":'  # of a line that says where it stands; no text can hold it


def torn(file: BinaryIO) -> int | None:
    """Return the size that a file has without a last line that was cut off; None when there is none."""
    size = file.seek(0, 2)
    whole = _rfind(file, b"\n", size) + 1
    return None if whole == size else whole


def offsets(files: list[Path], run: int) -> dict[str, int]:
    """Return the offset behind what is on disk of each stream of a run, if anything is.

    Args:
        files: of whole lines, newest first; those that do not exist count as empty.
        run: number of the run.

    """
    found: dict[str, tuple[int, int]] = {}
    for path in files:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue
        with file:
            for stream in STREAMS:
                last = None if stream in found else _last(file, stream)
                if last is not None:
                    found[stream] = last
    return {stream: end for stream, (number, end) in found.items() if number == run}


def _last(file: BinaryIO, stream: str) -> tuple[int, int] | None:
    """Return (run, offset behind it) of the last line of a stream; None when the file has none of it."""
    key = b'","stream":"%s",' % stream.encode()
    stop = file.seek(0, 2)
    while (at := _rfind(file, key, stop)) >= 0:
        stop = _next_line(file, at)
        mark = _rfind(file, MARK, stop)
        if mark < 0:
            return None
        # The lines behind the one with a mark come from the same write.
        start, first = _rfind(file, b"\n", mark) + 1, _next_line(file, mark)
        try:
            entry = loads(_read(file, start, first))
            if entry["stream"] == stream:
                rest = sum(len(text) for name, text in outputs(_read(file, first, stop)) if name == stream)
                return int(entry["run"]), int(entry["end"]) + rest
        except (ValueError, KeyError, TypeError):
            log.warning("log.bad_line", path=file.name, at=start)
        stop = start
    return None


def _rfind(file: BinaryIO, needle: bytes, stop: int) -> int:
    """Find where something stands last before ``stop``, reading backwards; -1 when it does not."""
    while stop > 0:
        start = max(0, stop - BLOCK)
        at = _read(file, start, stop).rfind(needle)
        if at >= 0:
            return start + at
        if start == 0:
            break
        stop = start + len(needle) - 1
    return -1


def _next_line(file: BinaryIO, at: int) -> int:
    """Return where the line that holds ``at`` ends."""
    file.seek(at)
    return at + len(file.readline())


def _read(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)
