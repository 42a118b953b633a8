"""Detach keys."""

from __future__ import annotations

import pytest

from hyperd.container.detach import DEFAULT, KeyWatch, parse_keys
from hyperd.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", DEFAULT), ("ctrl-p,ctrl-q", b"\x10\x11"), ("a", b"a"), ("ctrl-@,X", b"\0X"), ("CTRL-A,ctrl-]", b"\x01\x1d")],
)
def test_keys_are_read(text: str, keys: bytes):
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", ",", "ctrl-pp", "é", ",".join("a" * 17)])
def test_bad_keys_are_refused(text: str):
    with pytest.raises(InvalidInput):
        parse_keys(text)


def test_the_sequence_is_found_wherever_it_is_cut():
    watch = KeyWatch(b"\x10\x11")
    assert watch.feed(b"ls\n") == (b"ls\n", False)
    assert watch.feed(b"x\x10") == (b"x\x10", False)
    assert watch.feed(b"\x11more") == (b"", True)
    assert watch.feed(b"ab\x10\x11cd") == (b"ab", True)
    assert KeyWatch(b"a").feed(b"xay") == (b"x", True)


def test_a_beginning_that_is_none_is_forgotten():
    watch = KeyWatch(b"\x10\x11")
    for piece in (b"\x10", b"a", b"\x11"):
        assert watch.feed(piece) == (piece, False)


def test_the_beginning_is_held_where_that_is_wanted():
    watch = KeyWatch(b"\x10\x11", holds=True)
    assert watch.feed(b"ls\x10") == (b"ls", False)
    assert watch.feed(b"\x10") == (b"\x10", False)  # one of them may still be it
    assert watch.feed(b"a\x10") == (b"\x10a", False)
    assert watch.feed(b"\x11more") == (b"", True)
    assert watch.feed(b"ab\x10\x11cd") == (b"ab", True)
    assert (watch.feed(b"\x10"), watch.rest(), watch.rest()) == ((b"", False), b"\x10", b"")
    longer = KeyWatch(b"aab", holds=True)
    assert longer.feed(b"aaa") == (b"a", False)
    assert longer.feed(b"b") == (b"", True)
    assert KeyWatch(b"a", holds=True).feed(b"xay") == (b"x", True)
