"""The commands that README and the pages of docs/ show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)$")


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Args:
        page: where it stands. line: number of its first line. language: word behind the fence.

    """

    page: Path
    line: int
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines) + "\n"

    def logical_lines(self) -> Iterator[str]:
        """Yield lines with those joined that a backslash continues."""
        held = ""
        for line in self.lines:
            if line.endswith("\\"):
                held += line[:-1]
                continue
            yield held + line
            held = ""


def blocks(page: Path) -> list[Block]:
    """Return a page's fenced and indented blocks."""
    found: list[Block] = []
    held: list[str] = []
    fence: str | None = None
    start = 0

    def finish(language: str) -> None:
        if held:
            found.append(Block(page, start, language, tuple(held)))
            held.clear()

    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        match = _FENCE.match(line)
        if match and fence is None:
            finish("")
            fence, start = match[1], number + 1
        elif line == "```" and fence is not None:
            finish(fence)
            fence = None
        elif fence is not None:
            held.append(line)
        elif line.startswith("    ") and (held or not line[4:5].isspace()):
            start = start if held else number
            held.append(line[4:])
        else:
            finish("")
    return found


def commands(line: str) -> list[list[str]]:
    """Split a line of shell into its commands, as words, without comments, redirections and variables in front."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if set(word) <= set("();|&"):
            found.append([])
        elif set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            found[-1].append(word)
    return [words for words in found if words]
