"""Reading a daemon's stream of events."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from tests.support.daemon import HyperdLauncher, UnixConnection

Event = dict[str, Any]


class EventReader:
    """One open stream; the subscription is there when this has been made."""

    def __init__(self, daemon: HyperdLauncher, *, filters: Mapping[str, Any] | None = None, since: float = 0) -> None:
        query = {"filters": json.dumps(filters)} if filters else {}
        # The past is asked for, so that nothing is missed between the head and the subscription.
        query["since"] = f"{since or time.time():.9f}"
        self._connection = UnixConnection(daemon.socket, timeout=150)
        self._connection.request("GET", "/events?" + urllib.parse.urlencode(query))
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._answer.close()
        self._connection.close()

    def next(self) -> Event:
        """Wait for the next event."""
        line = self._answer.readline()
        assert line.endswith(b"\n"), line
        found: Event = json.loads(line)
        return found

    def until(self, last: Callable[[Event], bool]) -> list[Event]:
        """Return the events up to (and with) one that ``last`` likes."""
        found = [self.next()]
        while not last(found[-1]):
            found.append(self.next())
        return found


def past_events(daemon: HyperdLauncher, *, since: float, filters: Mapping[str, Any] | None = None) -> list[Event]:
    """Return the events from then until now."""
    query = {"since": f"{since:.9f}", "until": f"{time.time():.9f}", "filters": json.dumps(filters or {})}
    connection = UnixConnection(daemon.socket, timeout=150)
    with contextlib.closing(connection):
        connection.request("GET", "/events?" + urllib.parse.urlencode(query))
        answer = connection.getresponse()
        assert answer.status == 200
        return [json.loads(line) for line in answer.read().splitlines()]
