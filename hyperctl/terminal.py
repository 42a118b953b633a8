"""The user's terminal and the signals that come from it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hyperctl.api.errors import Left, UsageProblem
from hyperctl.api.streams import STDIN, STDOUT

_LEAVING = (signal.SIGTERM, signal.SIGHUP)
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
_PATIENCE = 3  # the third signal is for hyperctl itself


def require_terminal() -> None:
    """Check that -t makes sense.

    Raises:
        UsageProblem: stdin is not a terminal.

    """
    if not os.isatty(STDIN):
        raise UsageProblem("-t needs a terminal: stdin is not one")


def window_size() -> tuple[int, int] | None:
    """Return rows and columns of the terminal, None when it does not say."""
    for descriptor in (STDIN, STDOUT):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if size.lines and size.columns:
            return size.lines, size.columns
    return None


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Pass every key through as it is typed; the old mode comes back whatever happens."""
    import termios
    import tty

    before = termios.tcgetattr(STDIN)
    try:
        tty.setraw(STDIN, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


@contextmanager
def _handlers(numbers: tuple[signal.Signals, ...], handler: Callable[[int], None]) -> Iterator[None]:
    def call(number: int, _: FrameType | None) -> None:
        handler(number)

    before = [(number, signal.signal(number, call)) for number in numbers]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)


@contextmanager
def leaving() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into Left, so that clean-up runs."""

    def leave(number: int) -> None:
        raise Left(number)

    with _handlers(_LEAVING, leave):
        yield


@contextmanager
def patient() -> Iterator[Callable[[], None]]:
    """Put SIGINT, SIGTERM and SIGHUP off: something begun must be finished; a second one interrupts all the same.

    Yields a function that raises for the signal that came, to be called when it may take effect.
    """
    came: list[int] = []

    def note(number: int) -> None:
        if came:
            raise Left(number)
        came.append(number)

    def check() -> None:
        if came:
            raise Left(came[0])

    with _handlers((signal.SIGINT, *_LEAVING), note):
        yield check


@contextmanager
def forwarding(send: Callable[[int], None]) -> Iterator[None]:
    """Give SIGINT, SIGTERM and SIGQUIT to `send`, in a thread; the third one raises Left.

    The handler itself starts the thread, so a signal gets through even while stdout is blocked.
    """
    import threading

    count = 0

    def handle(number: int) -> None:
        nonlocal count
        count += 1
        if count >= _PATIENCE:
            raise Left(number)
        threading.Thread(target=send, args=(number,), daemon=True).start()

    with _handlers(_FORWARDED, handle):
        yield


@contextmanager
def resized() -> Iterator[int]:
    """Yield a descriptor that gets a byte for every change of the window's size."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    try:
        with _handlers((signal.SIGWINCH,), lambda _: None):
            yield readable
    finally:
        signal.set_wakeup_fd(before)
        os.close(readable)
        os.close(writable)


def interactive() -> bool:
    """Say whether questions can be asked: stdin and stderr are a terminal."""
    return os.isatty(STDIN) and sys.stderr.isatty()
