"""Joining a guest's agent again: one that has missed the host is greeted once more. What agents say of a start."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperd.agent import client
from hyperd.agent.frames import NONCE_SIZE, RESYNC_PADDING, Decoder, Record, welcome_frame
from hyperd.errors import Timeout
from hyperd.stream.relay import Relay

BOOT_ID = b"b" * NONCE_SIZE


class DeafPort:
    """A port whose guest hears the n-th host only."""

    def __init__(self, path: Path, hears: int) -> None:
        self.hosts = 0
        self._hears = hears
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self.hosts += 1
                if self.hosts == self._hears:
                    data = b""
                    while not (frames := list(Decoder().feed(data[len(RESYNC_PADDING) :]))):
                        data += connection.recv(65536)
                    connection.sendall(welcome_frame(frames[0].payload[:NONCE_SIZE], BOOT_ID))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._open:
            connection.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hy", dir="/tmp") as name:
        yield Path(name)


def agent_of(relay: Relay, directory: Path, lost: list[str]) -> client.AgentClient:
    return client.AgentClient(
        relay,
        name="vm-deaf",
        control=directory / "control",
        stream=directory / "stream",
        on_exit=lambda _process, _code: None,
        on_lost=lambda: lost.append("lost"),
    )


def test_a_guest_that_misses_its_host_is_greeted_again(relay: Relay, directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "GREETING_TIMEOUT", 1.0)  # also of the host that is heard
    ports = [DeafPort(directory / name, hears=2) for name in ("control", "stream")]
    lost: list[str] = []
    agent = agent_of(relay, directory, lost)
    agent.connect(fresh=False, timeout=60)
    assert agent.boot_id == BOOT_ID
    assert [port.hosts for port in ports] == [2, 2]
    assert lost == []  # who greets again has not lost the guest
    agent.close()
    for port in ports:
        port.close()


def test_one_that_never_answers_is_given_up(relay: Relay, directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "GREETING_TIMEOUT", 0.2)
    ports = [DeafPort(directory / name, hears=0) for name in ("control", "stream")]
    lost: list[str] = []
    agent = agent_of(relay, directory, lost)
    with pytest.raises(Timeout):
        agent.connect(fresh=False, timeout=2)
    assert ports[0].hosts > 1
    assert lost == []
    agent.close()
    for port in ports:
        port.close()


@pytest.mark.parametrize(
    ("args", "pid", "ids"),
    [
        ((), 0, ()),
        ((b"17",), 17, ()),
        ((b"17", b"0 0 0 10"), 17, (0, 0, 0, 10)),
        ((b"17", b"0"), 17, ()),
        ((b"x", b"1 -2 99999999999"), 0, (1, 0, 0)),
        ((b"17 " * 1000, b"7 " * 100_000), 17, (7,) * 258),  # a guest may send what it likes
    ],
)
def test_what_an_agent_says_of_a_start(args: tuple[bytes, ...], pid: int, ids: tuple[int, ...]) -> None:
    assert client._started([Record(1, args)]) == client.Started(pid=pid, ids=ids)
