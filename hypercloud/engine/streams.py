"""Output that comes as it is written, and programs that are talked to."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hypercloud.engine.client import EngineClient, translated
from hypercloud.engine.ending import Shared, hang_up

_HEADER = struct.Struct(">BxxxL")
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ")
NAMES = {0: "stdout", 1: "stdout", 2: "stderr"}
LONGEST_LINE = 2**18  # bytes; a longer one comes in pieces


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of output with its end."""

    stream: str  # stdout | stderr
    text: str
    time: int  # seconds since the epoch


class LogStream:
    """The output of a container, line by line; ``close`` ends it from another thread.

    Args:
        client: of its engine.
        container: its id.
        tty: it has a terminal: no headers, one stream.
        tail: lines from before.
        follow: wait for more.

    Errors: NotFound, EngineError.

    """

    def __init__(self, client: EngineClient, container: str, *, tty: bool, tail: int, follow: bool) -> None:
        docker = client.docker()
        params = {"stdout": 1, "stderr": 1, "timestamps": 1, "tail": tail, "follow": int(follow)}
        with translated(client.name):
            self._response = docker._get(
                docker._url("/containers/{0}/logs", container),
                params=params,
                stream=True,
                timeout=None if follow else 60,
            )
            docker._raise_for_status(self._response)
        self._tty = tty
        self._shared = Shared(lambda: hang_up(socket_of(self._response)), self._response.close)

    def __iter__(self) -> Iterator[Line]:
        rest = {"stdout": b"", "stderr": b""}
        with contextlib.suppress(Exception), self._shared.using() as alive:  # it may be over at any time
            for stream, data in self._pieces() if alive else ():
                *lines, last = (rest[stream] + data).split(b"\n")
                for line in lines:
                    yield stamped_line(stream, line + b"\n")
                if len(last) > LONGEST_LINE:
                    yield stamped_line(stream, last)
                    last = b""
                rest[stream] = last
        for stream, last in rest.items():
            if last and not self._shared.over:
                yield stamped_line(stream, last)
        self.close()

    def _pieces(self) -> Iterator[tuple[str, bytes]]:
        raw = self._response.raw
        if self._tty:
            while data := raw.read1() if hasattr(raw, "read1") else raw.read(1):
                yield "stdout", data
            return
        while len(header := raw.read(_HEADER.size)) == _HEADER.size:
            kind, length = _HEADER.unpack(header)
            if kind not in NAMES:
                return
            while length > 0:
                data = raw.read(min(length, LONGEST_LINE))
                if not data:
                    return
                length -= len(data)
                yield NAMES[kind], data

    def close(self) -> None:
        """End the stream."""
        self._shared.end()


def stamped_line(stream: str, data: bytes) -> Line:
    """Return a line that begins with its time, as the API of engines and of clusters has it."""
    found = _STAMP.match(data)
    when = 0
    if found:
        data = data[found.end() :]
        zone = found[2].replace(b"Z", b"+00:00").decode()
        when = int(datetime.fromisoformat(found[1].decode() + zone).timestamp())
    return Line(stream=stream, text=data.decode("utf-8", "replace"), time=when)


class ExecSession:
    """A program in a container, with a terminal.

    Args:
        client: of the engine.
        container: its id.
        command: the program and its arguments.

    Errors: NotFound, Conflict when the container does not run, EngineError.

    """

    def __init__(self, client: EngineClient, container: str, command: list[str]) -> None:
        self._client = client
        docker = client.docker()
        with translated(client.name):
            made = docker.exec_create(container, command, stdin=True, tty=True)
            self._id = str(made["Id"])
            stream = docker.exec_start(self._id, tty=True, socket=True)
        self._stream = stream
        self._socket: socket.socket = getattr(stream, "_sock", stream)
        self._first = _buffered(stream, self._socket)
        self._socket.settimeout(None)
        self._shared = Shared(lambda: hang_up(self._socket), self._stream.close)

    def read(self) -> bytes:
        """Return some output; empty at the end."""
        if self._first:
            data, self._first = self._first, b""
            return data
        with contextlib.suppress(OSError), self._shared.using() as alive:
            if alive:
                return self._socket.recv(65_536)
        return b""

    def write(self, data: bytes) -> None:
        """Send input."""
        with contextlib.suppress(OSError), self._shared.using() as alive:
            if alive:
                self._socket.sendall(data)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the size of the terminal."""
        with translated(self._client.name):
            self._client.docker().exec_resize(self._id, height=rows, width=columns)

    def close(self) -> None:
        """Hang up."""
        self._shared.end()


def _buffered(stream: Any, raw: socket.socket) -> bytes:
    """Return what came in one piece with the answer's head: docker-py leaves it in a buffer that nobody reads."""
    response = getattr(stream, "_response", None)
    reader = getattr(getattr(getattr(response, "raw", None), "_fp", None), "fp", None)
    if reader is None or not hasattr(reader, "peek"):
        return b""
    raw.settimeout(0)
    try:
        waiting = len(reader.peek())
        return bytes(reader.read1(waiting)) if waiting else b""
    except (OSError, ValueError):
        return b""


def socket_of(response: Any) -> socket.socket | None:
    """Return the socket of an answer that is being read; None when it has none any more."""
    reader = getattr(getattr(getattr(response, "raw", None), "_fp", None), "fp", None)
    found = getattr(getattr(reader, "raw", None), "_sock", None)
    return found if isinstance(found, socket.socket) else getattr(found, "socket", None)
