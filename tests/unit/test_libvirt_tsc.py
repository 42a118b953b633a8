"""The speed of the host's time stamp counter, which emulated guests are told."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from hyperd.vm.libvirt.tsc import TscClock

CPUINFO = Path("/proc/cpuinfo")


def steady() -> bool:
    """Whether this machine's kernel calls its counter steady."""
    return {"constant_tsc", "nonstop_tsc"} <= set(CPUINFO.read_text().split())


def test_two_measurements_agree() -> None:
    first, second = TscClock().khz(), TscClock().khz()
    if platform.machine() == "x86_64" and steady():
        assert 100_000 < first < 20_000_000
        assert first == pytest.approx(second, rel=0.002)
    else:
        assert first == second == 0


def test_it_is_measured_once() -> None:
    clock = TscClock()
    assert clock.khz() == clock.khz()


@pytest.mark.parametrize("flags", ["fpu tsc", "fpu tsc constant_tsc", "nonstop_tsc"])
def test_a_counter_that_is_not_steady_is_not_used(tmp_path: Path, flags: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert TscClock(cpuinfo).khz() == 0


def test_no_description_of_the_cpu_means_not_known(tmp_path: Path) -> None:
    assert TscClock(tmp_path / "missing").khz() == 0
    (tmp_path / "empty").touch()
    assert TscClock(tmp_path / "empty").khz() == 0
