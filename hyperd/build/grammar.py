"""Runs BuildKit's Dockerfile parser as a program: a Dockerfile on stdin, its instructions as JSON on stdout.

A process of its own, because the parser is a Go library: its runtime, threads and faults stay out of the daemon.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

MAX_DOCKERFILE = 1 << 20  # bytes
_ONBUILD = re.compile(r"\s*ONBUILD\b", re.IGNORECASE)


def main() -> int:
    """Parse stdin; 0 and a JSON list, or 1 and the parser's complaint."""
    import dockerfile

    text = sys.stdin.buffer.read(MAX_DOCKERFILE + 1).decode("utf-8", "replace")
    lines = text.split("\n")
    try:
        found = [_described(command, dockerfile.parse_string, lines) for command in dockerfile.parse_string(text)]
    except (dockerfile.GoParseError, ValueError) as error:
        sys.stdout.write(str(error))
        return 1
    json.dump(found, sys.stdout)
    return 0


def _described(command: Any, parse: Any, lines: list[str]) -> dict[str, Any]:
    if not command.cmd:  # only an escape before the end of the file
        raise ValueError(f"dockerfile parse error on line {command.start_line}: no instruction")
    texts = command.heredocs
    if command.cmd.upper() == "ONBUILD" and "<<" in command.original:
        # The module gives no here-documents of what stands behind ONBUILD: it is parsed once more, alone.
        alone = "\n".join(lines[command.start_line - 1 : command.end_line])
        inner = parse(_directives(lines) + _ONBUILD.sub("", alone, count=1))
        texts = [here for one in inner for here in one.heredocs]
    return {
        "verb": command.cmd.upper(),
        "words": list(command.value),
        "json": bool(command.json),
        "flags": list(command.flags),
        "text": command.original,
        "line": command.start_line,
        "heredocs": [[here.name, here.file_descriptor, here.content] for here in texts],
    }


def _directives(lines: list[str]) -> str:
    """Return the lines before the first one that is no comment: how lines are joined is written there."""
    head = []
    for line in lines:
        if not line.lstrip().startswith("#"):
            break
        head.append(line)
    return "".join(f"{line}\n" for line in head)


if __name__ == "__main__":
    sys.exit(main())
