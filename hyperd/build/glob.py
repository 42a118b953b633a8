"""Patterns of ``${name#pattern}`` and its like: ``*``, ``?``, and a backslash before what is meant as it stands.

Matching takes time in proportion to the lengths of pattern and value, whatever they are: the positions that a beginning
of the pattern can reach are the bits of one number.
"""

from __future__ import annotations

from collections.abc import Sequence

from hyperd.errors import InvalidInput, TooLarge

MAX_VALUE = 1 << 16  # characters
MAX_WORK = 4_000_000  # characters of the pattern times characters of the value
_ANY, _SOME = "?", "*"
_Token = tuple[bool, str]  # whether it is a wildcard, and the character


class Glob:
    r"""A pattern. Errors: InvalidInput for a backslash before anything but ``* ? \ } /``."""

    def __init__(self, text: str) -> None:
        self._tokens: list[_Token] = []
        at = 0
        while at < len(text):
            char, special = text[at], text[at] in (_ANY, _SOME)
            at += 1
            if char == "\\":
                char = text[at : at + 1]
                at += 1
                if char not in ("*", "?", "\\", "}", "/") or not char:
                    raise InvalidInput(f"invalid escape '\\{char}' in a pattern of the Dockerfile", details=text[:200])
            self._tokens.append((special, char))

    def without_prefix(self, value: str, *, longest: bool) -> str:
        """Return a value without the shortest or longest beginning that fits. Errors: TooLarge."""
        ends = _Matcher(value, self._tokens).ends(1)
        return value[_bit(ends, highest=longest) :] if ends else value

    def without_suffix(self, value: str, *, longest: bool) -> str:
        """Return a value without the shortest or longest end that fits. Errors: TooLarge."""
        ends = _Matcher(value[::-1], self._tokens[::-1]).ends(1)
        return value[: len(value) - _bit(ends, highest=longest)] if ends else value

    def replace(self, value: str, new: str, *, everywhere: bool) -> str:
        """Return a value with the first (or every) longest text that fits replaced. Errors: TooLarge."""
        out, at, size = list[str](), 0, len(value)
        matcher = _Matcher(value, self._tokens)
        backwards = _Matcher(value[::-1], self._tokens[::-1]).ends((1 << (size + 1)) - 1)
        for start in range(size + 1):
            if start < at or not backwards >> (size - start) & 1:
                continue
            end = _bit(matcher.ends(1 << start), highest=True)
            if end == start == at and out:
                continue  # nothing, right behind what was replaced
            out += [value[at:start], new]
            at = end
            if not everywhere:
                break
        return "".join([*out, value[at:]])


class _Matcher:
    def __init__(self, value: str, tokens: Sequence[_Token]) -> None:
        if len(value) > MAX_VALUE or len(tokens) * len(value) > MAX_WORK:
            raise TooLarge("a pattern of the Dockerfile, or what it is matched with, is too long")
        self._tokens = tokens
        self._whole = (1 << (len(value) + 1)) - 1
        self._places = {
            wanted: int("".join("1" if char == wanted else "0" for char in reversed(value)) or "0", 2)
            for wanted in {char for special, char in tokens if not special}
        }

    def ends(self, starts: int) -> int:
        """Return where a match from one of the starts can end; positions are bits."""
        mask = starts
        for special, char in self._tokens:
            if not mask:
                break
            if special and char == _SOME:
                mask = self._whole & ~((mask & -mask) - 1)
            else:
                mask = ((mask if special else mask & self._places[char]) << 1) & self._whole
        return mask


def _bit(mask: int, *, highest: bool) -> int:
    return (mask if highest else mask & -mask).bit_length() - 1
