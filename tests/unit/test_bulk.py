"""Archives in records: by the port alone, and by a disk that is smaller than they are."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from hyperd.agent import bulk
from hyperd.agent.bulk import RING, Carrier
from hyperd.agent.programs import GuestTool
from hyperd.errors import AgentError
from tests.support.trees import members, nasty, snapshot, tool

INLINE, DISK, PLACED, TAKEN = 1, 2, 3, 4


def record(kind: int, value: int) -> bytes:
    return struct.pack(">II", kind, value)


@pytest.fixture
def carrier(tmp_path: Path) -> Iterator[Carrier]:
    descriptor = os.open(tmp_path / "ring", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, RING)
    yield Carrier(lun=7, descriptor=descriptor)
    os.close(descriptor)


class Guest:
    """A program that reads all it is given, from the disk as late as it may."""

    def __init__(self, carrier: Carrier, *, deaf_after: int = -1) -> None:
        self.seen, self.by_disk, self.ended = bytearray(), 0, False
        self._carrier, self._deaf_after = carrier, deaf_after
        self._placed: list[int] = []
        self._lun = 0

    def put(self, chunk: bytes) -> bool:
        kind, value = struct.unpack_from(">II", chunk)
        if kind == INLINE:
            assert (len(chunk), self._placed) == (8 + value, [])
            self.seen += chunk[8:]
        elif kind == DISK:
            self._lun = value
        else:
            assert (kind, self._lun) == (PLACED, 7)
            self._placed.append(value)
            assert sum(self._placed) <= RING
        return self._deaf_after < 0 or len(self.seen) < self._deaf_after

    def output(self) -> Iterator[bytes]:
        while self._placed and self._deaf_after < 0:
            size = self._take()
            yield record(TAKEN, size)[:3]
            yield record(TAKEN, size)[3:]

    def _take(self) -> int:
        size = self._placed.pop(0)
        at = self.by_disk % RING
        data = os.pread(self._carrier.descriptor, min(size, RING - at), at)
        self.seen += data + os.pread(self._carrier.descriptor, size - len(data), 0)
        self.by_disk += size
        return size

    def end(self) -> None:
        while self._placed:
            self._take()
        self.ended = True


def pieces(data: bytes, rng: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = rng.choice((1, 511, 32 << 10, 3 << 20))
        yield data[at : at + size]
        at += size


@pytest.mark.parametrize("size", [0, 1, 700_001, 2 * RING + 1_234_567])
def test_what_is_sent_comes_whole(carrier: Carrier, size: int) -> None:
    data, guest = random.Random(size).randbytes(size), Guest(carrier)
    bulk.send(cast("GuestTool", guest), pieces(data, random.Random(1)), lambda: carrier)
    assert guest.ended
    assert guest.seen == data
    assert (guest.by_disk > 0) == (size > RING)


def test_without_a_disk_everything_goes_by_the_port(carrier: Carrier) -> None:
    data, guest = random.Random(0).randbytes(5 << 20), Guest(carrier)
    asked: list[None] = []
    bulk.send(cast("GuestTool", guest), [data], lambda: asked.append(None))
    assert (guest.seen, guest.by_disk, len(asked)) == (data, 0, 1)


def test_a_program_that_has_ended_is_sent_nothing_more(carrier: Carrier) -> None:
    guest = Guest(carrier, deaf_after=1 << 20)
    taken: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield bytes(1 << 20)

    bulk.send(cast("GuestTool", guest), endless(), lambda: carrier)
    assert guest.ended
    assert len(taken) < 5


class Teller:
    """A program whose output is what it is said to be."""

    def __init__(self, make: Callable[[], Iterator[bytes]]) -> None:
        self.told, self.ended, self.output = list[bytes](), False, make

    def put(self, chunk: bytes) -> bool:
        self.told.append(chunk)
        return True

    def end(self) -> None:
        self.ended = True


def test_what_is_received_comes_whole(carrier: Carrier) -> None:
    first, second = random.Random(1).randbytes(3 << 20), random.Random(2).randbytes(RING - 1000)

    def output() -> Iterator[bytes]:
        whole = record(INLINE, len(first)) + first
        yield from (whole[at : at + 100_000] for at in range(0, len(whole), 100_000))
        for _ in range(3):
            assert teller.told[0] == record(DISK, 7)
            at = (len(teller.told) - 1) * len(second) % RING
            os.pwrite(carrier.descriptor, second[: RING - at], at)
            os.pwrite(carrier.descriptor, second[RING - at :], 0)
            yield record(PLACED, len(second))
            assert teller.told[-1] == record(TAKEN, len(second))

    teller = Teller(output)
    assert b"".join(bulk.receive(cast("GuestTool", teller), lambda: carrier)) == first + 3 * second
    assert teller.ended


@pytest.mark.parametrize(
    "output",
    [record(PLACED, 5), record(INLINE, 0)[:5], record(TAKEN, 1), record(99, 0)],
    ids=["placed nowhere", "cut off", "taken", "unknown"],
)
def test_what_cannot_be_meant_is_an_error(carrier: Carrier, output: bytes) -> None:
    with pytest.raises(AgentError):
        list(bulk.receive(cast("GuestTool", Teller(lambda: iter([output]))), lambda: carrier))


# -- the agent's side; that of the disk is tested in a VM


@pytest.mark.root
def test_the_agents_programs_take_and_give_records(tmp_path: Path) -> None:
    nasty(tmp_path / "from")
    (tmp_path / "from/large").write_bytes(random.Random(3).randbytes(3_000_000))
    plain = tool("--pack-tree", tmp_path / "from").stdout
    given, at, sent = tool("--records", "--pack-tree", tmp_path / "from").stdout, 0, b""
    archive = b""
    while at < len(given):
        kind, size = struct.unpack_from(">II", given, at)
        assert kind == INLINE
        archive += given[at + 8 : at + 8 + size]
        at += 8 + size
    assert members(archive).keys() == members(plain).keys()
    for part in (archive[at : at + 70_000] for at in range(0, len(archive), 70_000)):
        sent += record(INLINE, len(part)) + part
    (tmp_path / "to").mkdir()
    tool("--records", "--unpack", tmp_path / "to", data=sent)
    assert snapshot(tmp_path / "to").keys() == snapshot(tmp_path / "from").keys()
    assert (tmp_path / "to/large").read_bytes() == (tmp_path / "from/large").read_bytes()


@pytest.mark.root
@pytest.mark.parametrize(
    "sent",
    [record(PLACED, 512), record(9, 0), record(TAKEN, 1), record(INLINE, 9) + b"short", record(INLINE, 9)[:3]],
    ids=["no disk", "unknown", "taken", "cut off", "half a record"],
)
def test_the_agents_programs_refuse_what_cannot_be_meant(tmp_path: Path, sent: bytes) -> None:
    done = tool("--records", "--unpack", tmp_path, data=sent, code=1)
    assert b"Protocol error" in done.stderr
