"""Sizes as people read them, and bars of transfers, as Docker's progress lines have them."""

from __future__ import annotations

_WIDTH = 50
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_size(size: float, *, blank: str = " ") -> str:
    """Return a number of bytes with four digits and a decimal unit: ``1.049 MB``.

    Args:
        size: bytes.
        blank: what stands before the unit; newer versions of Docker have nothing there.

    """
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.4g}{blank}{unit}"
        size /= 1000
    return f"{size:.4g}{blank}{_UNITS[-1]}"


def bar(current: int, total: int, *, blank: str = " ") -> str:
    """Return the text bar of a transfer: ``[====>    ] 1 B/100 B``."""
    if total <= 0:
        return human_size(current, blank=blank)
    done = min(current * _WIDTH // total, _WIDTH)
    drawn = "=" * done + ">" if done < _WIDTH else "=" * _WIDTH + ">"
    return f"[{drawn:<{_WIDTH + 1}}] {human_size(current, blank=blank)}/{human_size(total, blank=blank)}"
