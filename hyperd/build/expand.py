"""Words of a Dockerfile: quotes, escapes and variables, as Docker's ``shell`` package expands them.

Known forms: ``$name``, ``${name}``, and with ``:-`` ``-`` ``:+`` ``+`` ``:?`` ``?`` ``#`` ``##`` ``%`` ``%%`` (POSIX
shell, 2.6.2), ``/`` and ``//``. A name of digits or of one of the shell's signs is a variable that nobody has set.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperd.build.glob import Glob
from hyperd.errors import InvalidInput, TooLarge

MAX_WORD = 1 << 20  # characters after expansion
_DEPTH = 20
_SIGNS = frozenset("@*#?-$!")  # with 0, the special parameters of the POSIX shell, 2.5.2


def expand(word: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """Expand one word: variables are replaced, quotes taken off. Unknown variables are empty.

    Raises:
        InvalidInput: an unclosed quote or brace, a ``${name:?message}`` that is not set.
        TooLarge: the result is too long or nested too deep.

    """
    result = _Scanner(word, variables, escape).run()
    if len(result) > MAX_WORD:
        raise TooLarge("a word of the Dockerfile is too long after expansion")
    return result


def expand_text(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """Expand the variables of a here-document: quotes are ordinary, only ``$`` and the escape can be escaped.

    Errors: as for ``expand``.
    """
    result = _Scanner(text, variables, escape).text()
    if len(result) > MAX_WORD:
        raise TooLarge("a here-document of the Dockerfile is too long after expansion")
    return result


class _Scanner:
    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self._text = text
        self._at = 0
        self._variables = variables
        self._escape = escape
        self._depth = 0

    def run(self, stop: str = "", *, raw_escapes: bool = False) -> str:
        """Expand up to ``stop`` (or the end); with ``raw_escapes`` an escape stays in front of what it escapes."""
        out: list[str] = []
        while (char := self._peek()) != stop:
            if not char:
                raise InvalidInput(f"syntax error: missing {stop!r} in the Dockerfile", details=self._text[:200])
            if char == "'":
                out.append(self._single())
            elif char == '"':
                out.append(self._double(raw_escapes=raw_escapes))
            elif char == "$":
                out.append(self._dollar())
            else:
                self._at += 1
                if char == self._escape:
                    char = (char if raw_escapes else "") + self._peek()
                    self._at += 1
                out.append(char)
        self._at += 1
        return "".join(out)

    def text(self) -> str:
        out = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "$":
                out.append(self._dollar())
                continue
            self._at += 1
            if char == self._escape and self._peek() in ("$", self._escape):
                char = self._text[self._at]
                self._at += 1
            out.append(char)
        return "".join(out)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise InvalidInput("unexpected end of statement while looking for matching single-quote")
        content = self._text[self._at + 1 : end]
        self._at = end + 1
        return content

    def _double(self, *, raw_escapes: bool) -> str:
        out: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return "".join(out)
            if char == "$":
                out.append(self._dollar())
                continue
            self._at += 1
            if char == self._escape:
                following = self._peek()
                self._at += 1
                # Inside double quotes only these lose their meaning; any other keeps its escape.
                plain = following in ('"', "$", self._escape) and not raw_escapes
                char = following if plain else char + following
            out.append(char)
        raise InvalidInput("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            return self._variables.get(name, "") if name else "$"
        self._at += 1
        self._depth += 1
        if self._depth > _DEPTH:
            raise TooLarge("variables of a Dockerfile are nested too deep")
        found = self._braces()
        self._depth -= 1
        return found

    def _name(self) -> str:
        """Read a name: letters, digits and ``_``; or only digits; or one of the shell's signs."""
        start = self._at
        if self._peek() in _SIGNS:
            self._at += 1
            return self._text[start]
        digits = self._peek().isdigit()
        while (char := self._peek()) and (char.isdigit() if digits else char.isalnum() or char == "_"):
            self._at += 1
        return self._text[start : self._at]

    def _braces(self) -> str:
        if self._peek() in ("{", "}", ":"):
            raise InvalidInput("bad substitution in the Dockerfile", details=self._text[:200])
        name = self._name()
        value = self._variables.get(name)
        operator = self._peek()
        self._at += 1
        if operator == "}":
            return value or ""
        if operator in ("#", "%", "/"):
            return self._cut(value or "", operator)
        colon = operator == ":"
        if colon:
            operator = self._peek()
            self._at += 1
        if operator not in ("-", "+", "?") or not operator:
            raise InvalidInput(f"unsupported modifier ({operator}) in substitution", details=self._text[:200])
        word = self.run("}")
        present = bool(value) if colon else value is not None
        if operator == "+":
            return word if present else ""
        if present:
            return value or ""
        if operator == "?":
            raise InvalidInput(f"{name}: {word or 'is not allowed to be empty'}")
        return word

    def _cut(self, value: str, operator: str) -> str:
        """Carry out ``#`` ``##`` ``%`` ``%%`` (a beginning or an end goes) or ``/`` ``//`` (something else instead)."""
        double = self._peek() == operator
        self._at += double
        if operator == "/":
            pattern = Glob(self.run("/", raw_escapes=True))
            return pattern.replace(value, self.run("}", raw_escapes=True), everywhere=double)
        pattern = Glob(self.run("}", raw_escapes=True))
        if operator == "#":
            return pattern.without_prefix(value, longest=double)
        return pattern.without_suffix(value, longest=double)
