"""Here-documents: which words of an instruction begin one.

The parser finds their texts but does not tell how their words are written; it is found out here, by the same rules, and
what the parser found must agree: a text never gets lost because both read a line differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_MARK = re.compile(r"(\d*)<<(-?)([^<]+)", re.ASCII)
_BARE = re.compile(r"\d*<<-?", re.ASCII)
_BLANKS = " \t\r\n"


@dataclass(frozen=True, kw_only=True)
class Heredoc:
    """A text inside the Dockerfile.

    Args:
        name: its word, without quotes. text: as it is written.
        literal: its word is quoted, nothing is expanded. tabs: those at the beginnings of lines do not count.

    """

    name: str
    text: str
    literal: bool = False
    tabs: bool = False

    @property
    def content(self) -> str:
        """The text as it counts."""
        if not self.tabs:
            return self.text
        return "".join(line.lstrip("\t") for line in self.text.splitlines(keepends=True))


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What begins a here-document: ``<<name``, with ``descriptor`` before and ``-`` (``tabs`` are cut) after it."""

    name: str
    descriptor: int
    tabs: bool
    literal: bool


def raw_words(line: str) -> list[str]:
    """Split a line at blanks outside of quotes; quotes and backslashes stay. Nothing for an unclosed quote."""
    words, word, at = [], "", 0
    while at < len(line):
        char = line[at]
        if char in _BLANKS:
            words.append(word)
            word = ""
        elif char in "'\"":
            end = _closing(line, at)
            if end < 0:
                return []
            word += line[at : end + 1]
            at = end
        elif char == "\\":
            word += line[at : at + 2]
            at += 1
        else:
            word += char
        at += 1
    return [one for one in [*words, word] if one]


def _closing(line: str, at: int) -> int:
    """Return where the quote that opens at a place is closed, -1 when it is not."""
    quote, at = line[at], at + 1
    while at < len(line) and line[at] != quote:
        at += 2 if line[at] == "\\" and quote == '"' else 1
    return at if at < len(line) else -1


def read_mark(word: str) -> Mark | None:
    """Read a word of ``raw_words`` that may begin a here-document."""
    match = _MARK.fullmatch(word)
    if match is None:
        return None
    name = _unquoted(match[3])
    return Mark(name=name, descriptor=int(match[1] or "0"), tabs=bool(match[2]), literal=name != match[3])


def _unquoted(word: str) -> str:
    out, at = "", 0
    while at < len(word):
        char = word[at]
        if char == "'":
            end = _closing(word, at)
            out += word[at + 1 : end]
            at = end
        elif char == '"':
            end = _closing(word, at)
            out += re.sub(r'\\(["$\\])', r"\1", word[at + 1 : end])
            at = end
        elif char == "\\":
            out += word[at + 1 : at + 2]
            at += 1
        else:
            out += char
        at += 1
    return out


def marks(line: str) -> list[Mark]:
    """Return what begins here-documents in the (joined) first line of an instruction."""
    return [mark for word in raw_words(line) if (mark := read_mark(word)) is not None]


def given(line: str, found: Sequence[Sequence[object]]) -> tuple[Heredoc, ...] | None:
    """Return the here-documents of an instruction, None when line and parser do not agree.

    Args:
        line: the instruction's first line.
        found: name, descriptor and content of each, from the parser.

    """
    seen = marks(line)
    if [(mark.name, mark.descriptor) for mark in seen] != [(str(name), number) for name, number, _ in found]:
        return None
    return tuple(
        Heredoc(name=mark.name, text=str(text), literal=mark.literal, tabs=mark.tabs)
        for mark, (_, _, text) in zip(seen, found, strict=True)
    )


def with_texts(line: str, documents: Sequence[Heredoc]) -> str:
    """Return an instruction's line with the texts of its here-documents behind it, as they were written."""
    return line + "".join(f"\n{one.text}{one.name}" for one in documents)


def apart(line: str) -> Iterator[str]:
    """Yield the words of here-documents that a blank parts from their ``<<``, which this parser does not know."""
    words = raw_words(line)
    for word, following in pairwise(words):
        if _BARE.fullmatch(word):
            yield _unquoted(following)
