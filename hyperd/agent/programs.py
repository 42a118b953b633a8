"""Programs that the daemon runs in a guest for itself: archives in and out (``docs/protocol.md``, Tools), build steps.

Their output is read, and their input written, by the thread that started them. Nothing of them outlives the daemon
that started them: ``sweep`` ends what an earlier one left.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

import structlog

from hyperd.agent.client import AgentClient, ProcessState
from hyperd.agent.input import GuestInput
from hyperd.agent.plan import Plan
from hyperd.errors import AgentError, Cancelled, HyperError

log = structlog.get_logger(__name__)

PROGRAM = "/sbin/hyper-agent"
PREFIX = "tool-"
WINDOW = 262_144  # bytes a guest may send unacknowledged (docs/protocol.md)
AHEAD = 2 * 2**20  # bytes that are taken although nobody has used those before them
SIGKILL = 9
STDOUT, STDERR = 1, 2
_POLL = 0.25  # seconds between two looks at ``cancelled``
_STDERR_LIMIT = 4096
_KILL_WAIT = 5.0
_CALL = 30.0

Cancel = Callable[[], bool]


def new_name() -> str:
    """Return a name for a process that is none of a user's."""
    return PREFIX + secrets.token_hex(8)


def sweep(agent: AgentClient, processes: Iterable[ProcessState]) -> None:
    """End what an earlier daemon left of its own programs; containers that it had frozen for them go on."""
    for process in processes:
        if process.running and not process.ident.startswith(PREFIX):
            with contextlib.suppress(AgentError):  # an exec has no group of its own
                agent.run(Plan().write(f"/sys/fs/cgroup/hyper/{process.ident}/cgroup.freeze", "0", None))
        if process.ident.startswith(PREFIX):
            with contextlib.suppress(HyperError):
                if process.running:
                    agent.signal(process.ident, SIGKILL, everyone=True)
                _forget(agent, process.ident)


def _forget(agent: AgentClient, ident: str) -> None:
    deadline = time.monotonic() + _KILL_WAIT
    while True:
        try:
            agent.forget(ident)
        except AgentError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


class GuestTool:
    """One process; use it as a ``with`` block, which kills it when it is left early.

    Args:
        agent: of the VM.
        ident: as the plan's PROCESS says, from ``new_name``.
        base: as the plan's STREAMS says, from ``agent.new_base``.
        merged: stderr is part of the output; else its end is kept for the error message.
        cancelled: asked now and then while something is waited for.

    """

    def __init__(
        self, agent: AgentClient, *, ident: str, base: int, merged: bool = False, cancelled: Cancel = lambda: False
    ) -> None:
        self._agent = agent
        self._ident = ident
        self._base = base
        self._merged = merged
        self._cancelled = cancelled
        self._news = threading.Condition()
        self._queue: deque[tuple[int, bytes]] = deque()
        self._queued = 0  # bytes
        self._received = {STDOUT: 0, STDERR: 0}
        self._used = {STDOUT: 0, STDERR: 0}
        self._acknowledged = {STDOUT: 0, STDERR: 0}
        self._ended: set[int] = set()
        self._errors = bytearray()
        self._input = GuestInput()
        self._room = threading.Event()
        self._started = False
        self._exited = False
        self._code: int | None = None  # None once exited: the guest is gone

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._started and not (self._exited and self._code is None):
                with contextlib.suppress(HyperError):
                    if not self._exited:
                        self._agent.signal(self._ident, SIGKILL, everyone=True)
                    _forget(self._agent, self._ident)
        finally:
            with contextlib.suppress(HyperError, RuntimeError):
                self._agent.relay.soon(self._leave)

    def start(self, plan: Plan) -> None:
        """Start it; returns when the program runs. Errors: AgentError, Timeout."""
        relay = self._agent.relay
        relay.call(self._prepare(), timeout=_CALL)
        self._agent.start(plan)
        self._started = True
        relay.call(self._opened(), timeout=_CALL)

    def output(self) -> Iterator[bytes]:
        """Yield the output as it comes, to its end. Errors: AgentError (the guest is gone), Cancelled."""
        yield from (data for _, data in self.pieces())

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield the output as it comes, to its end, and on which stream. Errors: as for ``output``."""
        while True:
            with self._news:
                while not self._queue and not self._over():
                    self._wait()
                pieces = list(self._queue)
                self._queue.clear()
                self._queued = 0
            if not pieces:
                break
            for stream, data in pieces:
                self._used[stream] += len(data)
            # Before they are used: the guest sends the next window meanwhile.
            self._agent.relay.soon(self._acknowledge, dict(self._used))
            yield from pieces
        if self._exited and self._code is None:
            raise AgentError("the guest went away")

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Write its input, all of it unless it ends before. Errors: AgentError, Cancelled; what the chunks raise."""
        for chunk in chunks:
            if not self.put(chunk):
                break
        self.end()

    def put(self, chunk: bytes) -> bool:
        """Write a part of its input; False when it has ended or takes no more. Errors: AgentError, Cancelled."""
        self._room.clear()
        if self._agent.relay.call(self._write(chunk), timeout=_CALL):
            with self._news:
                while not self._room.is_set() and not self._exited:
                    self._wait()
        return not (self._exited or self._input.closed)

    def end(self) -> None:
        """End its input. Errors: AgentError."""
        self._agent.relay.call(self._end_input(), timeout=_CALL)

    def wait(self) -> int:
        """Wait for its end; give the exit code. Errors: AgentError (the guest is gone), Cancelled."""
        with self._news:
            while not self._exited:
                self._wait()
        if self._code is None:
            raise AgentError("the guest went away")
        return self._code

    def finish(self, what: str) -> None:
        """Wait for its end, which must be a good one. Errors: AgentError with what it said, Cancelled."""
        code = self.wait()
        if code:
            with self._news:
                while STDERR not in self._ended:
                    self._wait()
            raise AgentError(f"{what} failed", details=self.complaint() or f"exit code {code}")

    def complaint(self) -> str:
        """Return the end of what it said on stderr."""
        return bytes(self._errors[-_STDERR_LIMIT:]).decode("utf-8", "replace").strip()

    # -- loop's thread (OutputSink)

    def data(self, stream: int, offset: int, data: bytes, *, age: float = 0.0) -> None:  # noqa: ARG002 - an OutputSink
        """Take bytes of stdout (1) or stderr (2)."""
        seen = self._received.get(stream, -1)
        if seen != offset or offset + len(data) > self._acknowledged[stream] + WINDOW:
            return  # a guest that keeps to no rule
        self._received[stream] = offset + len(data)
        with self._news:
            if stream == STDOUT or self._merged:
                self._queue.append((stream, data))
                self._queued += len(data)
            else:
                self._errors += data
                del self._errors[: -2 * _STDERR_LIMIT]
            self._news.notify_all()
            waiting = self._queued
        # A guest that waits for another thread here is a slow one: some windows are taken in advance, in large steps.
        ahead = waiting <= AHEAD and self._received[stream] - self._acknowledged[stream] >= WINDOW // 4
        if ahead or (stream == STDERR and not self._merged):
            self._acknowledge({stream: self._received[stream]})

    def eof(self, stream: int, offset: int) -> None:  # noqa: ARG002 - an OutputSink
        """Take the end of stdout (1) or stderr (2)."""
        with self._news:
            self._ended.add(stream)
            self._news.notify_all()

    def _acknowledge(self, offsets: dict[int, int]) -> None:
        for stream, offset in offsets.items():
            if offset > self._acknowledged[stream]:
                self._acknowledged[stream] = offset
                self._agent.acknowledge(self._base, stream, offset)

    def _end(self, code: int | None) -> None:
        with self._news:
            self._exited, self._code = True, code
            if code is None:
                self._ended |= {STDOUT, STDERR}
            self._news.notify_all()

    def _drained(self) -> None:
        with self._news:
            self._room.set()
            self._news.notify_all()

    def _leave(self) -> None:
        self._agent.unwatch(self._ident)
        self._agent.drop_streams(self._base)

    async def _prepare(self) -> None:
        self._input.on_drained.append(self._drained)
        self._agent.watch(self._ident, self._end)
        self._agent.add_streams(self._base, self, self._input)

    async def _opened(self) -> None:
        self._input.open()

    async def _write(self, chunk: bytes) -> bool:
        self._input.write(chunk)
        return self._input.congested

    async def _end_input(self) -> None:
        self._input.end()

    # -- the caller's thread, with the lock

    def _over(self) -> bool:
        return {STDOUT, STDERR} <= self._ended

    def _wait(self) -> None:
        self._news.wait(_POLL)
        if self._cancelled():
            raise Cancelled("cancelled")
