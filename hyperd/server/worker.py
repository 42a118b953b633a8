"""gunicorn's ``gthread`` worker, changed so that no client holds a thread: threads are for work.

One loop (the process's first thread) accepts connections and reads each request until it is whole. Only then a thread
gets it, which parses it, calls the application and leaves what the client does not take at once to the loop again.
So a connection is in one of these phases:

- reading: in the loop, until ``RequestBuffer`` says that the request is whole;
- working: in a thread, and not in the loop;
- writing: in the loop, while the client has not taken the answer;
- closing: in the loop, reading and forgetting what the client still sends, so that it can read our last answer.

A request whose body is too long to be waited for (an upload) is read by a thread while it is worked on. Those threads
are others, so that slow uploads hold up nothing but uploads. Callers on unix sockets and callers over TCP have threads
of their own, too. Connections that the application takes over (``hyperd.api.takeover``) come back as dead sockets.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import Any

import structlog
from gunicorn.config import Config as GunicornConfig
from gunicorn.glogging import Logger
from gunicorn.http import errors as http_errors
from gunicorn.workers import gthread

from hyperd.app import LISTENER, Dispatcher
from hyperd.errors import Cancelled, InvalidInput
from hyperd.server.limits import Limits, Spare
from hyperd.server.listeners import Listener
from hyperd.server.reading import RequestBuffer, State

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 10_000  # of local callers, and as many over TCP
UPLOAD_THREADS = 12  # more than the uploads that the API allows at a time: what is refused must not wait
RECEIVE_TIMEOUT = 60  # seconds a client has for a request, or may pause in an upload
MIN_RATE = 1024  # bytes: each gives a second more for the rest of a request
SEND_TIMEOUT = 60.0  # seconds a client may take nothing of its answer
LINGER = 5.0  # seconds a client may take to close a connection that we have ended
LINGER_BYTES = 2**28  # bytes of a refused upload that are read and forgotten: many clients look at the answer only then
STOP_LINGER = 0.5
MAX_HELD = 2**26  # bytes of half requests and of answers that nobody takes, for all local or all other callers
PIECE = 2**16
ACCEPTS = 32  # connections that are taken at a time
PATIENCE = 5.0  # seconds after which a half request gives way to a new connection
SWEEP = 1.0  # seconds between two looks for connections whose time is up
DRAIN = 0.05  # seconds in which the rest of a body that was not wanted must be there
ACCEPT_PAUSE = 0.1
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Phase(Enum):
    """Where a connection is; see the module."""

    READING = auto()
    WORKING = auto()
    WRITING = auto()
    CLOSING = auto()


class _Log(Logger):  # type: ignore[misc]
    """gunicorn's messages through the daemon's own logging."""

    def setup(self, cfg: GunicornConfig) -> None:
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True
        # Its debug messages are one for every connection.
        self.error_log.setLevel("INFO")


class _App:
    """What gunicorn's worker wants of an application."""

    def __init__(self, app: Dispatcher) -> None:
        self._app = app

    def wsgi(self) -> Dispatcher:
        return self._app


class ClientSocket(socket.socket):
    """A client's socket.

    What the client does not take at once waits in ``unsent`` for the loop. Uploads are read by threads, and must come
    with some speed: the time that they let a thread wait is counted.
    """

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(fileno=accepted.detach())
        self.unsent = bytearray()
        self._waited: float | None = None
        self._received = 0

    def expect_upload(self) -> None:
        """Count from now on."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", RECEIVE_TIMEOUT, 0))
        self._waited, self._received = 0.0, 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive. Errors: OSError; TimeoutError for an upload that is too slow."""
        if self._waited is None:
            return super().recv(size, flags)
        begun = time.monotonic()
        data = super().recv(size, flags)
        self._waited += time.monotonic() - begun
        self._received += len(data)
        if self._waited > RECEIVE_TIMEOUT + self._received / MIN_RATE:
            raise TimeoutError(f"less than {MIN_RATE} bytes a second")
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send what the kernel takes now and keep the rest. Errors: OSError of a connection that is gone."""
        view = memoryview(data)
        while view and not self.unsent:
            try:
                view = view[self.send(view, flags | socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                break
        self.unsent += view

    def flush(self) -> int:
        """Send more of what waits; return how much went. Errors: OSError."""
        before = len(self.unsent)
        while self.unsent:
            try:
                del self.unsent[: self.send(self.unsent[: 16 * PIECE], socket.MSG_DONTWAIT)]
            except BlockingIOError:
                break
        return before - len(self.unsent)


class Connection(gthread.TConn):  # type: ignore[misc]
    """A client's connection, and the request that is being read on it."""

    def __init__(self, cfg: GunicornConfig, sock: ClientSocket, client: Any, listener: Listener) -> None:
        super().__init__(cfg, sock, client, listener.sock.getsockname())
        self.listener = listener
        self.local = listener.local
        self.incoming = RequestBuffer()
        self.phase = Phase.READING
        self.since = time.monotonic()  # of the first byte of the request
        self.deadline = 0.0
        self.keep = False
        self.forgotten = 0  # bytes read while closing
        self.held = 0  # bytes of it that the worker has counted


class Input:
    """``wsgi.input`` whose errors are the daemon's: InvalidInput for bad framing, Cancelled for a client that left."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self.reader = body.reader

    def read(self, size: int | None = None) -> bytes:
        """Read so many bytes, or all."""
        return bytes(self._call(self._body.read, size))

    def readline(self, size: int | None = None) -> bytes:
        """Read a line."""
        return bytes(self._call(self._body.readline, size))

    def readlines(self, size: int | None = None) -> list[bytes]:
        """Read all lines."""
        return list(self._call(self._body.readlines, size))

    def __iter__(self) -> Any:
        return iter(self.readline, b"")

    def _call(self, read: Callable[[int | None], Any], size: int | None) -> Any:
        try:
            return read(size)
        except (http_errors.NoMoreData, TimeoutError, BlockingIOError, ConnectionError) as error:
            raise Cancelled("the client left while it sent", details=str(error)[:200]) from error
        except (http_errors.ParseException, OSError) as error:
            raise InvalidInput(
                "the body of the request is not framed as HTTP asks", details=str(error)[:200]
            ) from error


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """The worker; see the module. It has no arbiter above it: its parent is whoever started the daemon and may go.

    Args:
        listeners: where connections are accepted.
        app: answers all requests.
        cfg: gunicorn's settings.
        limits: of descriptors.
        on_hangup: called at SIGHUP, in a signal handler.

    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        app: Dispatcher,
        cfg: GunicornConfig,
        *,
        limits: Limits,
        on_hangup: Callable[[], None],
    ) -> None:
        sockets = [listener.sock for listener in listeners]
        super().__init__(1, os.getppid(), sockets, _App(app), 0, cfg, _Log(cfg))
        self._listeners = {listener.sock.fileno(): listener for listener in listeners}
        self._limits = limits
        self._on_hangup = on_hangup
        self._thread = threading.local()  # its ``listener``: where the request came in that this thread answers
        self._pools: dict[tuple[bool, bool], ThreadPoolExecutor] = {}
        self._counts = {True: 0, False: 0}  # connections, by ``local``
        self._held = {True: 0, False: 0}  # bytes of half requests and of answers that are not taken
        self._working = 0
        # Those in the loop, the oldest first. Idle ones and half requests (by ``local``) are in two sets of their own.
        self._in_loop: dict[Connection, None] = {}
        self._idle: dict[bool, dict[Connection, None]] = {True: {}, False: {}}
        self._partial: dict[bool, dict[Connection, None]] = {True: {}, False: {}}
        self._writing: dict[bool, dict[Connection, None]] = {True: {}, False: {}}
        self._spare = Spare()
        self._refused = 0
        self._sweep_at = self._accept_at = 0.0

    # -- what gunicorn calls

    def is_parent_alive(self) -> bool:
        return True

    def notify(self) -> None:
        """Tell nobody that the worker lives: there is no arbiter."""

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGINT, self.handle_exit)
        signal.signal(signal.SIGHUP, lambda _number, _frame: self._on_hangup())

    def get_thread_pool(self) -> ThreadPoolExecutor:
        for local, name in ((True, "local"), (False, "remote")):
            self._pools[local, False] = ThreadPoolExecutor(self.cfg.threads, thread_name_prefix=f"http-{name}")
            self._pools[local, True] = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix=f"upload-{name}")
        return self._pools[True, False]

    def load_wsgi(self) -> None:
        app = self.app.wsgi()

        def with_listener(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            environ[LISTENER] = self._thread.listener
            environ["wsgi.input"] = Input(environ["wsgi.input"])
            return app(environ, start_response)

        self.wsgi = with_listener

    def run(self) -> None:
        """Serve until a signal comes."""
        self.poller.register(self.method_queue.fileno(), selectors.EVENT_READ, self.method_queue.run_callbacks)
        while self.alive:
            now = time.monotonic()
            self.set_accept_enabled(now >= self._accept_at)
            self.wait_for_and_dispatch_events(SWEEP if self._accepting else ACCEPT_PAUSE)
            self._sweep()
        self._finish()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Handle what the loop waits for; an error of one connection is no error of the others."""
        for key, _ in self.poller.select(timeout):
            try:
                key.data(key.fileobj)
            except Exception:
                log.exception("server.event_failed")

    def _finish(self) -> None:
        """End: answer the requests that have come, within the grace; whoever asks for nothing is let go at once."""
        self.set_accept_enabled(False)
        self.wait_for_and_dispatch_events(0.0)  # what the kernel already has
        for conn in [conn for conn in self._in_loop if conn.phase is Phase.READING]:
            self._drop(conn)
        end = time.monotonic() + self.cfg.graceful_timeout
        closing_end = time.monotonic() + STOP_LINGER
        while self._working or any(self._writing.values()) or self._in_loop:
            now = time.monotonic()
            busy = self._working or any(self._writing.values())
            if now > end or (not busy and now > closing_end):
                break
            self.wait_for_and_dispatch_events(0.1)
            self._sweep()
        for pool in self._pools.values():
            pool.shutdown(wait=False)
        self.poller.close()
        self.method_queue.close()
        for sock in self.sockets:
            sock.close()

    # -- accepting

    def accept(self, listening: socket.socket) -> None:
        """Take the connections that wait at a listener."""
        listener = self._listeners[listening.fileno()]
        for _ in range(ACCEPTS):
            try:
                sock, address = listening.accept()
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:
                    self._shed(listening, error)
                elif error.errno not in {errno.EAGAIN, errno.ECONNABORTED}:
                    log.error("server.accept_failed", error=str(error))
                return
            if not self._has_room(sock, listener):
                if not self._make_room(listener):
                    self._refuse(sock)
                    continue
                with sock:
                    sock = sock.dup()  # the number that has become free: those above the limit are not for clients
            self._counts[listener.local] += 1
            conn = Connection(self.cfg, ClientSocket(sock), address, listener)
            self._read_next(conn, b"")
            self._on_readable(conn, conn.sock)

    def _has_room(self, sock: socket.socket, listener: Listener) -> bool:
        """Return whether a new connection is within the limits."""
        limit = self._limits.local if listener.local else self._limits.remote
        return sock.fileno() < limit and self._counts[listener.local] < MAX_CONNECTIONS

    def _make_room(self, listener: Listener) -> bool:
        """Close an older connection that asks for nothing; return whether there was one. TCP callers go first."""
        now = time.monotonic()
        for local in (False, True) if listener.local else (False,):
            for waiting, patience in ((self._idle[local], 0.0), (self._partial[local], PATIENCE)):
                oldest = next(iter(waiting), None)
                if oldest is not None and now - oldest.since >= patience:
                    self._drop(oldest)
                    return True
        return False

    def _shed(self, listening: socket.socket, error: OSError) -> None:
        """Take and close one connection although no descriptor is left; else it would wait there for ever."""
        if self._spare.give_up():
            with contextlib.suppress(OSError):
                self._refuse(listening.accept()[0])
            self._spare.take_back()
            return
        self._spare.take_back()
        self._accept_at = time.monotonic() + ACCEPT_PAUSE
        self._refused += 1
        log.error("server.no_descriptors", error=str(error))

    def _refuse(self, sock: socket.socket) -> None:
        self._refused += 1
        with sock, contextlib.suppress(OSError):
            sock.send(_answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"), socket.MSG_DONTWAIT)
            sock.shutdown(socket.SHUT_WR)

    # -- reading

    def _read_next(self, conn: Connection, already: bytes) -> None:
        """Wait for the next request; ``already``: what has been read of it."""
        conn.incoming = RequestBuffer()
        conn.sock.setblocking(False)
        now = conn.since = time.monotonic()
        self._enter(conn, Phase.READING, now + self.cfg.keepalive, self._on_readable)
        self._idle[conn.local][conn] = None
        if already:
            self._fed(conn, already)

    def _on_readable(self, conn: Connection, _sock: object) -> None:
        try:
            data = conn.sock.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._fed(conn, data)
        else:
            self._drop(conn)

    def _fed(self, conn: Connection, data: bytes) -> None:
        """Look at what has come of a request and do what is next."""
        first = conn.incoming.state is State.NOTHING
        state = conn.incoming.feed(data)
        if state in {State.WHOLE, State.LONG}:
            self._leave(conn)
            self._work(conn, long=state is State.LONG)
        elif state is State.TOO_LARGE:
            self._end_with(conn, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")
        elif state is State.LINE_TOO_LONG:
            self._end_with(conn, HTTPStatus.REQUEST_URI_TOO_LONG, "the first line of the request is too long")
        elif state is State.PARTIAL:
            if first:
                conn.since = time.monotonic()
                self._idle[conn.local].pop(conn, None)
                self._partial[conn.local][conn] = None
            conn.deadline = conn.since + RECEIVE_TIMEOUT + len(conn.incoming) / MIN_RATE
            self._hold(conn, len(data), self._partial[conn.local])

    def _hold(self, conn: Connection, size: int, others: dict[Connection, None]) -> None:
        """Count the bytes that a connection holds; when all hold too many, the oldest of its kind go."""
        conn.held += size
        self._held[conn.local] += size
        while self._held[conn.local] > MAX_HELD and others:
            self._refused += 1
            self._drop(next(iter(others)))

    # -- working

    def _work(self, conn: Connection, *, long: bool) -> None:
        conn.phase = Phase.WORKING
        self._working += 1
        if long:
            conn.sock.expect_upload()
        future = self._pools[conn.local, long].submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def handle(self, conn: Connection) -> Any:
        """Answer a request. Runs in a thread; gunicorn's part parses it and calls the application."""
        conn.init()
        conn.parser.unreader.unread(conn.incoming.take())
        conn.data_ready = True
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Connection) -> Any:
        self._thread.listener = conn.listener
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Return whether the connection can have another request. The rest of a body is not waited for here."""
        return bool(keepalive and conn.parser.finish_body(deadline=time.monotonic() + DRAIN))

    def finish_request(self, conn: Connection, done: Future[Any]) -> None:
        """Go on with a connection whose request has been answered. Runs in the loop."""
        self._working -= 1
        try:
            conn.keep = bool(done.result())
        except Exception:
            log.exception("server.request_failed")
            conn.keep = False
        if not conn.sock.unsent:
            self._answered(conn)
            return
        self._enter(conn, Phase.WRITING, time.monotonic() + SEND_TIMEOUT, self._on_writable, selectors.EVENT_WRITE)
        self._writing[conn.local][conn] = None
        self._hold(conn, len(conn.sock.unsent), self._writing[conn.local])

    def _on_writable(self, conn: Connection, _sock: object) -> None:
        try:
            if conn.sock.flush():
                conn.deadline = time.monotonic() + SEND_TIMEOUT
        except OSError:
            self._drop(conn)
            return
        if not conn.sock.unsent:
            self._leave(conn)
            self._answered(conn)

    def _answered(self, conn: Connection) -> None:
        if conn.keep and self.alive:
            self._read_next(conn, conn.parser.unreader.take_buffered())
        else:
            self._close(conn)

    # -- closing

    def _end_with(self, conn: Connection, status: HTTPStatus, text: str) -> None:
        """Answer without the application, and close."""
        self._leave(conn)
        with contextlib.suppress(OSError):
            conn.sock.send(_answer(status, text), socket.MSG_DONTWAIT)
        self._close(conn)

    def _close(self, conn: Connection) -> None:
        """Say that nothing more comes, and wait for the client to close: else it could lose our last words."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        self._enter(conn, Phase.CLOSING, time.monotonic() + LINGER, self._on_leftover)
        self._on_leftover(conn, conn.sock)

    def _on_leftover(self, conn: Connection, _sock: object) -> None:
        try:
            size = len(conn.sock.recv(PIECE))
        except BlockingIOError:
            return
        except OSError:
            size = 0
        conn.forgotten += size
        if not size or conn.forgotten > LINGER_BYTES:
            self._drop(conn)

    def _drop(self, conn: Connection) -> None:
        """Close at once."""
        self._leave(conn)
        self._counts[conn.local] -= 1
        with contextlib.suppress(OSError):
            conn.sock.close()

    def _sweep(self) -> None:
        """Let those go whose time is up; a client in the middle of a request is told so."""
        now = time.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP
        for conn in [conn for conn in self._in_loop if conn.deadline <= now]:
            if conn.phase is Phase.READING and conn.incoming.state is State.PARTIAL:
                self._end_with(conn, HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
            else:
                self._drop(conn)
        self._spare.take_back()
        if self._refused:
            log.warning("server.connections_refused", count=self._refused, open=sum(self._counts.values()))
            self._refused = 0

    # -- the loop

    def _enter(
        self,
        conn: Connection,
        phase: Phase,
        deadline: float,
        callback: Callable[[Connection, object], None],
        event: int = selectors.EVENT_READ,
    ) -> None:
        """Put a connection into the loop."""
        conn.phase, conn.deadline = phase, deadline
        self._in_loop[conn] = None
        self.poller.register(conn.sock, event, partial(callback, conn))

    def _leave(self, conn: Connection) -> None:
        """Take a connection out of the loop, if it is there."""
        if conn not in self._in_loop:
            return
        del self._in_loop[conn]
        self._held[conn.local] -= conn.held
        conn.held = 0
        for waiting in (self._idle, self._partial, self._writing):
            waiting[conn.local].pop(conn, None)
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)


def _answer(status: HTTPStatus, text: str) -> bytes:
    body = f"{text}\n".encode()
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
