"""A program in a guest whose output is kept in memory, within bounds, until it ends: health checks, short questions."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from hyperd.agent.client import AgentClient
from hyperd.agent.input import GuestInput
from hyperd.agent.plan import Plan
from hyperd.container.process import exit_code_of, set_up_error
from hyperd.container.states import SETUP_FAILED
from hyperd.errors import AgentError, HyperError

STDOUT, STDERR = 1, 2
WINDOW = 262_144  # bytes a guest may send unacknowledged (docs/protocol.md)
SIGKILL = 9
OUTPUT_GRACE = 1.0  # seconds after its end for output that children of it hold open
_FORGET_WAIT = 5.0
_CALL = 30.0


@dataclass(frozen=True, kw_only=True)
class ExecResult:
    """How a program ended.

    Args:
        stdout, stderr: the first bytes of each, up to the limit. truncated: there were more.
        exit_code: as a shell would tell it, 128 + number after a signal; -1 when it took too long.
        timed_out: it was ended because its time was over.

    """

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    truncated: bool = False
    timed_out: bool = False


class Capture:
    """One program; ``run`` is called once.

    Args:
        agent: of the VM.
        ident: as the plan's PROCESS says. base: as its STREAMS says.
        limit: bytes kept of each output; the rest is thrown away.

    """

    def __init__(self, agent: AgentClient, *, ident: str, base: int, limit: int) -> None:
        self._agent = agent
        self._ident = ident
        self._base = base
        self._limit = limit
        self._news = threading.Condition()
        self._kept = {STDOUT: bytearray(), STDERR: bytearray()}
        self._received = {STDOUT: 0, STDERR: 0}
        self._ended: set[int] = set()
        self._exited = False
        self._code: int | None = None
        self._truncated = False
        self._input = GuestInput()

    def run(self, plan: Plan, *, timeout: float) -> ExecResult:
        """Start the program and wait for its end, at most ``timeout`` seconds; then it is killed.

        Errors: AgentError (it could not be started, the guest is gone), Timeout (of the agent).
        """
        relay = self._agent.relay
        started = False
        try:
            relay.call(self._prepare(), timeout=_CALL)
            try:
                self._agent.start(plan)
            except AgentError as error:
                code = exit_code_of(error)
                if code == SETUP_FAILED:
                    raise set_up_error(error) from error
                return ExecResult(exit_code=code, stderr=f"{error}\n".encode())
            started = True
            relay.call(self._opened(), timeout=_CALL)
            in_time = self._wait(lambda: self._exited, timeout)
            if not in_time:
                with contextlib.suppress(AgentError):
                    self._agent.signal(self._ident, SIGKILL, everyone=True)
                self._wait(lambda: self._exited, _FORGET_WAIT)
            elif self._code is None:
                raise AgentError("the guest went away")
            self._wait(lambda: self._ended >= {STDOUT, STDERR}, OUTPUT_GRACE)
            return ExecResult(
                stdout=bytes(self._kept[STDOUT]),
                stderr=bytes(self._kept[STDERR]),
                exit_code=(self._code or 0) if in_time else -1,
                truncated=self._truncated,
                timed_out=not in_time,
            )
        finally:
            if started:
                self._forget()
            with contextlib.suppress(HyperError, RuntimeError):
                relay.soon(self._leave)

    # -- loop's thread (OutputSink)

    def data(self, stream: int, offset: int, data: bytes, *, age: float = 0.0) -> None:  # noqa: ARG002 - a sink
        """Take bytes of stdout (1) or stderr (2)."""
        if self._received.get(stream, -1) != offset or len(data) > WINDOW:
            return  # a guest that keeps to no rule
        self._received[stream] = offset + len(data)
        kept = self._kept[stream]
        with self._news:
            kept += data[: max(0, self._limit - len(kept))]
            self._truncated |= self._received[stream] > len(kept)
        self._agent.acknowledge(self._base, stream, offset + len(data))

    def eof(self, stream: int, offset: int) -> None:
        """Take the end of stdout (1) or stderr (2)."""
        self._agent.acknowledge(self._base, stream, offset + 1)
        with self._news:
            self._ended.add(stream)
            self._news.notify_all()

    def _end(self, code: int | None) -> None:
        with self._news:
            self._exited, self._code = True, code
            self._news.notify_all()

    async def _prepare(self) -> None:
        self._agent.watch(self._ident, self._end)
        self._agent.add_streams(self._base, self, self._input)

    async def _opened(self) -> None:
        self._input.open()
        self._input.end()

    def _leave(self) -> None:
        self._agent.unwatch(self._ident)
        self._agent.drop_streams(self._base)

    # -- the caller's thread

    def _wait(self, reached: Callable[[], bool], seconds: float) -> bool:
        with self._news:
            return self._news.wait_for(reached, max(0.0, seconds))

    def _forget(self) -> None:
        """Let the agent forget the program, which may take a moment to die."""
        deadline = time.monotonic() + _FORGET_WAIT
        while self._code is not None or not self._exited:
            try:
                self._agent.forget(self._ident)
            except AgentError as error:
                if time.monotonic() > deadline or error.errno == _ESRCH:
                    return
                time.sleep(0.02)
            except HyperError:
                return
            else:
                return


_ESRCH = 3
