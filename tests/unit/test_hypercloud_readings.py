"""What containers use: from counters to rates, and how many readings are kept."""

from __future__ import annotations

import pytest

from hypercloud.engine.readings import KEPT, Counters, Point, Series, counters, rates

STATS = {
    "read": "2026-11-30T14:35:00.123456789Z",
    "cpu_stats": {"cpu_usage": {"total_usage": 5_000_000_000}},
    "memory_stats": {"usage": 3000, "stats": {"inactive_file": 1000}},
    "networks": {"eth0": {"rx_bytes": 10, "tx_bytes": 20}, "eth1": {"rx_bytes": 1, "tx_bytes": 2}},
}


def test_counters():
    found = counters(STATS)
    assert (found.cpu, found.memory, found.received, found.sent) == (5_000_000_000, 2000, 11, 22)
    assert found.time == pytest.approx(1_796_049_300.123456)
    older = counters(STATS | {"memory_stats": {"usage": 3000, "stats": {"total_inactive_file": 500}}})
    assert older.memory == 2500


@pytest.mark.parametrize("stats", [{}, {"memory_stats": {}}, {"memory_stats": None, "cpu_stats": []}])
def test_a_container_that_does_not_run(stats):
    assert counters(stats) is None


def test_nonsense_is_nothing():
    found = counters({"read": "noon", "memory_stats": {"usage": "many"}, "cpu_stats": 1, "networks": {"eth0": 3}})
    assert (found.cpu, found.memory, found.received, found.sent) == (0, 0, 0, 0)
    assert found.time > 1e9


def test_rates():
    before = Counters(time=100.0, cpu=10**9, memory=1, received=1000, sent=0)
    point = rates(before, Counters(time=102.0, cpu=2 * 10**9, memory=7, received=3000, sent=50))
    assert point[1:] == (50.0, 7.0, 1000.0, 25.0)
    assert rates(before, Counters(time=102.0, cpu=5, memory=7, received=3000, sent=50)) is None  # started anew
    assert rates(before, before) is None


def test_only_the_last_are_kept():
    series = Series()
    for when in range(KEPT + 10):
        series.add(Point(float(when), 1.0, 2.0, 3.0, 4.0))
    found = series.after(-1.0)
    assert (len(found), found[0].time, found[-1].time) == (KEPT, 10.0, KEPT + 9.0)
    assert [one.time for one in series.after(KEPT + 7.0)] == [KEPT + 8.0, KEPT + 9.0]
