"""Patterns of Docker's clients: what they mean, and that none takes long."""

from __future__ import annotations

import re
import time

import pytest

from hyperd.api.docker import patterns
from hyperd.errors import InvalidInput

TEXTS = ["", "/web", "web", "web_1", "proj-web-1", "a.b", "aab", "ab", "b", "Web", "x|y", "a-b", "]", "a]b", "^a", "10"]


@pytest.mark.parametrize(
    "pattern",
    """web ^web$ ^/web$ ^/?web$ web|^b$ a.b a\\.b a*b$ ^a+b$ [a-z]+ ^[^a-z]+$ [0-9]$ \\d \\w+_\\d ^$ .* ^.*b$ x\\|y
    []] []a-] [a-]b ^[\\d]+$ |zzz ^\\^a .?b$ a?a?a?b ^(web|b)$ (?i)WEB a{2}b [[:digit:]]
    ^(?:a|b)+$""".split(),  # noqa: SIM905 - easier to read
)
def test_they_mean_what_re_means(pattern: str) -> None:
    python = pattern.replace("[[:digit:]]", "[0-9]")
    for text in TEXTS:
        assert patterns.fits(pattern, text) is (re.search(python, text) is not None), text


@pytest.mark.parametrize(
    "pattern", ["(a", "a{1001}", "*", "[a", "a\\", "(?=a)", "\\1", "[z-a]", "(((a{90}){9}){9})", "a" * 1001]
)
def test_what_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput):
        patterns.check(pattern)


@pytest.mark.parametrize("pattern", [".*" * 499 + "b", "a*" * 499 + "b", "a?" * 499 + "b", "a+" * 20 + "$", "(a+)+$"])
def test_none_takes_long(pattern: str) -> None:
    began = time.process_time()
    assert not patterns.fits(pattern, "a" * 128 + "!")
    assert time.process_time() - began < 10
