"""Work that outlives a view's thread: progress streams and long waits, each in a thread of its own.

A view waits until the work has begun to speak (or has failed, which is then an ordinary error); after that the
connection is taken over and the thread of the HTTP server is free again.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from flask import Response, request

from hyperd.api import takeover
from hyperd.api.answers import plain_json
from hyperd.errors import HyperError
from hyperd.stream.frames import LAST_CHUNK, chunk

log = structlog.get_logger(__name__)

SEND_TIMEOUT = 60.0  # seconds a client may take none of what is sent
INLINE_WAIT = 1.0  # seconds a wait may hold a thread of the HTTP server
LEFT = select.POLLHUP | select.POLLERR | select.POLLRDHUP

Line = Mapping[str, Any]
Work = Callable[[Callable[[Line], None], Callable[[], bool]], object]


class Progress:
    """The lines of one piece of work and the client that reads them.

    Args:
        name: of the thread.
        work: gets a function that takes a line, and one that tells whether the client has left.

    """

    def __init__(self, name: str, work: Work, *, request_id: str) -> None:
        self._work = work
        self._request_id = request_id
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._early: list[bytes] = []
        self._taken: takeover.Taken | None = None
        self._left = False
        self._done = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def respond(self) -> Response:
        """Start the work, wait for its first line and stream the rest. Errors: what the work raised before a line."""
        self._thread.start()
        self._begun.wait()
        with self._lock:
            if self._failure is not None and not self._early:
                raise self._failure
        try:
            chunked = takeover.speaks_chunks()
            taken = takeover.take(takeover.stream_head("application/json", chunked=chunked))
        except BaseException:
            self._left = True
            raise
        with self._lock:
            taken.sock.settimeout(SEND_TIMEOUT)
            self._taken = taken
            for line in self._early:
                self._write(line)
            if self._done:
                self._finish()
        return takeover.gone()

    def line(self, line: Line) -> None:
        """Send a line, or keep it until there is a connection."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\r\n"
        with self._lock:
            if self._taken is None:
                self._early.append(data)
            else:
                self._write(data)
        self._begun.set()

    def cancelled(self) -> bool:
        """Tell whether the client has left."""
        taken = self._taken
        if not self._left and taken is not None and has_left(taken.sock):
            self._left = True
        return self._left

    def _run(self) -> None:
        try:
            self._work(self.line, self.cancelled)
        except HyperError as error:
            self._fail(error, str(error))
        except Exception as error:
            log.exception("api.internal_error", request=self._request_id)
            self._fail(error, f"internal error (see the daemon's log, request {self._request_id})")
        with self._lock:
            self._done = True
            if self._taken is not None:
                self._finish()
        self._begun.set()

    def _fail(self, error: Exception, message: str) -> None:
        with self._lock:
            self._failure = error
            spoken = bool(self._early)
        if spoken:
            self.line({"errorDetail": {"message": message}, "error": message})

    def _write(self, data: bytes) -> None:
        if self._taken is None or self._left:
            return
        try:
            self._taken.sock.sendall(chunk(data) if self._taken.chunked else data)
        except OSError:
            self._left = True

    def _finish(self) -> None:
        if self._taken is None:
            return
        sock = self._taken.sock
        with contextlib.suppress(OSError):
            if self._taken.chunked and not self._left:
                sock.sendall(LAST_CHUNK)
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


class Waiting:
    """A question whose answer may take as long as a container runs.

    Args:
        ask: gets a function that tells whether the client has left, gives the answer as JSON value.
        status: of the answer.

    """

    def __init__(
        self, name: str, ask: Callable[[Callable[[], bool]], Any], *, request_id: str, status: int = HTTPStatus.OK
    ) -> None:
        self._ask = ask
        self._status = HTTPStatus(status)
        self._request_id = request_id
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._value: Any = None
        self._failure: Exception | None = None
        self._taken: takeover.Taken | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def respond(self) -> Response:
        """Answer in the view if the answer comes soon, else on the taken connection. Errors: those of the question."""
        self._thread.start()
        if not self._answered.wait(INLINE_WAIT) and "gunicorn.socket" in request.environ:
            with self._lock:
                if not self._answered.is_set():
                    self._taken = takeover.take("")
                    return takeover.gone()
        self._answered.wait()
        if self._failure is not None:
            raise self._failure
        return plain_json(self._value, self._status)

    def _cancelled(self) -> bool:
        return self._taken is not None and has_left(self._taken.sock)

    def _run(self) -> None:
        try:
            self._value = self._ask(self._cancelled)
        except Exception as error:
            self._failure = error
        with self._lock:
            self._answered.set()
        if self._taken is not None:
            self._reply(self._taken.sock)

    def _reply(self, sock: socket.socket) -> None:
        """Write the answer; an error that comes this late has only its status and text."""
        status, body, kind = self._status, json.dumps(self._value) + "\n", "application/json"
        if self._failure is not None:
            status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8"
            body = f"internal error (see the daemon's log, request {self._request_id})\n"
            if isinstance(self._failure, HyperError):
                # 499, for a client that has left, is no status of HTTP; it is seen when the daemon ends, too.
                known = self._failure.status in HTTPStatus._value2member_map_
                status = HTTPStatus(self._failure.status) if known else HTTPStatus.SERVICE_UNAVAILABLE
                body = f"{self._failure}\n"
            else:
                log.error("api.internal_error", request=self._request_id, exc_info=self._failure)
        data = body.encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            sock.settimeout(SEND_TIMEOUT)
            sock.sendall(takeover.whole_head(status, kind, len(data)).encode("ascii") + data)
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def has_left(sock: socket.socket) -> bool:
    """Tell whether the other side has closed its end."""
    poller = select.poll()
    try:
        poller.register(sock, LEFT)
        return any(event & LEFT for _, event in poller.poll(0))
    except (OSError, ValueError):
        return True
