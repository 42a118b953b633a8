"""Words of a Dockerfile: quotes, escapes and variables, as Docker's ``shell`` package expands them.

Known forms: ``$name``, ``${name}`` and with ``:-`` ``-`` ``:+`` ``+`` ``:?`` ``?`` (POSIX shell, 2.6.2).
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperd.errors import InvalidInput, TooLarge

MAX_WORD = 1 << 20  # characters after expansion
_DEPTH = 20


def expand(word: str, variables: Mapping[str, str], *, escape: str = "\\", depth: int = 0) -> str:
    """Expand one word: variables are replaced, quotes taken off. Unknown variables are empty.

    Raises:
        InvalidInput: an unclosed quote or brace, a ``${name:?message}`` that is not set.
        TooLarge: the result is too long or nested too deep.

    """
    if depth > _DEPTH:
        raise TooLarge("variables of a Dockerfile are nested too deep")
    result = _Scanner(word, variables, escape, depth).run()
    if len(result) > MAX_WORD:
        raise TooLarge("a word of the Dockerfile is too long after expansion")
    return result


def expand_text(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """Expand the variables of a here-document: quotes are ordinary, only ``$`` and the escape can be escaped.

    Errors: as for ``expand``.
    """
    result = _Scanner(text, variables, escape, 0).text()
    if len(result) > MAX_WORD:
        raise TooLarge("a here-document of the Dockerfile is too long after expansion")
    return result


class _Scanner:
    def __init__(self, text: str, variables: Mapping[str, str], escape: str, depth: int) -> None:
        self._text = text
        self._at = 0
        self._variables = variables
        self._escape = escape
        self._depth = depth

    def run(self) -> str:
        out = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "'":
                out.append(self._single())
            elif char == '"':
                out.append(self._double())
            elif char == "$":
                out.append(self._dollar())
            else:
                self._at += 1
                if char == self._escape:
                    char = self._text[self._at : self._at + 1]
                    self._at += 1
                out.append(char)
        return "".join(out)

    def text(self) -> str:
        out = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "$":
                out.append(self._dollar())
                continue
            self._at += 1
            if char == self._escape and self._text[self._at : self._at + 1] in ("$", self._escape):
                char = self._text[self._at]
                self._at += 1
            out.append(char)
        return "".join(out)

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise InvalidInput("unexpected end of statement while looking for matching single-quote")
        content = self._text[self._at + 1 : end]
        self._at = end + 1
        return content

    def _double(self) -> str:
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
                following = self._text[self._at : self._at + 1]
                self._at += 1
                # Inside double quotes only these lose their meaning; any other keeps its escape.
                char = following if following in ('"', "$", self._escape) else char + following
            out.append(char)
        raise InvalidInput("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self._at += 1
        if self._text[self._at : self._at + 1] == "{":
            return self._braces()
        name = self._name()
        return self._variables.get(name, "") if name else "$"

    def _name(self) -> str:
        start = self._at
        while self._at < len(self._text) and (self._text[self._at].isalnum() or self._text[self._at] == "_"):
            self._at += 1
            if self._text[start].isdigit():
                break
        return self._text[start : self._at]

    def _braces(self) -> str:
        self._at += 1
        name = self._name()
        if not name:
            raise InvalidInput("bad substitution in the Dockerfile", details=self._text[:200])
        value = self._variables.get(name)
        if self._text[self._at : self._at + 1] == "}":
            self._at += 1
            return value or ""
        colon = self._text[self._at : self._at + 1] == ":"
        self._at += colon
        operator = self._text[self._at : self._at + 1]
        if operator not in ("-", "+", "?"):
            raise InvalidInput(f"unsupported modifier ({operator}) in substitution", details=self._text[:200])
        self._at += 1
        word = self._until_brace()
        present = bool(value) if colon else value is not None
        if operator == "+":
            return self._inner(word) if present else ""
        if present:
            return value or ""
        if operator == "?":
            raise InvalidInput(f"{name}: {self._inner(word) or 'not allowed to be empty'}")
        return self._inner(word)

    def _inner(self, word: str) -> str:
        return expand(word, self._variables, escape=self._escape, depth=self._depth + 1)

    def _until_brace(self) -> str:
        start, open_braces = self._at, 1
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == self._escape:
                self._at += 1
            elif char == "{" and self._text[self._at - 2 : self._at - 1] == "$":
                open_braces += 1
            elif char == "}":
                open_braces -= 1
                if not open_braces:
                    return self._text[start : self._at - 1]
        raise InvalidInput("syntax error: missing '}' in the Dockerfile", details=self._text[:200])
