"""What /proc tells of processes: memory and CPU time (proc(5))."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1024.0


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process in seconds. Errors: OSError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def spent_children(pid: int) -> float:
    """Return the CPU time of the children that a process has waited for, in seconds. Errors: OSError."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICKS


def threads(pid: int) -> int:
    """Count a process's threads. Errors: OSError when it is gone."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def memory(pid: int) -> tuple[float, float]:
    """Return resident and proportional memory of a process in MiB. Errors: OSError when it is gone."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0])
    return values["Rss"] / _MIB, values["Pss"] / _MIB


def resident(pid: int) -> float:
    """Return resident memory of a process in MiB, cheaply and not quite exactly. Errors: OSError when it is gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20


def find(*words: str) -> list[int]:
    """Return the processes whose command line has all these words in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(word in line for word in words):
                found.append(int(entry.name))
    return sorted(found)


def qemus(directory: Path) -> list[int]:
    """Return the QEMU processes whose files are in this directory."""
    return find("qemu-system-", f"{directory}/")
