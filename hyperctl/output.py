"""What hyperctl prints: columns, sizes, messages."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

_MIN_WIDTH = 20
_PADDING = 3
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def table(rows: Iterable[Sequence[str]]) -> str:
    """Lay rows out in columns as Go's tabwriter does: padded with spaces, at least 20 wide, 3 between.

    The last column is never padded, and nothing is ever cut: the output is for scripts too.
    """
    lines = [[clean(cell) for cell in row] for row in rows]
    columns = max((len(line) for line in lines), default=0)
    widths = [
        max(_MIN_WIDTH, _PADDING + max(len(line[column]) for line in lines if len(line) > column))
        for column in range(columns)
    ]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False))
        + (line[-1] if line else "")
        + "\n"
        for line in lines
    )


def clean(cell: str) -> str:
    """Keep a text on its line and away from the terminal's control sequences."""
    return "".join(letter if letter.isprintable() else "?" for letter in cell)


def human_size(size: float) -> str:
    """Give a number of bytes with four digits and a decimal unit, as Docker's units.HumanSize."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.4g} {_UNITS[unit]}"


def say(text: str) -> None:
    """Print a line of result on stdout."""
    sys.stdout.write(text + "\n")


def write(text: str) -> None:
    """Print lines of result on stdout."""
    sys.stdout.write(text)


def complain(text: str) -> None:
    """Print a line for the user on stderr, after what stdout already has."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def error(text: str) -> None:
    """Print the message a command fails with."""
    complain(f"hyperctl ERROR: {text}")
