"""The agent's streams: nothing is lost or doubled, whatever happens to the host, and nobody holds up anybody else."""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperd.agent.frames import CLOSED, MAX_CHUNK, WINDOW, FrameType, Method, data_frame, decode_records, offset_frame
from tests.support.agent import TIMEOUT, Host, Memory, Output
from tests.support.hosted import HostedAgent
from tests.support.until import until

pytestmark = pytest.mark.root


@pytest.fixture
def host(agent: HostedAgent) -> Iterator[Host]:
    """A connection to the agent; what runs at the end of a test may run on."""
    with agent.connect() as link:
        yield link


def test_input_comes_back_whole(host: Host) -> None:
    data = random.Random(1).randbytes(3_000_000)
    base = host.new_base()
    host.start(host.program("cat", base, stdin="open").argv(["cat"]))
    host.feed(base, data)
    assert host.finish("cat", base) == (0, data, b"")
    assert host.input_acks[base] == (len(data) + 1, False)


def test_no_input_is_end_of_input(host: Host) -> None:
    assert host.execute(lambda plan: plan.argv(["cat"])) == (0, b"", b"")


def test_data_for_a_closed_input_is_answered_closed(host: Host) -> None:
    base = host.new_base()
    host.start(host.program("null", base).argv(["sleep", "100"]))
    host.send_stream(data_frame(base, 0, b"x"))
    host.pump(lambda: base in host.input_acks)
    assert host.input_acks[base] == (0, True)
    host.ask(Method.SIGNAL, "null", 9, "one")
    host.finish("null", base)


def test_a_process_that_closes_its_input(host: Host) -> None:
    base = host.new_base()
    host.start(host.program("c", base, stdin="open").argv(["sh", "-c", "exec <&-; echo closed; sleep 100"]))
    host.pump(lambda: host.input_acks.get(base, (0, False))[1])
    host.ask(Method.SIGNAL, "c", 9, "all")
    host.finish("c", base)


def test_the_window_of_outputs(host: Host) -> None:
    host.acknowledging = False
    base = host.new_base()
    host.start(host.program("w", base).argv(["sh", "-c", "head -c 1000000 /dev/zero"]))
    host.pump(lambda: len(host.output(base + 1)) == WINDOW)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        host.turn(0.1)
    host.ask(Method.PING)
    assert len(host.output(base + 1)) == WINDOW
    host.acknowledging = True
    host.send_stream(offset_frame(FrameType.ACK, base + 1, WINDOW))
    code, out, _ = host.finish("w", base)
    assert (code, len(out)) == (0, 1_000_000)


def test_a_lagging_stream_holds_up_no_other(host: Host) -> None:
    host.acknowledging = False
    slow = host.new_base()
    host.start(
        host.program("slow", slow).argv(["sh", "-c", "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2"])
    )
    host.pump(lambda: len(host.output(slow + 1)) == WINDOW)
    host.acknowledging = True
    assert (
        len(host.execute(lambda plan: plan.argv(["head", "-c", "2000000", "/dev/zero"]), name="quick")[1]) == 2_000_000
    )
    host.send_stream(offset_frame(FrameType.ACK, slow + 1, WINDOW))
    _, out, err = host.finish("slow", slow)
    assert (len(out), len(err)) == (1_000_000, 1_000_000)


def test_a_host_that_wants_no_more_holds_nobody_up(host: Host) -> None:
    base = host.new_base()
    host.start(host.program("d", base).argv(["sh", "-c", "echo on; head -c 3000000 /dev/zero; echo done >&2"]))
    host.send_stream(offset_frame(FrameType.ACK, base + 1, 0, flags=CLOSED))
    host.memory.outputs[base + 1] = Output(unwanted=True)
    code, _, err = host.finish("d", base)
    assert (code, err) == (0, b"done\n")
    assert host.memory.outputs[base + 1].final == 3_000_003


def test_a_host_that_wants_no_more_of_what_waits_gets_no_early_end(host: Host, tmp_path: Path) -> None:
    """The stream port is full, so the output that is dropped then has not been sent yet."""
    gates = fill, write, end = [tmp_path / name for name in ("fill", "write", "end")]
    wait_fill, wait_write, wait_end = (f"until [ -e {gate} ]; do sleep 0.02; done" for gate in gates)
    large = [host.new_base() for _ in range(3)]
    for base in large:
        host.start(
            host.program(f"large{base}", base).argv(["sh", "-c", f"{wait_fill}; head -c {WINDOW + 1} /dev/zero"])
        )
    small = host.new_base()
    host.start(host.program("small", small).argv(["sh", "-c", f"{wait_write}; echo on; {wait_end}; echo more"]))

    def until(done: Callable[[dict[str, list[int]]], bool]) -> None:
        """Ask for the outputs' (acknowledged, produced) without reading the stream port."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            ident = host.post(Method.LIST)
            while ident not in host.answers:
                assert time.monotonic() < deadline
                host.control.flush()
                if select.select([host.control.socket], [], [], 0.5)[0]:
                    host.control.read()
                host._sort()
            records = decode_records(host.answers.pop(ident).payload)
            if done({record.args[0].decode(): [int(number) for number in record.args[6:8]] for record in records}):
                return

    fill.touch()
    until(lambda states: all(states[f"large{base}"][1] == WINDOW for base in large))
    write.touch()
    until(lambda states: states["small"] == [0, 3])
    host.send_stream(offset_frame(FrameType.ACK, small + 1, 0, flags=CLOSED))
    host.stream.flush()
    until(lambda states: states["small"] == [3, 3])
    host.memory.outputs[small + 1] = Output(unwanted=True)
    for base in large:
        assert len(host.finish(f"large{base}", base)[1]) == WINDOW + 1
    assert host.memory.outputs[small + 1].final is None
    end.touch()
    assert host.finish("small", small)[0] == 0
    assert host.memory.outputs[small + 1].final == 8


def test_input_with_gaps_repeats_and_too_much(host: Host) -> None:
    base = host.new_base()
    host.start(host.program("g", base, stdin="open").argv(["cat"]))
    host.send_stream(data_frame(base, 5, b"gap"))
    host.pump(lambda: base in host.input_acks)
    assert host.input_acks[base] == (0, False)
    host.send_stream(data_frame(base, 0, b"abc") + data_frame(base, 0, b"abcdef") + data_frame(base, 2, b"cd"))
    host.send_stream(
        offset_frame(FrameType.EOF, base, 99) + data_frame(base, 6, b"g") + offset_frame(FrameType.EOF, base, 7)
    )
    assert host.finish("g", base) == (0, b"abcdefg", b"")


def test_more_input_than_the_window_is_cut_at_the_window(host: Host, tmp_path: Path) -> None:
    base, go = host.new_base(), tmp_path / "go"
    script = f"until [ -e {go} ]; do sleep 0.05; done; cat"  # nothing is read before all has been sent
    host.start(host.program("g", base, stdin="open").argv(["sh", "-c", script]))
    chunk = bytes(MAX_CHUNK)
    for turn in range(8):
        host.send_stream(data_frame(base, turn * MAX_CHUNK, chunk))
    host.pump(lambda: not host.stream.queue)
    received = int(host.states()["g"][4])
    assert WINDOW <= received < 8 * MAX_CHUNK
    go.touch()
    host.pump(lambda: host.input_acks.get(base, (0, False))[0] == received)
    host.send_stream(offset_frame(FrameType.EOF, base, received))
    assert host.finish("g", base) == (0, bytes(received), b"")


def test_resume(agent: HostedAgent) -> None:
    memory = Memory()
    with agent.connect() as first:
        first.acknowledging = False
        base = first.new_base()
        first.start(first.program("r", base).argv(["sh", "-c", "seq 1 10000; exec >&-; sleep 100"]))
        first.pump(lambda: first.ended(base + 0, tty=True))
        whole = first.output(base + 1)
    with agent.connect(memory=memory) as second:
        second.pump(lambda: True)
        second.ask(Method.PING)
        second.turn(0.1)
        assert second.output(base + 1) == b""  # nothing unasked
        second.acknowledging = False
        second.memory.outputs[base + 1].data += whole[:1000]
        second.resume(base)
        second.pump(lambda: second.ended(base, tty=True))
        assert second.output(base + 1) == whole
        second.send_stream(offset_frame(FrameType.ACK, base + 1, len(whole) + 1))
        second.pump(lambda: second.states()["r"][5] == second.states()["r"][6] == b"%d" % (len(whole) + 1))
        second.ask(Method.SIGNAL, "r", 9, "all")
        second.pump(lambda: "r" in second.exits)
        second.ask(Method.FORGET, "r")


def test_what_ends_while_nobody_listens_is_found_later(agent: HostedAgent) -> None:
    with agent.connect() as first:
        base = first.new_base()
        first.start(first.program("x", base).argv(["sh", "-c", "sleep 0.2; echo late; exit 9"]))
    with agent.connect() as second:
        second.pump(lambda: second.states()["x"][0] == b"exited")
        assert second.states()["x"][2] == b"9"
        second.resume(base)
        second.pump(lambda: second.ended(base))
        assert second.output(base + 1) == b"late\n"
        second.ask(Method.FORGET, "x")


def test_a_start_whose_host_is_gone_is_kept(agent: HostedAgent, tmp_path: Path) -> None:
    with agent.connect() as first:
        base = first.new_base()
        plan = first.program("s", base).mount("lun:7", str(tmp_path), "ext4").argv(["true"])
        first.post(Method.START, plan.encode())
        first.ask(Method.PING)  # answered after the START was taken
    with agent.connect() as second:
        assert second.states()["s"][0] == b"running"
        second.pump(lambda: "s" in second.exits, timeout=20)
        assert second.exits["s"] == 126
        second.ask(Method.FORGET, "s")


def test_many_processes_at_once(host: Host) -> None:
    bases = {f"m{n}": host.new_base() for n in range(60)}
    posted = [
        host.post(
            Method.START,
            host.program(name, base).argv(["sh", "-c", f"head -c 100000 /dev/zero; echo {name} >&2"]).encode(),
        )
        for name, base in bases.items()
    ]
    for ident in posted:
        host.answer(ident)
    for name, base in bases.items():
        code, out, err = host.finish(name, base)
        assert (code, len(out), err) == (0, 100_000, f"{name}\n".encode())


class _Killer:
    """Hosts that live for a random number of turns and die in the middle of whatever they were doing."""

    def __init__(self, agent: HostedAgent, base: int, data: bytes, seed: int) -> None:
        self.agent, self.base, self.data = agent, base, data
        self.random = random.Random(seed)
        self.memory = Memory()
        self.cut_frames = 0

    def live_once(self) -> None:
        """Connect, find out where things stand, go on, die."""
        with self.agent.connect(memory=self.memory) as host:
            state = host.states()["k"]
            received, consumed = int(state[4]), int(state[9])
            assert consumed <= received <= len(self.data)
            host.resume(self.base)
            sent = received
            for _ in range(self.random.randrange(12)):
                consumed = max(consumed, host.input_acks.get(self.base, (0, False))[0])
                size = min(self.random.randrange(1, MAX_CHUNK), WINDOW - (sent - consumed), len(self.data) - sent)
                if size > 0 and len(host.stream.queue) < MAX_CHUNK:
                    host.send_stream(data_frame(self.base, sent, self.data[sent : sent + size]))
                    sent += size
                host.turn(0.001)
                host._sort()
            self._die(host)

    def _die(self, host: Host) -> None:
        # What still waits to be sent is cut anywhere; what was not read is lost.
        for port in (host.control, host.stream):
            cut = self.random.randrange(len(port.queue) + 1)
            self.cut_frames += 0 < cut < len(port.queue)
            del port.queue[cut:]
            if port.queue:
                port.flush()


def test_a_thousand_hosts_die_and_no_byte_is_lost_or_doubled(agent: HostedAgent) -> None:
    data = random.Random(2).randbytes(100_000_000)
    with agent.connect() as first:
        base = first.new_base()
        first.start(first.program("k", base, stdin="open").argv(["cat"]))
    killer = _Killer(agent, base, data, seed=int(os.environ.get("HYPERD_TEST_SEED", "3")))
    for _ in range(1000):
        killer.live_once()
    assert killer.cut_frames > 50
    with agent.connect(memory=killer.memory) as last:
        received = int(last.states()["k"][4])
        assert received > 1_000_000
        last.resume(base)
        last.send_stream(offset_frame(FrameType.EOF, base, received))
        code, out, err = last.finish("k", base)
    assert (code, err) == (0, b"")
    assert out == data[:received]


def test_output_and_ends_that_nobody_heard_are_told_with_their_age(agent: HostedAgent, tmp_path: Path) -> None:
    go, done, memory = tmp_path / "go", tmp_path / "done", Memory()
    os.mkfifo(go)
    script = f"echo heard; cat {go}; echo early; sleep 0.5; echo late; touch {done}"
    with agent.connect() as first:
        base = first.new_base()
        first.start(first.program("a", base).argv(["sh", "-c", script]))
        first.pump(lambda: first.output(base + 1) == b"heard\n")
        acked = len(first.output(base + 1))
    go.write_text("")
    until(done.exists)
    time.sleep(0.3)  # the age that is looked for below
    with agent.connect(memory=memory) as second:
        ended = second.states()["a"]
        second.memory.outputs[base + 1] = Output(data=bytearray(b"heard\n"), acked=acked)
        second.resume(base)
        second.pump(lambda: second.ended(base))
        found = second.memory.outputs[base + 1]
        assert found.data == b"heard\nearly\nlate\n"
        (early, early_age), (late, late_age) = found.ages
        assert (early, late) == (b"early\n", b"late\n")
        assert early_age >= late_age + 0.4
        assert late_age >= 0.25
        assert int(ended[11]) >= 250
        second.ask(Method.FORGET, "a")
