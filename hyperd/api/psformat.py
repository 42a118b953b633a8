"""The table that ``ps`` would print of a container's processes, for the APIs that take arguments of ``ps``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hyperd.container.top import Process, ProcessList
from hyperd.errors import InvalidInput

Column = tuple[str, Callable[[Process, ProcessList], str]]
_DAY = 86_400


def table(found: ProcessList, arguments: str) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows.

    Args:
        found: the processes.
        arguments: of ps: empty or ``-ef``, ``aux``, or ``-o`` with names of columns; ``-e`` ``-A`` ``-w`` say nothing.

    Errors: InvalidInput for others.

    """
    columns = [_COLUMNS[name] for name in _wanted(arguments)]
    rows = [[write(process, found) for _, write in columns] for process in found.processes]
    return [title for title, _ in columns], rows


def _wanted(arguments: str) -> Sequence[str]:
    words = arguments.replace("=", " ").split()
    names: list[str] = []
    style: Sequence[str] = _FULL
    while words:
        word = words.pop(0)
        if word in ("-o", "o", "-eo", "--format", "-axo", "axo"):
            names += [name for name in (words.pop(0) if words else "").split(",") if name]
        elif word.startswith("-o") and len(word) > 2:
            names += word[2:].split(",")
        elif word.lstrip("-") in ("aux", "axu", "u", "auxw", "auxww"):
            style = _AUX
        elif word not in ("-e", "-ef", "-A", "-f", "-fe", "-w", "-ww", "ax", "ef", "-Af"):
            raise InvalidInput(
                f"ps arguments {word[:40]!r} are not supported", resolution="use -ef, aux, or -o with names of columns"
            )
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown:
        raise InvalidInput(f"unknown column {unknown[0][:40]!r}", resolution="one of " + ", ".join(_COLUMNS))
    return names or style


def _user(process: Process, _found: ProcessList) -> str:
    return "root" if process.uid == 0 else str(process.uid)


def _cpu(process: Process, found: ProcessList) -> str:
    ran = found.now - process.started_at
    return f"{100 * process.cpu_time / ran:.1f}" if ran > 0 else "0.0"


def _memory(process: Process, found: ProcessList) -> str:
    return f"{100 * process.resident / found.memory:.1f}" if found.memory else "0.0"


def _start(process: Process, found: ProcessList) -> str:
    style = "%H:%M" if found.now - process.started_at < _DAY else "%b%d"
    return time.strftime(style, time.gmtime(process.started_at))


def _time(process: Process, _found: ProcessList) -> str:
    seconds = int(process.cpu_time)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _short_time(process: Process, _found: ProcessList) -> str:
    return f"{int(process.cpu_time) // 60}:{int(process.cpu_time) % 60:02d}"


def _elapsed(process: Process, found: ProcessList) -> str:
    seconds = max(0, int(found.now - process.started_at))
    hours = f"{seconds // 3600:02d}:" if seconds >= 3600 else ""
    return f"{hours}{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _tty(process: Process, _found: ProcessList) -> str:
    major, minor = process.tty >> 8 & 0xFFF, process.tty & 0xFF
    return f"pts/{minor + 256 * (major - 136)}" if 136 <= major <= 143 else "?"


def _stat(process: Process, _found: ProcessList) -> str:
    flags = "<" if process.nice < 0 else "N" if process.nice > 0 else ""
    flags += "s" if process.session == process.pid else ""
    flags += "l" if process.threads > 1 else ""
    return process.state + flags + ("+" if process.group_in_front == process.group else "")


def _command(process: Process, _found: ProcessList) -> str:
    return process.command or f"[{process.name}]"


_COLUMNS: dict[str, Column] = {
    "uid": ("UID", _user),
    "user": ("USER", _user),
    "pid": ("PID", lambda process, _: str(process.pid)),
    "ppid": ("PPID", lambda process, _: str(process.ppid)),
    "c": ("C", lambda process, found: _cpu(process, found).partition(".")[0]),
    "%cpu": ("%CPU", _cpu),
    "pcpu": ("%CPU", _cpu),
    "%mem": ("%MEM", _memory),
    "pmem": ("%MEM", _memory),
    "vsz": ("VSZ", lambda process, _: str(process.virtual // 1024)),
    "rss": ("RSS", lambda process, _: str(process.resident // 1024)),
    "tty": ("TTY", _tty),
    "stat": ("STAT", _stat),
    "state": ("S", lambda process, _: process.state),
    "stime": ("STIME", _start),
    "start": ("START", _start),
    "time": ("TIME", _time),
    "bsdtime": ("TIME", _short_time),
    "etime": ("ELAPSED", _elapsed),
    "nice": ("NI", lambda process, _: str(process.nice)),
    "nlwp": ("NLWP", lambda process, _: str(process.threads)),
    "comm": ("COMMAND", lambda process, _: process.name),
    "cmd": ("CMD", _command),
    "args": ("COMMAND", _command),
    "command": ("COMMAND", _command),
}
_FULL = ("uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_AUX = ("user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "bsdtime", "command")
