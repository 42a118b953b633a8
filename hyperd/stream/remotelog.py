"""A container's log that goes somewhere else line by line: syslog, the journal.

A line counts as safe when the kernel has taken it for the receiver. While the receiver takes lines slowly the container
waits, as it does for its log file; a receiver that has taken nothing for some seconds is down: then all but the newest
lines are dropped and counted, so that it never holds a container up for good. After ``kill -9`` of the daemon the
guest sends again what was not safe: every line arrives once or twice, not never.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from hyperd.errors import HyperError
from hyperd.stream.channels import Address, Channel, connect
from hyperd.stream.logs import split_lines
from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)

PATIENCE = 5.0  # seconds of silence after which a receiver is down
KEEP = 65_536  # bytes of lines kept for one that is down
RETRY = 0.5
LINGER = 30.0  # seconds that the last lines of an ended container may take
SEND_TIMEOUT = 5.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line (or a piece of a long one) without its newline; ``end`` is the offset behind it in its stream."""

    stream: str
    text: bytes
    time_ns: int
    end: int
    partial: bool


class RemoteLog:
    """Sends the log of one container's run. Belongs to the relay's thread.

    Args:
        address: the receiver.
        encode: makes the message of a line.
        on_dropped: told how many lines were dropped, for the counters of the daemon.

    """

    def __init__(
        self,
        relay: Relay,
        address: Address,
        encode: Callable[[Entry], bytes],
        *,
        on_dropped: Callable[[int], object] = lambda _count: None,
    ) -> None:
        self.relay = relay
        self.address = address
        self.persisted: dict[str, int] = {}
        self.listeners: set[Callable[[], None]] = set()
        self.on_progress: Callable[[], object] = lambda: None
        self.dropped = 0
        self._encode = encode
        self._on_dropped = on_dropped
        self._queue: deque[Entry] = deque()
        self._queued = 0
        self._partial: dict[str, bytes] = {}
        self._given: dict[str, int] = {}
        self._ended: set[str] = set()
        self._down_since: float | None = None
        self._unsaid = 0
        self._finished = False
        self._channel: Channel | None = None
        self._task: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return str(self.address)

    def write(self, stream: str, data: bytes, time_ns: int) -> None:
        """Take bytes; whole lines are on their way at once."""
        pieces, rest = split_lines(self._partial.get(stream, b"") + data)
        self._partial[stream] = rest
        for piece in pieces:
            self._enqueue(stream, piece, time_ns)

    def flush(self, stream: str, time_ns: int) -> None:
        """Take what is left of a last line."""
        rest = self._partial.pop(stream, b"")
        if rest:
            self._enqueue(stream, rest, time_ns)
        self._ended.add(stream)
        if self._down_since is not None:
            self._give_up_waiting()

    def finish(self) -> None:
        """Send what is queued within some time, then close."""
        if self._finished:
            return
        self._finished = True
        if self._queue:
            self.relay.loop.call_later(LINGER, self._give_up)
        else:
            self._close()

    def notify(self) -> None:
        """Nobody follows such a log."""

    def _enqueue(self, stream: str, piece: bytes, time_ns: int) -> None:
        end = max(self._given.get(stream, 0), self.persisted.get(stream, 0)) + len(piece)
        self._given[stream] = end
        whole = piece.endswith(b"\n")
        text = piece.removesuffix(b"\n")
        self._queue.append(Entry(stream=stream, text=text, time_ns=time_ns, end=end, partial=not whole))
        self._queued += len(text)
        self._trim()
        if self._task is None or self._task.done():
            self._task = self.relay.task(self._pump())

    async def _pump(self) -> None:
        while self._queue:
            entry = self._queue[0]
            try:
                await asyncio.wait_for(self._send(self._encode(entry)), SEND_TIMEOUT)
            except (OSError, TimeoutError, HyperError) as error:
                self._disconnect()
                if isinstance(error, OSError) and error.errno == errno.EMSGSIZE:
                    self._drop_first()
                    continue
                self._failed(error)
                await asyncio.sleep(RETRY)
                continue
            self._worked()
            if self._queue and self._queue[0] is entry:
                self._take_first()
            self.on_progress()
        if self._finished:
            self._close()

    async def _send(self, message: bytes) -> None:
        if self._channel is None:
            self._channel = await connect(self.address)
        await self._channel.send(message)

    def _worked(self) -> None:
        if self._down_since is not None:
            log.info("log.receiver_back", log=str(self), dropped=self._unsaid)
        self._down_since, self._unsaid = None, 0

    def _failed(self, error: Exception) -> None:
        if self._down_since is None:
            self._down_since = self.relay.loop.time()
            log.warning("log.receiver_down", log=str(self), error=str(error) or type(error).__name__)
            self.relay.loop.call_later(PATIENCE, self._trim)
        self._give_up_waiting()
        self._trim()

    def _give_up_waiting(self) -> None:
        """Let a container end although its last lines wait for a receiver that is down."""
        for stream in self._ended:
            self.persisted[stream] = max(self.persisted.get(stream, 0), self._given.get(stream, 0))
        if self._ended:
            self.relay.loop.call_soon(self.on_progress)

    def _trim(self) -> None:
        """Drop the oldest lines for a receiver that has been down for some time."""
        if self._down_since is None or self.relay.loop.time() - self._down_since < PATIENCE:
            return
        before = self.dropped
        while self._queued > KEEP:
            self._drop_first()
        if self.dropped > before:
            self.relay.loop.call_soon(self.on_progress)

    def _drop_first(self) -> None:
        self._take_first()
        if not self._unsaid:
            log.warning("log.lines_dropped", log=str(self))
        self.dropped += 1
        self._unsaid += 1
        self._on_dropped(1)

    def _take_first(self) -> None:
        entry = self._queue.popleft()
        self._queued -= len(entry.text)
        self.persisted[entry.stream] = max(self.persisted.get(entry.stream, 0), entry.end)

    def _give_up(self) -> None:
        if self._queue:
            log.warning("log.tail_lost", log=str(self), lines=len(self._queue))
        while self._queue:
            self._drop_first()
        self._close()

    def _close(self) -> None:
        if self._task is not None and self._task is not asyncio.current_task(self.relay.loop):
            self._task.cancel()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
