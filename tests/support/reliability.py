"""The figures of docs/reliability.md: scripts add what they have tried to files in docs/data, and the page shows it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.daemon import PROJECT

if TYPE_CHECKING:
    from tests.support.kills import Outcome

DATA = PROJECT / "docs" / "data"
PAGE = PROJECT / "docs" / "reliability.md"
_TABLE = re.compile(r"(<!-- (\w+): written by scripts/reliability -->\n).*?(<!-- end -->)", re.DOTALL)


def load(name: str, directory: Path = DATA) -> dict[str, Any]:
    """Return what a file holds; nothing when there is none."""
    path = directory / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def store(name: str, value: Mapping[str, Any], directory: Path = DATA) -> None:
    """Write a file."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, sort_keys=True)
    (directory / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let nobody else add to the files: scripts run side by side."""
    directory.mkdir(parents=True, exist_ok=True)
    file = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def record_kills(outcomes: Sequence[Outcome], *, real: bool, directory: Path = DATA) -> None:
    """Add tries to the counts of their steps; ``real``: whether the VMs were."""
    with _alone(directory):
        data = load("kills", directory)
        steps = data.setdefault("steps", {})
        for one in outcomes:
            entry = steps.setdefault(one.step, {"kills": 0, "pretended": 0, "faults": 0, "slowest_restart": 0.0})
            entry["kills" if real else "pretended"] += one.died
            entry["faults"] += bool(one.faults)
            entry["slowest_restart"] = round(max(entry["slowest_restart"], one.restart), 2)
        store("kills", data, directory)


def record_fuzz(name: str, *, runs: int, faults: bool, cover: float | None, directory: Path = DATA) -> None:
    """Add a run of a fuzz target; ``cover``: percent of branches, None where nobody counts them."""
    with _alone(directory):
        data = load("fuzz", directory)
        entry = data.setdefault(name, {"executions": 0, "open_faults": 0})
        entry["executions"] += runs
        entry["open_faults"] = int(faults)
        if cover is not None:
            entry["branches"] = round(cover, 1)
        store("fuzz", data, directory)


def record_api(requests: int, *, operations: int, faults: int, directory: Path = DATA) -> None:
    """Add requests made of the OpenAPI document."""
    with _alone(directory):
        data = load("api", directory)
        data["requests"] = data.get("requests", 0) + requests
        data |= {"operations": operations, "open_faults": faults}
        store("api", data, directory)


def page(text: str, directory: Path = DATA) -> str:
    """Return the page with its tables as the files have them."""
    return _TABLE.sub(lambda match: f"{match[1]}{_table(match[2], directory)}\n{match[3]}", text)


def _table(name: str, directory: Path) -> str:
    head, rows = _TABLES[name]
    lines = [head, ["---"] * len(head), *rows(load(name, directory))]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _kills(data: Mapping[str, Any]) -> Iterator[list[object]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for step, entry in sorted(data.get("steps", {}).items()):
        groups[step.rpartition(".")[0]].append(entry)
    for group, entries in groups.items():
        yield [f"`{group}`", *_sums(entries), f"`scripts/kills 50 --only '{group}.*'`"]
    yield ["all", *_sums([entry for entries in groups.values() for entry in entries]), "`scripts/kills 1000`"]


def _sums(entries: Sequence[Mapping[str, Any]]) -> list[object]:
    return [len(entries), *(sum(one[key] for one in entries) for key in ("kills", "pretended", "faults"))]


def _fuzz(data: Mapping[str, Any]) -> Iterator[list[object]]:
    for name, entry in sorted(data.items()):
        branches = f"{entry['branches']} %" if "branches" in entry else "not counted"
        again = f"`scripts/fuzz 10 --only {name}`"
        yield [f"`{name}`", f"{entry['executions']:,}", branches, entry["open_faults"], again]
    yield ["all", f"{sum(one['executions'] for one in data.values()):,}", "", "", "`scripts/fuzz 60`"]


def _api(data: Mapping[str, Any]) -> Iterator[list[object]]:
    count = data.get("requests", 0)
    faults, again = data.get("open_faults", 0), f"`scripts/api-fuzz {count}`"
    yield [f"{count:,}", data.get("operations", 0), faults, again]


_TABLES = {
    "api": (["requests", "operations", "open faults", "again"], _api),
    "kills": (
        ["operation", "steps", "kills, real VMs", "kills, VMs that pretend", "lost, left or wrong", "again"],
        _kills,
    ),
    "fuzz": (["target", "executions", "branches of its modules", "open faults", "again"], _fuzz),
}
