"""Reading a container's log file: the last lines, since a time, and following what is still to come."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hyperd.stream import jsonlines, linelog
from hyperd.stream.connection import ClientConnection
from hyperd.stream.frames import STDERR, STDOUT, stdcopy, stdcopy_lines
from hyperd.stream.jsonlines import Entry, last_lines, whole_blocks
from hyperd.stream.logs import LogWriter
from hyperd.stream.relay import Relay

LINES = 512  # written at a time
NUMBERS = {"stdout": STDOUT, "stderr": STDERR}


@dataclass(frozen=True, kw_only=True)
class LogForm:
    """How the lines of a file are read: one line's entry; what stands in a block of whole lines, by stream."""

    parse: Callable[[bytes], Entry | None]
    outputs: Callable[[bytes], Iterator[tuple[str, bytes]]]


JSON = LogForm(parse=jsonlines.parse, outputs=jsonlines.outputs)
LINES_OF_TEXT = LogForm(parse=linelog.parse, outputs=linelog.outputs)


@dataclass(frozen=True, kw_only=True)
class LogQuery:
    """What a client wants of a log.

    Args:
        stdout, stderr: which streams. follow: go on until the log ends. timestamps: RFC 3339 and a space before each
        line.
        since, until: seconds since 1970, None = from the beginning, to the end; a log that is followed ends then.
        tail: number of last lines, None = all.
        framed_lines: each line is a frame of its own, where outputs are framed.

    """

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    timestamps: bool = False
    since: float | None = None
    until: float | None = None
    tail: int | None = None
    framed_lines: bool = False


def _seconds(text: str) -> float:
    """Return epoch seconds of a line's time; 0 where a damaged file has none."""
    try:
        return datetime.fromisoformat(text[:26].rstrip("Z")).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def log_files(path: Path, max_file: int) -> list[Path]:
    """Return the files of a log that exist, oldest first."""
    names = [Path(f"{path}.{number}") for number in range(max_file - 1, 0, -1)]
    return [name for name in (*names, path) if name.exists()]


class LogSession:
    """Sends a log to one client. Made by the container service, run once by the API.

    Args:
        form: of the file's lines.
        live: gives the log's writer while the container (or its next run) can still write, None when it is finished.

    """

    def __init__(
        self,
        relay: Relay,
        path: Path,
        query: LogQuery,
        *,
        tty: bool,
        max_file: int,
        live: Callable[[], LogWriter | None],
        form: LogForm = JSON,
    ) -> None:
        self.relay = relay
        self.path = path
        self.query = query
        self.tty = tty
        self.max_file = max_file
        self._live = live
        self._form = form
        self._changed = asyncio.Event()
        self._at_line_start = {"stdout": True, "stderr": True}

    def run(self, sock: socket.socket, early: bytes, *, chunked: bool = False) -> None:
        """Take the socket over and send the log; returns at once."""
        self.relay.spawn(self._serve(sock, early, chunked=chunked))

    def close(self) -> None:
        """Nothing is held before run()."""

    async def _serve(self, sock: socket.socket, early: bytes, *, chunked: bool) -> None:
        client = ClientConnection(self.relay, chunked=chunked, eof_is_gone=True)
        client.on_closed = self._changed.set
        await client.open(sock, early)
        try:
            await self._send(client)
        finally:
            client.finish()

    async def _send(self, client: ClientConnection) -> None:
        live = self._live() if self.query.follow else None
        if live is not None:
            live.listeners.add(self._changed.set)
        try:
            with contextlib.ExitStack() as stack:
                files = [stack.enter_context(path.open("rb")) for path in log_files(self.path, self.max_file)]
                await self._backlog(client, files)
                if live is not None:
                    current = files[-1] if files else stack.enter_context(io.BytesIO())
                    await self._follow(client, current, stack)
        finally:
            for writer in (live, self._live()):
                if writer is not None:
                    writer.listeners.discard(self._changed.set)

    async def _backlog(self, client: ClientConnection, files: list[io.BufferedReader]) -> None:
        for block in self._blocks(files):
            client.write(self._shown(block))
            await client.drain()
            await asyncio.sleep(0)  # other streams have their turn
            if client.closed:
                return

    def _blocks(self, files: list[io.BufferedReader]) -> Iterator[bytes]:
        """Yield the lines to begin with in blocks; the newest file is left behind its last line."""
        if self.query.tail is None:
            yield from (block for file in files for block in whole_blocks(file))
            return
        found: list[bytes] = []
        for file in reversed(files):
            left = self.query.tail - len(found)
            found[:0] = last_lines(file, left, lambda line: self._wanted(line) is not None)
        for at in range(0, len(found), LINES):
            yield b"".join(found[at : at + LINES])

    async def _follow(
        self,
        client: ClientConnection,
        current: io.BufferedReader | io.BytesIO,
        stack: contextlib.ExitStack,
    ) -> None:
        while not client.closed:
            self._changed.clear()
            finished = self._live() is None
            block = next(whole_blocks(current), b"")
            if block:
                client.write(self._shown(block))
                await client.drain()
                continue
            if _rotated(current, self.path):
                with contextlib.suppress(FileNotFoundError):
                    current = stack.enter_context(self.path.open("rb"))
                continue
            if finished or not await self._more():
                return

    async def _more(self) -> bool:
        """Wait until there may be more lines; False when the time is over that the client wants to see."""
        left = None if self.query.until is None else self.query.until - time.time()
        if left is not None and left <= 0:
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), left)
        return True

    def _shown(self, block: bytes) -> bytes:
        """Return what the client gets of a block of whole lines."""
        if self.query.timestamps or self.query.since is not None or self.query.until is not None:
            return b"".join(self._format(self._wanted(line)) for line in io.BytesIO(block))
        parts = [(stream, text) for stream, text in self._form.outputs(block) if self._asked(stream)]
        if self.tty:
            return b"".join(text for _, text in parts)
        framed = stdcopy_lines if self.query.framed_lines else stdcopy
        return b"".join(framed(NUMBERS[stream], text) for stream, text in parts)

    def _asked(self, stream: str) -> bool:
        return {"stdout": self.query.stdout, "stderr": self.query.stderr}.get(stream, False)

    def _wanted(self, line: bytes) -> Entry | None:
        entry = self._form.parse(line)
        if entry is None or not self._asked(entry.stream):
            return None
        if self.query.since is not None and _seconds(entry.time) < self.query.since:
            return None
        if self.query.until is not None and _seconds(entry.time) > self.query.until:
            return None
        return entry

    def _format(self, entry: Entry | None) -> bytes:
        if entry is None:
            return b""
        text = entry.text
        if self.query.timestamps and self._at_line_start[entry.stream]:
            text = entry.time.encode() + b" " + text
        self._at_line_start[entry.stream] = entry.text.endswith(b"\n")
        return text if self.tty else stdcopy(NUMBERS[entry.stream], text)


def _rotated(file: io.BufferedReader | io.BytesIO, path: Path) -> bool:
    if isinstance(file, io.BytesIO):
        return path.exists()
    with contextlib.suppress(FileNotFoundError):
        return os.fstat(file.fileno()).st_ino != path.stat().st_ino
    return False
