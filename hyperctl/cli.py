"""The entry point: finds the command, loads only its module, turns errors into messages and exit statuses.

Start-up time is a feature: nothing here, and nothing `list` needs, may load an HTTP
library, click, rich, yaml or typing.
"""

from __future__ import annotations

import os
import sys

from hyperctl import output, verbs
from hyperctl.api.errors import HyperctlError, Left
from hyperctl.command import HOST_OPTIONS, App, Command, Group, understand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

_BROKEN_PIPE = 141
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run hyperctl and give its exit status.

    Args:
        arguments: the command line without the program's name; that of the process when None.

    """
    _open_standard_streams()
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone: nothing to say, and nothing may be flushed at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        return _BROKEN_PIPE
    return status


def _run(arguments: list[str]) -> int:
    try:
        if "_HYPERCTL_COMPLETE" in os.environ:
            from hyperctl import completion

            output.write(completion.answer(arguments))
            return 0
        arguments = verbs.shortened(arguments)
        found = _understand(arguments)
        if found is None:
            from hyperctl import full

            return full.run(arguments) or 0
        app, command, values = found
        try:
            return command.function(app, **values) or 0
        finally:
            app.close()
    except HyperctlError as error:
        output.error(str(error))
        return error.exit_status
    except Left as error:
        return error.exit_status
    except KeyboardInterrupt:
        output.complain("")
        return _INTERRUPTED


def _understand(arguments: list[str]) -> tuple[App, Command, dict[str, Any]] | None:
    """Find the command and its values; None leaves the command line to click."""
    words, host = arguments, ""
    while len(words) > 1 and words[0] in HOST_OPTIONS:
        host, words = words[1], words[2:]
    if not words:
        return None
    verb, *words = words
    found = verbs.load(verb)
    if isinstance(found, Group):
        found = found.commands.get(words[0].lower()) if words else None
        words = words[1:]
    if found is None:
        return None
    values = understand(found, words)
    return None if values is None else (App(host), found, values)


def _open_standard_streams() -> None:
    """Open the descriptors 0, 1 and 2 that the caller closed, lest a socket of ours becomes one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
