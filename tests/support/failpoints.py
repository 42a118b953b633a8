"""The daemon's named steps (``hyperd.failpoint``): the list, read from the code, and a switch for a test's daemon."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from hyperd.failpoint import VARIABLE
from tests.support.daemon import PROJECT


def calls(root: Path = PROJECT / "hyperd") -> list[tuple[str, str]]:
    """Return the name of every step and where it is; a name that is no literal is given as an empty one."""
    found = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                literal = node.args[0] if len(node.args) == 1 and not node.keywords else None
                named = isinstance(literal, ast.Constant) and isinstance(literal.value, str)
                name = str(literal.value) if named and isinstance(literal, ast.Constant) else ""
                found.append((name, f"{path.relative_to(PROJECT)}:{node.lineno}"))
    return found


def names() -> list[str]:
    """Return the names of all steps."""
    return sorted(name for name, _ in calls())


class Switch:
    """What the daemon does at its steps; give ``env`` to the launcher.

    Args:
        path: of the file that the daemon reads.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = {VARIABLE: str(path)}
        self._passed = path.with_name(f"{path.name}.passed")

    def arm(self, name: str, action: str = "kill", *, after: int = 0) -> None:
        """Let this happen at a step, from now on, once it was passed so often."""
        part = self.path.with_suffix(".part")
        part.write_text(f"{name} {action} {after}\n", encoding="utf-8")
        part.rename(self.path)

    def disarm(self) -> None:
        """Let nothing happen any more; what waits at a step goes on."""
        self.path.unlink(missing_ok=True)

    def passed(self) -> Counter[str]:
        """Return how often each step was passed."""
        if not self._passed.exists():
            return Counter()
        return Counter(self._passed.read_text(encoding="utf-8").split())

    def forget(self) -> None:
        """Forget what was passed."""
        self._passed.unlink(missing_ok=True)
