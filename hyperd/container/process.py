"""A process in a guest as the daemon follows it: outputs, input, end. Containers and execs are built on it."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from hyperd.agent.client import AgentClient, ProcessState, Started
from hyperd.agent.frames import Method, encode_records
from hyperd.agent.input import GuestInput
from hyperd.agent.plan import Plan
from hyperd.container.detach import KeyWatch, parse_keys
from hyperd.container.states import NOT_EXECUTABLE, NOT_FOUND, SETUP_FAILED
from hyperd.errors import AgentError, HyperError, InvalidInput
from hyperd.stream.client import Client, MakeClient
from hyperd.stream.connection import ClientConnection
from hyperd.stream.frames import STDERR, STDOUT
from hyperd.stream.hub import OutputHub
from hyperd.stream.logs import LogWriter
from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)

# A process may leave children behind that hold its outputs open; this long after its end they are cut off.
OUTPUT_GRACE = 3.0
# The original client asks for start and attach at the same time: an attach that comes this late still gets everything.
REPLAY_SECONDS = 3.0
REPLAY_BYTES = 1 << 20
DEFAULT_SIZE = (24, 80)
ALL_STREAMS = frozenset({STDOUT, STDERR})
SIGKILL = 9


# What the guest finds wrong with the words of a specification: the step that failed, what to call it, and why: no such
# user or group, a working directory that is a file or a link in a circle, a setting that the kernel has not.
_MISTAKES = (
    ("USER: ", "", {errno.ENOENT}),
    ("CWD ", "working directory ", {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}),
    ("WRITE /proc/sys/", "sysctl /proc/sys/", {errno.ENOENT, errno.EINVAL, errno.ERANGE}),
)


def set_up_error(error: AgentError) -> HyperError:
    """Return what to raise for a process whose set-up failed: InvalidInput when its specification is the reason."""
    for step, words, numbers in _MISTAKES:
        if error.brief.startswith(step) and error.errno in numbers:
            return InvalidInput(words + error.brief.removeprefix(step), details=error.details)
    return error


def exit_code_of(error: AgentError) -> int:
    """Return the code a shell would: 127 not found, 126 cannot be executed, else 125 (set-up failed)."""
    if error.brief.startswith("EXEC"):
        return NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
    return SETUP_FAILED


class _Replay(OutputHub):
    """A hub that keeps the first output for an attach that comes just after the start."""

    def __init__(self, relay: Relay, *, tty: bool, log_file: LogWriter | None, keep: bool) -> None:
        super().__init__(relay, tty=tty, log_file=log_file)
        self._early: list[tuple[int, bytes]] | None = [] if keep else None
        self._size = 0
        self.started: float | None = None

    def emit(self, stream: int, data: bytes, *, age: float = 0.0) -> None:
        if self._early is not None:
            self._size += len(data)
            if self._size > REPLAY_BYTES or self._late():
                self._early = None
            else:
                self._early.append((stream, data))
        super().emit(stream, data, age=age)

    def attach(self, client: Client, streams: Collection[int] = ALL_STREAMS) -> None:
        early, self._early = (self._early, None) if not self._late() else (None, None)
        for stream, data in early or ():
            if stream in streams:
                client.output(stream, data, raw=self.tty)
        super().attach(client, streams)

    def forget_early(self) -> None:
        """Let go of the first output."""
        self._early = None

    def _late(self) -> bool:
        return self.started is not None and time.monotonic() - self.started > REPLAY_SECONDS


class GuestProcess:
    """One process, from before its start until its end is settled.

    Args:
        ident: the agent's name for it.
        cut_off: end the output some time after the process although children of it hold it open (execs).
        on_finished: called once, in the loop's thread, with this process when it has ended and its output is complete.

    """

    def __init__(
        self,
        relay: Relay,
        *,
        ident: str,
        tty: bool,
        log_file: LogWriter | None,
        keep_early: bool,
        cut_off: bool,
        on_finished: Callable[[GuestProcess], None],
    ) -> None:
        self.relay = relay
        self.ident = ident
        self.tty = tty
        self.exit_code: int | None = None
        self.ended_at: float | None = None  # epoch seconds, where the guest has told
        self.size: tuple[int, int] = DEFAULT_SIZE  # rows and columns of the terminal, as last asked for
        self.base = 0
        self.pid = 0  # in the guest; 0 = it does not run
        self.ids: tuple[int, ...] = ()  # of user, group and all groups at its beginning; empty = not known
        self.agent: AgentClient | None = None
        self.input = GuestInput()
        self.hub: OutputHub = _Replay(relay, tty=tty, log_file=log_file, keep=keep_early)
        self.hub.on_end = self._settle
        self.finished = threading.Event()
        self.sessions: set[AttachSession] = set()
        self.set_up = True  # False: it never began to run
        self.again = False  # its start is a restart by the container's policy
        self.failure = ""  # why its program could not be executed
        self.awaits_start = False  # made for clients of a container that has ended, and for its next start
        self._cut_off = cut_off
        self._on_finished = on_finished
        self._settled = False
        self.heir: GuestProcess | None = None  # the container's next run, which has this one's clients
        self.on_settled: list[Callable[[], object]] = []  # for clients who tell how it ended
        self._unwanted = False

    def start(self, agent: AgentClient, base: int, plan: Plan, size: tuple[int, int]) -> None:
        """Start it in the guest; from a service's thread. ``size``: of the terminal in the plan.

        A program that cannot be executed ends at once with 126 or 127 and says why on its stderr; that is no error.
        Errors: AgentError when the set-up failed, InvalidInput when the specification is the reason, Timeout.
        """
        self.relay.call(self._begin(agent, base), timeout=10)
        try:
            self._take(agent.start(plan))
        except AgentError as error:
            code = exit_code_of(error)
            if code == SETUP_FAILED:
                self.set_up = False
                self.relay.soon(self.abandon, code)
                raise set_up_error(error) from error
            self.failure = str(error)
            self.relay.soon(self.fail, code, str(error))
            return
        self.relay.call(self._opened(size), timeout=10)

    def _take(self, started: Started) -> None:
        self.pid, self.ids = started.pid, started.ids

    async def start_async(self, agent: AgentClient, base: int, plan: Plan, size: tuple[int, int]) -> None:
        """Do the same from the loop's thread; every failure is told to the client, none is raised.

        ``size``: of the terminal in the plan.
        """
        await self._begin(agent, base)
        try:
            self._take(await agent.async_start(plan))
        except AgentError as error:
            self.failure = str(error)
            self.fail(exit_code_of(error), str(error))
            return
        await self._opened(size)
        if self._unwanted:
            self.kill()

    async def resume(self, agent: AgentClient, state: ProcessState) -> None:
        """Join a process that runs since before this daemon."""
        base, self.pid = state.stream_base, state.pid
        await self._prepare(agent, base)
        offsets = self.hub.resume_offsets()
        self.hub.connect(self._acknowledge, offsets)
        agent.resume_streams(base, offsets)
        self.input.open(state.stdin_received, state.stdin_consumed)

    def exited(self, code: int, at: float | None = None) -> None:
        """Take the news that the process has ended (``at``: epoch seconds, None = now). Loop thread."""
        self.ended_at = self.ended_at or at
        self.pid = 0
        if self.exit_code is None:
            self.exit_code = code
            if self._cut_off:
                self.relay.loop.call_later(OUTPUT_GRACE, self._cut)
        self._settle()

    def _cut(self) -> None:
        """End the output if nothing moves any more; a slow client is given all the time it needs."""
        if self.hub.quiet_for(OUTPUT_GRACE):
            self.hub.end()
        elif not self.hub.ended:
            self.relay.loop.call_later(OUTPUT_GRACE, self._cut)

    @property
    def age(self) -> float:
        """Seconds since its program began; endless for one that has not, or began before this daemon."""
        started = self.hub.started if isinstance(self.hub, _Replay) else None
        return math.inf if started is None else time.monotonic() - started

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal, now or when it begins; nobody waits for that. Loop thread."""
        self.size = (rows, columns)
        if self.pid:
            self.relay.task(self._send_size())

    def kill(self) -> None:
        """Kill it, now or when it has begun; nobody waits for that. Loop thread."""
        self._unwanted = True
        if self.pid and self.agent is not None:
            self.relay.task(_told(self.agent, Method.SIGNAL, (self.ident, SIGKILL, "all")))

    def fail(self, code: int, message: str) -> None:
        """End a process that never ran, with the reason on its stderr. Loop thread."""
        self.hub.emit(STDOUT if self.tty else STDERR, f"hyperd: {message}\n".encode())
        self.abandon(code)

    def abandon(self, code: int) -> None:
        """End it without the guest (it is gone, or the process never ran). Loop thread."""
        self.pid = 0
        if self.exit_code is None:
            self.exit_code = code
        self.hub.end()
        self._settle()

    def hand_on(self, heir: GuestProcess) -> None:
        """Give the clients (and the followers of the log) to the container's next run. Loop thread."""
        sessions = tuple(self.sessions)
        self.heir = heir
        self.hub.keeping = False
        self.hub.leave()
        self.sessions.clear()
        for session in sessions:
            session.move(heir)
        if self.hub.log is not None and heir.hub.log is not None:
            heir.hub.log.listeners |= self.hub.log.listeners
            heir.hub.log.notify()

    async def _begin(self, agent: AgentClient, base: int) -> None:
        self.hub.hold()
        await self._prepare(agent, base)

    async def _prepare(self, agent: AgentClient, base: int) -> None:
        self.agent, self.base = agent, base
        self.hub.connect(self._acknowledge)
        agent.add_streams(base, self.hub, self.input)

    async def _opened(self, size: tuple[int, int]) -> None:
        if self.size != size:  # asked for when the guest did not know it yet; a program that is sent a line sees it
            await self._send_size()
        if isinstance(self.hub, _Replay):
            self.hub.started = time.monotonic()
            self.relay.loop.call_later(REPLAY_SECONDS, self.hub.forget_early)
        self.input.open()
        self.hub.release()

    async def _send_size(self) -> None:
        if self.agent is not None:
            await _told(self.agent, Method.RESIZE, (self.ident, *self.size))

    def _acknowledge(self, stream: int, offset: int) -> None:
        if self.agent is not None:
            self.agent.acknowledge(self.base, stream, offset)

    def _settle(self) -> None:
        if self._settled or self.exit_code is None or not self.hub.ended:
            return
        self._settled = True
        self.input.closed = True
        for session in self.sessions:
            session.hold()
        if self.agent is not None:
            self.agent.drop_streams(self.base)
        self._on_finished(self)
        for callback in self.on_settled:
            callback()


async def _told(agent: AgentClient, method: Method, arguments: tuple[str | int, ...]) -> None:
    """Ask the guest for something about a process that may have ended by now."""
    with contextlib.suppress(AgentError):
        await agent.async_request(method, encode_records([(0, arguments)]))


@dataclass(frozen=True, kw_only=True)
class AttachOptions:
    """What a client gets of a process and gives to it.

    Args:
        stdin: its bytes go to the process.
        streams: the outputs it gets; a terminal has only the first.
        detach_keys: see ``hyperd.container.detach``; they count where there is a terminal.
        holds_keys: the process gets the first of them only when another key than the next follows.
        ends_input: its end of input is the process's, which has no terminal.
        leaves_input_ended: when it leaves, in whatever way, the process's input ends (Docker's ``StdinOnce``).
        kills: when it leaves, the process is killed.

    """

    stdin: bool = True
    streams: frozenset[int] = ALL_STREAMS
    detach_keys: str = ""
    holds_keys: bool = False
    ends_input: bool = True
    leaves_input_ended: bool = False
    kills: bool = False


class AttachSession:
    """One client on a process: output to it, its bytes to stdin.

    Args:
        before: started (in the loop) once the client listens; an exec starts its process here.

    Errors: InvalidInput for detach keys that nobody knows.

    """

    def __init__(
        self,
        process: GuestProcess,
        *,
        raw: bool = False,
        before: Callable[[], None] | None = None,
        options: AttachOptions | None = None,
    ) -> None:
        self.process = process
        self.tty = raw or process.tty
        self._before = before
        self._options = options or AttachOptions()
        self._stdin = self._options.stdin
        self._keys = KeyWatch(parse_keys(self._options.detach_keys), holds=self._options.holds_keys)
        self._client: Client | None = None

    def run(self, sock: socket.socket, early: bytes, *, chunked: bool = False, make: MakeClient | None = None) -> None:
        """Take the socket over; returns at once. ``make``: the client, for whoever speaks more than plain bytes."""
        relay = self.process.relay
        relay.spawn(self._serve(make(relay) if make else ClientConnection(relay, chunked=chunked), sock, early))

    def close(self) -> None:
        """Give the session up, which is not run; a process that it was to start has ended then."""
        if self._before is not None:
            self.process.relay.soon(self.process.abandon, SETUP_FAILED)

    async def _serve(self, client: Client, sock: socket.socket, early: bytes) -> None:
        while self.process.heir is not None:  # it was restarted since this session was asked for
            self.process = self.process.heir
        self._client = client
        client.on_closed = self._left
        if self._stdin:
            self._join_input(client)
        try:
            await client.open(sock, early)
        except BaseException:
            self.close()
            raise
        self.process.sessions.add(self)
        self.process.hub.attach(client, self._options.streams)
        if self._before is not None:
            self._before()
        if self.process.hub.ended:
            self.hold()

    def hold(self) -> None:
        """Take no input between two runs: it is for the next. Loop thread."""
        if self._client is not None and self.process.hub.keeping:
            self._client.pause_reading()

    def move(self, process: GuestProcess) -> None:
        """Go on with the container's next run. Loop thread."""
        client = self._client
        if client is None or client.closed:
            return
        if self._stdin:
            with contextlib.suppress(ValueError):
                self.process.input.on_drained.remove(client.resume_reading)
        self.process = process
        process.sessions.add(self)
        client.on_closed = self._left
        if self._stdin:
            self._join_input(client)
            if client.half_closed and not process.tty and self._options.ends_input:
                process.input.end()
        process.hub.attach(client, self._options.streams)
        client.resume_reading()

    def _left(self) -> None:
        self.process.sessions.discard(self)
        if self._stdin and self._options.leaves_input_ended and not self.process.tty:
            self.process.input.end()
        if self._options.kills:
            self.process.kill()

    def _join_input(self, client: Client) -> None:
        stdin = self.process.input

        def forward(data: bytes) -> None:
            leaves = False
            if self.process.tty:
                data, leaves = self._keys.feed(data)
            stdin.write(data)
            if leaves:
                self.process.hub.detach(client)
                client.finish()
            elif stdin.congested:
                client.pause_reading()

        on_closed = client.on_closed

        def closed() -> None:
            with contextlib.suppress(ValueError):
                stdin.on_drained.remove(client.resume_reading)
            on_closed()

        client.on_data = forward
        client.on_closed = closed
        # A terminal's client that leaves must not end the shell for the others; ctrl-d does that.
        ends = self._options.ends_input and not self.process.tty
        client.on_eof = stdin.end if ends else (lambda: stdin.write(self._keys.rest()))
        stdin.on_drained.append(client.resume_reading)
