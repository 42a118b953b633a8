"""Signals while the daemon starts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from hyperd.server.serve import exit_on_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_signal_unwinds_the_start() -> None:
    asked = exit_on_signals()
    assert not asked.is_set()
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    assert asked.is_set()


def test_a_signal_while_something_is_finalized_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: dropped.append(told.exc_type))

    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    asked = exit_on_signals()
    Finalized()
    assert dropped == [SystemExit]
    assert asked.is_set()
