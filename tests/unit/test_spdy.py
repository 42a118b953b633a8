"""SPDY/3.1: the server's half against a client's half of the tests' own."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperd.stream.spdy import DICTIONARY, MAX_STREAMS, PIECE, Data, Gone, Opened, SpdyError, SpdyServer
from tests.support.spdy import Frame, SpdyClient


def answers(server: SpdyServer, client: SpdyClient) -> list[Frame]:
    return client.frames(server.to_send())


def test_the_dictionary_of_the_standard() -> None:
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


def test_a_stream() -> None:
    server, client = SpdyServer(), SpdyClient()
    sent = client.open(1, {"streamType": "stdin"}) + client.data(1, b"hello") + client.data(1, b"", end=True)
    assert list(server.receive(sent)) == [
        Opened(1, {"streamtype": "stdin"}, ended=False),
        Data(1, b"hello", ended=False),
        Data(1, b"", ended=True),
    ]
    server.send(1, b"x" * (PIECE + 1))
    server.send(1, b"y", end=True)
    server.send(1, b"dropped")
    frames = answers(server, client)
    assert [(one.kind, one.stream, len(one.body), one.flags) for one in frames] == [
        ("SYN_REPLY", 1, len(frames[0].body), 0),
        ("DATA", 1, PIECE, 0),
        ("DATA", 1, 1, 0),
        ("DATA", 1, 1, 0),
        ("DATA", 1, 0, 1),
    ]
    assert client.reply_headers(frames[0]) == {}


@given(st.data())
def test_bytes_come_in_any_pieces(data: st.DataObject) -> None:
    client = SpdyClient()
    texts = {1: b"a" * 300, 3: b"", 5: bytes(range(256))}
    sent = b"".join(client.open(stream, {"streamtype": f"s{stream}", "port": "80"}) for stream in texts)
    sent += client.ping(7)
    for stream, text in texts.items():
        sent += client.data(stream, text[:100]) + client.data(stream, text[100:], end=True)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=20)))
    server = SpdyServer()
    got: dict[int, bytes] = {}
    ended: set[int] = set()
    for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        for event in server.receive(sent[start:stop]):
            if isinstance(event, Opened):
                assert event.headers == {"streamtype": f"s{event.stream}", "port": "80"}
                got[event.stream] = b""
            elif isinstance(event, Data):
                got[event.stream] += event.data
                ended |= {event.stream} if event.ended else set()
    assert got == texts
    assert ended == set(texts)
    assert [frame.kind for frame in answers(server, client)].count("PING") == 1


def test_a_stream_may_be_opened_with_its_end() -> None:
    server, client = SpdyServer(), SpdyClient()
    assert list(server.receive(client.open(1, {"streamtype": "error"}, end=True))) == [
        Opened(1, {"streamtype": "error"}, ended=True)
    ]
    server.send(1, b"why")
    server.send(1, b"", end=True)
    assert [frame.body for frame in answers(server, client)[1:]] == [b"why", b""]
    assert list(server.receive(client.data(1, b"late"))) == []
    assert [frame.kind for frame in answers(server, client)] == ["RST_STREAM"]


def test_resets() -> None:
    server, client = SpdyServer(), SpdyClient()
    list(server.receive(client.open(1, {})))
    server.to_send()
    assert list(server.receive(client.reset(1) + client.reset(1))) == [Gone(1)]
    server.send(1, b"dropped")
    assert server.to_send() == b""
    list(server.receive(client.open(3, {})))
    server.reset(3)
    assert [frame.kind for frame in answers(server, client)] == ["SYN_REPLY", "RST_STREAM"]


def test_what_changes_nothing() -> None:
    server, client = SpdyServer(), SpdyClient()
    sent = client.control(4, bytes(4)) + client.control(9, bytes(8)) + client.control(77, b"") + client.ping(2)
    assert list(server.receive(sent)) == []
    assert server.to_send() == b""


def test_too_many_streams_are_refused() -> None:
    server, client = SpdyServer(), SpdyClient()
    for number in range(MAX_STREAMS + 1):
        list(server.receive(client.open(2 * number + 1, {})))
    assert [frame.kind for frame in answers(server, client)] == ["SYN_REPLY"] * MAX_STREAMS + ["RST_STREAM"]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n"[:0] + bytes.fromhex("8002000100000000"),  # version 2
        bytes.fromhex("80030001") + (1 << 20).to_bytes(4, "big"),  # a large control frame
        bytes.fromhex("8003000100000004") + bytes(4),  # a short SYN_STREAM
        bytes.fromhex("8003000300000001") + bytes(1),  # a short RST_STREAM
        bytes.fromhex("800300010000000e0000000100000000") + b"\0\0nope",  # headers that are not compressed
    ],
)
def test_rubbish_ends_the_connection(sent: bytes) -> None:
    with pytest.raises(SpdyError):
        list(SpdyServer().receive(sent))


def test_header_blocks_have_bounds() -> None:
    client = SpdyClient()
    with pytest.raises(SpdyError, match="too large"):
        list(SpdyServer().receive(client.open(1, {"a": "x" * 200_000})))
    for block in (b"\0\0\0\1\0\0\0\xff", b"\0\0\0\0more", b"\0\0"):
        client = SpdyClient()
        with pytest.raises(SpdyError):
            list(SpdyServer().receive(client.open_raw(1, block)))


def test_numbers_of_streams_grow() -> None:
    for numbers in ((3, 1), (1, 1), (2,)):
        server, client = SpdyServer(), SpdyClient()
        with pytest.raises(SpdyError):
            list(server.receive(b"".join(client.open(number, {}) for number in numbers)))


@given(st.binary(max_size=300))
def test_any_bytes_end_well(data: bytes) -> None:
    server = SpdyServer()
    try:
        list(server.receive(data))
    except SpdyError:
        return
    server.to_send()
