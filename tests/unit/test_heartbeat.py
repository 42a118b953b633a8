"""Guests that do not answer are told of, and calls to them fail at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperd.agent.client import AgentClient
from hyperd.agent.frames import Method
from hyperd.errors import AgentError, OutOfSpace
from hyperd.stream.relay import Relay
from hyperd.vm import console
from hyperd.vm.heartbeat import Heartbeat
from hyperd.vm.model import ASSOCIATED, PAUSED


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay()
    made.start()
    yield made
    made.stop()


class Port:
    """A control port whose other end answers when it is told to."""

    def __init__(self, agent: AgentClient) -> None:
        self.agent, self.deaf = agent, True

    def send(self, _data: bytes) -> None:
        if not self.deaf:
            asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        for future in self.agent._pending.values():
            if not future.done():
                future.set_result([])


def client(relay: Relay) -> tuple[AgentClient, Port]:
    agent = AgentClient(
        relay,
        name="vm-x",
        control=Path("/c"),
        stream=Path("/s"),
        on_exit=lambda _process, _code: None,
        on_lost=lambda: None,
    )
    port = Port(agent)
    agent._control = port  # type: ignore[assignment]
    return agent, port


def machine(agent: Any, state: str = ASSOCIATED) -> Any:
    flags = {"connected": True, "ending": False, "waking": False, "saving": False}
    return SimpleNamespace(id="vm-x", pod_id="p", state=state, agent=agent, **flags)


def test_a_silent_guest_is_told_of_once_and_again_when_it_answers(relay: Relay) -> None:
    agent, port = client(relay)
    told: list[bool] = []
    vm = machine(agent)
    heartbeat = Heartbeat(relay, vms=lambda: [vm], changed=lambda _vm, silent: told.append(silent))
    heartbeat.look(patience=0.05)
    heartbeat.look(patience=0.05)
    assert told == [True]
    with pytest.raises(AgentError, match="does not answer"):
        agent.request(Method.LIST)
    port.deaf = False
    heartbeat.look(patience=5)
    assert told == [True, False]
    assert agent.request(Method.LIST) == []


def test_what_waits_for_a_guest_that_falls_silent_is_let_go(relay: Relay) -> None:
    agent, _ = client(relay)
    waiting = asyncio.run_coroutine_threadsafe(agent.async_request(Method.LIST, b""), relay.loop)
    assert relay.call(agent.probe(0.05)) is False
    with pytest.raises(AgentError, match="does not answer"):
        waiting.result(60)


def test_a_console_log_is_bounded_and_keeps_its_end(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    with log.open("wb", buffering=0) as writer:
        assert not console.bound(log)
        writer.write(b"x" * (console.LIMIT + (2 << 20)) + b"last words")
        assert console.bound(log)
        assert log.stat().st_blocks * 512 <= console.LIMIT
        writer.write(b", and more")
    assert log.read_bytes().endswith(b"last words, and more")
    assert not console.bound(log)
    assert not console.bound(tmp_path / "none")


def test_paused_guests_are_not_asked(relay: Relay) -> None:
    told: list[bool] = []
    vm = machine(None, PAUSED)
    Heartbeat(relay, vms=lambda: [vm], changed=lambda _vm, silent: told.append(silent)).look(patience=0.05)
    assert told == []


def test_what_cannot_be_noted_is_told_by_the_next_look(relay: Relay) -> None:
    machines, told = [machine(client(relay)[0]) for _ in range(2)], list[bool]()
    machines[1].id = "vm-y"
    failures: list[Exception] = [OutOfSpace("the host's disk is full")]

    def changed(_vm: Any, silent: bool) -> None:
        if failures:
            raise failures.pop()
        told.append(silent)

    heartbeat = Heartbeat(relay, vms=lambda: machines, changed=changed)
    heartbeat.look(patience=0.05)
    assert told == [True]  # of the other one
    heartbeat.look(patience=0.05)
    assert told == [True, True]
