"""The log of hypercloud."""

from __future__ import annotations

import logging

import pytest
import structlog

from hypercloud import logs


@pytest.fixture
def plain():
    """What the log was set up with, put back at the end."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level
    structlog.reset_defaults()


def test_a_traceback_stands_below_its_line(plain, capsys):
    logs.setup("info")
    try:
        {}["broken"]
    except KeyError:
        structlog.get_logger("x").exception("it.failed", about=None)
    first, *trace = capsys.readouterr().err.splitlines()
    assert "level=error event=it.failed" in first
    assert "broken" not in first
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "KeyError: 'broken'"
