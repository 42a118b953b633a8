"""Archives to and from programs of a guest, in records: most of a large one lies on a disk of the VM.

QEMU hands a guest what comes by a port in pieces of 4 KiB, each with an interrupt; from a disk it takes hundreds of
KiB at a time. What is small goes by the port alone. ``docs/protocol.md`` (Tools) has the format.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hyperd.agent.programs import GuestTool
from hyperd.errors import AgentError, OutOfSpace
from hyperd.failpoint import failpoint

RECORDS = "--records"  # first word of a program that takes or gives them
RING = 16 * 2**20  # bytes of the disk
_RECORD = struct.Struct(">II")  # kind, value
_INLINE, _DISK, _PLACED, _TAKEN = 1, 2, 3, 4
_UNIT = 512  # what the guest reads from the disk and writes to it
_BY_PORT = 2 * 2**20  # bytes before a disk is asked for
_PIECE = 256 * 1024


@dataclass(frozen=True)
class Carrier:
    """The disk: its LUN, and a descriptor of the file of ``RING`` bytes behind it."""

    lun: int
    descriptor: int


Lend = Callable[[], Carrier | None]


class _Records:
    """Reads the records of a program's output."""

    def __init__(self, tool: GuestTool) -> None:
        self._pieces = tool.output()
        self._held = b""

    def next(self) -> tuple[int, int] | None:
        """Return kind and value of the next record; None at the end. Errors: AgentError."""
        head = b"".join(self.take(_RECORD.size))
        if head and len(head) < _RECORD.size:
            raise AgentError("a program of the guest ends within a record")
        return _RECORD.unpack(head) if head else None

    def take(self, size: int) -> Iterator[bytes]:
        """Yield so many bytes; fewer at the end."""
        while size:
            if not self._held:
                self._held = next(self._pieces, b"")
                if not self._held:
                    return
            part, self._held = self._held[:size], self._held[size:]
            size -= len(part)
            yield part


def send(tool: GuestTool, chunks: Iterable[bytes], lend: Lend) -> None:
    """Write all chunks to a program, unless it ends before.

    Args:
        tool: runs with ``RECORDS``.
        chunks: in pieces of any size.
        lend: gives a disk that nobody else uses until the program has ended; None when there is none.

    Errors: AgentError, Cancelled, OutOfSpace; what the chunks raise.

    """
    carrier, sent, asked = None, 0, False
    way = _Way(tool)
    for piece in _pieces(chunks):
        if sent >= _BY_PORT and not asked:
            carrier, asked = lend(), True
            if carrier is not None:
                tool.put(_RECORD.pack(_DISK, carrier.lun))
                failpoint("vm.carrier.told")
        if not (way.place(carrier, piece) if carrier else tool.put(_RECORD.pack(_INLINE, len(piece)) + piece)):
            break
        sent += len(piece)
    tool.end()


class _Way:
    """What has been placed on a disk and taken from there, in bytes."""

    def __init__(self, tool: GuestTool) -> None:
        self._tool = tool
        self._said = _Records(tool)
        self._placed = self._taken = 0

    def place(self, carrier: Carrier, piece: bytes) -> bool:
        """Place a piece when there is room for it; False when the program has ended. Errors: AgentError, OutOfSpace."""
        while self._placed + len(piece) - self._taken > RING:
            record = self._said.next()
            if record is None:
                return False
            kind, value = record
            if kind != _TAKEN or value > self._placed - self._taken:
                raise AgentError("a program of the guest says what it cannot mean")
            self._taken += value
        _write(carrier.descriptor, piece, self._placed)
        self._placed += len(piece)
        return self._tool.put(_RECORD.pack(_PLACED, len(piece)))


def receive(tool: GuestTool, lend: Lend) -> Iterator[bytes]:
    """Yield the output of a program; arguments and errors as for ``send``."""
    carrier, asked, seen, taken = None, False, 0, 0
    said = _Records(tool)
    while (record := said.next()) is not None:
        kind, value = record
        if kind == _INLINE:
            for part in said.take(value):
                seen += len(part)
                yield part
            if seen >= _BY_PORT and not asked:
                carrier, asked = lend(), True
                if carrier is not None:
                    tool.put(_RECORD.pack(_DISK, carrier.lun))
        elif kind == _PLACED and carrier is not None and value <= RING:
            yield from _read(carrier.descriptor, value, taken)
            taken += value
            tool.put(_RECORD.pack(_TAKEN, value))
        else:
            raise AgentError("a program of the guest says what it cannot mean")
    tool.end()


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in whole units, but for the last piece."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        if len(held) >= _PIECE:
            whole = len(held) // _UNIT * _UNIT
            yield from (bytes(held[at : min(at + _PIECE, whole)]) for at in range(0, whole, _PIECE))
            del held[:whole]
    if held:
        yield bytes(held)


def _parts(size: int, at: int) -> Iterator[tuple[int, int]]:
    """Yield place and size of the parts of the ring that bytes of the stream lie in."""
    while size:
        place = at % RING
        part = min(size, RING - place)
        yield place, part
        at += part
        size -= part


def _write(descriptor: int, piece: bytes, at: int) -> None:
    view = memoryview(piece)
    for place, part in _parts(len(piece), at):
        try:
            written = os.pwrite(descriptor, view[:part], place)
        except OSError as error:
            raise OutOfSpace("bytes on their way to a guest cannot be written", details=str(error)) from error
        if written < part:
            raise OutOfSpace("bytes on their way to a guest cannot be written", details="the disk is full")
        view = view[part:]


def _read(descriptor: int, size: int, at: int) -> Iterator[bytes]:
    for place, part in _parts(size, at):
        data = os.pread(descriptor, part, place)
        if len(data) < part:
            raise AgentError("the disk of a guest's output ends too soon")
        yield data
