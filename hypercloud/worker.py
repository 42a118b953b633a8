"""gunicorn's ``gthread`` worker, changed so that clients cannot hold its threads with requests that never end.

A connection takes a thread once something has come. The thread then reads the request, which gunicorn would wait for
without end: here a request has ``READ_TIME`` for its head (and the handshake of TLS), and as much for its body. While
more than half of the threads read, ``PATIENCE`` is all they have. A connection whose time is up is shut down, which
wakes the thread that reads from it, whatever it was about to read.

gunicorn's own settings do not do it: ``timeout`` looks at the whole worker, ``keepalive`` at connections between
requests. ``hyperd`` reads requests in a loop without threads, which is more than is needed here.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

READ_TIME = 20.0  # seconds
PATIENCE = 2.0
SEND_TIME = 60  # seconds in which a client must take some of its answer


class Worker(ThreadWorker):
    """The worker; see the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard = threading.Lock()
        self._reading: dict[TConn, float] = {}  # since when

    def accept(self, listener: Any) -> None:
        """Take a connection; it waits without a thread until something comes."""
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED}:
                return
            raise
        self.nr_conns += 1
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIME, 0))
        conn = TConn(self.cfg, sock, address, listener.getsockname())
        conn.timeout = time.monotonic() + READ_TIME
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle(self, conn: TConn) -> Any:
        """Read a request and work on it, in a thread."""
        self.begin(conn, time.monotonic())
        try:
            return super().handle(conn)
        finally:
            self.end(conn)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Work on a request whose head has come."""
        self.end(conn)
        req.body.reader = _Timed(req.body.reader, self, conn)
        return super().handle_request(req, conn)

    def murder_pending(self) -> None:
        """Close connections whose time is up; called by the loop about every second."""
        super().murder_pending()
        now = time.monotonic()
        with self._guard:
            limit = PATIENCE if len(self._reading) > self.cfg.threads // 2 else READ_TIME
            for conn, since in self._reading.items():
                if now - since > limit:
                    with contextlib.suppress(OSError):
                        # Not the method of an SSLSocket: that changes what the reading thread uses.
                        socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)

    def begin(self, conn: TConn, since: float) -> None:
        """Note that a thread reads from a connection."""
        with self._guard:
            self._reading[conn] = since

    def end(self, conn: TConn) -> None:
        """Note that no thread reads from a connection."""
        with self._guard:
            self._reading.pop(conn, None)


class _Timed:
    """The reader of a body: the time that it waits for the client is counted."""

    def __init__(self, reader: Any, worker: Worker, conn: TConn) -> None:
        self._reader = reader
        self._worker = worker
        self._conn = conn
        self._waited = 0.0
        self._each = False

    def each_its_time(self) -> None:
        """Bound the time of each piece, and not that of all together: whoever sends may send much."""
        self._each = True

    def read(self, size: int) -> bytes:
        since = time.monotonic() - self._waited
        self._worker.begin(self._conn, since)
        try:
            data: bytes = self._reader.read(size)
            return data
        finally:
            self._worker.end(self._conn)
            self._waited = 0.0 if self._each else time.monotonic() - since
