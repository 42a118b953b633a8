"""A hub joins the outputs of one process with its log and with every client that is attached.

Bytes are acknowledged to the guest only when the log has them on disk and no client lags too far behind: a slow
client slows its own process, nothing else. All of it belongs to the relay's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from hyperd.stream.client import Client
from hyperd.stream.frames import STDERR, STDOUT, STREAM_NAMES
from hyperd.stream.logs import LogWriter
from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)

LOG_RETRY = 1.0
TRAFFIC = {"output": 0}  # bytes that all hubs of this daemon have taken; for its metrics
WINDOW = 262_144  # bytes a guest may send unacknowledged (docs/protocol.md)
BULK = 16_384  # bytes at once, from which on acknowledgements may be put together
ACK_BYTES = 3 * WINDOW // 8  # two whole frames: the guest still has two to send meanwhile
ACK_DELAY = 0.002


class Acknowledge(Protocol):
    """How a hub tells the guest what it has consumed."""

    def __call__(self, stream: int, offset: int, /) -> None:
        """Acknowledge everything before ``offset`` of stdout (1) or stderr (2)."""


class OutputHub:
    """The outputs of one process.

    Args:
        tty: raw output to clients; else Docker's multiplexed frames.
        log: where output is kept, or None.
        on_end: called once when every output has ended.

    """

    def __init__(self, relay: Relay, *, tty: bool, log_file: LogWriter | None = None) -> None:
        self.relay = relay
        self.tty = tty
        self.log = log_file
        self.on_end: Callable[[], object] = lambda: None
        if log_file is not None:
            log_file.on_progress = self._settle
        self.ended = False
        self._held = False
        self._settling = False
        self.keeping = False  # clients stay when this has ended: the same container may run again
        self._clients: dict[Client, frozenset[int]] = {}  # and which outputs each of them gets
        self._acknowledge: Acknowledge | None = None
        self._received: dict[int, int] = {}
        self._acked: dict[int, int] = {}
        self._eof: dict[int, int] = {}
        self._may_skip: set[int] = set()
        self._unlogged: list[tuple[int, bytes, int]] = []
        self._last_data = 0.0
        self._expected: tuple[int, ...] = (STDOUT,) if tty else (STDOUT, STDERR)

    def connect(self, acknowledge: Acknowledge, offsets: dict[int, int] | None = None) -> None:
        """Join the guest's streams; ``offsets`` are where they resume after a restart of the daemon."""
        self._acknowledge = acknowledge
        # What the log has lost by rotation the guest may have forgotten, too: one jump forward is right then.
        self._may_skip = set(STREAM_NAMES) if offsets is not None else set()
        self._received.update(offsets or {})
        self._acked.update(offsets or {})

    def hold(self) -> None:
        """Neither acknowledge nor end before ``release``: the process is being started.

        The guest ends the outputs of a start that fails; why it failed must still reach log and clients.
        """
        self._held = True

    def release(self) -> None:
        """Go on after ``hold``."""
        self._held = False
        self._settle()

    def resume_offsets(self) -> dict[int, int]:
        """Return the offsets that are safely on disk, by stream number."""
        if self.log is None:
            return {}
        return {number: self.log.persisted.get(name, 0) for number, name in STREAM_NAMES.items()}

    def attach(self, client: Client, streams: Collection[int] = (STDOUT, STDERR)) -> None:
        """Send this client these outputs from now on; a terminal has only stdout."""
        if self.ended and not self.keeping:
            client.finish()
            return
        self._clients[client] = frozenset(streams)
        client.on_drained = self._settle
        on_closed = client.on_closed

        def gone() -> None:
            self.detach(client)
            on_closed()

        client.on_closed = gone

    def detach(self, client: Client) -> None:
        """Send this client no more."""
        self._clients.pop(client, None)
        self._settle()

    def data(self, stream: int, offset: int, data: bytes, *, age: float = 0.0) -> None:
        """Take bytes from the guest; ``offset`` is that of the first. Bytes seen before are dropped.

        ``age``: so many seconds ago they came.
        """
        self._last_data = time.monotonic()
        seen = self._received.get(stream, 0)
        if offset < seen:
            data = data[seen - offset :]
        elif offset > seen and stream in self._may_skip:
            self._skip_to(stream, offset)
            seen = offset
        self._may_skip.discard(stream)
        end = max(seen, offset) + len(data)
        if not data or stream not in self._expected or offset > seen or end > self._acked.get(stream, 0) + WINDOW:
            return  # nothing new, or a guest that keeps to no rule: it must not fill the daemon's memory
        self._received[stream] = end
        TRAFFIC["output"] += len(data)
        self.emit(stream, data, age=age)

    def _skip_to(self, stream: int, offset: int) -> None:
        log.warning("stream.gap", stream=stream, expected=self._received.get(stream, 0), got=offset)
        self._received[stream] = self._acked[stream] = offset
        if self.log is not None:
            self.log.persisted[STREAM_NAMES[stream]] = offset

    @property
    def said(self) -> bool:
        """Whether there was any output."""
        return any(self._received.values())

    def mix(self) -> None:
        """Give clients stdout and stderr as raw bytes, mixed, although there is no terminal (execvm)."""
        self.tty = True
        self._expected = (STDOUT, STDERR)

    def quiet_for(self, seconds: float) -> bool:
        """Tell whether nothing has come for so long and every client has taken what came."""
        busy = self._unlogged or any(client.congested for client in self._clients)
        return not busy and time.monotonic() - self._last_data >= seconds

    def emit(self, stream: int, data: bytes, *, age: float = 0.0) -> None:
        """Hand bytes to log and clients (also the daemon's own words, such as why a program could not start)."""
        if self._clients:
            for client, streams in tuple(self._clients.items()):
                if stream in streams:
                    client.output(stream, data, raw=self.tty)
        if self.log is not None:
            self._unlogged.append((stream, data, time.time_ns() - int(age * 1e9)))
            self._write_log()
        if len(data) < BULK:
            self._settle()
        elif not self._settling:
            # More is on its way: one acknowledgement will do for it, too.
            self._settling = True
            self.relay.loop.call_later(ACK_DELAY, self._settle_later)
        elif any(self._received.get(n, 0) - self._acked.get(n, 0) >= ACK_BYTES for n in self._expected):
            self._settle()

    def eof(self, stream: int, offset: int) -> None:
        """Note the end of an output; when the last has ended the clients are let go."""
        if offset > self._received.get(stream, 0) and stream in self._may_skip:
            self._skip_to(stream, offset)  # nothing came since, and what came before is elsewhere
        self._eof[stream] = offset
        self._settle()

    def end(self) -> None:
        """End without the guest's EOF (the VM is gone, or the process never started)."""
        if self.ended:
            return
        self.ended = True
        if self.log is not None:
            for name in STREAM_NAMES.values():
                try:
                    self.log.flush(name, time.time_ns())
                except OSError as error:
                    log.error("log.lost_tail", log=str(self.log), error=str(error))
            self.log.finish()
        if not self.keeping:
            self.let_go()
        self.on_end()

    def let_go(self) -> None:
        """End the clients of a hub that has ended; there will be no further run."""
        self.keeping = False
        if not self.ended:
            return
        for client in self.leave():
            client.finish()
        if self.log is not None:
            self.log.notify()

    def leave(self) -> list[Client]:
        """Give the clients away without a word to them."""
        clients = list(self._clients)
        self._clients.clear()
        return clients

    def _write_log(self) -> None:
        if self.log is None:
            return
        while self._unlogged:
            stream, data, when = self._unlogged[0]
            try:
                self.log.write(STREAM_NAMES[stream], data, when)
            except OSError as error:
                # Nothing is lost: it stays here and in the guest, which stops when its window is full.
                log.error("log.write_failed", log=str(self.log), error=str(error), retry_in=LOG_RETRY)
                self.relay.loop.call_later(LOG_RETRY, self._retry)
                return
            self._unlogged.pop(0)

    def _retry(self) -> None:
        if not self.ended:
            self._write_log()
            self._settle()

    def _settle_later(self) -> None:
        self._settling = False
        self._settle()

    def _settle(self) -> None:
        """Acknowledge what is consumed; end when everything has ended and is consumed."""
        if self.ended or self._held or any(client.congested for client in self._clients):
            return
        for stream in self._expected:
            self._settle_stream(stream)
        if all(self._acked.get(stream, 0) > self._eof.get(stream, 1 << 62) for stream in self._expected):
            self.end()

    def _settle_stream(self, stream: int) -> None:
        done = self._received.get(stream, 0)
        if self.log is not None:
            done = min(done, self.log.persisted.get(STREAM_NAMES[stream], 0))
        final = self._eof.get(stream)
        if final is not None and self._received.get(stream, 0) >= final and not self._unlogged:
            if self.log is not None:
                try:
                    self.log.flush(STREAM_NAMES[stream], time.time_ns())
                except OSError:
                    self.relay.loop.call_later(LOG_RETRY, self._retry)
                    return
            # A log that is on its way somewhere tells later (on_progress) that it has arrived.
            kept = None if self.log is None else self.log.persisted.get(STREAM_NAMES[stream], 0)
            done = final + 1 if kept is None or kept >= final else kept
        if done > self._acked.get(stream, 0):
            self._acked[stream] = done
            if self._acknowledge is not None:
                self._acknowledge(stream, done)
