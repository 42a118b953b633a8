"""The benchmark's own arithmetic: what it reads from logs and what it writes of figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchlib import report
from benchlib.rows import ROWS, Row
from benchlib.target import boot_times

ROOT = Path(__file__).resolve().parents[2]

LOG = """\
timestamp=2026-01-02T03:04:05.000001Z level=info event=vm.created vm=vm-one vcpu=1 memory=128 paused=false
timestamp=2026-01-02T03:04:05.000002Z level=info event=vm.booted vm=vm-one create_ms=120 ready_ms=700
timestamp=2026-01-02T03:04:05.000003Z level=info event=vm.booted vm=vm-two template=true create_ms=500 ready_ms=3000
timestamp=2026-01-02T03:04:05.000004Z level=info event=vm.pooled vm=vm-three
"""


def test_boot_times_are_those_of_one_vm() -> None:
    assert boot_times(LOG) == {"vm-one": (0.12, 0.58), "vm-two": (0.5, 2.5)}
    assert boot_times("") == {}


def summary(median: float) -> dict[str, float]:
    return {"n": 1, "median": median, "minimum": median, "low": median, "high": median, "maximum": median}


ROW = Row(
    key="own", title="a thing", unit="ms", peers=(("other", "a peer"),), goal="≤ 2 x", limit=2.0, relative=True,
    reason=("it is far away", "Where it is"),
)  # fmt: skip


def test_reason_stands_beside_a_goal_that_is_missed_and_nowhere_else() -> None:
    missed = {"own": summary(0.5), "other": summary(0.2)}
    assert report.verdict(ROW, missed) == ("≤ 2 x: **no**: it is far away ([more](docs/performance.md#where-it-is))")
    assert "([more](#where-it-is))" in report.line(ROW, missed, document="")
    assert report.verdict(ROW, {"own": summary(0.4), "other": summary(0.2)}) == "≤ 2 x: yes"
    assert report.verdict(ROW, {"own": summary(0.5)}) == "≤ 2 x"


@pytest.mark.parametrize("row", [row for row in ROWS if row.reason], ids=lambda row: row.key)
def test_reason_leads_to_a_section_that_is_there(row: Row) -> None:
    assert row.reason is not None
    assert row.limit is not None
    headings = [line[3:] for line in (ROOT / report.DOCUMENT).read_text().splitlines() if line.startswith("## ")]
    assert row.reason[1] in headings


def test_anchors_are_githubs() -> None:
    assert report.anchor("Where a cold start's time goes") == "#where-a-cold-starts-time-goes"


def test_lines_are_told_apart() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
