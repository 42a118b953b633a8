"""A host of the agent protocol for tests: blocking, single-threaded, without the daemon's relay.

Every wait pumps both ports, so streams are taken and acknowledged while an answer is awaited. A ``Host`` can be cut off
at any byte and followed by another that resumes, as daemons do.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from hyperd.agent.frames import (
    CLOSED,
    RESYNC_PADDING,
    WINDOW,
    Decoder,
    Frame,
    FrameType,
    Method,
    Record,
    Welcome,
    age_of,
    data_frame,
    decode_records,
    encode_records,
    hello_frame,
    offset_frame,
    split_offset,
)
from hyperd.agent.plan import Op, Plan

TIMEOUT = 90.0


class AgentRefusal(Exception):
    """The agent answered ERROR."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} [{code}]")
        self.code = code
        self.text = text


@dataclass
class Output:
    """What came from a stream so far, in order and without gaps."""

    data: bytearray = field(default_factory=bytearray)
    final: int | None = None
    acked: int = 0
    ages: list[tuple[bytes, float]] = field(default_factory=list)  # what came before this host, seconds ago
    unwanted: bool = False  # gaps are expected: the agent was told to throw away

    def take(self, offset: int, data: bytes) -> None:
        have = offset if self.unwanted else len(self.data)
        assert offset <= have, f"gap: have {have}, got {offset}"
        fresh = data[have - offset :] if offset + len(data) > have else b""
        self.data += fresh


@dataclass
class Memory:
    """What survives a daemon: logs (outputs) and nothing else."""

    outputs: dict[int, Output] = field(default_factory=dict)


class Port:
    """One port: connect, HELLO, frames."""

    def __init__(self, path: Path, *, fresh: bool, deadline: float) -> None:
        self.path = path
        self.decoder = Decoder()
        self.socket = _connect(path, deadline)
        self.queue = bytearray()
        nonce = os.urandom(16)
        self.queue += (b"" if fresh else RESYNC_PADDING) + hello_frame(nonce)
        welcome = Welcome(nonce)
        self.boot_id = b""
        self.frames: list[Frame] = []
        while not self.boot_id:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no WELCOME on {path.name}")
            readable, writable, _ = select.select([self.socket], [self.socket] if self.queue else [], [], 0.2)
            if writable:
                self.flush()
            if readable and (found := welcome.feed(self._receive())):
                self.boot_id = found[0]
                self.frames += self.decoder.feed(found[1])

    def _receive(self) -> bytes:
        data = self.socket.recv(262144)
        if not data:
            raise ConnectionError(f"{self.path.name} closed")
        return data

    def flush(self) -> None:
        try:
            sent = self.socket.send(self.queue)
        except BlockingIOError:
            return
        del self.queue[:sent]

    def read(self) -> None:
        self.frames += self.decoder.feed(self._receive())

    def close(self) -> None:
        self.socket.close()


def _connect(path: Path, deadline: float) -> socket.socket:
    while True:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            link.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            link.setblocking(False)
            return link


class Host:
    """Both ports of one guest."""

    def __init__(
        self,
        control: Path,
        stream: Path,
        *,
        fresh: bool = False,
        memory: Memory | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        deadline = time.monotonic() + timeout
        self.memory = memory or Memory()
        self.control = Port(control, fresh=fresh, deadline=deadline)
        try:
            self.stream = Port(stream, fresh=fresh, deadline=deadline)
        except BaseException:
            self.control.close()
            raise
        self.boot_id = self.control.boot_id
        self.answers: dict[int, Frame] = {}
        self.events: list[tuple[int, Record]] = []
        self.exits: dict[str, int] = {}
        self.input_acks: dict[int, tuple[int, bool]] = {}
        self.acknowledging = True
        self._next_id = 1
        self._next_base = 16

    def close(self) -> None:
        self.control.close()
        self.stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Pumping.

    def pump(self, done: Callable[[], bool], *, timeout: float = TIMEOUT, what: str = "condition") -> None:
        deadline = time.monotonic() + timeout
        while True:
            self._sort()
            if done():
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{what}: not within {timeout} s; events {self.events}")
            self.turn(min(left, 0.5))

    def turn(self, timeout: float) -> None:
        ports = (self.control, self.stream)
        by_socket = {port.socket: port for port in ports}
        writers = [port.socket for port in ports if port.queue]
        readable, writable, _ = select.select(list(by_socket), writers, [], timeout)
        for link in writable:
            by_socket[link].flush()
        for link in readable:
            by_socket[link].read()

    def _sort(self) -> None:
        for frame in self.control.frames:
            if frame.type == FrameType.EVENT:
                for record in decode_records(frame.payload):
                    self.events.append((frame.code, record))
                    if frame.code == 1:
                        self.exits[record.args[0].decode()] = int(record.args[1])
            else:
                self.answers[frame.ident] = frame
        self.control.frames.clear()
        for frame in self.stream.frames:
            self._stream_frame(frame)
        self.stream.frames.clear()

    def _stream_frame(self, frame: Frame) -> None:
        age, frame = age_of(frame)
        offset, data = split_offset(frame)
        if frame.type == FrameType.ACK:
            self.input_acks[frame.ident] = (offset, bool(frame.flags & CLOSED))
            return
        output = self.memory.outputs.setdefault(frame.ident, Output())
        if frame.type == FrameType.DATA:
            if age:
                output.ages.append((data, age))
            output.take(offset, data)
            upto = len(output.data)
        else:
            assert output.unwanted or offset == len(output.data), f"EOF at {offset}, have {len(output.data)}"
            output.final = offset
            upto = offset + 1
        if self.acknowledging:
            output.acked = upto
            self.send_stream(offset_frame(FrameType.ACK, frame.ident, upto))

    def send_stream(self, data: bytes) -> None:
        self.stream.queue += data

    # Requests.

    def post(self, method: int, payload: bytes = b"") -> int:
        ident = self._next_id
        self._next_id += 1
        self.control.queue += Frame(FrameType.REQUEST, ident, method, payload=payload).encode()
        return ident

    def answer(self, ident: int, *, timeout: float = TIMEOUT) -> list[Record]:
        self.pump(lambda: ident in self.answers, timeout=timeout, what=f"answer {ident}")
        frame = self.answers.pop(ident)
        records = decode_records(frame.payload)
        if frame.type == FrameType.ERROR:
            raise AgentRefusal(frame.code, records[0].args[0].decode("utf-8", "replace"))
        return records

    def ask(self, method: Method, *args: str | bytes | int, timeout: float = TIMEOUT) -> list[Record]:
        payload = encode_records([(0, args)]) if args else b""
        return self.answer(self.post(method, payload), timeout=timeout)

    def run(self, plan: Plan, *, timeout: float = TIMEOUT) -> None:
        self.answer(self.post(Method.RUN, plan.encode()), timeout=timeout)

    def start(self, plan: Plan, *, timeout: float = TIMEOUT) -> int:
        return int(self.answer(self.post(Method.START, plan.encode()), timeout=timeout)[0].args[0])

    def states(self) -> dict[str, list[bytes]]:
        return {record.args[0].decode(): list(record.args[1:]) for record in self.ask(Method.LIST)}

    def resume(self, base: int) -> None:
        """Ask for both outputs from where the memory ends, as a new daemon does."""
        for stream in (base + 1, base + 2):
            have = len(self.memory.outputs.setdefault(stream, Output()).data)
            self.send_stream(offset_frame(FrameType.RESUME, stream, have))

    # Processes.

    def new_base(self) -> int:
        self._next_base += 4
        return self._next_base

    def program(self, name: str, base: int, *, stdin: str = "null") -> Plan:
        return Plan().add(Op.PROCESS, name).add(Op.STREAMS, base, stdin)

    def output(self, stream: int) -> bytes:
        return bytes(self.memory.outputs.setdefault(stream, Output()).data)

    def ended(self, base: int, *, tty: bool = False) -> bool:
        streams = (base + 1,) if tty else (base + 1, base + 2)
        return all(self.memory.outputs.setdefault(s, Output()).final is not None for s in streams)

    def finish(self, name: str, base: int, *, tty: bool = False, timeout: float = TIMEOUT) -> tuple[int, bytes, bytes]:
        """Wait for exit and both ends, forget the process; gives code, stdout, stderr."""
        self.pump(lambda: name in self.exits and self.ended(base, tty=tty), timeout=timeout, what=f"end of {name}")
        self.ask(Method.FORGET, name)
        return self.exits.pop(name), self.output(base + 1), self.output(base + 2)

    def execute(
        self, plan_of: Callable[[Plan], Plan], *, name: str = "p", stdin: str = "null", tty: bool = False
    ) -> tuple[int, bytes, bytes]:
        """Start what ``plan_of`` adds to a plan with streams and wait for its end."""
        base = self.new_base()
        self.start(plan_of(self.program(name, base, stdin=stdin)))
        return self.finish(name, base, tty=tty)

    def feed(self, base: int, data: bytes, *, start: int = 0, end: bool = True) -> None:
        """Write input within the window, then its end."""
        sent = start
        while sent - start < len(data):
            acked = max(self.input_acks.get(base, (start, False))[0], start)
            size = min(65536, WINDOW - (sent - acked), start + len(data) - sent)
            if size > 0:
                self.send_stream(data_frame(base, sent, data[sent - start : sent - start + size]))
                sent += size
            self.turn(0 if size > 0 else 0.5)
            self._sort()
        if end:
            self.send_stream(offset_frame(FrameType.EOF, base, sent))
