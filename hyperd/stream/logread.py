"""Reading a container's json-file log: the last lines, since a time, and following what is still to come."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from json import loads
from pathlib import Path

from hyperd.stream.connection import ClientConnection
from hyperd.stream.frames import STDERR, STDOUT, stdcopy
from hyperd.stream.logs import LogWriter
from hyperd.stream.relay import Relay

BATCH = 262_144


@dataclass(frozen=True, kw_only=True)
class LogQuery:
    """What a client wants of a log.

    Args:
        stdout, stderr: which streams. follow: go on until the log ends. timestamps: RFC 3339 and a space before each
        line.
        since: seconds since 1970, None = from the beginning. tail: number of last lines, None = all.

    """

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    timestamps: bool = False
    since: float | None = None
    tail: int | None = None


@dataclass(frozen=True)
class _Entry:
    stream: str
    time: str
    text: bytes


def _parse(line: bytes) -> _Entry | None:
    try:
        entry = loads(line)
        return _Entry(entry["stream"], entry["time"], entry["log"].encode("utf-8", "surrogateescape"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text[:26].rstrip("Z")).replace(tzinfo=UTC).timestamp()


def log_files(path: Path, max_file: int) -> list[Path]:
    """Give the files of a log that exist, oldest first."""
    names = [Path(f"{path}.{number}") for number in range(max_file - 1, 0, -1)]
    return [name for name in (*names, path) if name.exists()]


class LogSession:
    """Sends a log to one client. Made by the container service, run once by the API.

    Args:
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
    ) -> None:
        self.relay = relay
        self.path = path
        self.query = query
        self.tty = tty
        self.max_file = max_file
        self._live = live
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
        lines: Iterator[bytes] = (line for file in files for line in _whole_lines(file))
        if self.query.tail is not None:
            wanted = (line for line in lines if self._wanted(line) is not None)
            lines = iter(deque(wanted, maxlen=self.query.tail))
        batch = bytearray()
        for line in lines:
            batch += self._format(self._wanted(line))
            if len(batch) >= BATCH:
                client.write(bytes(batch))
                batch.clear()
                await client.drain()
                if client.closed:
                    return
        client.write(bytes(batch))

    async def _follow(
        self,
        client: ClientConnection,
        current: io.BufferedReader | io.BytesIO,
        stack: contextlib.ExitStack,
    ) -> None:
        while not client.closed:
            self._changed.clear()
            finished = self._live() is None
            batch = b"".join(self._format(self._wanted(line)) for line in _whole_lines(current))
            if batch:
                client.write(batch)
                await client.drain()
                continue
            if _rotated(current, self.path):
                with contextlib.suppress(FileNotFoundError):
                    current = stack.enter_context(self.path.open("rb"))
                continue
            if finished:
                return
            await self._changed.wait()

    def _wanted(self, line: bytes) -> _Entry | None:
        entry = _parse(line)
        if entry is None or not {"stdout": self.query.stdout, "stderr": self.query.stderr}.get(entry.stream, False):
            return None
        if self.query.since is not None and _seconds(entry.time) < self.query.since:
            return None
        return entry

    def _format(self, entry: _Entry | None) -> bytes:
        if entry is None:
            return b""
        text = entry.text
        if self.query.timestamps and self._at_line_start[entry.stream]:
            text = entry.time.encode() + b" " + text
        self._at_line_start[entry.stream] = entry.text.endswith(b"\n")
        return text if self.tty else stdcopy(STDOUT if entry.stream == "stdout" else STDERR, text)


def _whole_lines(file: io.BufferedReader | io.BytesIO) -> Iterator[bytes]:
    """Give the whole lines from where the file stands; leave it before an unfinished one."""
    while True:
        position = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            file.seek(position)
            return
        yield line


def _rotated(file: io.BufferedReader | io.BytesIO, path: Path) -> bool:
    if isinstance(file, io.BytesIO):
        return path.exists()
    with contextlib.suppress(FileNotFoundError):
        return os.fstat(file.fileno()).st_ino != path.stat().st_ino
    return False
