"""Measured values: many samples of a name, summed up by their median and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The samples of one name. ``low`` and ``high`` are the quartiles."""

    n: int
    median: float
    minimum: float
    low: float
    high: float
    maximum: float

    def as_dict(self) -> dict[str, Any]:
        """Return what is written as JSON."""
        return {key: round(value, 6) for key, value in asdict(self).items()}


def summarise(values: Iterable[float]) -> Summary:
    """Sum samples up. Errors: ValueError when there is none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no samples")
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return Summary(
        n=len(ordered),
        median=statistics.median(ordered),
        minimum=ordered[0],
        low=quartiles[0],
        high=quartiles[2],
        maximum=ordered[-1],
    )


class Samples:
    """Everything that was measured in one run, by name."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, key: str, value: float) -> None:
        """Keep one sample."""
        self._values.setdefault(key, []).append(value)

    @contextmanager
    def timed(self, key: str) -> Iterator[None]:
        """Keep the seconds that the block takes, unless it fails."""
        started = time.monotonic()
        yield
        self.add(key, time.monotonic() - started)

    def summaries(self) -> dict[str, Summary]:
        """Return the summary of every name."""
        return {key: summarise(values) for key, values in self._values.items()}
