"""Transfers in threads of their own: their events come to the caller's thread, and the caller can end them at once."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from hyperd.errors import Cancelled, HyperError
from hyperd.image.progress import ImageEvent, Sink
from hyperd.registry.transport import Stop

log = structlog.get_logger(__name__)

_CLOSE_SECONDS = 5.0
_POLL = 0.2  # seconds between two looks at ``cancelled``
_QUEUED = 4096

_T = TypeVar("_T")


class Workers:
    """The transfers that are running. Safe for threads."""

    def __init__(self) -> None:
        self._running: dict[Stop, threading.Thread] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """End all transfers and wait for a moment until they have ended."""
        with self._lock:
            running = dict(self._running)
        for stop in running:
            stop.set()
        until = time.monotonic() + _CLOSE_SECONDS
        for worker in running.values():
            worker.join(max(until - time.monotonic(), 0))

    def run(
        self,
        name: str,
        work: Callable[[Sink, Stop], _T],
        *,
        progress: Sink,
        cancelled: Callable[[], bool],
    ) -> _T:
        """Do a piece of work; give what it gives.

        Args:
            name: of the thread.
            work: gets where its events go and what ends it.
            progress: gets the events, in the caller's thread.
            cancelled: asked five times a second, in the caller's thread.

        When ``progress`` or ``cancelled`` raises, or ``cancelled`` says yes, the call ends at once.

        Raises:
            Cancelled: ``cancelled`` said yes.
            Whatever the work raises.

        """
        events: queue.Queue[ImageEvent | None] = queue.Queue(_QUEUED)
        stop, result = Stop(), _Result[_T]()
        worker = threading.Thread(target=self._work, args=(name, work, stop, events, result), name=name, daemon=True)
        with self._lock:
            self._running[stop] = worker
        worker.start()
        try:
            _pump(events, worker, progress, cancelled)
        except BaseException:
            stop.set()
            raise
        worker.join()
        return result.get()

    def _work(
        self,
        name: str,
        work: Callable[[Sink, Stop], _T],
        stop: Stop,
        events: queue.Queue[ImageEvent | None],
        result: _Result[_T],
    ) -> None:
        def sink(event: ImageEvent) -> None:
            with contextlib.suppress(queue.Full):  # a client that does not read shall not stop the work
                events.put_nowait(event)

        try:
            result.values.append(work(sink, stop))
        except BaseException as exc:
            if not isinstance(exc, HyperError):
                log.exception("transfer-failed", work=name)
            result.error = exc
        finally:
            with self._lock:
                self._running.pop(stop, None)
            with contextlib.suppress(queue.Full):
                events.put_nowait(None)  # when it is full, the caller sees that the thread has ended


class _Result(Generic[_T]):
    def __init__(self) -> None:
        self.values: list[_T] = []
        self.error: BaseException | None = None

    def get(self) -> _T:
        if self.error is not None:
            raise self.error
        return self.values[0]


def _pump(
    events: queue.Queue[ImageEvent | None], worker: threading.Thread, progress: Sink, cancelled: Callable[[], bool]
) -> None:
    while True:
        try:
            event = events.get(timeout=_POLL)
        except queue.Empty:
            if not worker.is_alive():
                return
        else:
            if event is None:
                return
            progress(event)
        if cancelled():
            raise Cancelled("the transfer was cancelled")
