"""What hyperctl prints: columns, sizes, messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

_MIN_WIDTH = 20
_PADDING = 3
# SGR parameters (ECMA-48) of the states in listings: green, yellow, red.
_COLOURS = {"running": 32, "associated": 32, "pending": 33, "paused": 33, "stopping": 33, "failed": 31}
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def table(rows: Iterable[Sequence[str]]) -> str:
    """Lay rows out in columns as Go's tabwriter does: padded with spaces, at least 20 wide, 3 between.

    The last column is never padded, and nothing is ever cut: the output is for scripts too. On a terminal a status that
    stands in it has a colour.
    """
    coloured = _coloured if colourful(sys.stdout) else str
    lines = [[clean(cell) for cell in row] for row in rows]
    columns = max((len(line) for line in lines), default=0)
    widths = [
        max(_MIN_WIDTH, _PADDING + max(len(line[column]) for line in lines if len(line) > column))
        for column in range(columns)
    ]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False))
        + (coloured(line[-1]) if line else "")
        + "\n"
        for line in lines
    )


def clean(cell: str) -> str:
    """Keep a text on its line and away from the terminal's control sequences."""
    return "".join(letter if letter.isprintable() else "?" for letter in cell)


def human_size(size: float) -> str:
    """Return a number of bytes with four digits and a decimal unit, as Docker's units.HumanSize."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.4g} {_UNITS[unit]}"


def moment(seconds: object) -> str:
    """Return seconds since 1970 in local time, `?` for what is no time."""
    import time

    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(str(seconds))))
    except (ValueError, OverflowError, OSError):
        return "?"


def colourful(file: TextIO) -> bool:
    """Say whether a file may get colours: a terminal that knows them, and no NO_COLOR (https://no-color.org)."""
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell)
    return f"\033[{colour}m{cell}\033[0m" if colour else cell


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
    title = "hyperctl ERROR:"
    complain(f"\033[31m{title}\033[0m {text}" if colourful(sys.stderr) else f"{title} {text}")
