"""The least speed of a transfer: whoever sends a byte now and then holds a pull no longer than a silent server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from urllib3.response import BaseHTTPResponse

from hyperd.config.model import RegistryConfig
from hyperd.errors import Timeout


class TooSlow(Timeout):
    """A server takes or gives less than the least number of bytes a second."""


class Pace:
    """Watches one transfer. Only the time counts in which the other side was waited for.

    Args:
        config: ``min_rate`` bytes a second, on the average of ``min_rate_seconds``.
        host: for the error.

    """

    def __init__(self, config: RegistryConfig, host: str) -> None:
        self._rate = config.min_rate
        self._window = config.min_rate_seconds
        self._host = host
        self._waited = 0.0
        self._moved = 0

    def read(self, response: BaseHTTPResponse, size: int) -> bytes:
        """Return what has come of an answer, at most ``size`` bytes; empty at its end.

        Raises:
            TooSlow: it comes too slowly. And what urllib3 raises.

        """
        with self.waiting():
            data = response.read1(size)
            self._moved += len(data)
        return data

    def head(self, response: BaseHTTPResponse, limit: int) -> bytes:
        """Return an answer's first ``limit`` bytes. Errors: as ``read``."""
        body = bytearray()
        while len(body) < limit and (data := self.read(response, limit - len(body))):
            body += data
        return bytes(body)

    @contextmanager
    def waiting(self, size: int = 0) -> Iterator[None]:
        """Count the time of the block and ``size`` bytes that are moved in it.

        Raises:
            TooSlow: as ``read``.

        """
        started = time.monotonic()
        yield
        self._moved += size
        self._waited += time.monotonic() - started
        if self._waited < self._window:
            return
        if self._moved < self._rate * self._waited:
            raise TooSlow(
                f"registry {self._host} is too slow",
                details=f"{self._moved} bytes in {self._waited:.0f} s, at least {self._rate} a second are wanted",
                resolution="try again later, ask another mirror, or lower [registry] min_rate",
            )
        self._waited, self._moved = 0.0, 0
