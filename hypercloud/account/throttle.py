"""Slowing down who guesses: each wrong attempt after the first few doubles the time to wait.

Counted by the pair of name and address, by address, and (ten times more patient, so that nobody can lock out somebody
else easily) by name. Attempts are forgotten a quarter of an hour after the last time to wait has ended; kept in
memory: a restart forgets them, too.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from hypercloud.config.model import LoginConfig
from hypercloud.errors import TooManyRequests

REMEMBERED = 20_000  # keys; the oldest are forgotten
FORGOTTEN = 900.0  # seconds after the end of the last time to wait


class Throttle:
    """Counts wrong attempts.

    Args:
        config: how many are free, and how long to wait after that.

    """

    def __init__(self, config: LoginConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def check(self, name: str, address: str) -> None:
        """Raise TooManyRequests while this name or address has to wait."""
        now = time.monotonic()
        with self._lock:
            wait = max(self._failures.get(key, (0, 0.0))[1] - now for key, _ in self._keys(name, address))
        if wait > 0:
            raise TooManyRequests(
                "too many wrong attempts", after=wait, resolution=f"wait {int(wait) + 1} s and try again"
            )

    def failed(self, name: str, address: str) -> None:
        """Count a wrong attempt."""
        now = time.monotonic()
        with self._lock:
            for key, free in self._keys(name, address):
                before, until = self._failures.pop(key, (0, 0.0))
                count = 1 + (before if now - until < FORGOTTEN else 0)
                wait = 0.0
                if count >= free:
                    wait = min(self._config.wait * 2 ** min(count - free, 30), self._config.longest_wait)
                self._failures[key] = (count, now + wait)
            while len(self._failures) > REMEMBERED:
                self._failures.popitem(last=False)

    def succeeded(self, name: str, address: str) -> None:
        """Forget the wrong attempts of this address, but those that it made with other names."""
        (pair, _), (of_address, _), _ = self._keys(name, address)
        with self._lock:
            self._failures.pop(pair, None)
            self._failures.pop(of_address, None)

    def _keys(self, name: str, address: str) -> list[tuple[tuple[str, str], int]]:
        free = self._config.attempts
        return [
            (("pair", f"{name[:100]}@{address}"), free),
            (("address", address), free * 4),
            (("name", name[:100]), free * 10),
        ]
