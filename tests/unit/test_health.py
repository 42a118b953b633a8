"""Health as a value."""

from __future__ import annotations

import pytest

from hyperd.container import healthstate
from hyperd.container.model import Health, HealthResult, HealthState
from hyperd.spec.model import Healthcheck

CHECK = healthstate.effective(Healthcheck(argv=("true",)), None)
assert CHECK is not None
STARTING = Health(state=HealthState.STARTING)


def result(code: int, *, at: float = 100.0, output: str = "") -> HealthResult:
    return HealthResult(started_at=at, finished_at=at + 1, exit_code=code, output=output)


def run(codes: list[int], check: Healthcheck = CHECK, *, health: Health = STARTING) -> Health:
    for number, code in enumerate(codes):
        health = healthstate.after(health, result(code, at=100.0 + number), check, started_at=100.0)
    return health


def test_the_defaults_are_dockers():
    assert (CHECK.interval, CHECK.timeout, CHECK.retries, CHECK.start_period) == (30.0, 30.0, 3, 0.0)


@pytest.mark.parametrize(
    ("own", "image"),
    [
        (None, None),
        (Healthcheck(), None),
        (Healthcheck(disabled=True), Healthcheck(argv=("x",))),
        (None, Healthcheck(disabled=True)),
        (Healthcheck(interval=5), Healthcheck(disabled=True)),
    ],
)
def test_without_a_check(own: Healthcheck | None, image: Healthcheck | None):
    assert healthstate.effective(own, image) is None


def test_times_of_the_container_and_the_command_of_the_image():
    found = healthstate.effective(Healthcheck(interval=5), Healthcheck(argv=("x",), timeout=7, retries=2))
    assert found is not None
    assert (found.argv, found.interval, found.timeout, found.retries) == (("x",), 5, 7, 2)


def test_a_streak_of_failures_makes_it_unhealthy_and_one_success_well():
    assert run([1, 1]).state == HealthState.STARTING
    bad = run([1, 1, 1])
    assert (bad.state, bad.failing_streak) == (HealthState.UNHEALTHY, 3)
    assert run([1, 1, 1, 0]).state == HealthState.HEALTHY
    assert run([0, 1, 1]).state == HealthState.HEALTHY
    assert run([0, 1, 1, -1]).state == HealthState.UNHEALTHY


def test_failures_of_the_start_period_are_free():
    check = healthstate.effective(Healthcheck(argv=("x",), start_period=3, retries=1), None)
    assert check is not None
    assert run([1, 1, 1], check) == Health(
        state=HealthState.STARTING, log=tuple(result(1, at=100.0 + number) for number in range(3))
    )
    assert run([1, 1, 1, 1], check).state == HealthState.UNHEALTHY
    assert run([0, 1], check).state == HealthState.UNHEALTHY  # it was well before


def test_the_pause_is_short_while_it_starts():
    check = healthstate.effective(Healthcheck(argv=("x",), start_period=60), None)
    assert check is not None
    assert healthstate.pause_before_next(check, STARTING, running_for=1.0) == 5.0
    assert healthstate.pause_before_next(check, STARTING, running_for=61.0) == 30.0
    assert healthstate.pause_before_next(check, Health(state=HealthState.HEALTHY), running_for=1.0) == 30.0


def test_a_row_keeps_the_last_five():
    health = run([1] * 8)
    assert len(health.log) == 5
    assert healthstate.load(healthstate.dump(health, run=3, due=7.5)) == health
    assert healthstate.load({}) is None
