"""Reading JSON as RFC 8259 has it: Python's own reader takes numbers that no JSON text can hold when it is written."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(text: str | bytes) -> Any:
    """Return what a JSON text says. Errors: ValueError for NaN, Infinity, numbers too large, and too deep a nesting."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def deeper(value: Any, levels: int) -> bool:
    """Say whether lists and objects are nested deeper than so many levels."""
    if levels == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(deeper(one, levels - 1) for one in inner if isinstance(one, dict | list))


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _number(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"the number {text[:40]} is too large")
    return found
