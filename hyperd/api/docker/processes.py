"""``docker top``: the processes of a container in the columns of ``ps``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from flask import Response

from hyperd.api.context import engine
from hyperd.api.docker import answers, params
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.container.top import Process, ProcessList
from hyperd.errors import Conflict, InvalidInput

Column = Callable[[Process, ProcessList], str]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02d}:{rest:02d}"


def _long_clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest:02d}"


def _start(process: Process, found: ProcessList) -> str:
    shape = "%H:%M" if found.now - process.started_at < 86_400 else "%b%d"
    return time.strftime(shape, time.localtime(process.started_at))


def _cpu(process: Process, found: ProcessList) -> str:
    alive = max(found.now - process.started_at, 0.01)
    return f"{min(99.9, 100 * process.cpu_time / alive):.1f}"


def _memory(process: Process, found: ProcessList) -> str:
    return f"{100 * process.resident / found.memory:.1f}" if found.memory else "0.0"


def _tty(process: Process, _found: ProcessList) -> str:
    major, minor = process.tty >> 8 & 0xFFF, process.tty & 0xFF
    if not process.tty:
        return "?"
    return f"pts/{minor + 256 * (major - 136)}" if 136 <= major <= 143 else f"tty{minor}"


def _command(process: Process, _found: ProcessList) -> str:
    return process.command or f"[{process.name}]"


def _user(process: Process, _found: ProcessList) -> str:
    return "root" if process.uid == 0 else str(process.uid)


def _status(process: Process, _found: ProcessList) -> str:
    marks = "s" if process.session == process.pid else ""
    marks += "l" if process.threads > 1 else ""
    return process.state + marks + ("+" if process.group_in_front == process.group else "")


_COLUMNS: dict[str, tuple[str, Column]] = {
    "uid": ("UID", _user),
    "user": ("USER", _user),
    "pid": ("PID", lambda one, _: str(one.pid)),
    "ppid": ("PPID", lambda one, _: str(one.ppid)),
    "pgid": ("PGID", lambda one, _: str(one.group)),
    "c": ("C", lambda one, found: _cpu(one, found).partition(".")[0]),
    "pcpu": ("%CPU", _cpu),
    "pmem": ("%MEM", _memory),
    "vsz": ("VSZ", lambda one, _: str(one.virtual // 1024)),
    "rss": ("RSS", lambda one, _: str(one.resident // 1024)),
    "tty": ("TTY", _tty),
    "stat": ("STAT", _status),
    "s": ("S", lambda one, _: one.state),
    "stime": ("STIME", _start),
    "start": ("START", _start),
    "time": ("TIME", lambda one, _: _long_clock(one.cpu_time)),
    "bsdtime": ("TIME", lambda one, _: _clock(one.cpu_time)),
    "etime": ("ELAPSED", lambda one, found: _clock(found.now - one.started_at)),
    "nice": ("NI", lambda one, _: str(one.nice)),
    "comm": ("COMMAND", lambda one, _: one.name),
    "cmd": ("CMD", _command),
    "args": ("COMMAND", _command),
}
_NAMES = {"%cpu": "pcpu", "%mem": "pmem", "command": "args", "ni": "nice", "state": "s", "tname": "tty", "tt": "tty"}
_FULL = ("uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_BSD = ("user", "pid", "pcpu", "pmem", "vsz", "rss", "tty", "stat", "start", "bsdtime", "args")
_SHORT = ("pid", "tty", "time", "comm")
_PLAIN_FLAGS = frozenset("aAexwfdTNrl")


def columns(arguments: str) -> tuple[str, ...]:
    """Return the columns that arguments of ``ps`` ask for. Errors: InvalidInput."""
    try:
        parts = shlex.split(arguments)
    except ValueError as error:
        raise InvalidInput("ps_args cannot be split into words", details=str(error)) from None
    chosen: list[str] = []
    kind: tuple[str, ...] | None = None
    while parts:
        word = parts.pop(0)
        if word in ("-o", "o", "-O"):
            chosen += _named(parts.pop(0) if parts else "")
        elif word.startswith("-o") and len(word) > 2:
            chosen += _named(word[2:])
        elif "u" in word and not word.startswith("-"):
            kind = _BSD
        elif word.startswith("-") and "f" in word:
            kind = _FULL
        elif set(word.removeprefix("-")) <= _PLAIN_FLAGS:
            kind = kind or _SHORT
        else:
            raise InvalidInput(f"ps argument {word[:40]!r} is not known", resolution="use -ef, aux or -o with columns")
    return tuple(chosen) or kind or _SHORT


def _named(text: str) -> list[str]:
    found = []
    for word in filter(None, text.replace(" ", ",").split(",")):
        name = word.partition("=")[0].lower()
        name = _NAMES.get(name, name)
        if name not in _COLUMNS:
            raise InvalidInput(f"column {word[:40]!r} of ps is not known", details="known: " + ", ".join(_COLUMNS))
        found.append(name)
    return found


@blueprint.get("/containers/<name>/top")
def top(name: str) -> Response:
    """List the processes of a container; their numbers are those of its VM."""
    found = container(name)
    chosen = columns(params.text("ps_args") or "-ef")
    if not found.live:
        raise Conflict(f"Container {found.id} is not running")
    listed = engine().containers.top.list(found.id)
    return answers.as_json(
        {
            "Titles": [_COLUMNS[column][0] for column in chosen],
            "Processes": [[_COLUMNS[column][1](one, listed) for column in chosen] for one in listed.processes],
        }
    )
