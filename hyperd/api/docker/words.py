"""Names and durations in Docker's words."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

NEVER = "0001-01-01T00:00:00Z"
_FIRST = """
    agile amber bold brave bright brisk calm candid clever cosmic crisp daring deft eager earnest fabled
    fleet fond frank gentle glad golden grand happy hardy honest humble jolly keen kind lively loyal lucid
    mellow merry mighty modest nimble noble patient placid plucky polite proud quick quiet rapid royal
    rustic serene sharp silent sincere sleek smart snug solid sunny swift tender tidy trusty upbeat vivid
    warm wise witty zesty
""".split()  # noqa: SIM905 - a list of 60 quoted words is hard to read
_SECOND = """
    ampere babbage bell bohr boole cantor cauchy church clarke codd cohen curie darwin diffie dijkstra
    edison einstein elion engelbart euclid euler faraday fermat fermi feynman franklin galileo gauss germain
    goodall hamilton heisenberg hellman hermann hertz hilbert hodgkin hopper huygens hypatia johnson joliot
    kalam kepler khayyam knuth kowalevski lamarr lamport leavitt lovelace maxwell mcclintock meitner mendel
    morse napier nash newton nobel noether pascal pasteur perlman ramanujan ride ritchie rosalind shannon
    shaw sutherland swirles tesla thompson torvalds turing volhard wiles wilson wright yonath
""".split()  # noqa: SIM905 - a list of 60 quoted words is hard to read


def made_up_name(attempt: int = 0) -> str:
    """Return a name such as ``clever_turing``; after the first ``attempt`` (0) with a digit behind it, as Docker."""
    digit = str(secrets.randbelow(10)) if attempt else ""
    return f"{secrets.choice(_FIRST)}_{secrets.choice(_SECOND)}{digit}"


def rfc3339(seconds: float | None) -> str:
    """Return a time with nanoseconds as Go writes it; the zero time for none."""
    if not seconds:
        return NEVER
    whole = int(seconds)
    nanos = round((seconds - whole) * 1e9)
    text = f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}"
    return f"{text}.{nanos:09d}".rstrip("0").rstrip(".") + "Z"


def human(seconds: float) -> str:
    """Return a duration as ``docker ps`` shows it: ``3 hours``."""
    found = int(max(0.0, seconds))
    if found < 1:
        return "Less than a second"
    if found == 1:
        return "1 second"
    if found < 60:
        return f"{found} seconds"
    minutes = found // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(found / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, unit, size in ((48, "hours", 1), (24 * 7 * 2, "days", 24), (24 * 60, "weeks", 24 * 7)):
        if hours < limit:
            return f"{hours // size} {unit}"
    if hours < 24 * 365 * 2:
        return f"{hours // (24 * 30)} months"
    return f"{hours // (24 * 365)} years"
