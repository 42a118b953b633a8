"""The plot: for every line that has a peer, how many times the peer's time (or memory) hyperd takes. Plain SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from benchlib.report import met
from benchlib.rows import ROWS, Row

WIDTH, LEFT, RIGHT, STEP, TOP = 980, 470, 60, 22, 56
LOW, HIGH = 0.1, 10.0  # what is beyond is cut at the edge and labelled
COLOURS = {True: "#2e8b57", False: "#c0562f", None: "#6f86a6"}
TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def bars(results: Mapping[str, Any]) -> list[tuple[Row, str, float]]:
    """Return (line, name of its peer, ratio) of every line with a peer; shorter is better, also for rates."""
    summaries, found = results["summaries"], []
    for row in ROWS:
        if row.key not in summaries or not row.peers or row.peers[0][0] not in summaries:
            continue
        key, title = row.peers[0]
        own, peer = summaries[row.key]["median"], summaries[key]["median"]
        if own and peer:
            found.append((row, title, peer / own if row.more else own / peer))
    return found


def svg(results: Mapping[str, Any]) -> str:
    """Draw the bars on a logarithmic scale."""
    found = bars(results)
    height = TOP + STEP * len(found) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"',
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="20" font-size="15">hyperd beside its peers: times the peer, shorter is better</text>',
        '<text x="12" y="38" fill="#555">green: goal met, red: goal missed, blue: no goal; rates are inverted</text>',
    ]
    for tick in TICKS:
        x = _x(tick)
        colour = "#333" if tick == 1.0 else "#ddd"
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - 24}" stroke="{colour}"/>')
        out.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle" fill="#555">{tick:g}</text>')
    for number, (row, peer, ratio) in enumerate(found):
        out += _bar(TOP + STEP * number, row, peer, ratio, COLOURS[met(row, results["summaries"])])
    return "\n".join([*out, "</svg>", ""])


def _bar(y: int, row: Row, peer: str, ratio: float, colour: str) -> list[str]:
    one, end = _x(1.0), _x(ratio)
    left, width = min(one, end), max(abs(end - one), 1.5)
    # A line that continues the one above says so with an ellipsis.
    label = f"{row.title} / {peer}".replace("`", "")
    label = label if len(label) <= 74 else label[:73] + "…"
    place, anchor = (end + 4, "start") if ratio >= 1 else (end - 4, "end")
    return [
        f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>',
        f'<rect x="{left:.1f}" y="{y + 2}" width="{width:.1f}" height="{STEP - 7}" fill="{colour}"/>',
        f'<text x="{place:.1f}" y="{y + 13}" text-anchor="{anchor}" fill="#333">{ratio:.2f}</text>',
    ]


def _x(ratio: float) -> float:
    share = (math.log(min(max(ratio, LOW), HIGH)) - math.log(LOW)) / (math.log(HIGH) - math.log(LOW))
    return LEFT + 30 + share * (WIDTH - LEFT - RIGHT - 30)
