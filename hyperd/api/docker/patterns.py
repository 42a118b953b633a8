"""Clients' regular expressions for names, in Go's syntax as Docker takes them, matched in linear time.

Python's own ``re`` goes back and forth: ``(a+)+$`` of one client would stop the whole daemon. RE2 does not, and Go's
``regexp`` has its syntax from it.
"""

from __future__ import annotations

from functools import lru_cache

import re2

from hyperd.errors import InvalidInput

MAX_PATTERN = 1000  # characters
MAX_MEMORY = 1 << 20  # bytes, of one compiled pattern


def check(pattern: str) -> None:
    """Refuse what is no pattern. Errors: InvalidInput."""
    _compiled(pattern)


def fits(pattern: str, text: str) -> bool:
    """Return whether a pattern is somewhere in a text. Errors: InvalidInput."""
    return _compiled(pattern).search(text) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re2._Regexp:
    if len(pattern) > MAX_PATTERN:
        raise InvalidInput(f"a pattern has at most {MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors, options.max_mem = False, MAX_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args else ""
        raise InvalidInput(f"{pattern[:100]!r} is no regular expression", details=reason) from None
