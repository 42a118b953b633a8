"""Compressed layers: told apart by their first bytes, bounded, checked to the end."""

from __future__ import annotations

import gzip
import subprocess
import zlib
from collections.abc import Iterator

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperd.errors import InvalidInput, TooLarge
from hyperd.image.layer import compression
from hyperd.image.layer.compression import PIECE, decompressed

SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"extra"


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def unpack(data: bytes, *, size: int = 1000, max_bytes: int = 10**9) -> bytes:
    pieces = list(decompressed(cut(data, size), max_bytes=max_bytes))
    assert all(0 < len(piece) <= max(PIECE, size + 4) for piece in pieces)
    return b"".join(pieces)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.integers(1, 4000))
def test_every_kind_in_pieces_of_every_size(data: bytes, size: int) -> None:
    plain = b"plain" + data
    assert unpack(plain, size=size) == plain
    assert unpack(gzip.compress(data), size=size) == data
    assert unpack(zstd.compress(data), size=size) == data


def test_several_members_and_frames_are_one_stream() -> None:
    assert unpack(gzip.compress(b"a" * 5000) + gzip.compress(b"") + gzip.compress(b"b")) == b"a" * 5000 + b"b"
    frames = zstd.compress(b"a") + SKIPPABLE + zstd.compress(b"b" * 5000)
    assert unpack(frames) == b"a" + b"b" * 5000
    assert unpack(SKIPPABLE + frames, size=3) == b"a" + b"b" * 5000


def test_nothing_is_nothing() -> None:
    assert unpack(b"") == b""
    assert unpack(b"\x1f") == b"\x1f"


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_damage_is_found(pack: object) -> None:
    assert callable(pack)
    data = pack(bytes(range(256)) * 100)
    for bad in (data[:-1], data[: len(data) // 2], data + b"garbage"):
        with pytest.raises(InvalidInput):
            unpack(bad)


def test_wrong_checksums_are_found() -> None:
    data = bytearray(gzip.compress(b"x" * 1000))
    data[-8] ^= 1
    with pytest.raises(InvalidInput):
        unpack(bytes(data))
    frame = bytearray(zstd.compress(b"x" * 1000, options={zstd.CompressionParameter.checksum_flag: 1}))
    frame[-1] ^= 1
    with pytest.raises(InvalidInput):
        unpack(bytes(frame))


@pytest.mark.parametrize("pack", [lambda d: zlib.compress(d, wbits=31), zstd.compress])
def test_bombs_end_early_and_use_little_memory(pack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(pack)
    bomb = pack(bytes(50 * 2**20))
    with pytest.raises(TooLarge):
        unpack(bomb, size=2**20, max_bytes=2**20)
    monkeypatch.setattr(compression, "FREE_BYTES", 2**20)
    with pytest.raises(TooLarge):
        unpack(bomb, size=2**20)


def test_windows_that_need_much_memory_are_refused() -> None:
    data = bytes(range(256)) * 4
    long = subprocess.run(["zstd", "--ultra", "--long=31", "-c"], input=data, capture_output=True, check=True).stdout
    with pytest.raises(InvalidInput):
        unpack(long)
