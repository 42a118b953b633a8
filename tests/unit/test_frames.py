"""The frame codec: whatever arrives, in whatever pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperd.agent.frames import (
    AGED,
    HEADER,
    MAGIC,
    MAX_PAYLOAD,
    RESYNC_PADDING,
    TRAILER,
    Decoder,
    Frame,
    FrameType,
    ProtocolError,
    Record,
    Welcome,
    age_of,
    data_frame,
    decode_records,
    encode_records,
    hello_frame,
    offset_frame,
    split_offset,
    welcome_frame,
)

frames = st.builds(
    Frame,
    type=st.integers(0, 255),
    ident=st.integers(0, 2**32 - 1),
    code=st.integers(0, 65535),
    flags=st.integers(0, 255),
    payload=st.one_of(
        st.binary(max_size=300), st.sampled_from([MAGIC, TRAILER, MAGIC * 9, MAGIC + TRAILER, b"H", b"HYF"])
    ),
)
records = st.lists(
    st.builds(Record, op=st.integers(0, 65535), args=st.lists(st.binary(max_size=40), max_size=5).map(tuple)),
    max_size=5,
)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut ``data`` into pieces of these sizes, round and round."""
    found, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found.append(data[at : at + size])
        at += size
        turn += 1
    return found


def decode(data: bytes, sizes: list[int]) -> tuple[list[Frame], int]:
    decoder = Decoder()
    return [frame for piece in pieces(data, sizes) for frame in decoder.feed(piece)], decoder.dropped


cuts = st.lists(st.integers(1, 700), min_size=1, max_size=6)


@given(st.lists(frames, max_size=5), st.integers(0, 40), cuts)
def test_round_trip_in_any_pieces(sent: list[Frame], zeros: int, sizes: list[int]) -> None:
    data = b"".join(bytes(zeros) + frame.encode() for frame in sent) + bytes(zeros)
    assert decode(data, sizes) == (sent, 0)


@given(frames, st.data(), frames, cuts)
def test_a_cut_frame_and_the_padding_never_hide_or_forge_a_frame(
    cut: Frame, data: st.DataObject, good: Frame, sizes: list[int]
) -> None:
    # The payload of the cut frame is somebody's input: here it even holds a whole frame.
    whole = Frame(cut.type, payload=Frame(FrameType.REQUEST, 666).encode() + cut.payload).encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    found, _ = decode(whole[:at] + RESYNC_PADDING + good.encode(), [65536, *sizes])
    assert found == [good]


@given(st.binary(max_size=400), cuts)
def test_rubbish_is_survived(data: bytes, sizes: list[int]) -> None:
    found, dropped = decode(data, sizes)
    assert dropped <= len(data)
    assert all(len(frame.payload) <= len(data) for frame in found)


@given(st.binary(max_size=60).filter(lambda data: MAGIC[:1] not in data), frames, cuts)
def test_rubbish_between_frames_is_counted(rubbish: bytes, frame: Frame, sizes: list[int]) -> None:
    found, dropped = decode(rubbish + frame.encode(), sizes)
    assert found == [frame]
    assert dropped == len(rubbish) - rubbish.count(0)


def test_the_largest_payload_passes_and_one_byte_more_does_not() -> None:
    largest = Frame(FrameType.DATA, payload=bytes(MAX_PAYLOAD))
    assert decode(largest.encode(), [65536])[0] == [largest]
    with pytest.raises(ProtocolError):
        Frame(FrameType.DATA, payload=bytes(MAX_PAYLOAD + 1)).encode()
    head = HEADER.pack(MAGIC, 8, 0, 0, 0, MAX_PAYLOAD + 1)
    small = Frame(FrameType.ACK, 5)
    assert decode(head + small.encode(), [65536])[0] == [small]


@given(records)
def test_records_round_trip(sent: list[Record]) -> None:
    assert decode_records(encode_records([(record.op, record.args) for record in sent])) == sent


@given(records.filter(bool), st.data())
def test_records_cut_short_are_refused(sent: list[Record], data: st.DataObject) -> None:
    payload = encode_records([(record.op, record.args) for record in sent])
    borders = {len(encode_records([(r.op, r.args) for r in sent[:n]])) for n in range(len(sent) + 1)}
    at = data.draw(st.integers(0, len(payload)))
    if at in borders:
        assert decode_records(payload[:at]) == sent[: len(decode_records(payload[:at]))]
    else:
        with pytest.raises(ProtocolError):
            decode_records(payload[:at])


@given(st.binary(max_size=300))
def test_records_of_rubbish_are_records_or_an_error(payload: bytes) -> None:
    try:
        found = decode_records(payload)
    except ProtocolError:
        return
    assert encode_records([(record.op, record.args) for record in found]) == payload


def test_numbers_and_text_become_arguments() -> None:
    payload = encode_records([(1, ("é\udcff", 42, b"\0"))])
    assert decode_records(payload) == [Record(1, ("é".encode() + b"\xff", b"42", b"\0"))]


def test_too_many_arguments_are_refused() -> None:
    with pytest.raises(ProtocolError):
        encode_records([(1, [b""] * 65536)])


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=50))
def test_stream_frames(stream: int, offset: int, body: bytes) -> None:
    (frame,) = Decoder().feed(data_frame(stream, offset, body))
    assert (frame.type, frame.ident, split_offset(frame)) == (FrameType.DATA, stream, (offset, body))
    (frame,) = Decoder().feed(offset_frame(FrameType.ACK, stream, offset, flags=1))
    assert (frame.type, frame.flags, split_offset(frame)) == (FrameType.ACK, 1, (offset, b""))


def test_a_stream_frame_without_offset_is_refused() -> None:
    with pytest.raises(ProtocolError):
        split_offset(Frame(FrameType.DATA, 1, payload=b"1234567"))


nonces = st.binary(min_size=16, max_size=16)


@given(nonces, nonces, st.binary(max_size=200), st.binary(max_size=30), cuts)
def test_welcome_is_found_behind_old_bytes(
    nonce: bytes, boot: bytes, old: bytes, after: bytes, sizes: list[int]
) -> None:
    other = bytes(byte ^ 1 for byte in nonce)
    stale = welcome_frame(other, boot)  # the answer to an earlier HELLO
    data = old + stale[:-3] + stale + welcome_frame(nonce, boot) + after
    welcome, rest = Welcome(nonce), b""
    found = None
    for piece in pieces(data, sizes):
        if found is not None:
            rest += piece
        elif (found := welcome.feed(piece)) is not None:
            rest = found[1]
    assert found is not None
    assert (found[0], rest) == (boot, after)


def test_welcome_of_another_version_is_refused() -> None:
    nonce = bytes(range(16))
    data = bytearray(welcome_frame(nonce, bytes(16)))
    data[HEADER.size + 16 + 3] = 9
    with pytest.raises(ProtocolError):
        Welcome(nonce).feed(bytes(data))


def test_hello_carries_nonce_and_version() -> None:
    (frame,) = Decoder().feed(hello_frame(bytes(range(16))))
    assert frame == Frame(FrameType.HELLO, flags=AGED, payload=bytes(range(16)) + b"\0\0\0\1")


def test_age_of_what_came_before() -> None:
    plain = Frame(FrameType.DATA, 17, payload=bytes(8) + b"x")
    assert age_of(plain) == (0.0, plain)
    aged = Frame(FrameType.DATA, 17, flags=AGED, payload=bytes(8) + (1500).to_bytes(4, "big") + b"x")
    assert age_of(aged) == (1.5, plain)
    with pytest.raises(ProtocolError):
        age_of(Frame(FrameType.DATA, 17, flags=AGED, payload=bytes(11)))
