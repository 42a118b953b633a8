"""Container logs in Docker's json-file form, with exact bytes and resumable offsets.

A line is ``{"log": text, "stream": "stdout", "time": RFC 3339, "run": n, "end": offset}``: Docker's three keys plus
the number of the container's run and the offset in that run's stream just behind the text. These two stand in the first
line of what is written at once; the lines behind it follow it without a hole. After a crash they tell which
bytes are on disk, so the guest sends again from there: nothing is missing, nothing there twice. Bytes that are no
UTF-8 become lone surrogates (PEP 383), which JSON can carry and which give the same bytes back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Protocol

from hyperd.stream.jsonblocks import encode_block
from hyperd.stream.logresume import offsets, torn

MAX_LINE = 16_384  # Docker cuts longer lines in pieces, too


def now_text(nanoseconds: int) -> str:
    """Return a time in ns since 1970 as RFC 3339 with nine digits."""
    seconds, nano = divmod(nanoseconds, 1_000_000_000)
    return f"{_second_text(seconds)}.{nano:09d}Z"


@lru_cache(maxsize=4)
def _second_text(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def split_lines(text: bytes) -> tuple[list[bytes], bytes]:
    """Split output into whole lines (pieces of very long ones) and what is left of the last."""
    last = text.rfind(b"\n") + 1
    lines = text[:last].split(b"\n")
    lines.pop()  # behind the last newline
    if len(text) - last < MAX_LINE and max(map(len, lines), default=0) < MAX_LINE:
        return [line + b"\n" for line in lines], text[last:]
    pieces: list[bytes] = []
    at = 0
    while at < len(text):
        newline = text.find(b"\n", at, at + MAX_LINE)
        if newline >= 0:
            stop = newline + 1
        elif len(text) - at >= MAX_LINE:
            stop = at + MAX_LINE
        else:
            break
        pieces.append(text[at:stop])
        at = stop
    return pieces, text[at:]


def has_long_line(text: bytes) -> bool:
    """Tell whether ``split_lines`` would cut a line of this text in pieces."""
    at = 0
    while len(text) - at >= MAX_LINE:
        at = text.rfind(b"\n", at, at + MAX_LINE) + 1
        if not at:
            return True
    return False


def json_lines(pieces: list[bytes], *, tail: str, end: int) -> bytes:
    """Write pieces of output, with or without a newline at their end, as lines of JSON that all say where they stand.

    Args:
        pieces: as ``split_lines`` gives them.
        tail: what follows the text in each line, up to the value of ``end``.
        end: offset behind what was written before.

    """
    ends = list(accumulate(map(len, pieces), initial=end))[1:]
    texts = [encode_basestring_ascii(piece.decode("utf-8", "surrogateescape")) for piece in pieces]
    return "".join([f'{{"log":{text}{tail}{at}}}\n' for text, at in zip(texts, ends, strict=True)]).encode("ascii")


class LogWriter(Protocol):
    """What a hub gives a container's output to. Belongs to the relay's thread.

    ``persisted`` says, by stream, before which offset of the run everything is safe (or given up on purpose): what the
    guest need not keep any more. A writer that learns it later calls ``on_progress``.
    """

    persisted: dict[str, int]
    listeners: set[Callable[[], None]]
    on_progress: Callable[[], object]

    def write(self, stream: str, data: bytes, time_ns: int) -> None:
        """Take bytes of a stream. Errors: OSError; then nothing was taken and they may be given again."""

    def flush(self, stream: str, time_ns: int) -> None:
        """Take what is left of a last line for a line: the stream has ended. Errors: OSError."""

    def finish(self) -> None:
        """Close: nothing more comes in this run."""

    def notify(self) -> None:
        """Wake the followers."""


def open_file(path: Path) -> int:
    """Open a log file to write behind its end, and make it where there is none. Errors: OSError."""
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o640)


class FileLog:
    """Output in a file of whole lines, whose form is a subclass's. Belongs to the relay's thread.

    Args:
        path: of the file.
        run: number of the container's current run.

    """

    def __init__(self, path: Path, *, run: int) -> None:
        self.path = path
        self.run = run
        self.persisted: dict[str, int] = {}
        self.listeners: set[Callable[[], None]] = set()
        self.on_progress: Callable[[], object] = lambda: None  # never called: write knows at once
        self.finished = False
        self._partial: dict[str, bytes] = {}
        self._fd = -1
        path.parent.mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return str(self.path)

    def write(self, stream: str, data: bytes, time_ns: int) -> None:
        """Add bytes of a stream; whole lines (and pieces of very long ones) go to disk at once.

        Errors: OSError (disk full); the log is then as before and the same bytes may be given again.
        """
        rest = self._partial.get(stream, b"")
        text = rest + data if rest else data
        if has_long_line(text):
            pieces, rest = split_lines(text)
            self._append_pieces(stream, pieces, time_ns)
        else:
            last = text.rfind(b"\n") + 1
            whole, rest = text[:last], text[last:]
            if whole:
                end = self.persisted.get(stream, 0)
                self._append(self._block(stream, whole, now_text(time_ns)))
                self.persisted[stream] = end + last
        self._partial[stream] = rest
        self.persisted.setdefault(stream, 0)

    def flush(self, stream: str, time_ns: int) -> None:
        """Write what is left of a last line without a newline. Errors: OSError as for write."""
        rest = self._partial.get(stream, b"")
        if rest:
            self._append_pieces(stream, [rest], time_ns)
            self._partial[stream] = b""

    def finish(self) -> None:
        """Tell followers that nothing more comes in this run, and close the file."""
        self.finished = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.notify()

    def notify(self) -> None:
        """Wake the followers."""
        for listener in tuple(self.listeners):
            listener()

    def _block(self, stream: str, whole: bytes, time: str) -> Iterable[bytes | memoryview]:
        """Yield the lines of the file for whole lines of output, none of which is very long."""
        raise NotImplementedError

    def _lines(self, stream: str, pieces: list[bytes], time: str) -> bytes:
        """Return the lines of the file for lines and pieces of lines."""
        raise NotImplementedError

    def _room(self) -> int:
        """Return the size of the file that is written to next."""
        return os.fstat(self._fd).st_size

    def _append_pieces(self, stream: str, pieces: list[bytes], time_ns: int) -> None:
        end = self.persisted.get(stream, 0)
        self._append([self._lines(stream, pieces, now_text(time_ns))])
        self.persisted[stream] = end + sum(map(len, pieces))

    def _append(self, parts: Iterable[bytes | memoryview]) -> None:
        size = self._room()
        try:
            for part in parts:
                written = 0
                while written < len(part):
                    written += os.write(self._fd, part[written:] if written else part)
        except OSError:
            os.ftruncate(self._fd, size)
            raise
        self.notify()


class JsonFileLog(FileLog):
    """Writes the log of one container.

    Args:
        path: current file; older ones are ``path.1`` (newest) and so on.
        run: number of the container's current run.
        max_size: bytes of a file before it is rotated, 0 = never.
        max_file: files kept, the current one included.

    """

    def __init__(self, path: Path, *, run: int, max_size: int = 0, max_file: int = 1) -> None:
        super().__init__(path, run=run)
        self.max_size = max_size
        self.max_file = max(1, max_file)
        self._fd = open_file(path)
        self._recover()

    def _block(self, stream: str, whole: bytes, time: str) -> Iterable[bytes | memoryview]:
        return encode_block(whole, stream=stream, time=time, run=self.run, end=self.persisted.get(stream, 0))

    def _lines(self, stream: str, pieces: list[bytes], time: str) -> bytes:
        tail = f',"stream":"{stream}","time":"{time}","run":{self.run},"end":'
        return json_lines(pieces, tail=tail, end=self.persisted.get(stream, 0))

    def _room(self) -> int:
        size = super()._room()
        if self.max_size and size >= self.max_size:
            self._rotate()
            return 0
        return size

    def _rotate(self) -> None:
        for number in range(self.max_file - 1, 0, -1):
            older = Path(f"{self.path}.{number}")
            newer = Path(f"{self.path}.{number - 1}") if number > 1 else self.path
            with contextlib.suppress(FileNotFoundError):
                newer.rename(older)
        if self.max_file == 1:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = open_file(self.path)

    def _recover(self) -> None:
        """Cut a torn last line and find the offsets of this run that are on disk."""
        with self.path.open("rb") as file:
            size = torn(file)
        if size is not None:
            os.ftruncate(self._fd, size)
        self.persisted.update(offsets([self.path, Path(f"{self.path}.1")], self.run))
