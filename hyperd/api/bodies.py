"""Bodies of any size: read piece by piece in the view, sent piece by piece from a thread of their own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

import structlog
from flask import Response, request

from hyperd.api import takeover
from hyperd.api.background import SEND_TIMEOUT, has_left
from hyperd.errors import Busy, Cancelled, HyperError
from hyperd.stream.frames import LAST_CHUNK, chunk

log = structlog.get_logger(__name__)

MAX_UPLOADS = 8  # each holds a thread of the HTTP server
PIECE = 256 * 1024
UNLIMITED = 2**63  # None would mean the application's own limit
DRAIN_READS = 1024  # pieces that are read of a body that was refused: most clients look at the answer only after it
_uploads = threading.BoundedSemaphore(MAX_UPLOADS)


@contextlib.contextmanager
def uploaded() -> Iterator[Iterator[bytes]]:
    """Give the request's body; when the block fails, what the client still sends is read, within bounds.

    Errors: Busy; Cancelled from the iterator when the client leaves in the middle.
    """
    if not _uploads.acquire(blocking=False):
        raise Busy(f"{MAX_UPLOADS} uploads are under way", resolution="try again")
    try:
        chunks = _pieces()
        try:
            yield chunks
        except Cancelled:
            raise
        except HyperError:
            with contextlib.suppress(Cancelled):
                for _, _ in zip(range(DRAIN_READS), chunks, strict=False):
                    pass
            raise
    finally:
        _uploads.release()


def _pieces() -> Iterator[bytes]:
    request.max_content_length = UNLIMITED
    wanted, got = request.content_length, 0
    while True:
        try:
            piece = request.stream.read(PIECE)
        except Exception as error:  # the HTTP server's own classes, and those of the socket
            raise Cancelled("the client left while it sent", details=str(error)[:200]) from error
        if not piece:
            break
        got += len(piece)
        yield piece
    if wanted is not None and got < wanted:
        raise Cancelled("the client left while it sent", details=f"{got} of {wanted} bytes came")


class Download:
    """A body that is made while it is sent.

    Args:
        name: of the thread.
        make: gets a function that tells whether the client has left, gives the pieces.
        content_type: of the answer. headers: further ones.

    """

    def __init__(
        self,
        name: str,
        make: Callable[[Callable[[], bool]], Iterator[bytes]],
        *,
        content_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._headers = dict(headers or {})
        self._content_type = content_type
        self._taken: takeover.Taken | None = None
        self._pieces = make(self._left)

    def respond(self) -> Response:
        """Make the first piece and stream the rest. Errors: whatever comes before the first piece is there."""
        first = next(self._pieces, b"")
        head = takeover.stream_head(self._content_type, chunked=takeover.speaks_chunks(), headers=self._headers)
        if request.method == "HEAD":
            self._close()
            return Response(status=200, content_type=self._content_type, headers=self._headers)
        try:
            self._taken = takeover.take(head)
        except BaseException:
            self._close()
            raise
        threading.Thread(target=self._run, args=(self._taken, first), name=self._name, daemon=True).start()
        return takeover.gone()

    def _left(self) -> bool:
        return self._taken is not None and has_left(self._taken.sock)

    def _run(self, taken: takeover.Taken, first: bytes) -> None:
        with taken.sock as sock:
            try:
                sock.settimeout(SEND_TIMEOUT)
                self._send(taken, first)
                for piece in self._pieces:
                    self._send(taken, piece)
                if taken.chunked:
                    sock.sendall(LAST_CHUNK)
            except OSError as error:
                log.info("api.client_left", work=self._name, error=str(error))
            except HyperError as error:  # without the last chunk the client knows that this is not all
                log.warning("api.download_broken", work=self._name, error=str(error))
            except Exception:
                log.exception("api.internal_error", work=self._name)
            finally:
                self._close()

    def _send(self, taken: takeover.Taken, piece: bytes) -> None:
        if piece:
            taken.sock.sendall(chunk(piece) if taken.chunked else piece)

    def _close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
