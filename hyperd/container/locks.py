"""One lock per pod, taken with a purpose that a waiting caller is told when it gives up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hyperd.errors import Busy

WAIT = 120.0


class _Lock:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.purpose = ""
        self.users = 0


class PodLocks:
    """Locks by pod id; a lock exists while somebody holds or wants it."""

    def __init__(self) -> None:
        self._locks: dict[str, _Lock] = {}
        self._guard = threading.Lock()

    @contextmanager
    def locked(self, pod_id: str, purpose: str) -> Iterator[None]:
        """Hold the pod's lock. The same thread may take it again. Errors: Busy after two minutes."""
        with self._guard:
            lock = self._locks.setdefault(pod_id, _Lock())
            lock.users += 1
        try:
            if not lock.lock.acquire(timeout=WAIT):
                raise Busy(f"the pod {pod_id} is busy", details=f"another request does: {lock.purpose}")
            before, lock.purpose = lock.purpose, purpose
            try:
                yield
            finally:
                lock.purpose = before
                lock.lock.release()
        finally:
            with self._guard:
                lock.users -= 1
                if not lock.users:
                    self._locks.pop(pod_id, None)
