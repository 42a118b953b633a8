"""Patterns of ``.dockerignore`` and of sources: Go's ``filepath.Match``, with ``**`` for any number of directories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from hyperd.errors import InvalidInput

MAX_PATTERNS = 5000
_DIRECTORIES = "(?:[^/]*/)*"


class Ignore:
    """The rules of one ``.dockerignore``; of several that fit, the last one counts.

    Args:
        text: the file. Lines that begin with ``#`` are comments, with ``!`` exceptions.

    Errors: InvalidInput for a bad pattern, or too many.

    """

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for raw in text.removeprefix("\ufeff").splitlines():
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            wanted = line.startswith("!")
            pattern = _clean(line[wanted:].strip())
            if pattern:
                self._rules.append((compiled(pattern, below=True), wanted))
        if len(self._rules) > MAX_PATTERNS:
            raise InvalidInput(f".dockerignore has more than {MAX_PATTERNS} patterns")

    def hides(self, path: str) -> bool:
        """Tell whether a file, by its path without a slash at the beginning, is left out."""
        hidden = False
        for pattern, wanted in self._rules:
            if hidden == wanted and pattern.fullmatch(path):
                hidden = not wanted
        return hidden


def _clean(pattern: str) -> str:
    parts: list[str] = []
    for part in pattern.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts)


def has_wildcards(text: str) -> bool:
    """Tell whether a source is a pattern."""
    return any(char in text for char in "*?[")


@lru_cache(maxsize=1024)
def compiled(pattern: str, *, below: bool = False) -> re.Pattern[str]:
    """Translate a pattern.

    Args:
        pattern: cleaned, without a slash at either end.
        below: it also fits everything below what it fits.

    Raises:
        InvalidInput: a bad pattern.

    """
    groups: list[list[str]] = [[]]
    for part in pattern.split("/"):
        if part == "**":
            groups.append([])
        else:
            groups[-1].append(_part(part))
    first, last = "/".join(groups[0]), groups[-1]
    out = first
    if len(groups) > 1:
        out += "/" if first else ""
        out += "".join(f"(?>{_DIRECTORIES}?{'/'.join(group)}/)" for group in groups[1:-1] if group)
        out += _DIRECTORIES + "/".join(last) if last else ".*"
    try:
        return re.compile(out + ("(?:/.*)?" if below else ""), re.DOTALL)
    except re.error as error:
        raise InvalidInput(f"bad pattern {pattern[:100]!r}", details=str(error)) from error


def _part(part: str) -> str:
    """Translate what is between two slashes. Errors: InvalidInput.

    All but the last star are atomic, with what follows them: the first place that fits is as good as any other, and
    ``*a*a*a*b`` would try them all, which takes for ever.
    """
    pieces, at = [""], 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            pieces.append("")
        elif char == "?":
            pieces[-1] += "[^/]"
        elif char == "[":
            end = part.find("]", at + 1)
            if end < 0:
                raise InvalidInput(f"bad pattern {part[:100]!r}: no closing bracket")
            pieces[-1] += f"(?!/)[{_class(part[at:end])}]"
            at = end + 1
        elif char == "\\" and at < len(part):
            pieces[-1] += re.escape(part[at])
            at += 1
        else:
            pieces[-1] += re.escape(char)
    if len(pieces) == 1:
        return pieces[0]
    return pieces[0] + "".join(f"(?>[^/]*?{piece})" for piece in pieces[1:-1] if piece) + "[^/]*" + pieces[-1]


def _class(body: str) -> str:
    """Escape what a class of characters means to Python's expressions alone, now or in a later version."""
    for char in "\\[&~|":
        body = body.replace(char, f"\\{char}")
    sign = "^" if body.startswith("^") else ""
    rest = body.removeprefix(sign)
    first = "\\-" if rest.startswith("--") else ""  # a range that begins with a hyphen
    return sign + first + rest[1 if first else 0 :].replace("--", "-\\-")


def matching(paths: Sequence[str], pattern: str) -> list[str]:
    """Return the paths that a pattern fits, in their order. Errors: InvalidInput."""
    regex = compiled(_clean(pattern))
    return [path for path in paths if regex.fullmatch(path)]
