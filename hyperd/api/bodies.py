"""Bodies of any size: read piece by piece in the view, sent piece by piece from a thread of their own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

import structlog
from flask import Response, request

from hyperd.api.background import Background, CancelToken, Form, Send
from hyperd.errors import Busy, Cancelled, HyperError

log = structlog.get_logger(__name__)

MAX_UPLOADS = 8  # each holds a thread of the HTTP server
PIECE = 256 * 1024
UNLIMITED = 2**63  # None would mean the application's own limit
DRAIN_READS = 1024  # pieces that are read of a body that was refused: most clients look at the answer only after it
_uploads = threading.BoundedSemaphore(MAX_UPLOADS)


@contextlib.contextmanager
def uploaded() -> Iterator[Iterator[bytes]]:
    """Yield the request's body; when the block fails, what the client still sends is read, within bounds.

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
        def run(send: Send, cancelled: CancelToken) -> None:
            pieces = make(cancelled)
            try:
                for piece in pieces:
                    send(piece)
            finally:
                close = getattr(pieces, "close", None)
                if close is not None:
                    close()

        # Without the last chunk the client of a broken download knows that this is not all.
        self._background = Background(name, run, Form(content_type=content_type, headers=dict(headers or {})))

    def respond(self) -> Response:
        """Stream the pieces. Errors: what comes before the first piece, if it comes soon; as Background.respond."""
        return self._background.respond()
