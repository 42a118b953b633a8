"""Standard input: waits for the process, keeps the window, ends once."""

from __future__ import annotations

from hyperd.agent.frames import WINDOW, Decoder, FrameType, split_offset
from hyperd.agent.input import GuestInput


class Wire:
    def __init__(self):
        self.decoder = Decoder()
        self.got = b""
        self.eof: list[int] = []

    def __call__(self, data: bytes) -> None:
        for frame in self.decoder.feed(data):
            offset, body = split_offset(frame)
            if frame.type == FrameType.EOF:
                self.eof.append(offset)
            else:
                assert frame.type == FrameType.DATA
                assert offset == len(self.got)
                self.got += body


def make():
    wire, stdin = Wire(), GuestInput()
    stdin.bind(16, wire)
    return wire, stdin


def test_nothing_is_sent_before_the_process_runs():
    wire, stdin = make()
    stdin.write(b"early")
    stdin.end()
    assert wire.got == b""
    stdin.open()
    assert wire.got == b"early"
    assert wire.eof == [5]


def test_the_window_is_kept_and_reopened_by_acknowledgements():
    wire, stdin = make()
    stdin.open()
    drained = []
    stdin.on_drained.append(lambda: drained.append(True))
    stdin.write(bytes(3 * WINDOW))
    assert len(wire.got) == WINDOW
    assert stdin.congested
    for step in range(1, 4):
        stdin.acknowledged(step * WINDOW, closed=False)
    assert len(wire.got) == 3 * WINDOW
    assert drained
    assert not stdin.congested


def test_a_process_that_closes_its_input_gets_no_more():
    wire, stdin = make()
    stdin.open()
    stdin.write(b"abc")
    stdin.acknowledged(3, closed=True)
    stdin.write(b"def")
    stdin.end()
    assert wire.got == b"abc"
    assert wire.eof == []
    assert not stdin.congested


def test_an_absurd_acknowledgement_does_no_harm():
    wire, stdin = make()
    stdin.open()
    stdin.write(b"abc")
    stdin.acknowledged(1 << 60, closed=False)
    stdin.write(b"def")
    assert wire.got == b"abcdef"


def test_after_a_restart_it_goes_on_where_the_guest_stands():
    wire, stdin = make()
    wire.got = b"0123456789"
    stdin.open(10)
    stdin.write(b"next")
    assert wire.got == b"0123456789next"


def test_what_the_guest_holds_unconsumed_counts_against_the_window_after_a_restart():
    wire, stdin = make()
    wire.got = bytes(WINDOW - 10)
    stdin.open(WINDOW - 10, 0)
    stdin.write(bytes(100))
    assert len(wire.got) == WINDOW
    stdin.acknowledged(50, closed=False)
    assert len(wire.got) == WINDOW + 50
    stdin.acknowledged(WINDOW, closed=False)
    assert len(wire.got) == WINDOW + 90
