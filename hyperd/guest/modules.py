"""Picks kernel modules and their order from an unpacked kernel package, without depmod."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hyperd.errors import NotFound

# Every module carries strings "key=value" ended by NUL (Linux, include/linux/moduleparam.h).
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def _plain(name: str) -> str:
    return name.replace("-", "_")


class ModuleTree:
    """The modules below ``lib/modules/<release>`` of an unpacked kernel package."""

    def __init__(self, tree: Path) -> None:
        self._files = {_plain(path.name.split(".ko")[0]): path for path in sorted((tree / "kernel").rglob("*.ko"))}
        builtin = tree / "modules.builtin"
        lines = builtin.read_text().splitlines() if builtin.exists() else []
        self._builtin = {_plain(Path(line).stem) for line in lines}

    def path(self, name: str) -> Path:
        """Return the file of a module. Errors: NotFound."""
        try:
            return self._files[_plain(name)]
        except KeyError:
            raise NotFound(f"the guest's kernel has no module {name}") from None

    def depends(self, name: str) -> list[str]:
        """Return the modules a module needs directly, as the file itself says."""
        match = _DEPENDS.search(self.path(name).read_bytes())
        return [_plain(word) for word in match[1].decode().split(",") if word] if match else []

    def load_order(self, wanted: Sequence[str], *, optional: Sequence[str] = ()) -> list[str]:
        """Return the wanted modules and all they need, each after its needs; built-in ones need no loading.

        Errors: NotFound for a wanted module that is neither a file nor built in; missing optional ones are left out.
        """
        order: list[str] = []
        for name in wanted:
            self._visit(_plain(name), order)
        for name in optional:
            if _plain(name) in self._files:
                self._visit(_plain(name), order)
        return order

    def _visit(self, name: str, order: list[str]) -> None:
        if name in order or (name in self._builtin and name not in self._files):
            return
        for need in self.depends(name):
            self._visit(need, order)
        order.append(name)
