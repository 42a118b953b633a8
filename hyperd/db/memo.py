"""Values that are computed from tables and kept until one of those tables changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from hyperd.db.session import Database

T = TypeVar("T")
SIZE = 256


class Memo(Generic[T]):
    """Values by key. Safe for threads; what is kept is shared, so nobody may change it.

    Args:
        database: says when its tables have changed.
        tables: what the values are computed from; all of it.
        size: values kept at most.

    A value is computed after its version was read, so it is never older than the version it is kept under.
    """

    def __init__(self, database: Database, *tables: str, size: int = SIZE) -> None:
        self._database = database
        self._tables = tables
        self._size = size
        self._kept: dict[Hashable, tuple[tuple[int, ...], T]] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of ``key``, which ``make`` computes when it is not known. Errors: those of ``make``."""
        version = self._database.version(*self._tables)
        kept = self._kept.get(key)
        if kept is not None and kept[0] == version:
            return kept[1]
        value = make()
        if len(self._kept) >= self._size:
            self._kept.clear()
        self._kept[key] = version, value
        return value
