"""Compressed layers as bounded streams; gzip, zstd (RFC 8878), xz, bzip2 and none are told by their first bytes."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from backports import zstd

from hyperd.errors import InvalidInput, TooLarge

PIECE = 256 * 1024  # most bytes given at a time, so that memory stays bounded whatever the ratio
MAX_RATIO = 200  # beyond FREE_BYTES; gzip itself can reach 1,030, zstd far more
FREE_BYTES = 2**30
WINDOW_LOG = 27  # 128 MiB, what zstd itself takes without being told more (RFC 8878 section 3.1.1.1.2)
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes((0x50 + i,)) + b"\x2a\x4d\x18" for i in range(16))
_XZ = b"\xfd7zXZ\0"
_BZIP2 = b"BZh"
MAGIC = 6  # bytes it takes to tell
_XZ_MEMORY = 96 * 2**20  # bytes; xz -9 takes 65 MiB to decompress


class _Damaged(Exception):
    """The compressed data is not what it should be."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    def feed(self, data: bytes) -> bytes:
        """Return at most ``PIECE`` bytes; call again with ``rest()`` while ``pending``."""
        ...

    def rest(self) -> bytes: ...

    @property
    def pending(self) -> bool: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def pending(self) -> bool:
        return bool(self._inner.unconsumed_tail) or self._full

    def feed(self, data: bytes) -> bytes:
        try:
            out = self._inner.decompress(data, PIECE)
        except zlib.error as exc:
            raise _Damaged(str(exc)) from exc
        self._full = len(out) == PIECE
        return out

    def rest(self) -> bytes:
        return self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail


class _Standard:
    """The interface that the standard library's newer decompressors share."""

    _inner: zstd.ZstdDecompressor | lzma.LZMADecompressor | bz2.BZ2Decompressor

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def pending(self) -> bool:
        return not self._inner.needs_input

    def feed(self, data: bytes) -> bytes:
        try:
            return self._inner.decompress(data, PIECE)
        except (zstd.ZstdError, lzma.LZMAError, OSError, ValueError) as exc:  # nothing is read from a file here
            raise _Damaged(str(exc)) from exc

    def rest(self) -> bytes:
        return self._inner.unused_data if self._inner.eof else b""


class _Zstd(_Standard):
    def __init__(self) -> None:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        self._inner = zstd.ZstdDecompressor(options=options)


class _Xz(_Standard):
    def __init__(self) -> None:
        self._inner = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


class _Bzip2(_Standard):
    def __init__(self) -> None:
        self._inner = bz2.BZ2Decompressor()


def kind_of(head: bytes) -> str:
    """Tell how data is compressed by its first six bytes: ``gzip``, ``zstd``, ``xz``, ``bzip2`` or empty."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        return "zstd"
    if head.startswith(_XZ):
        return "xz"
    return "bzip2" if head.startswith(_BZIP2) and head[3:4].isdigit() else ""


_DECODERS: dict[str, Callable[[], _Decoder]] = {"gzip": _Gzip, "zstd": _Zstd, "xz": _Xz, "bzip2": _Bzip2}


def decompressed(chunks: Iterator[bytes], *, max_bytes: int) -> Iterator[bytes]:
    """Yield the content of a possibly compressed stream in pieces.

    Several gzip members or zstd frames one after the other are one stream, as for gzip and zstd themselves.

    Args:
        chunks: the stream, non-empty pieces.
        max_bytes: of content.

    Raises:
        InvalidInput: damaged, cut off, or followed by something else.
        TooLarge: more than ``max_bytes``, or beyond a gigabyte more than ``MAX_RATIO`` times the input.

    """
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= MAGIC:
            break
    seen, given = [len(head)], 0
    for piece in _decode(head, _counted(chunks, seen)):
        given += len(piece)
        if given > max_bytes:
            raise TooLarge(f"a layer has more than {max_bytes} bytes")
        if given > FREE_BYTES and given > MAX_RATIO * seen[0]:
            raise TooLarge("a layer is compressed beyond belief", details=f"{seen[0]} bytes became {given}")
        yield piece


def _counted(chunks: Iterator[bytes], seen: list[int]) -> Iterator[bytes]:
    for chunk in chunks:
        seen[0] += len(chunk)
        yield chunk


def _decode(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    kind = kind_of(head)
    if not kind:
        if head:
            yield head
        yield from chunks
        return
    try:
        yield from _decode_members(_DECODERS[kind], head, chunks)
    except _Damaged as exc:
        raise InvalidInput("a layer's compressed data is damaged", details=str(exc)) from exc


def _decode_members(factory: Callable[[], _Decoder], head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    decoder = factory()
    data = head
    while True:
        while data or (decoder.pending and not decoder.eof):
            if decoder.eof:
                decoder = factory()
            piece = decoder.feed(data)
            data = decoder.rest()
            if piece:
                yield piece
        data = next(chunks, b"")
        if not data:
            break
    if not decoder.eof:
        raise InvalidInput("a layer's compressed data is cut off")
