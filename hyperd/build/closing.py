"""Work that must not outlive the daemon: it is told to end, and waited for, when the daemon ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from hyperd.errors import Busy

log = structlog.get_logger(__name__)

CLOSE_SECONDS = 15.0


class Closing:
    """Counts pieces of work. Safe for threads."""

    def __init__(self) -> None:
        self._closing = False
        self._running = 0
        self._news = threading.Condition()

    @contextmanager
    def during(self, cancelled: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
        """Count a piece of work; give what tells it to end: the daemon's end, or ``cancelled``. Errors: Busy."""
        with self._news:
            if self._closing:
                raise Busy("the daemon is ending")
            self._running += 1
        try:
            yield lambda: self._closing or cancelled()
        finally:
            with self._news:
                self._running -= 1
                self._news.notify_all()

    def close(self) -> None:
        """End all work and wait for a moment until it has ended."""
        until = time.monotonic() + CLOSE_SECONDS
        with self._news:
            self._closing = True
            while self._running and (left := until - time.monotonic()) > 0:
                self._news.wait(left)
            if self._running:
                log.warning("build.not_ended", running=self._running)
