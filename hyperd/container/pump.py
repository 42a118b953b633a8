"""Data that one thread makes and another one takes, so that what the maker holds stays in its thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from hyperd.errors import Cancelled

AHEAD = 16  # pieces
_POLL = 0.25  # seconds

Write = Callable[[bytes], None]


def pumped(name: str, work: Callable[[Write, Callable[[], bool]], None]) -> Iterator[bytes]:
    """Run ``work`` in a thread of its own and return the pieces it writes; it begins with the first one asked for.

    Args:
        name: of the thread.
        work: gets a function that takes a piece and waits while too many are waiting, and one that tells whether
            nobody wants any more; then the first raises Cancelled.

    Errors of the work are raised after the pieces that came before them. To close the iterator ends the work.

    """
    pieces: queue.Queue[bytes | None] = queue.Queue(AHEAD)
    left = threading.Event()
    failure: list[BaseException] = []

    def write(piece: bytes) -> None:
        while not left.is_set():
            try:
                pieces.put(piece, timeout=_POLL)
            except queue.Full:
                continue
            return
        raise Cancelled("the reader has stopped")

    def run() -> None:
        try:
            work(write, left.is_set)
        except BaseException as error:
            failure.append(error)
        while not left.is_set():
            try:
                pieces.put(None, timeout=_POLL)
            except queue.Full:
                continue
            return

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            yield piece
        if failure:
            raise failure[0]
    finally:
        left.set()
        thread.join()
