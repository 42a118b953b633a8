"""Slowing down who guesses."""

from __future__ import annotations

import pytest

from hypercloud.account import throttle
from hypercloud.config.model import LoginConfig
from hypercloud.errors import TooManyRequests


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still: a list with the time."""
    now = [1000.0]
    monkeypatch.setattr(throttle.time, "monotonic", lambda: now[0])
    return now


def test_attempts_are_forgotten(clock):
    made = throttle.Throttle(LoginConfig(attempts=3, wait=2.0))
    for _ in range(3):
        made.failed("a", "1.2.3.4")
    with pytest.raises(TooManyRequests):
        made.check("a", "1.2.3.4")
    clock[0] += 3
    made.check("a", "1.2.3.4")
    made.failed("a", "1.2.3.4")
    with pytest.raises(TooManyRequests):
        made.check("a", "1.2.3.4")
    clock[0] += 4 + throttle.FORGOTTEN
    for _ in range(2):
        made.failed("a", "1.2.3.4")
        made.check("a", "1.2.3.4")


def test_somebody_who_signs_in_now_and_then_is_not_locked_out(clock):
    """Each of many people behind one address mistypes once and then signs in."""
    made = throttle.Throttle(LoginConfig(attempts=3, wait=2.0))
    for number in range(100):
        made.check(f"user{number}", "1.2.3.4")
        made.failed(f"user{number}", "1.2.3.4")
        made.succeeded(f"user{number}", "1.2.3.4")
        clock[0] += 1


def test_a_long_name_is_forgotten_too(clock):
    made = throttle.Throttle(LoginConfig(attempts=3))
    for _ in range(10):
        made.failed("x" * 200, "1.2.3.4")
        made.succeeded("x" * 200, "1.2.3.4")
        made.check("x" * 200, "1.2.3.4")
        clock[0] += 1
