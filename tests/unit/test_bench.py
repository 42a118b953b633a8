"""The benchmark's own arithmetic: what it reads from logs and what it writes of figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchlib import report, rest
from benchlib.rest import alike, at_rest
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


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "ms", "12.3"),
        (1.5, "ms", "1,500"),
        (0.0, "", "0"),
        (2.0, "", "2"),
        (0.5, "", "0.5"),
        (99.99, "MiB", "100.0"),
    ],
)
def test_numbers(value: float, unit: str, text: str) -> None:
    assert report.number(value, unit) == text


def test_goal_of_nothing_is_met_by_nothing_only() -> None:
    row = next(row for row in ROWS if row.key == "rm.left")
    assert report.verdict(row, {"rm.left": summary(0)}).endswith(": yes")
    assert "**no**" in report.verdict(row, {"rm.left": summary(1)})


def test_lines_are_told_apart() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)


def results(**medians: float) -> dict[str, Any]:
    host = {"cpus": 2, "memory_gib": 24, "cpu": "x", "qemu": "y"}
    summaries = {name.replace("_", "."): summary(median) for name, median in medians.items()}
    return {
        "format": report.FORMAT, "host": host, "accelerator": "tcg", "kernel": "k", "load": [0.1, 0.2],
        "summaries": summaries,
    }  # fmt: skip


def test_comparison_gives_ratios_and_marks_what_changed() -> None:
    old = results(rm_api=0.1, rm_podman=0.2, stop_api=0.1, list_rate=1000.0, exec_api=0.02)
    new = results(rm_api=0.2, rm_podman=0.4, stop_api=0.104, list_rate=2000.0, ping_p50=0.001)
    lines = {line.split(" | ")[0].strip("| "): line for line in report.compare(old, new).splitlines()}
    assert lines["rm of a running pod at the API"].endswith(
        "| 100 | 200 ms | 2.00 | podman rm -f | 0.50 | 0.50 | **worse** |"
    )
    assert lines["stop of a running pod"].endswith("| 100 | 104 ms | 1.04 |  | |  |  |")
    assert lines["… requests with 8 clients"].endswith("| better |")
    assert not any("exec" in line or "_ping`, one client" in line for line in lines)


def test_comparison_says_when_machines_differ() -> None:
    old, new = results(rm_api=0.1), results(stop_api=0.1)
    new["host"]["cpus"], new["quick"] = 4, True
    text = report.compare(old, new)
    assert "no line in common" in text
    assert "Different cpus: 2 and 4." in text
    assert "--quick" in text


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 0, "summaries": {}}'])
def test_comparison_with_what_is_no_result(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(report.BadResults):
        report.load_results(tmp_path / "r.json")


def test_committed_results_can_be_compared() -> None:
    files = sorted((ROOT / "benchmarks").glob("results-*.json"))
    assert files
    for file in files:
        assert "better" not in report.compare(report.load_results(file), report.load_results(file))


def bench(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/bench", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_comparison_fails_for_no_figure_but_for_a_bad_file(tmp_path: Path) -> None:
    old, new, bad = tmp_path / "old", tmp_path / "new", tmp_path / "bad"
    old.write_text(json.dumps(results(rm_api=0.1)))
    new.write_text(json.dumps(results(rm_api=9.0)))
    bad.write_text("{")
    worse = bench("--compare", old, new)
    assert (worse.returncode, worse.stderr) == (0, "")
    assert "**worse**" in worse.stdout
    for files in ((old, bad), (bad, old), (old, tmp_path / "none")):
        done = bench("--compare", *files)
        assert done.returncode == 2
        assert done.stderr.startswith("bench: ")
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((100.0, 0.0), (100.0, 0.01), True),
        ((100.0, 0.0), (100.2, 0.02), True),
        ((100.0, 0.0), (101.0, 0.0), False),
        ((100.0, 0.50), (100.0, 0.45), True),
        ((100.0, 0.50), (100.0, 0.10), False),
        ((6000.0, 0.1), (6010.0, 0.1), True),
    ],
)
def test_windows_that_are_alike(one: tuple[float, float], other: tuple[float, float], same: bool) -> None:
    assert alike(one, other) is same


def test_rest_is_waited_for_and_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def grows(until: int) -> Callable[[int], float]:
        def look(pid: int) -> float:
            looks.append(pid)
            return float(min(len(looks), until))

        return look

    monkeypatch.setattr(rest, "WINDOW", 0.001)
    monkeypatch.setattr(rest, "resident", grows(5))
    assert at_rest([os.getpid()])
    assert len(looks) == 5 + rest.ALIKE
    looks.clear()
    monkeypatch.setattr(rest, "resident", grows(1 << 30))
    assert not at_rest([os.getpid()], most=0.05)


def test_the_short_table_has_eight_rows_that_stand_alone() -> None:
    chosen = report.headline(ROWS)
    assert len(chosen) == len(report.HEADLINE) <= 8
    assert not [row.title for row in chosen if row.title.startswith("…")]


def test_readme_shows_no_more() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- bench -->")[2].partition("<!-- /bench")[0]
    assert 0 < sum(line.startswith("|") for line in text.splitlines()) - 2 <= 8
