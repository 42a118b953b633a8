"""Clients' regular expressions for names, matched in linear time.

Python's own ``re`` goes back and forth: ``(a+)+$`` of one client would stop the whole daemon. Here a pattern is read
into items and followed through a text with all its possible places at once, as Go's RE2 does for Docker. Groups and
counts are refused: nobody needs them for names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hyperd.errors import InvalidInput

MAX_PATTERN = 1000  # characters
_WORD = (("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z"))
_CLASSES = {"d": (("0", "9"),), "w": _WORD, "s": (("\t", "\r"), (" ", " "))}
_REFUSED = "(){"

Ranges = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Item:
    """One character of a text, as often as its quantifier says."""

    ranges: Ranges
    negated: bool = False
    optional: bool = False
    many: bool = False

    def takes(self, char: str) -> bool:
        return any(low <= char <= high for low, high in self.ranges) is not self.negated


class _Branch:
    """One of the alternatives between bars.

    A set of places between items is a number: bit ``i`` is the place before item ``i``, the last one the end.
    """

    def __init__(self, items: Sequence[_Item], *, from_start: bool, to_end: bool) -> None:
        self._items = items
        self._final = 1 << len(items)
        self._to_end = to_end
        self._optional = self._bits(lambda item: item.optional)
        self._many = self._bits(lambda item: item.many)
        self._first = self._reached(1)
        self._anew = 0 if from_start else self._first
        self._takers: dict[str, int] = {}

    def fits(self, text: str) -> bool:
        places = self._first
        for char in text:
            if places & self._final and not self._to_end:
                return True
            taken = places & self._taking(char)
            places = self._reached(taken << 1 | taken & self._many) | self._anew
        return bool(places & self._final)

    def _bits(self, chosen: Callable[[_Item], bool]) -> int:
        return sum(1 << index for index, item in enumerate(self._items) if chosen(item))

    def _taking(self, char: str) -> int:
        if char not in self._takers:
            self._takers[char] = self._bits(lambda item: item.takes(char))
        return self._takers[char]

    def _reached(self, places: int) -> int:
        """Add the places that follow without a character: a carry runs through every run of optional items."""
        return places | ((self._optional + (places & self._optional)) ^ self._optional)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> tuple[_Branch, ...]:
    return _Reader(pattern).branches()


def check(pattern: str) -> None:
    """Refuse what is no pattern here. Errors: InvalidInput."""
    _compiled(pattern)


def fits(pattern: str, text: str) -> bool:
    """Tell whether a pattern is somewhere in a text: ``^``, ``$``, ``.``, ``[a-z]``, ``*``, ``+``, ``?``, ``|``.

    Errors: InvalidInput.
    """
    return any(branch.fits(text) for branch in _compiled(pattern))


class _Reader:
    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN:
            raise InvalidInput(f"a pattern has at most {MAX_PATTERN} characters")
        self._text = pattern
        self._at = 0

    def branches(self) -> tuple[_Branch, ...]:
        found = [self._branch()]
        while self._accept("|"):
            found.append(self._branch())
        return tuple(found)

    def _branch(self) -> _Branch:
        from_start, to_end = self._accept("^"), False
        items: list[_Item] = []
        while self._at < len(self._text) and self._text[self._at] != "|":
            if self._text[self._at] == "$":
                self._at += 1
                if self._at < len(self._text) and self._text[self._at] != "|":
                    raise self._wrong("$ before its end")
                to_end = True
                break
            items.append(self._item())
        return _Branch(items, from_start=from_start, to_end=to_end)

    def _item(self) -> _Item:
        char = self._next()
        if char in _REFUSED or char in "*+?^":
            raise self._wrong(f"{char!r}")
        if char == "[":
            ranges, negated = self._set()
        elif char == "\\":
            ranges, negated = self._escaped(), False
        else:
            ranges, negated = (() if char == "." else ((char, char),)), char == "."
        sign = self._text[self._at : self._at + 1]
        if sign and sign in "*+?":
            self._at += 1
        else:
            sign = ""
        return _Item(ranges, negated, optional=sign in ("*", "?"), many=sign in ("*", "+"))

    def _set(self) -> tuple[Ranges, bool]:
        negated = self._accept("^")
        found: list[tuple[str, str]] = []
        while True:
            char = self._next()
            if char == "]" and found:
                return tuple(found), negated
            if char == "[" and self._text[self._at : self._at + 1] == ":":
                raise self._wrong("a class by name")
            if char == "\\":
                found += self._escaped()
            elif self._text[self._at : self._at + 1] == "-" and self._text[self._at + 1 : self._at + 2] not in (
                "",
                "]",
            ):
                self._at += 1
                found.append((char, self._next()))
            else:
                found.append((char, char))

    def _escaped(self) -> Ranges:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char.isalnum():
            raise self._wrong(f"'\\{char}'")
        return ((char, char),)

    def _accept(self, char: str) -> bool:
        found = self._text.startswith(char, self._at)
        self._at += found
        return found

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise self._wrong("an early end")
        self._at += 1
        return self._text[self._at - 1]

    def _wrong(self, what: str) -> InvalidInput:
        return InvalidInput(
            f"the pattern {self._text[:100]!r} is not supported",
            details=f"it has {what}",
            resolution="use plain text, ^ $ . [a-z] * + ? and |",
        )
