"""The health of a container as a value: what a result changes, and how the row keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hyperd.container.model import Health, HealthResult, HealthState
from hyperd.spec.model import Healthcheck

INTERVAL = TIMEOUT = 30.0  # seconds
START_INTERVAL = 5.0
RETRIES = 3
KEPT = 5  # results
MAX_OUTPUT = 4096  # bytes of a result


def effective(own: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    """Return the check that counts, with its defaults; None without one.

    Args:
        own: the container's; one without a command takes the image's command with times of its own.
        image: the image's.

    """
    check = own if own is not None else image
    if check is not None and not check.argv and not check.disabled and image is not None:
        check = replace(
            check,
            argv=image.argv,
            shell=image.shell,
            disabled=image.disabled,
            interval=check.interval or image.interval,
            timeout=check.timeout or image.timeout,
            start_period=check.start_period or image.start_period,
            start_interval=check.start_interval or image.start_interval,
            retries=check.retries or image.retries,
        )
    if check is None or check.disabled or not check.argv:
        return None
    return replace(
        check,
        interval=check.interval or INTERVAL,
        timeout=check.timeout or TIMEOUT,
        start_interval=check.start_interval or START_INTERVAL,
        retries=check.retries or RETRIES,
    )


def pause_before_next(check: Healthcheck, health: Health, *, running_for: float) -> float:
    """Return the seconds until the next check, of a container that runs for so many seconds."""
    early = health.state == HealthState.STARTING and running_for < check.start_period
    return min(check.start_interval, check.interval) if early else check.interval


def after(health: Health, result: HealthResult, check: Healthcheck, *, started_at: float) -> Health:
    """Return the health after a result; a failure in the start period of a container that was never well is free."""
    log = (*health.log, result)[-KEPT:]
    if result.exit_code == 0:
        return Health(state=HealthState.HEALTHY, log=log)
    if health.state == HealthState.STARTING and result.started_at - started_at < check.start_period:
        return replace(health, log=log)
    streak = health.failing_streak + 1
    state = HealthState.UNHEALTHY if streak >= check.retries else health.state
    return Health(state=state, failing_streak=streak, log=log)


def dump(health: Health, *, run: int, due: float | None) -> dict[str, Any]:
    """Return what the row keeps: of which run it is, and when the next check is due."""
    return {
        "state": str(health.state),
        "streak": health.failing_streak,
        "run": run,
        "due": due,
        "log": [[one.started_at, one.finished_at, one.exit_code, one.output] for one in health.log],
    }


def load(data: Mapping[str, Any]) -> Health | None:
    """Return the health that a row keeps, None when it keeps none."""
    if not data:
        return None
    results = [
        HealthResult(started_at=begun, finished_at=ended, exit_code=code, output=output)
        for begun, ended, code, output in data.get("log", ())
    ]
    return Health(state=HealthState(data["state"]), failing_streak=data.get("streak", 0), log=tuple(results))
