"""Work whose answer may take longer than a thread of the HTTP server can wait for it.

``Background`` does a piece of work in a thread of its own. The view waits for a moment: what has been done, has
failed or has begun to speak by then is answered in the ordinary way. Else the connection is taken from the HTTP server,
whose thread is free again, and the answer is sent from here: also an error that comes late has the status and the form
that the dialect gives it. ``Progress``, ``Waiting``, ``Finishing``, and ``bodies.Download`` and ``waiting.HeadFirst``
beside this module, say only how the answer looks.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog
from flask import Response, copy_current_request_context, current_app, g, request

from hyperd.api import takeover
from hyperd.api.context import is_local
from hyperd.errors import Busy, Cancelled, HyperError, ProgramFailed
from hyperd.stream.frames import LAST_CHUNK, chunk

log = structlog.get_logger(__name__)

JSON = "application/json"
SEND_TIMEOUT = 60.0  # seconds a client may take none of what is sent
INLINE_WAIT = 1.0  # seconds a wait may hold a thread of the HTTP server
INLINE_WAITERS = 8  # threads of the HTTP server that may be held so at a time
MAX_LOCAL, MAX_REMOTE = 1024, 256  # works at a time, for callers on unix sockets and over TCP
LEFT = select.POLLHUP | select.POLLERR | select.POLLRDHUP

Line = Mapping[str, Any]
Send = Callable[[bytes], None]
Asked = Callable[[], bool]
_inline = threading.BoundedSemaphore(INLINE_WAITERS)
_running = {True: threading.BoundedSemaphore(MAX_LOCAL), False: threading.BoundedSemaphore(MAX_REMOTE)}


@contextlib.contextmanager
def inline_wait() -> Iterator[float]:
    """Yield the seconds that a view may wait now; none when enough others wait already."""
    if not _inline.acquire(blocking=False):
        yield 0.0
        return
    try:
        yield INLINE_WAIT
    finally:
        _inline.release()


class CancelToken:
    """Tells work that nobody wants it any more: it was cancelled, or the client has left. Safe for threads."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._sock: socket.socket | None = None

    def watch(self, sock: socket.socket) -> None:
        """Look at a client's connection, too, from now on."""
        self._sock = sock

    def cancel(self) -> None:
        """Cancel the work."""
        self._cancelled.set()

    def __call__(self) -> bool:
        """Return whether the work can stop; services take this as ``cancelled``."""
        if not self._cancelled.is_set() and self._sock is not None and has_left(self._sock):
            self._cancelled.set()
        return self._cancelled.is_set()


@dataclass(frozen=True, kw_only=True)
class Form:
    """How the answer of a piece of work looks.

    Args:
        content_type, status: of a good answer; an empty type is that of no body.
        whole: the work returns the body, which is sent with its length; else it sends pieces.
        head_first: the head is sent before the work begins. A failure is then told by ``failed``.
        headers: further ones of a good answer; not where the form is ``whole``.
        failed: makes the last piece of an answer whose head has been sent. None = the answer is cut off.

    """

    content_type: str = JSON
    status: HTTPStatus = HTTPStatus.OK
    whole: bool = False
    head_first: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    failed: Callable[[Exception], bytes] | None = None


class Background:
    """One piece of work and the client that waits for it.

    Args:
        name: of the thread.
        work: gets a function that sends a piece (it blocks while the client is slow), and a cancel token. Returns the
            body where the form is ``whole``, else nothing.
        form: of the answer.
        close: called when the work is never begun.

    """

    def __init__(
        self,
        name: str,
        work: Callable[[Send, CancelToken], bytes | None],
        form: Form,
        *,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = name
        self._work = work
        self._form = form
        self._close = close
        self._token = CancelToken()
        self._changed = threading.Condition()
        self._spoken = self._done = self._headed = False
        self._body: bytes | None = None
        self._failure: Exception | None = None
        self._taken: takeover.Taken | None = None
        self._late: Callable[[Exception], Response] | None = None
        self._request_id = ""

    def respond(self) -> Response:
        """Begin the work and answer.

        Errors: those of the work that come soon; Busy when too much is done already; HostFault, NotSupported when
        connections cannot be taken over.
        """
        slot = _running[is_local()]
        if not slot.acquire(blocking=False):
            self._close()
            raise Busy("too many requests of this kind are being worked on", resolution="try again later")
        self._request_id = g.get("request_id", "")
        self._late = _late_errors(self._request_id)
        if self._form.head_first:
            try:
                self._take()
            except BaseException:
                slot.release()
                self._close()
                raise
        try:
            threading.Thread(target=self._run, args=(slot,), name=self._name, daemon=True).start()
        except RuntimeError as error:  # the host allows no more of them
            slot.release()
            self._close()
            return self._refused(Busy("no thread can be had for this request", details=str(error)))
        if self._form.head_first:
            return takeover.gone()
        try:
            return self._wait()
        except BaseException:
            self._give_up()
            raise

    def _refused(self, error: Busy) -> Response:
        """Tell the client, over its connection if that has been taken. Errors: the given one."""
        if self._taken is None:
            raise error
        self._failure = error
        self._finish(self._taken)
        return takeover.gone()

    def _wait(self) -> Response:
        with inline_wait() as seconds, self._changed:
            # Who cannot hand connections over has to wait (the test client of a unit test).
            able = "gunicorn.socket" in request.environ
            self._changed.wait_for(lambda: self._spoken or self._done, seconds if able else None)
            if self._done and not self._spoken:
                if self._failure is not None:
                    raise self._failure
                return self._response(self._body or b"")
            if request.method == "HEAD":
                self._give_up()
                return self._response(b"")
            self._take()
            return takeover.gone()

    def _response(self, body: bytes) -> Response:
        form = self._form
        response = Response(body, form.status, headers=dict(form.headers), content_type=form.content_type)
        if not form.content_type:
            response.headers.pop("Content-Type", None)
        return response

    def _take(self) -> None:
        with self._changed:
            taken = takeover.take("")
            taken.sock.settimeout(SEND_TIMEOUT)
            self._token.watch(taken.sock)
            self._taken = taken
            self._changed.notify_all()

    def _give_up(self) -> None:
        with self._changed:
            self._token.cancel()
            self._changed.notify_all()

    # -- in the thread of the work

    def _run(self, slot: threading.BoundedSemaphore) -> None:
        try:
            if self._form.head_first:
                self._send_head()
            body, failure = self._work(self._send, self._token), None
        except Exception as error:
            body, failure = None, error
        finally:
            slot.release()
        with self._changed:
            self._body, self._failure, self._done = body, failure, True
            self._changed.notify_all()
            taken = self._taken
        if taken is not None:
            self._finish(taken)

    def _send(self, piece: bytes) -> None:
        """Send a piece to the client. Errors: Cancelled when there is none any more."""
        with self._changed:
            self._spoken = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._taken is not None or self._token())
            if self._taken is None:
                raise Cancelled("no client waits for the answer")
        self._send_head()
        self._write(piece)

    def _send_head(self) -> None:
        if not self._headed and self._taken is not None:
            self._headed = True
            form = self._form
            head = takeover.stream_head(
                form.content_type, chunked=self._taken.chunked, headers=form.headers, status=form.status
            )
            self._put(head.encode("ascii"))

    def _write(self, piece: bytes) -> None:
        if piece and self._taken is not None:
            self._put(chunk(piece) if self._taken.chunked else piece)

    def _put(self, data: bytes) -> None:
        if self._taken is None or self._token():
            raise Cancelled("the client has left")
        try:
            self._taken.sock.sendall(data)
        except OSError as error:
            self._token.cancel()
            raise Cancelled("the client has left", details=str(error)) from error

    def _finish(self, taken: takeover.Taken) -> None:
        """End the answer on the taken connection."""
        with taken.sock, contextlib.suppress(OSError, Cancelled):
            if self._failure is not None:
                self._tell_failure(taken, self._failure)
            elif self._form.whole:
                body = self._body or b""
                head = takeover.whole_head(self._form.status, self._form.content_type, len(body))
                self._put(head.encode("ascii") + body)
            else:
                self._send_head()
                if taken.chunked:
                    self._put(LAST_CHUNK)
            taken.sock.shutdown(socket.SHUT_RDWR)

    def _tell_failure(self, taken: takeover.Taken, failure: Exception) -> None:
        if not self._headed and self._late is not None:
            answer = self._late(failure)
            # 499, for a client that has left, is no status of HTTP; it is seen when the daemon ends, too.
            known = answer.status_code in HTTPStatus._value2member_map_
            status = HTTPStatus(answer.status_code) if known else HTTPStatus.SERVICE_UNAVAILABLE
            body = answer.get_data()
            head = takeover.whole_head(status, answer.headers.get("Content-Type", "text/plain"), len(body))
            self._put(head.encode("ascii") + body)
            return
        if isinstance(failure, Cancelled):
            log.info("api.client_left", request=self._request_id, work=self._name, error=str(failure))
        elif not isinstance(failure, HyperError):
            log.error("api.internal_error", request=self._request_id, work=self._name, exc_info=failure)
        else:
            log.info("api.work_failed", request=self._request_id, work=self._name, error=str(failure))
        if self._form.failed is not None and not isinstance(failure, Cancelled):
            self._write(self._form.failed(failure))
            if taken.chunked:
                self._put(LAST_CHUNK)


def _late_errors(request_id: str) -> Callable[[Exception], Response]:
    """Return a function that makes the dialect's answer to an error, in any thread and after the request."""

    @copy_current_request_context
    def make(error: Exception) -> Response:
        g.request_id = request_id
        return current_app.make_response(current_app.handle_user_exception(error))

    return make


def message_of(error: Exception, request_id: str) -> str:
    """Return what the client is told of an error in the middle of an answer."""
    return (
        str(error) if isinstance(error, HyperError) else f"internal error (see the daemon's log, request {request_id})"
    )


def json_line(value: object, end: str = "\n") -> bytes:
    """Return compact JSON with an end."""
    return (json.dumps(value, separators=(",", ":")) + end).encode("utf-8", "replace")


class Progress:
    """Lines of JSON that tell how far a piece of work is.

    Args:
        name: of the thread.
        work: gets a function that takes a line, and one that tells whether the client has left.
        request_id: named when it fails with an internal error.

    """

    def __init__(self, name: str, work: Callable[[Callable[[Line], None], Asked], object], *, request_id: str) -> None:
        def failed(error: Exception) -> bytes:
            message = message_of(error, request_id)
            code = {"code": error.code} if isinstance(error, ProgramFailed) else {}
            return json_line({"errorDetail": {**code, "message": message}, "error": message}, "\r\n")

        def run(send: Send, cancelled: CancelToken) -> None:
            def line(value: Line) -> None:
                # The work learns from ``cancelled`` that its client has left; some of it must be undone first.
                with contextlib.suppress(Cancelled):
                    send(json_line(value, "\r\n"))

            work(line, cancelled)

        self._background = Background(name, run, Form(failed=failed))

    def respond(self) -> Response:
        """Stream the lines. Errors: what the work raised before a line, if it comes soon; as Background.respond."""
        return self._background.respond()


class Waiting:
    """A question whose answer may take as long as a container runs.

    Args:
        name: of the thread.
        ask: gets a function that tells whether the client has left, gives the answer as JSON value.
        status, content_type: of the answer.

    """

    def __init__(
        self,
        name: str,
        ask: Callable[[Asked], Any],
        *,
        request_id: str,
        status: int = HTTPStatus.OK,
        content_type: str = JSON,
    ) -> None:
        del request_id  # the dialect's error answers name it

        def run(_send: Send, cancelled: CancelToken) -> bytes:
            return json_line(ask(cancelled))

        form = Form(whole=True, status=HTTPStatus(status), content_type=content_type)
        self._background = Background(name, run, form)

    def respond(self) -> Response:
        """Return the answer. Errors: those of the question that come soon; as Background.respond."""
        return self._background.respond()


class Finishing:
    """Work that may take as long as a container takes to end, and whose good answer is known before.

    It goes on when its client leaves.

    Args:
        name: of the thread.
        work: is done.
        answer: then given.

    """

    def __init__(self, name: str, work: Callable[[], object], answer: Response) -> None:
        body = answer.get_data()

        def run(_send: Send, _cancelled: CancelToken) -> bytes:
            work()
            return body

        kind = answer.headers.get("Content-Type", "")
        self._background = Background(
            name, run, Form(whole=True, content_type=kind, status=HTTPStatus(answer.status_code))
        )

    def respond(self) -> Response:
        """Return the answer. Errors: those of the work that come soon; as Background.respond."""
        return self._background.respond()


def has_left(sock: socket.socket) -> bool:
    """Return whether the other side has closed its end."""
    poller = select.poll()
    try:
        poller.register(sock, LEFT)
        return any(event & LEFT for _, event in poller.poll(0))
    except (OSError, ValueError):
        return True
