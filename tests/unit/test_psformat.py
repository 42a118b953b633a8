"""The table of processes: which columns arguments of ps ask for, and what stands in them."""

from __future__ import annotations

from typing import Any

import pytest

from hyperd.api import psformat
from hyperd.container.top import Process, ProcessList
from hyperd.errors import InvalidInput

FULL = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
AUX = ["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"]
SHORT = ["PID", "TTY", "TIME", "COMMAND"]


@pytest.mark.parametrize(
    ("arguments", "titles"),
    [
        ("", FULL),
        ("-ef", FULL),
        ("ef", FULL),
        ("-e -f", FULL),
        ("aux", AUX),
        ("auxww", AUX),
        ("-e", SHORT),
        ("ax", SHORT),
        ("-o pid,comm", ["PID", "COMMAND"]),
        ("-opid", ["PID"]),
        ("-eo pid,pgid,ni", ["PID", "PGID", "NI"]),
        ("axo %cpu,%MEM", ["%CPU", "%MEM"]),
        ("-o 'pid comm' -o tty", ["PID", "COMMAND", "TTY"]),
        ("--format=pid,s", ["PID", "S"]),
        ("--format pid", ["PID"]),
        ("-o pid=NUMBER", ["NUMBER"]),
    ],
)
def test_columns(arguments: str, titles: list[str]) -> None:
    assert [title for title, _ in psformat.columns(arguments)] == titles


@pytest.mark.parametrize(
    "arguments", ["--forest", "-l", "-u root", "-p 1", "-", "-o nothing", "'", "aux; id", "-O pid"]
)
def test_what_is_refused(arguments: str) -> None:
    with pytest.raises(InvalidInput):
        psformat.columns(arguments)


def test_rows() -> None:
    about: dict[str, Any] = {
        "pid": 7,
        "ppid": 1,
        "uid": 0,
        "name": "sh",
        "command": "",
        "state": "S",
        "tty": 136 << 8 | 2,
        "cpu_time": 3725.0,
        "started_at": 1000.0,
        "virtual": 2048,
        "resident": 1024,
        "session": 7,
        "group": 7,
        "group_in_front": 7,
        "threads": 2,
        "nice": -5,
    }
    listed = ProcessList(processes=(Process(**about),), memory=4096, now=1010.0)
    wanted = psformat.columns("-o user,pid,c,%mem,vsz,tty,stat,time,bsdtime,etime,nlwp,cmd")
    _, (row,) = psformat.table(listed, wanted)
    assert row == ["root", "7", "99", "25.0", "2", "pts/2", "S<sl+", "01:02:05", "62:05", "00:10", "2", "[sh]"]
