"""The table: Markdown for people, JSON for later, ratios between two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchlib.rows import ROWS, Row

FORMAT = 1
HEAD = "| what | median | quartiles (n) | beside | ratio | wanted |\n|---|---:|---:|---|---:|---|"
# Where the reasons of missed goals are explained, seen from the project's root.
DOCUMENT = "docs/performance.md"
_SCALE = {"ms": 1000.0}
# What README shows: the floor, a start cold and warm, a command, the end, an image, memory of a pod and of the daemon.
HEADLINE = (
    *("boot.microvm", "start.api", "warm.ctl", "exec.ctl", "rm.ctl"),
    *("images.pull", "memory.qemu.rss", "density.daemon.rss"),
)


class BadResults(ValueError):
    """A file is not what ``scripts/bench`` wrote."""


def number(value: float, unit: str) -> str:
    """Write a value (times are given in seconds, counts have no unit) for people."""
    scaled = value * _SCALE.get(unit, 1.0)
    if not unit:  # a count
        return f"{scaled:,.4g}"
    digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
    return f"{scaled:,.{digits}f}"


def ratio(value: float, other: float) -> str:
    """Write a ratio."""
    return f"{value / other:.2f}" if other else "-"


def met(row: Row, summaries: Mapping[str, Mapping[str, float]]) -> bool | None:
    """Tell whether a line's goal is met, None when it has none or its peer is missing."""
    if row.limit is None:
        return None
    value = summaries[row.key]["median"] * _SCALE.get(row.unit, 1.0)
    if row.relative:
        peer = summaries.get(row.peers[0][0])
        if peer is None or not peer["median"]:
            return None
        value = summaries[row.key]["median"] / peer["median"]
    return value >= row.limit if row.more else value <= row.limit


def anchor(heading: str) -> str:
    """Return a heading's anchor, as GitHub makes them."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return "#" + kept.replace(" ", "-")


def verdict(row: Row, summaries: Mapping[str, Mapping[str, float]], *, document: str = DOCUMENT) -> str:
    """Write a line's goal, whether it is met, and if it is missed the reason that is known."""
    done = met(row, summaries)
    if done is None:
        return row.goal
    if done:
        return f"{row.goal}: yes"
    text = f"{row.goal}: **no**"
    return f"{text}: {row.reason[0]} ([more]({document}{anchor(row.reason[1])}))" if row.reason else text


def line(row: Row, summaries: Mapping[str, Mapping[str, float]], *, document: str = DOCUMENT) -> str:
    """Write one line of the table; ``document`` is the path to docs/performance.md, empty in itself."""
    own = summaries[row.key]
    peers = [(title, summaries[key]) for key, title in row.peers if key in summaries]
    beside = "<br>".join(f"{title} {number(peer['median'], row.unit)}" for title, peer in peers)
    ratios = "<br>".join(ratio(own["median"], peer["median"]) for _, peer in peers)
    spread = f"{number(own['low'], row.unit)}-{number(own['high'], row.unit)} ({own['n']:g})"
    wanted = verdict(row, summaries, document=document)
    value = f"{number(own['median'], row.unit)} {row.unit}".rstrip()
    return f"| {row.title} | {value} | {spread} | {beside} | {ratios} | {wanted} |"


def headline(rows: Sequence[Row]) -> list[Row]:
    """Choose the rows that say most to somebody who reads the README, eight at most."""
    return [row for row in rows if row.key in HEADLINE]


def table(results: Mapping[str, Any], *, document: str = DOCUMENT, short: bool = False) -> str:
    """Write the table with the run's circumstances; ``document`` as for ``line``, ``short``: ``headline``."""
    summaries, host = results["summaries"], results["host"]
    rows = [row for row in ROWS if row.key in summaries]
    lines = [HEAD, *(line(row, summaries, document=document) for row in (headline(rows) if short else rows))]
    machine = f"{host['cpus']} CPUs, {host['memory_gib']} GiB, {host['system']}, {host['qemu']}"
    guest = f"accelerator {results['accelerator']}, guest kernel {results['kernel']}"
    load = f"load average {results['load'][0]} before and {results['load'][1]} after"
    words = [f"{machine}; {guest}; {results['rounds']} interleaved rounds, {load}."]
    words += [f"Missing: {text}." for text in results["missing"]]
    words += [f"Failed: {text}." for text in results["failures"]]
    return "\n".join([*lines, "", *words])


def write_between(path: Path, text: str, marker: str = "bench") -> bool:
    """Replace what stands between ``<!-- marker -->`` and ``<!-- /marker -->``; False when the marks are not there."""
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if start not in old or end not in old:
        return False
    before, _, rest = old.partition(start)
    after = rest.partition(end)[2]
    path.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")
    return True


def load_results(path: Path) -> dict[str, Any]:
    """Read a results file. Errors: BadResults, OSError."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["format"] == FORMAT and all(value["median"] >= 0 for value in results["summaries"].values()):
            return dict(results)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadResults(f"{path}: {error!r}") from error
    raise BadResults(f"{path}: not of format {FORMAT}")


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Write new beside old, and how each stands beside its peer, which is what to look at on another machine.

    A change is marked when the quartiles of the two runs do not overlap and it is over 10 %.
    """
    lines = [
        "| what | old | new | new/old | beside | old ratio | new ratio | |",
        "|---|---:|---:|---:|---|---:|---:|---|",
    ]
    for row in ROWS:
        before, after = old["summaries"].get(row.key), new["summaries"].get(row.key)
        if before is None or after is None or not before["median"]:
            continue
        change = after["median"] / before["median"]
        apart = after["low"] > before["high"] or after["high"] < before["low"]
        mark = ""
        if apart and abs(change - 1) > 0.1:
            mark = "better" if (change > 1) == row.more else "**worse**"
        values = f"{number(before['median'], row.unit)} | {number(after['median'], row.unit)} {row.unit}"
        lines.append(f"| {row.title} | {values} | {change:.2f} | {_ratios(row, old, new)} | {mark} |")
    if len(lines) == 2:
        lines = ["The two runs have no line in common."]
    return "\n".join([*lines, "", *_differences(old, new)]).rstrip()


def _ratios(row: Row, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    for key, title in row.peers[:1]:
        if key in old["summaries"] and key in new["summaries"]:
            both = (ratio(run["summaries"][row.key]["median"], run["summaries"][key]["median"]) for run in (old, new))
            return f"{title} | {' | '.join(both)}"
    return " | | "


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in what else the two runs differ, beside what they measure."""
    pairs = [(name, old["host"].get(name), new["host"].get(name)) for name in ("cpu", "cpus", "memory_gib", "qemu")]
    pairs += [(name, old.get(name), new.get(name)) for name in ("accelerator", "kernel")]
    lines = [f"Different {name}: {one} and {other}." for name, one, other in pairs if one != other]
    if bool(old.get("quick")) != bool(new.get("quick")):
        lines.append("Only one was made with --quick: lines that say so measured less there.")
    return [*lines, f"Load average before: {old['load'][0]} and {new['load'][0]}."]
