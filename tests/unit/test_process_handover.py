"""A container's next run takes over the clients of the one before, whenever they come."""

from __future__ import annotations

import socket

import pytest

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

    return relay.call(run(), timeout=10)


def end(relay: Relay, process: GuestProcess) -> None:
    """End a run without a guest."""
    in_loop(relay, lambda: process.abandon(1))


@pytest.mark.parametrize("moment", ["before the end", "between the runs", "asked before, served after"])
def test_clients_come_over_to_the_next_run(relay: Relay, moment: str) -> None:
    first, second, third = (make(relay, f"c-{number}") for number in range(3))
    here, there = socket.socketpair()
    session = AttachSession(first)  # what a request got from the service
    with there:
        there.settimeout(10)
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
