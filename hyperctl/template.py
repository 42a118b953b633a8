r"""`--format` templates: the part of Go's text/template that listings need, as `docker ps --format` takes it.

    {{.Name}} is {{.Status}}          a field, as the table shows it
    {{json .}} {{json .Size}}         a row or a field as JSON
    {{upper .Status}} {{lower .Name}} {{index .Names 0}}
    table {{.Name}}\t{{.Status}}      with headings, in columns

`\t` and `\n` stand for a tab and a line's end.
"""

from __future__ import annotations

import json
import re

from hyperctl import output
from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_ACTION = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_INSIDE = re.compile(r"(?:(json|upper|lower|index)\s+)?(\.|(?:\.\w+)+)(?:\s+(\d{1,9}))?")
_ESCAPES = {"\\t": "\t", "\\n": "\n", "\\\\": "\\"}


def compact(value: object) -> str:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


class Template:
    """A template, checked.

    Args:
        text: as typed, without `table` at its front.

    Raises:
        UsageProblem: something between `{{` and `}}` is not understood.

    """

    def __init__(self, text: str) -> None:
        text = re.sub(r"\\[tn\\]", lambda match: _ESCAPES[match[0]], text)
        self._parts: list[str | tuple[str, tuple[str, ...]]] = []
        if "{{" in _ACTION.sub("", text) or "}}" in _ACTION.sub("", text):
            raise UsageProblem(f"'{text}' has {{{{ without }}}}, or the other way round")
        for index, part in enumerate(_ACTION.split(text)):
            if index % 2 == 0:
                self._parts.append(part)
                continue
            match = _INSIDE.fullmatch(part)
            if match is None or (match[1] == "index") != bool(match[3]):
                raise UsageProblem(f"'{{{{{part}}}}}' is not understood: use {{{{.Field}}}} or {{{{json .Field}}}}")
            path = tuple(match[2].split(".")[1:]) if match[2] != "." else ()
            self._parts.append((match[1] or "", path + ((match[3],) if match[3] else ())))

    def fields(self) -> list[str]:
        """Return the fields that are named, first steps only."""
        return [part[1][0] for part in self._parts if isinstance(part, tuple) and part[1]]

    def fill(self, row: Mapping[str, Any], texts: Mapping[str, Callable[[Any], str]]) -> str:
        """Fill in a row.

        Args:
            row: raw values by field.
            texts: how to print a field's value; without one a text stays as it is and the rest is JSON.

        Raises:
            UsageProblem: there is no such field.

        """
        out = ""
        for part in self._parts:
            if isinstance(part, str):
                out += part
                continue
            function, path = part
            value = _follow(row, path)
            if function == "json":
                out += compact(value)
                continue
            text = texts[path[0]](value) if len(path) == 1 and path[0] in texts else _plain(value)
            if function in {"upper", "lower"}:
                text = text.upper() if function == "upper" else text.lower()
            out += output.clean(text)
        return out


def _follow(row: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if isinstance(row, list) and step.isdecimal() and int(step) < len(row):
            row = row[int(step)]
            continue
        if not isinstance(row, dict) or step not in row:
            known = f": use {', '.join(map(str, row))}" if isinstance(row, dict) else ""
            raise UsageProblem(f"there is no field .{'.'.join(path)} to print{known}")
        row = row[step]
    return row


def _plain(value: object) -> str:
    return value if isinstance(value, str) else compact(value)
