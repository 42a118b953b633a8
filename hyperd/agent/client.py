"""The client of one guest's agent: requests, events and streams over the two ports (``docs/protocol.md``).

Everything the guest says is checked here: frames are bounded by the decoder, unknown streams and processes are
ignored, numbers are parsed within limits. What a guest breaks is its own connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import structlog

from hyperd.agent.frames import (
    CLOSED,
    NONCE_SIZE,
    RESYNC_PADDING,
    Decoder,
    Event,
    Frame,
    FrameType,
    Method,
    ProtocolError,
    Record,
    Welcome,
    age_of,
    decode_records,
    encode_records,
    hello_frame,
    offset_frame,
    split_offset,
)
from hyperd.agent.input import GuestInput
from hyperd.agent.plan import Plan
from hyperd.errors import AgentError
from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)

READ = 262_144  # bytes at a time
CONNECT_PAUSE = 0.005
REACH_TIMEOUT = 5.0
GREETING_TIMEOUT = 3.0  # seconds for a guest that has answered before
REQUEST_TIMEOUT = 30.0
_IDS, _MAX_IDS = 2, 258  # of user and group; with all groups that an agent gives
MAX_PID_DIGITS = 10


class OutputSink(Protocol):
    """What takes the outputs of a process (``hyperd.stream.hub.OutputHub``)."""

    def data(self, stream: int, offset: int, data: bytes, *, age: float = 0.0) -> None:
        """Take bytes of stdout (1) or stderr (2), which came ``age`` seconds ago."""

    def eof(self, stream: int, offset: int) -> None:
        """Take the end of stdout (1) or stderr (2)."""


@dataclass(frozen=True, kw_only=True)
class ProcessState:
    """One process as the agent lists it."""

    ident: str
    running: bool
    pid: int
    exit_code: int
    stream_base: int
    stdin_received: int
    stdin_consumed: int
    finished_at: float | None = None  # epoch seconds by this host's clock; None = it runs, or nobody can tell


@dataclass(frozen=True)
class Started:
    """A process whose program runs.

    Args:
        pid: its number in the guest, 0 = not known.
        ids: numbers of user and group, then of all its groups, at the beginning; empty = not known.

    """

    pid: int = 0
    ids: tuple[int, ...] = ()


class _Port(asyncio.BufferedProtocol):
    """One port: HELLO and WELCOME first, frames after."""

    # What the loop reads goes here and is taken out before it reads again, whichever port it is of. asyncio's other
    # way maps and unmaps 256 KiB of memory for every read.
    _scratch = memoryview(bytearray(READ))

    def __init__(self, *, fresh: bool, on_frame: Callable[[Frame], None], on_lost: Callable[[], None]) -> None:
        self._fresh = fresh
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._nonce = os.urandom(NONCE_SIZE)
        self._welcome: Welcome | None = Welcome(self._nonce)
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write((b"" if self._fresh else RESYNC_PADDING) + hello_frame(self._nonce))

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        data = self._scratch[:nbytes]
        try:
            if self._welcome is not None:
                found = self._welcome.feed(data)
                if found is None:
                    return
                self._welcome = None
                boot_id, rest = found
                data = memoryview(rest)
                if not self.ready.done():
                    self.ready.set_result(boot_id)
            for frame in self._decoder.feed(data):
                self._on_frame(frame)
        except ValueError as error:  # ProtocolError is one; so is a number that is none
            log.warning("agent.protocol_error", error=str(error))
            if not self.ready.done():
                self.ready.set_exception(AgentError("the guest's agent cannot be used", details=str(error)))

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(AgentError("the VM closed the agent's port before the agent was ready"))
            self.ready.exception()  # nobody may be waiting any more
        self._on_lost()

    def send(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise AgentError("the connection to the guest's agent is gone")
        self._transport.write(data)

    def disown(self) -> None:
        self._on_lost = lambda: None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _finished_at(state: str, record: Record) -> float | None:
    """Return when a process ended, by its age; agents of earlier versions give their own clock. Errors: ValueError."""
    if state == "running" or len(record.args) < 12:
        return None
    now = time.time()
    if len(record.args) > 12:
        return now - min(int(record.args[12][:20]) / 1000, now)
    return min(int(record.args[11][:20]) / 1e9, now)


class AgentClient:
    """One guest's agent.

    Args:
        name: the VM's id, for messages.
        on_exit: called in the loop's thread with (process id, exit code) when a process has ended.
        on_oom: called in the loop's thread with the id of a process whose control group ran out of memory.
        on_lost: called once in the loop's thread when the ports close without ``close()``.

    Methods without ``async`` in their name may be called from any thread but the loop's; they block.
    """

    def __init__(
        self,
        relay: Relay,
        *,
        name: str,
        control: Path,
        stream: Path,
        on_exit: Callable[[str, int], None],
        on_lost: Callable[[], None],
        on_oom: Callable[[str], None] = lambda _process: None,
    ) -> None:
        self.relay = relay
        self.name = name
        self.boot_id = b""
        self._paths = (control, stream)
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._on_oom = on_oom
        self._control: _Port | None = None
        self._stream: _Port | None = None
        self._pending: dict[int, asyncio.Future[list[Record]]] = {}
        self._ids = itertools.count(1)
        self._bases = itertools.count(16, 4)
        self._outputs: dict[int, tuple[OutputSink, int]] = {}
        self._inputs: dict[int, GuestInput] = {}
        self._watchers: dict[str, Callable[[int | None], None]] = {}
        self.silent = False  # it did not answer a probe; calls fail at once until it does
        self._lost = False
        self._own = False  # booted by this daemon, and so of its version
        self._knows: dict[int, bool] = {}

    def reach(self) -> None:
        """Connect both ports of a VM that stands still, before it is resumed; ``connect`` then waits for its agent.

        A host that went away while the VM was paused is still there for QEMU (7.2). If the guest then writes before
        another one comes, QEMU stops taking what it writes, and begins again only when a host leaves.

        Errors: Timeout, AgentError.
        """
        self.relay.call(self._reach(fresh=False), timeout=REACH_TIMEOUT, what=f"the agent's port of {self.name}")

    def connect(self, *, fresh: bool, timeout: float) -> None:
        """Connect both ports (those that ``reach`` has not) and wait for the agent.

        Args:
            fresh: nobody was connected to this VM before.
            timeout: seconds for all of it.

        Errors: Timeout, AgentError.

        """
        self.relay.call(self._connect(fresh=fresh), timeout=timeout, what=f"the agent of {self.name}")

    def close(self) -> None:
        """Let the ports go; the guest runs on."""
        self._lost = True
        self.relay.soon(self._close)

    def request(
        self,
        method: Method,
        records: Sequence[tuple[int, Sequence[str | bytes | int]]] = (),
        *,
        timeout: float = REQUEST_TIMEOUT,
    ) -> list[Record]:
        """Ask and wait for the answer. Errors: AgentError (with the guest's errno), Timeout."""
        return self._call(self.async_request(method, encode_records(records)), timeout, method.name)

    def run(self, plan: Plan, *, timeout: float = REQUEST_TIMEOUT) -> None:
        """Carry out a plan in the guest. Errors: AgentError for the first step that failed, Timeout."""
        self._call(self._carry_out(Method.RUN, plan), timeout, "RUN")

    def start(self, plan: Plan, *, timeout: float = REQUEST_TIMEOUT) -> Started:
        """Start a process; return what it is in the guest when its program runs. Errors: AgentError, Timeout."""
        return _started(self._call(self._carry_out(Method.START, plan), timeout, "START"))

    async def async_start(self, plan: Plan) -> Started:
        """Start a process, from the loop's thread; return what it is in the guest.

        Errors: AgentError, also when the agent stays silent.
        """
        try:
            answer = await asyncio.wait_for(self._carry_out(Method.START, plan), REQUEST_TIMEOUT)
        except TimeoutError as error:
            raise AgentError(f"the agent of {self.name} did not answer within {REQUEST_TIMEOUT:g} s") from error
        return _started(answer)

    def signal(self, process: str, number: int, *, everyone: bool = False) -> None:
        """Send a signal to a process (or to all of its container). Errors: AgentError with ESRCH when it is gone."""
        self.request(Method.SIGNAL, [(0, (process, number, "all" if everyone else "one"))])

    def resize(self, process: str, rows: int, columns: int) -> None:
        """Set the window size of a terminal. Errors: AgentError."""
        self.request(Method.RESIZE, [(0, (process, rows, columns))])

    def forget(self, process: str) -> None:
        """Let the agent drop what it knows about an ended process. Errors: AgentError."""
        self.request(Method.FORGET, [(0, (process,))])

    def processes(self) -> list[ProcessState]:
        """List processes; new stream numbers start above theirs. Errors: AgentError."""
        found = []
        for record in self.request(Method.LIST):
            try:
                ident, state, pid, code, base, stdin = (arg.decode("ascii") for arg in record.args[:6])
                process = ProcessState(
                    ident=ident,
                    running=state == "running",
                    pid=int(pid),
                    exit_code=int(code) & 0xFF,
                    stream_base=int(base),
                    stdin_received=int(stdin),
                    stdin_consumed=int(record.args[10]) if len(record.args) > 10 else int(stdin),
                    finished_at=_finished_at(state, record),
                )
            except ValueError as error:
                raise AgentError("the guest's agent lists nonsense", details=str(error)) from error
            found.append(process)
        top = max((process.stream_base for process in found), default=12)
        self._bases = itertools.count((top // 4 + 1) * 4, 4)
        return found

    def new_base(self) -> int:
        """Return the number of three streams no process uses."""
        return next(self._bases)

    def add_streams(self, base: int, sink: OutputSink, guest_input: GuestInput | None) -> None:
        """Join a process's streams with hub and input, before it starts or before ``resume_streams``.

        Loop thread only.
        """
        self._outputs[base + 1] = (sink, 1)
        self._outputs[base + 2] = (sink, 2)
        if guest_input is not None:
            self._inputs[base] = guest_input
            guest_input.bind(base, self._send_stream)

    def drop_streams(self, base: int) -> None:
        """Forget a process's streams. Loop thread only."""
        self._outputs.pop(base + 1, None)
        self._outputs.pop(base + 2, None)
        self._inputs.pop(base, None)

    def watch(self, process: str, callback: Callable[[int | None], None]) -> None:
        """Call back once with the exit code of a process, or None when the guest is gone. Loop thread only."""
        self._watchers[process] = callback
        if self._lost:
            self._tell_watchers()

    def unwatch(self, process: str) -> None:
        """Call back no more. Loop thread only."""
        self._watchers.pop(process, None)

    def _tell_watchers(self) -> None:
        watchers, self._watchers = self._watchers, {}
        for callback in watchers.values():
            callback(None)

    def acknowledge(self, base: int, stream: int, offset: int) -> None:
        """Acknowledge output of a process. Loop thread only."""
        self._send_stream(offset_frame(FrameType.ACK, base + stream, offset))

    def resume_streams(self, base: int, offsets: dict[int, int]) -> None:
        """Ask for the outputs of a process from these offsets on (after a restart). Loop thread only."""
        for stream in (1, 2):
            self._send_stream(offset_frame(FrameType.RESUME, base + stream, offsets.get(stream, 0)))

    async def probe(self, patience: float) -> bool:
        """Ask for a sign of life; with none within ``patience`` seconds the guest is silent. From the loop's thread.

        Errors: AgentError (it is gone).
        """
        try:
            await asyncio.wait_for(self._ask(Method.PING, b""), patience)
        except TimeoutError:
            self.silent = True
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(self._no_answer())
            return False
        self.silent = False
        return True

    def _no_answer(self) -> AgentError:
        return AgentError(
            f"the guest of {self.name} does not answer",
            resolution="it is asked further; stop the pod, or remove it, if it stays so",
        )

    async def async_request(self, method: Method, payload: bytes) -> list[Record]:
        """Ask from the loop's thread. Errors: AgentError, at once when the guest is silent."""
        if self.silent:
            raise self._no_answer()
        return await self._ask(method, payload)

    async def _ask(self, method: Method, payload: bytes) -> list[Record]:
        if self._control is None or self._lost:
            raise AgentError(f"the guest of {self.name} is gone")
        ident = next(self._ids) & 0xFFFFFFFF
        future: asyncio.Future[list[Record]] = self.relay.loop.create_future()
        self._pending[ident] = future
        try:
            self._control.send(Frame(FrameType.REQUEST, ident, method, payload=payload).encode())
            return await future
        except ProtocolError as error:
            raise AgentError("the request is too large for the guest's agent", details=str(error)) from error
        finally:
            self._pending.pop(ident, None)

    async def _carry_out(self, method: Method, plan: Plan) -> list[Record]:
        if self._own:
            return await self.async_request(method, plan.encode())
        newer = plan.newer()
        for op in newer - self._knows.keys():
            self._knows[op] = await self._ask_whether_known(op)
        unknown = {op for op in newer if not self._knows[op]}
        return await self.async_request(method, plan.without(unknown).encode())

    async def _ask_whether_known(self, op: int) -> bool:
        """Agents look at a plan's shape before they begin: a step without its arguments does nothing."""
        try:
            await self.async_request(Method.RUN, encode_records([(op, ())]))
        except AgentError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            if error.errno == errno.ENOSYS:
                log.info("agent.older", vm=self.name, op=int(op))
                return False
        return True

    def _call(self, coroutine: Coroutine[Any, Any, list[Record]], timeout: float, what: str) -> list[Record]:
        return self.relay.call(coroutine, timeout=timeout, what=f"the agent of {self.name} ({what})")

    async def _connect(self, *, fresh: bool) -> None:
        self._own = fresh
        try:
            while True:
                try:
                    # Somebody else may have resumed the VM (see reach): then the port goes on when we have left it.
                    await asyncio.wait_for(self._greet(fresh=fresh), None if fresh else GREETING_TIMEOUT)
                except TimeoutError:
                    log.warning("agent.silent", vm=self.name)
                    await self._drop_ports()
                else:
                    return
        except BaseException:
            self._lost = True
            self._close()
            raise

    async def _reach(self, *, fresh: bool) -> tuple[_Port, _Port]:
        if self._control is None:
            self._control = await self._open(self._paths[0], fresh=fresh, on_frame=self._on_control)
        if self._stream is None:
            self._stream = await self._open(self._paths[1], fresh=fresh, on_frame=self._on_stream)
        return self._control, self._stream

    async def _greet(self, *, fresh: bool) -> None:
        control, stream = await self._reach(fresh=fresh)
        self.boot_id = await control.ready
        await stream.ready

    async def _drop_ports(self) -> None:
        """Close the ports without anybody taking it for the guest's end."""
        for port in (self._control, self._stream):
            if port is not None:
                port.disown()
                port.close()
        self._control = self._stream = None
        await asyncio.sleep(CONNECT_PAUSE)

    async def _open(self, path: Path, *, fresh: bool, on_frame: Callable[[Frame], None]) -> _Port:
        def make() -> _Port:
            return _Port(fresh=fresh, on_frame=on_frame, on_lost=self._port_lost)

        while True:
            try:
                _, port = await self.relay.loop.create_unix_connection(make, str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(CONNECT_PAUSE)
            else:
                return port

    def _close(self) -> None:
        for port in (self._control, self._stream):
            if port is not None:
                port.close()

    def _port_lost(self) -> None:
        error = AgentError(f"the guest of {self.name} went away")
        for future in self._pending.values():
            if not future.done():
                future.set_exception(error)
        self._tell_watchers()
        if not self._lost:
            self._lost = True
            self._close()
            self._on_lost()

    def _send_stream(self, data: bytes) -> None:
        if self._stream is not None and not self._lost:
            with contextlib.suppress(AgentError):  # the loss is handled where it is noticed
                self._stream.send(data)

    def _on_control(self, frame: Frame) -> None:
        if frame.type == FrameType.EVENT:
            self._on_event(frame)
            return
        future = self._pending.get(frame.ident)
        if future is None or future.done():
            return
        records = decode_records(frame.payload)
        if frame.type == FrameType.RESPONSE:
            future.set_result(records)
        elif frame.type == FrameType.ERROR:
            text = records[0].args[0].decode("utf-8", "replace")[:4096] if records and records[0].args else ""
            reason = os.strerror(frame.code) if frame.code else "unknown error"
            future.set_exception(AgentError(text or reason, errno=frame.code))

    def _on_event(self, frame: Frame) -> None:
        for record in decode_records(frame.payload):
            if frame.code == Event.EXITED and len(record.args) >= 2:
                process, code = record.args[0].decode("utf-8", "replace"), int(record.args[1][:4] or b"0") & 0xFF
                watcher = self._watchers.pop(process, None)
                if watcher is not None:
                    watcher(code)
                else:
                    self._on_exit(process, code)
            elif frame.code == Event.OOM:
                process = record.args[0][:64].decode("utf-8", "replace") if record.args else ""
                log.warning("guest.oom", vm=self.name, process=process)
                self._on_oom(process)

    def _on_stream(self, frame: Frame) -> None:
        age, frame = age_of(frame)
        offset, data = split_offset(frame)
        if frame.type == FrameType.ACK:
            guest_input = self._inputs.get(frame.ident)
            if guest_input is not None:
                guest_input.acknowledged(offset, closed=bool(frame.flags & CLOSED))
            return
        sink = self._outputs.get(frame.ident)
        if sink is None:
            # A process nobody knows (its container was removed meanwhile): let the guest go on.
            self._send_stream(
                offset_frame(FrameType.ACK, frame.ident, offset + len(data) + (frame.type == FrameType.EOF))
            )
        elif frame.type == FrameType.DATA:
            sink[0].data(sink[1], offset, data, age=age)
        elif frame.type == FrameType.EOF:
            sink[0].eof(sink[1], offset)


def _started(answer: Sequence[Record]) -> Started:
    """Read the answer to START, of which an older agent gives less."""
    args = answer[0].args if answer else ()
    numbers = [[_id(word) for word in arg.split(maxsplit=_MAX_IDS)[:_MAX_IDS]] for arg in args[:2]]
    pid = numbers[0][0] if numbers and numbers[0] else 0
    ids = tuple(numbers[1]) if len(numbers) > 1 and len(numbers[1]) >= _IDS else ()
    return Started(pid=pid, ids=ids)


def _id(word: bytes) -> int:
    return int(word) if word.isdigit() and len(word) <= MAX_PID_DIGITS else 0
