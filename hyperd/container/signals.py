"""Signals by name and number, as Linux and Docker's clients write them."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperd.errors import InvalidInput
from hyperd.spec.model import ContainerSpec

# The kernel's numbers; the C library keeps two of the real-time signals for itself, which hides them from Python.
RTMIN, RTMAX = 34, 64
_REALTIME = re.compile(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?")


@dataclass(frozen=True, kw_only=True)
class StopSignal:
    """What stops a container; ``unknown``: the name that its image gives and nobody knows, so SIGTERM is sent."""

    number: int
    unknown: str = ""


def find_signal(text: str) -> int:
    """Return a signal's number: ``9``, ``KILL``, ``SIGKILL``, ``RTMIN+3``, ``SIGRTMAX-1``; 0 when it is none."""
    word = text.strip().upper()
    if word.isascii() and word.isdigit():
        return int(word) if len(word) < 4 and 1 <= int(word) <= RTMAX else 0
    name = word.removeprefix("SIG")
    realtime = _REALTIME.fullmatch(name)
    if realtime is not None:
        return _realtime(*realtime.groups())
    found = signal.Signals.__members__.get(f"SIG{name}")
    return int(found) if found is not None else 0


def _realtime(end: str, sign: str | None, steps: str | None) -> int:
    if sign is not None and sign != ("+" if end == "MIN" else "-"):
        return 0
    number = RTMIN + int(steps or 0) if end == "MIN" else RTMAX - int(steps or 0)
    return number if RTMIN <= number <= RTMAX else 0


def parse_signal(text: str) -> int:
    """Return a signal's number. Errors: InvalidInput."""
    number = find_signal(text)
    if not number:
        raise InvalidInput(
            f"unknown signal {text.strip()[:40]!r}", resolution="use a name such as TERM or RTMIN+3, or a number to 64"
        )
    return number


def signal_name(number: int) -> str:
    """Return a signal's name, such as ``SIGTERM`` or ``SIGRTMIN+3``; the number where it has none."""
    if RTMIN <= number <= RTMAX:
        return f"SIGRTMIN+{number - RTMIN}" if number > RTMIN else "SIGRTMIN"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def stop_signal(spec: ContainerSpec, image_config: Mapping[str, Any]) -> StopSignal:
    """Return the signal that stops a container: the specification's, the image's, else SIGTERM."""
    for name in (spec.stop_signal, str((image_config.get("config") or {}).get("StopSignal") or "")):
        if name:
            number = find_signal(name)
            return StopSignal(number=number) if number else StopSignal(number=signal.SIGTERM, unknown=name[:64])
    return StopSignal(number=signal.SIGTERM)
