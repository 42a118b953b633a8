"""Named steps at which a test lets the daemon die, fail or wait.

A step is named where something has just been left behind: a row, a file, a VM, a rule, an answer that is not sent yet.
Names are literals, ``service.operation.step``, each used once: tests read the list from the code (``tests.support``),
so that none is forgotten. A failpoint does nothing unless the environment variable ``HYPERD_FAILPOINTS`` named a file
when the daemon started. That file may be changed at any time; each line of it is ``name action [pass]``: so many times
(0) the step is passed before the action happens. The names that were passed are written to the file beside it whose
name ends with ``.passed``.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from pathlib import Path
from threading import Lock

from hyperd.errors import HostFault

VARIABLE = "HYPERD_FAILPOINTS"
KILL, ERROR, FULL, PAUSE = "kill", "error", "full", "pause"
_POLL = 0.02  # seconds between looks whether a pause is over


class _Switches:
    """What a file says is to happen where.

    Args:
        path: of the file; it may be missing.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._passed = path.with_name(f"{path.name}.passed")
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()

    def reach(self, name: str) -> None:
        """Do what the file says for a step. Errors: HostFault, OSError when it says so."""
        with self._lock:
            line = self._line(name)
            with self._passed.open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
            if not line:
                return
            _, action, *rest = line.split()
            self._counts[name, line] += 1
            if self._counts[name, line] <= int(rest[0] if rest else 0):
                return
        self._act(name, action)

    def _act(self, name: str, action: str) -> None:
        if action == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == ERROR:
            raise HostFault(f"the step {name} fails", details="a test wants it to")
        elif action == FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        elif action == PAUSE:
            while self._line(name):
                time.sleep(_POLL)  # in tests only; a file that changes is told by nothing

    def _line(self, name: str) -> str:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return ""
        return next((line for line in lines if line.partition(" ")[0] == name), "")


def _switches() -> _Switches | None:
    path = os.environ.get(VARIABLE)
    return _Switches(Path(path)) if path else None


_active = _switches()


def failpoint(name: str) -> None:
    """Pass a named step; see the module's docstring. Errors: HostFault, OSError when a test wants them."""
    if _active is not None:
        _active.reach(name)
