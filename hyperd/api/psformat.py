"""The table that ``ps`` would print of a container's processes, for the APIs that take arguments of ``ps``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence

from hyperd.container.top import Process, ProcessList
from hyperd.errors import InvalidInput

Column = tuple[str, Callable[[Process, ProcessList], str]]
_DAY = 86_400
_PLAIN = frozenset("aAexw")  # which processes: a container's are all of them; how wide: as wide as it takes
_ADVICE = "use -ef, aux, or -o with names of columns"


def columns(arguments: str) -> list[Column]:
    """Return the columns that arguments of ``ps`` ask for.

    Args:
        arguments: empty or ``-ef``, ``aux``, or ``-o`` with names of columns (``pid,comm``, ``pid=NUMBER``); ``-e``
            ``-A`` ``-w`` say nothing.

    Errors: InvalidInput for others.

    """
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise InvalidInput("the arguments of ps cannot be split into words", details=str(error)) from None
    chosen: list[Column] = []
    style: Sequence[str] = () if words else _FULL
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, given, text = word.partition("=")
            if name != "--format":
                raise _unknown(word)
        else:
            flags, given, text = word.removeprefix("-").partition("o")
            style = _style(word, flags) or style
        if given or word.startswith("--"):
            chosen += _named(text or (words.pop(0) if words else ""))
    return chosen or [_COLUMNS[name] for name in style or _SHORT]


def table(found: ProcessList, wanted: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the processes, with these columns."""
    rows = [[write(process, found) for _, write in wanted] for process in found.processes]
    return [title for title, _ in wanted], rows


def _style(word: str, flags: str) -> Sequence[str]:
    """Return the columns that short options ask for, none when they ask for no others than usual."""
    dashed = word.startswith("-")
    if not flags and dashed and word == "-":
        raise _unknown(word)
    if not set(flags) <= _PLAIN | set("f" if dashed else "uf"):
        raise _unknown(word)
    return _FULL if "f" in flags else _AUX if "u" in flags else ()


def _named(text: str) -> list[Column]:
    found = []
    for word in filter(None, text.replace(" ", ",").split(",")):
        name, given, title = word.partition("=")
        if name.lower() not in _COLUMNS:
            raise InvalidInput(f"unknown column {name[:40]!r}", resolution="one of " + ", ".join(_COLUMNS))
        usual, write = _COLUMNS[name.lower()]
        found.append((title if given else usual, write))
    return found


def _unknown(word: str) -> InvalidInput:
    return InvalidInput(f"ps arguments {word[:40]!r} are not supported", resolution=_ADVICE)


def _user(process: Process, _found: ProcessList) -> str:
    return "root" if process.uid == 0 else str(process.uid)


def _cpu(process: Process, found: ProcessList) -> str:
    ran = max(found.now - process.started_at, 0.01)
    return f"{min(99.9, 100 * process.cpu_time / ran):.1f}"


def _memory(process: Process, found: ProcessList) -> str:
    return f"{100 * process.resident / found.memory:.1f}" if found.memory else "0.0"


def _start(process: Process, found: ProcessList) -> str:
    style = "%H:%M" if found.now - process.started_at < _DAY else "%b%d"
    return time.strftime(style, time.localtime(process.started_at))


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
    if not process.tty:
        return "?"
    return f"pts/{minor + 256 * (major - 136)}" if 136 <= major <= 143 else f"tty{minor}"


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
    "pgid": ("PGID", lambda process, _: str(process.group)),
    "c": ("C", lambda process, found: _cpu(process, found).partition(".")[0]),
    "pcpu": ("%CPU", _cpu),
    "pmem": ("%MEM", _memory),
    "vsz": ("VSZ", lambda process, _: str(process.virtual // 1024)),
    "rss": ("RSS", lambda process, _: str(process.resident // 1024)),
    "tty": ("TTY", _tty),
    "stat": ("STAT", _stat),
    "s": ("S", lambda process, _: process.state),
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
}
_OTHER_NAMES = {
    "%cpu": "pcpu",
    "%mem": "pmem",
    "command": "args",
    "ni": "nice",
    "state": "s",
    "tname": "tty",
    "tt": "tty",
}
_COLUMNS |= {name: _COLUMNS[known] for name, known in _OTHER_NAMES.items()}
_FULL = ("uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_AUX = ("user", "pid", "pcpu", "pmem", "vsz", "rss", "tty", "stat", "start", "bsdtime", "args")
_SHORT = ("pid", "tty", "time", "comm")
