"""Answers whose head is sent at once and whose body comes when something has happened.

A client that starts a container only when it knows that somebody waits for it needs the head first.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import structlog
from flask import Response

from hyperd.api import takeover
from hyperd.api.background import SEND_TIMEOUT, has_left
from hyperd.errors import Cancelled
from hyperd.stream.frames import LAST_CHUNK, chunk

log = structlog.get_logger(__name__)


class HeadFirst:
    """A question that was registered before the answer's head is sent.

    Args:
        name: of the thread.
        ask: gets a function that tells whether the client has left, returns the answer as JSON value.
        failed: makes the answer when ``ask`` raised something.
        close: gives the question up when it is never asked.

    """

    def __init__(
        self,
        name: str,
        ask: Callable[[Callable[[], bool]], Any],
        *,
        failed: Callable[[Exception], Any],
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = name
        self._ask = ask
        self._failed = failed
        self._close = close

    def respond(self) -> Response:
        """Send the head; the rest is sent by a thread of its own. Errors: HostFault, NotSupported (no take-over)."""
        chunked = takeover.speaks_chunks()
        try:
            taken = takeover.take(takeover.stream_head("application/json", chunked=chunked))
        except BaseException:
            self._close()
            raise
        threading.Thread(target=self._run, args=(taken,), name=self._name, daemon=True).start()
        return takeover.gone()

    def _run(self, taken: takeover.Taken) -> None:
        with taken.sock as sock:
            try:
                value = self._ask(lambda: has_left(sock))
            except Cancelled:
                return  # the client has left, or the daemon ends: the answer is cut off
            except Exception as error:
                log.warning("api.wait_failed", work=self._name, error=str(error))
                value = self._failed(error)
            data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
            with contextlib.suppress(OSError):
                sock.settimeout(SEND_TIMEOUT)
                sock.sendall(chunk(data) + LAST_CHUNK if taken.chunked else data)
                sock.shutdown(socket.SHUT_RDWR)
