"""Sizes, durations and times as people type them."""

from __future__ import annotations

import re
import time

from hyperctl.api.errors import UsageProblem

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h|d|w))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d|w)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DAY_OR_LOCAL = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?))?")
_MIB = 1 << 20


def size(text: str, *, bare: int = 1) -> int:
    """Read `64`, `512k`, `64m`, `1g`, `1.5GiB` as bytes, powers of 1024 as docker does.

    Args:
        text: what was typed.
        bare: what a number without a unit counts, in bytes.

    Raises:
        UsageProblem: it is no size.

    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageProblem(f"'{text}' is not a size: use a number with b, k, m or g")
    number, unit = float(match[1]), match[2].lower()
    has_unit = bool(unit) or text.strip().lower().endswith("b")
    return int(number * (1024 ** _POWERS[unit] if has_unit else bare))


def mebibytes(text: str) -> int:
    """Read the memory of a VM: MiB when there is no unit, as the original has it.

    Raises:
        UsageProblem: it is no amount of memory.

    """
    try:
        return -(-size(text, bare=_MIB) // _MIB)
    except UsageProblem:
        raise UsageProblem(f"'{text}' is not an amount of memory: use 512 (MiB), 512m or 1g") from None


def seconds(text: str, option: str) -> float:
    """Read a duration: `90`, `90s`, `1m30s`, `1.5h`, `2d`.

    Args:
        text: what was typed.
        option: where it was typed, for the message.

    Raises:
        UsageProblem: it is no duration.

    """
    text = text.strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise UsageProblem(f"'{text}' is not a time for {option}: use seconds, or 90s, 10m, 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def moment(text: str) -> str:
    """Return a point in time as the API takes it: unix seconds, or RFC 3339 as it was typed.

    `10m` is ten minutes ago; a date, or date and time without a zone, is local.

    Raises:
        UsageProblem: it is no time.

    """
    text = text.strip()
    if not text or re.fullmatch(r"\d+(?:\.\d+)?", text):
        return text
    if _DURATION.fullmatch(text):
        return f"{time.time() - seconds(text, 'a time'):.9f}"
    match = _DAY_OR_LOCAL.fullmatch(text)
    if match is not None:
        clock = match[2] or "00:00"
        form = "%Y-%m-%d %H:%M:%S" if clock.count(":") == 2 else "%Y-%m-%d %H:%M"
        try:
            return str(int(time.mktime(time.strptime(f"{match[1]} {clock}", form))))
        except (ValueError, OverflowError):
            raise UsageProblem(f"'{text}' is not a time: there is no such day or hour") from None
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", text):
        return text
    raise UsageProblem(f"'{text}' is not a time: use 10m (ago), 2026-01-31, 2026-01-31T12:00:00Z or unix seconds")


def age(then: float) -> str:
    """Return how long ago a time was, as docker's lists do: `12 seconds`, `5 minutes`, `3 weeks`."""
    passed = max(0, int(time.time() - then))
    for unit, length, least in (("second", 1, 60), ("minute", 60, 60), ("hour", 3600, 48), ("day", 86400, 14)):
        count = passed // length
        if count < least:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    weeks = passed // 604800
    return f"{weeks} weeks" if weeks < 9 else f"{passed // 2592000} months" if weeks < 104 else f"{weeks // 52} years"


def stamp(text: object) -> float | None:
    """Read RFC 3339 in UTC (`2026-01-31T12:00:00Z`) as unix seconds; None when it is no time, or Go's zero."""
    import calendar

    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", str(text))
    if match is None or match[1].startswith("0001"):
        return None
    return float(calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S")))
