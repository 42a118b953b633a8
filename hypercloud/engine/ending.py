"""Connections that some threads use while another one ends them.

Who closes a socket while somebody is inside a call on it gives its number away. The next connection has that number,
and what the call still reads or writes is then another client's: a TLS library that finds the end of what it reads
sends an alert, for one. So a connection in use is only shut down, which wakes whoever waits for it, and who uses it
last closes it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Shared:
    """One connection.

    Args:
        hang_up: shuts it down without closing it; must not block.
        close: closes it. Errors of both are of no interest: it is over in any case.

    """

    def __init__(self, hang_up: Callable[[], object], close: Callable[[], object]) -> None:
        self._hang_up = hang_up
        self._close = close
        self._lock = threading.Lock()
        self._users = 0
        self._over = False

    @property
    def over(self) -> bool:
        """Whether somebody has ended it."""
        return self._over

    @contextlib.contextmanager
    def using(self) -> Iterator[bool]:
        """Keep it from being closed while the block runs; yield whether it may still be used."""
        with self._lock:
            alive = not self._over
            self._users += alive
        try:
            yield alive
        finally:
            if alive:
                self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._over and self._users == 0
        if last:
            with contextlib.suppress(Exception):
                self._close()

    def end(self) -> None:
        """End it, from any thread; it is closed now, or by who uses it last."""
        with self._lock:
            if self._over:
                return
            self._over = True
            with contextlib.suppress(Exception):
                self._hang_up()
            if self._users:
                return
        with contextlib.suppress(Exception):
            self._close()


def hang_up(found: Any) -> None:
    """Shut a socket down in both directions; None is fine. That of a TLS connection stays one. Errors: OSError."""
    if found is not None:
        socket.socket.shutdown(found, socket.SHUT_RDWR)
