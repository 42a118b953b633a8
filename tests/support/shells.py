"""What a shell makes of a line and the TAB key: bash and zsh on a terminal, fish by its own `complete -C`."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

PATIENCE = 100.0
_SETUP = {
    # Without bracketed paste and bells; what is typed after a TAB waits in the terminal until the shell comes to it.
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; eval \"$(hyperctl completion bash)\"",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        'unsetopt beep auto_remove_slash; autoload -U compinit; compinit -u -D; eval "$(hyperctl completion zsh)"',
    ),
}
_BEGINNING = b"\x01"  # ctrl-a
# It prints its words behind a mark that does not stand so in what is typed.
_SHOW = """show() { printf G''OT; printf '<%s>' "$@"; echo E''ND; }"""
_MARK = re.compile(rb"GOT((?:<[^<>]*>)*)END")


class Shell:
    """An interactive shell on a terminal of its own.

    Args:
        name: ``bash`` or ``zsh``.
        environment: of the shell; hyperctl is on its PATH.
        directory: where it works.

    """

    def __init__(self, name: str, environment: Mapping[str, str], directory: Path) -> None:
        argv, setup = _SETUP[name]
        self._terminal, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        own = {**environment, "PS1": "$ ", "TERM": "vt100"}
        self._process = subprocess.Popen(
            argv, stdin=inner, stdout=inner, stderr=inner, env=own, cwd=directory, start_new_session=True
        )
        os.close(inner)
        self._type(f"{setup}; {_SHOW}\nshow ready\n".encode())
        self._read_until(re.compile(rb"GOT<ready>END"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def complete(self, line: str) -> list[str]:
        """Type a line and a TAB; give the words that stand there then. The line is not run."""
        self._type(line.encode() + b"\t" + _BEGINNING + b"show \n")
        found = self._read_until(_MARK)
        return re.findall(r"<([^<>]*)>", found[1].decode())

    def _type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def _read_until(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        seen, deadline = b"", time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if select.select([self._terminal], [], [], 1.0)[0]:
                seen += os.read(self._terminal, 65536)
            if found := pattern.search(seen):
                return found
        raise AssertionError(f"the shell does not answer: {seen!r}")


def offers(line: str, environment: Mapping[str, str], directory: Path) -> dict[str, str]:
    """Return what fish offers for a line, with descriptions."""
    script = f"hyperctl completion fish | source; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=dict(environment),
        cwd=directory,
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stderr == b"", done
    return {name: text for name, _, text in (row.partition("\t") for row in done.stdout.decode().splitlines())}
