"""Runs BuildKit's Dockerfile parser as a program: a Dockerfile on stdin, its instructions as JSON on stdout.

A process of its own, because the parser is a Go library: its runtime, threads and faults stay out of the daemon.
"""

from __future__ import annotations

import json
import sys

MAX_DOCKERFILE = 1 << 20  # bytes


def main() -> int:
    """Parse stdin; 0 and a JSON list, or 1 and the parser's complaint."""
    import dockerfile

    text = sys.stdin.buffer.read(MAX_DOCKERFILE + 1).decode("utf-8", "replace")
    try:
        parsed = dockerfile.parse_string(text)
    except (dockerfile.GoParseError, ValueError) as error:
        sys.stdout.write(str(error))
        return 1
    found = [
        {
            "verb": command.cmd.upper(),
            "words": list(command.value),
            "json": bool(command.json),
            "flags": list(command.flags),
            "text": command.original,
            "line": command.start_line,
            "heredocs": [[here.name, here.file_descriptor, here.content] for here in command.heredocs],
        }
        for command in parsed
    ]
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
