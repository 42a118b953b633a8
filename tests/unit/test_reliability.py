"""docs/reliability.md says what the scripts have recorded, and names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import reliability
from tests.support.daemon import PROJECT
from tests.support.failpoints import names
from tests.support.kills import Outcome


def test_the_page_has_the_recorded_figures() -> None:
    text = reliability.PAGE.read_text(encoding="utf-8")
    assert reliability.page(text) == text, "run scripts/reliability"


def test_the_page_names_tests_that_exist() -> None:
    text = reliability.PAGE.read_text(encoding="utf-8")
    assert [name for name in re.findall(r"`(tests/[\w/.]+)`", text) if not (PROJECT / name).exists()] == []


def test_recorded_steps_are_steps() -> None:
    assert set(reliability.load("kills").get("steps", {})) <= set(names())


def test_tries_are_added_up(tmp_path: Path) -> None:
    reliability.record_kills([Outcome("a.b.c", "start", died=True, restart=1.5)], real=True, directory=tmp_path)
    more = [
        Outcome("a.b.c", "start", died=False),
        Outcome("a.b.c", "start", died=True, faults=["x"], restart=1.0),
        Outcome("a.b.d", "stop", died=True, restart=2.0),
    ]
    reliability.record_kills(more, real=False, directory=tmp_path)
    assert reliability.load("kills", tmp_path)["steps"]["a.b.c"] == {
        "kills": 1, "pretended": 1, "faults": 1, "slowest_restart": 1.5,
    }  # fmt: skip
    text = reliability.page("<!-- kills: written by scripts/reliability -->\nold\n<!-- end -->\n", tmp_path)
    assert "| `a.b` | 2 | 1 | 2 | 1 | `scripts/kills 50 --only 'a.b.*'` |" in text
    assert "| all | 2 | 1 | 2 | 1 | `scripts/kills 1000` |" in text
