"""A guest's agent without a guest, for the quick tests: the real protocol, programs run as local processes.

Nothing is isolated: mounts, users and namespaces of a plan are only recorded. What is real: both ports, HELLO and
WELCOME, streams, terminals, signals, exit codes, events, pausing and powering off. Everything here belongs to the
thread of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import platform
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from hyperd.agent.frames import (
    NONCE_SIZE,
    Decoder,
    Event,
    Frame,
    FrameType,
    Method,
    ProtocolError,
    Record,
    decode_records,
    encode_records,
    split_offset,
    welcome_frame,
)
from hyperd.agent.plan import Op
from hyperd.agent.programs import PROGRAM
from hyperd.vm.fake_streams import Input, Output

log = structlog.get_logger(__name__)

Answer = Sequence[tuple[int, Sequence[str | bytes | int]]]
POLL = 0.01  # seconds
# Of the agent's own tools, by their arguments: the process 1 of a pod, and what the pool rehearses a start with.
_TOOLS = {("--stay",): ["sleep", "infinity"], ("--pack-tree", "/.none"): ["true"]}
NO_TOOL = "a guest that only pretends has no such tool"  # of the agent: it has no file system, and packs none
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RefusedError(Exception):
    """A request that is answered with ERROR."""

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(text or os.strerror(number))
        self.number = number


class _Process:
    """A program started by START."""

    def __init__(self, ident: str, base: int) -> None:
        self.ident = ident
        self.base = base
        self.code = 0
        self.popen: subprocess.Popen[bytes] | None = None
        self.stdin: Input | None = None
        self.outputs: list[Output] = []
        self.terminal: int | None = None

    @property
    def running(self) -> bool:
        return self.popen is not None

    def kill(self, number: int) -> None:
        """Signal the whole session."""
        if self.popen is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, number)


class _Port(asyncio.Protocol):
    """One connection to one port; a new one replaces the old, as a virtio-serial port has one peer."""

    def __init__(self, agent: FakeAgent, kind: str) -> None:
        self._agent = agent
        self._kind = kind
        self._decoder = Decoder()
        self._transport: asyncio.WriteTransport | None = None
        self._waiting: list[bytes] = []
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport if isinstance(transport, asyncio.WriteTransport) else None
        self._agent.connected(self._kind, self)

    def data_received(self, data: bytes) -> None:
        if self._agent.paused:
            self._waiting.append(data)
            return
        for frame in self._decoder.feed(data):
            if frame.type == FrameType.HELLO:
                self._greeted = True
                self.send(welcome_frame(frame.payload[:NONCE_SIZE], self._agent.boot_id))
                self._agent.greeted(self._kind)
            elif self._greeted:
                with contextlib.suppress(ProtocolError):
                    self._agent.frame(self._kind, frame)

    def resume(self) -> None:
        """Handle what came while the VM was paused."""
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self.data_received(data)

    def send(self, data: bytes) -> None:
        if self._transport is not None and self._greeted and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class FakeAgent:
    """PID 1 of a VM that does not exist.

    Args:
        control, stream: paths of the sockets to listen on.
        directory: working directory of the programs.
        on_poweroff: called when the agent would switch the VM off.

    ``plans`` holds every plan that came; ``faults`` makes the next request of a method fail with an errno;
    ``unknown`` are ops of plans that an older agent does not know.

    """

    def __init__(self, *, control: Path, stream: Path, directory: Path, on_poweroff: Callable[[], None]) -> None:
        self.boot_id = os.urandom(16)
        self.paused = False
        self.plans: list[list[Record]] = []
        self.faults: dict[Method, int] = {}
        self.unknown: set[int] = set()
        self._paths = {"control": control, "stream": stream}
        self._directory = directory
        self._on_poweroff = on_poweroff
        self._servers: list[asyncio.Server] = []
        self._ports: dict[str, _Port] = {}
        self._processes: dict[str, _Process] = {}
        self._started = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: list[tuple[str, bytes]] = []

    async def open(self) -> None:
        """Listen on both ports."""
        loop = asyncio.get_running_loop()
        for kind, path in self._paths.items():
            self._servers.append(await loop.create_unix_server(lambda kind=kind: _Port(self, kind), str(path)))  # type: ignore[misc]

    def close(self) -> None:
        """End every program, let the peers go and remove the sockets."""
        for task in self._tasks:
            task.cancel()
        for process in self._processes.values():
            process.kill(signal.SIGKILL)
            self._exited(process)
            for output in process.outputs:
                output.end()
            self._close_terminal(process)
        for port in self._ports.values():
            port.close()
        for server in self._servers:
            server.close()
        for path in self._paths.values():
            path.unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop as a VM without CPU time does."""
        self.paused = True
        for process in self._processes.values():
            process.kill(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after ``pause``."""
        self.paused = False
        for process in self._processes.values():
            process.kill(signal.SIGCONT)
        late, self._late = self._late, []
        for kind, data in late:
            self._send(kind, data)
        for port in tuple(self._ports.values()):
            port.resume()

    def connected(self, kind: str, port: _Port) -> None:
        """Note a new peer."""
        old = self._ports.get(kind)
        self._ports[kind] = port
        if old is not None:
            old.close()

    def greeted(self, kind: str) -> None:
        """Hold the streams of processes the peer may not know yet."""
        if kind == "stream":
            for process in self._processes.values():
                for output in process.outputs:
                    output.held = True

    def frame(self, kind: str, frame: Frame) -> None:
        """Handle a frame of the host. Errors: ProtocolError."""
        if kind == "control" and frame.type == FrameType.REQUEST:
            self._request(frame)
        elif kind == "stream":
            self._stream_frame(frame)

    def _send(self, kind: str, data: bytes) -> None:
        if self.paused:
            self._late.append((kind, data))
        elif kind in self._ports:
            self._ports[kind].send(data)

    def _stream_frame(self, frame: Frame) -> None:
        offset, data = split_offset(frame)
        for process in self._processes.values():
            if process.stdin is not None and process.stdin.ident == frame.ident:
                if frame.type == FrameType.DATA:
                    process.stdin.data(offset, data)
                elif frame.type == FrameType.EOF:
                    process.stdin.eof(offset)
            for output in process.outputs:
                if output.ident == frame.ident:
                    if frame.type == FrameType.ACK:
                        output.acknowledge(offset)
                    elif frame.type == FrameType.RESUME:
                        output.resume(offset)

    def _request(self, frame: Frame) -> None:
        try:
            self._maybe_fail(Method(frame.code))
            records = decode_records(frame.payload)
            answer = getattr(self, f"_do_{Method(frame.code).name.lower()}")(records)
        except RefusedError as error:
            text = encode_records([(0, (str(error),))])
            self._send("control", Frame(FrameType.ERROR, frame.ident, error.number, payload=text).encode())
        except (ValueError, IndexError, KeyError) as error:
            text = encode_records([(0, (f"bad request: {error!r}",))])
            self._send("control", Frame(FrameType.ERROR, frame.ident, errno.EINVAL, payload=text).encode())
        else:
            self._send("control", Frame(FrameType.RESPONSE, frame.ident, payload=encode_records(answer)).encode())

    def _maybe_fail(self, method: Method) -> None:
        if method in self.faults:
            raise RefusedError(self.faults.pop(method))

    def _target(self, records: Sequence[Record]) -> _Process:
        try:
            return self._processes[records[0].args[0].decode()]
        except KeyError as error:
            raise RefusedError(errno.ESRCH) from error

    def _do_ping(self, _records: Sequence[Record]) -> Answer:
        uptime = int((time.monotonic() - self._started) * 1000)
        return [(0, ("fake", uptime, platform.release(), 131072, 65536))]

    def _check_shape(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.op in self.unknown:
                raise RefusedError(errno.ENOSYS)
            if record.op == Op.LIKE and len(record.args) != 2:
                raise RefusedError(errno.EINVAL)

    def _do_run(self, records: Sequence[Record]) -> Answer:
        self._check_shape(records)
        self.plans.append(list(records))
        return []

    def _do_start(self, records: Sequence[Record]) -> Answer:
        self._check_shape(records)
        self.plans.append(list(records))
        ops = {record.op: [arg.decode("utf-8", "surrogateescape") for arg in record.args] for record in records}
        words = [arg for record in records if record.op == Op.ENV for arg in record.args]
        environment = dict(word.decode("utf-8", "surrogateescape").split("=", 1) for word in words)
        ident = ops[Op.PROCESS][0]
        if ident in self._processes:
            raise RefusedError(errno.EEXIST)
        base, stdin = ops.get(Op.STREAMS, ["0", "null"])
        process = _Process(ident, int(base))
        argv = ops[Op.ARGV]
        argv = _TOOLS.get(tuple(argv[1:]), argv)
        program = shutil.which(argv[0], path=environment.get("PATH", DEFAULT_PATH))
        if program is None:
            number = errno.EACCES if Path(argv[0]).exists() else errno.ENOENT
            reason = NO_TOOL if argv[0] == PROGRAM else os.strerror(number)
            raise RefusedError(number, f"EXEC {argv[0]}: {reason}")
        window = [int(word) for word in ops[Op.TTY]] if Op.TTY in ops else None
        self._spawn(process, [program, *argv[1:]], environment, window=window, null=stdin == "null")
        self._processes[ident] = process
        who = (os.getuid(), os.getgid(), os.getgid(), *os.getgroups())
        return [(0, (process.popen.pid if process.popen else 0, " ".join(str(one) for one in who)))]

    def _spawn(
        self, process: _Process, argv: list[str], env: dict[str, str], *, window: list[int] | None, null: bool
    ) -> None:
        """Start the program with pipes or a terminal and join it with its streams."""

        def send(data: bytes) -> None:
            self._send("stream", data)

        if window is not None:
            inner, outer = os.openpty()[::-1]
            self._resize(outer, window)
            theirs = [inner, inner, inner]
            # setsid makes the terminal the controlling one without code between fork and exec.
            argv = ["setsid", "--ctty", *argv]
            ours = [outer, os.dup(outer)]
        else:
            pipes = [os.pipe() for _ in range(3)]
            theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
            ours = [pipes[0][1], pipes[1][0], pipes[2][0]]
        try:
            process.popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if null else theirs[0],
                stdout=theirs[1],
                stderr=theirs[2],
                env=env,
                cwd=self._directory,
                start_new_session=window is None,
            )
        except OSError as error:
            for fd in ours:
                os.close(fd)
            raise RefusedError(error.errno or errno.EIO, f"EXEC {argv[0]}: {error.strerror}") from error
        finally:
            for fd in set(theirs):
                os.close(fd)
        process.terminal = ours[0] if window is not None else None
        if null and window is None:
            os.close(ours[0])
        process.stdin = Input(process.base, None if null else ours[0], send, tty=window is not None)
        process.outputs = [Output(process.base + 1 + at, fd, send) for at, fd in enumerate(ours[1:])]
        pidfd = os.pidfd_open(process.popen.pid)
        asyncio.get_running_loop().add_reader(pidfd, self._reap, process, pidfd)

    def _reap(self, process: _Process, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        self._exited(process)

    def _exited(self, process: _Process) -> None:
        if process.popen is None:
            return
        process.kill(signal.SIGKILL)  # as the end of a PID namespace does
        code = process.popen.wait()
        process.popen = None
        process.code = code if code >= 0 else 128 - code
        if process.stdin is not None:
            process.stdin.close()
        event = encode_records([(0, (process.ident, process.code, time.time_ns()))])
        self._send("control", Frame(FrameType.EVENT, code=Event.EXITED, payload=event).encode())

    def _close_terminal(self, process: _Process) -> None:
        if process.terminal is not None:
            os.close(process.terminal)
            process.terminal = None

    def _do_signal(self, records: Sequence[Record]) -> Answer:
        process = self._target(records)
        if not process.running:
            raise RefusedError(errno.ESRCH)
        process.kill(int(records[0].args[1]))
        return []

    def _resize(self, fd: int, window: Sequence[int]) -> None:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", window[0], window[1], 0, 0))

    def _do_resize(self, records: Sequence[Record]) -> Answer:
        process = self._target(records)
        if process.terminal is None or not process.running:
            raise RefusedError(errno.ENOTTY)
        self._resize(process.terminal, [int(word) for word in records[0].args[1:3]])
        return []

    def _do_list(self, _records: Sequence[Record]) -> Answer:
        return [(0, self._state(process)) for process in self._processes.values()]

    def _state(self, process: _Process) -> tuple[str | int, ...]:
        pid = process.popen.pid if process.popen else 0
        word = "running" if process.running else "exited"
        received = process.stdin.received if process.stdin else 0
        offsets = [number for output in process.outputs for number in (output.acked, output.produced)]
        offsets += [0] * (4 - len(offsets))
        return (process.ident, word, pid, process.code, process.base, received, *offsets)

    def _do_forget(self, records: Sequence[Record]) -> Answer:
        process = self._target(records)
        if process.running:
            raise RefusedError(errno.EBUSY)
        del self._processes[process.ident]
        for output in process.outputs:
            output.end()
        self._close_terminal(process)
        return []

    def _do_stats(self, _records: Sequence[Record]) -> Answer:
        return [(0, ("vm", "memory.total", 134217728)), (0, ("vm", "memory.used", 67108864))]

    def _do_readfile(self, _records: Sequence[Record]) -> Answer:
        raise RefusedError(errno.ENOENT)

    def _do_quiesce(self, _records: Sequence[Record]) -> Answer:
        return []

    def _do_shutdown(self, records: Sequence[Record]) -> Answer:
        grace = int(records[0].args[0]) / 1000
        task = asyncio.get_running_loop().create_task(self._power_off(min(grace, 60.0)))
        self._tasks.add(task)
        return []

    async def _power_off(self, grace: float) -> None:
        for process in self._processes.values():
            process.kill(signal.SIGTERM)
        for _ in range(int(grace / POLL)):
            if not any(process.running for process in self._processes.values()):
                break
            await asyncio.sleep(POLL)
        self._tasks.clear()
        self._on_poweroff()
