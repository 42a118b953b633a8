"""A container's next run takes over the clients of the one before, whenever they come."""

from __future__ import annotations

import socket

import pytest

from hyperd.agent.client import Started
from hyperd.agent.frames import Method
from hyperd.agent.input import GuestInput
from hyperd.agent.plan import Plan
from hyperd.container.process import AttachSession, GuestProcess
from hyperd.stream.frames import STDOUT, stdcopy
from hyperd.stream.relay import Relay


def make(relay: Relay, ident: str) -> GuestProcess:
    """Make a run of a container that may be restarted."""
    process = GuestProcess(
        relay,
        ident=ident,
        tty=False,
        log_file=None,
        keep_early=True,
        cut_off=False,
        on_finished=lambda _process: None,
    )
    process.hub.keeping = True
    return process


def in_loop(relay: Relay, function):
    async def run():
        return function()

    return relay.call(run(), timeout=60)


def end(relay: Relay, process: GuestProcess) -> None:
    """End a run without a guest."""
    in_loop(relay, lambda: process.abandon(1))


@pytest.mark.parametrize("moment", ["before the end", "between the runs", "asked before, served after"])
def test_clients_come_over_to_the_next_run(relay: Relay, moment: str) -> None:
    first, second, third = (make(relay, f"c-{number}") for number in range(3))
    here, there = socket.socketpair()
    session = AttachSession(first)  # what a request got from the service
    with there:
        there.settimeout(60)
        if moment == "before the end":
            session.run(here, b"")
            in_loop(relay, lambda: first.hub.emit(STDOUT, b"one"))
            assert there.recv(100) == stdcopy(STDOUT, b"one")
        end(relay, first)
        if moment == "between the runs":
            session.run(here, b"")
            in_loop(relay, lambda: None)
        in_loop(relay, lambda: first.hand_on(second))
        end(relay, second)
        in_loop(relay, lambda: second.hand_on(third))
        if moment == "asked before, served after":
            session.run(here, b"")
        in_loop(relay, lambda: third.hub.emit(STDOUT, b"three"))
        assert there.recv(100) == stdcopy(STDOUT, b"three")
        end(relay, third)
        in_loop(relay, third.hub.let_go)
        assert there.recv(100) == b""


class SlowGuest:
    """An agent in whose guest a terminal is resized while its process is started."""

    def __init__(self) -> None:
        self.process: GuestProcess | None = None
        self.sent: list[bytes] = []  # of its input
        self.told: list[tuple[str, int, int]] = []

    def add_streams(self, base: int, hub: object, stdin: GuestInput) -> None:
        """Take the streams."""
        stdin.bind(base, self.sent.append)

    def drop_streams(self, base: int) -> None:
        """Let go of the streams."""

    def start(self, plan: Plan) -> Started:
        """Start; the client's resize comes before that is known."""
        assert self.process
        self.process.size = (40, 100)
        return Started(pid=7)

    async def async_start(self, plan: Plan) -> Started:
        """Do the same."""
        return self.start(plan)

    async def async_request(self, method: Method, payload: bytes) -> None:
        """Note the request, and how much input was sent by then."""
        self.told.append((method.name, payload.count(b"100"), len(self.sent)))


@pytest.mark.parametrize("way", ["joined", "alone"])
def test_a_terminal_has_its_size_before_its_input(relay: Relay, way: str) -> None:
    """A size that is asked for during the start is set before the program is sent anything."""
    guest = SlowGuest()
    process = guest.process = make(relay, "t-1")
    in_loop(relay, lambda: process.input.write(b"\n"))
    if way == "joined":
        relay.call(process.start_async(guest, 16, Plan(), (24, 80)), timeout=10)
    else:
        process.start(guest, 16, Plan(), (24, 80))
    assert guest.told == [("RESIZE", 1, 0)]
    assert len(guest.sent) == 1
    end(relay, process)
