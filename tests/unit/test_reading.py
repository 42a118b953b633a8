"""Requests are whole when gunicorn's parser needs nothing more, however their bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from hypothesis import given
from hypothesis import strategies as st

from hyperd.server.reading import MAX_BODY, MAX_HEAD, RequestBuffer, State

HEAD = b"POST /x HTTP/1.1\r\nHost: \r\n"
PLAIN = HEAD + b"\r\n"
COUNTED = HEAD + b"content-LENGTH: 5\r\n\r\nhello"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\n0\r\n\r\r\n3\r\nabc\r\n0\r\n\r\n"
TRAILERS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"
EXPECTS = HEAD + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n"
WHOLE = [PLAIN, b"\r\n" + PLAIN, COUNTED, CHUNKED, TRAILERS, EXPECTS]


def fed(*pieces: bytes) -> RequestBuffer:
    buffer = RequestBuffer()
    for piece in pieces:
        buffer.feed(piece)
    return buffer


@pytest.mark.parametrize("request_", WHOLE)
def test_byte_by_byte(request_: bytes) -> None:
    buffer = RequestBuffer()
    states = [buffer.feed(bytes([byte])) for byte in request_]
    assert set(states[:-1]) <= {State.PARTIAL}
    assert states[-1] is State.WHOLE
    assert buffer.take() == request_


@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 120), max_size=6), st.binary(max_size=40))
def test_cut_anywhere_and_with_more_behind(request_: bytes, cuts: list[int], behind: bytes) -> None:
    data = request_ + behind
    places = [0, *sorted(cuts), len(data)]
    buffer = fed(*(data[a:b] for a, b in pairwise(places)))
    assert buffer.state is State.WHOLE
    assert buffer.take() == data


@pytest.mark.parametrize("request_", WHOLE)
def test_the_parser_needs_no_more(request_: bytes) -> None:
    def source():  # type: ignore[no-untyped-def]
        yield request_
        raise AssertionError("the parser wants more")

    parsed = next(RequestParser(Config(), source(), ("127.0.0.1", 1)))
    assert parsed.body.read() in {b"", b"hello", b"0\r\n\rabc", b"a"}


@pytest.mark.parametrize(
    ("data", "state"),
    [
        (b"", State.NOTHING),
        (b"\r\n", State.PARTIAL),
        (b"GET / HTT", State.PARTIAL),
        (HEAD + b"Content-Length: 6\r\n\r\nhello", State.PARTIAL),
        (HEAD + b"Content-Length: %d\r\n\r\n" % MAX_BODY, State.PARTIAL),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), State.LONG),
        (HEAD + b"Content-Length: 9999999999999999999999999999\r\n\r\n", State.LONG),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", State.LONG),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", State.PARTIAL),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n7\r\n0\r\n\r\n", State.PARTIAL),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n", State.LONG),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", State.LONG),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", State.LONG),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, State.LONG),
        # What the parser refuses at once needs no waiting.
        (b"GET / HTTP/1.1\nHost: x\n", State.WHOLE),
        (b"\x16\x03\x01 not HTTP", State.PARTIAL),
        (b"a" * (MAX_HEAD + 1), State.LINE_TOO_LONG),
        (b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n\r\n", State.LINE_TOO_LONG),
        (HEAD + b"a" * MAX_HEAD, State.TOO_LARGE),
        (HEAD + b"a" * MAX_HEAD + b"\r\n\r\n", State.TOO_LARGE),
    ],
)
def test_states(data: bytes, state: State) -> None:
    assert fed(data).state is state


def test_many_small_chunks_are_an_upload_in_the_end() -> None:
    buffer = fed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    piece = b"400\r\n" + b"x" * 1024 + b"\r\n"
    while buffer.state is State.PARTIAL:
        buffer.feed(piece * 16)
        assert len(buffer) < 2 * MAX_BODY
    assert buffer.state is State.LONG
