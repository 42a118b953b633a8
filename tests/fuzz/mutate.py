"""A small mutator for the short run of every day: the same inputs everywhere. ``scripts/fuzz`` goes by coverage."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"-1",
    b"0",
    b"99999999999",
    b"..",
    b"/",
    b"\n",
    b"\\",
    b'"',
    b"{}",
    b"[]",
    b"null",
)


def mutated(seeds: Sequence[bytes], *, count: int, rng: random.Random) -> Iterator[bytes]:
    """Yield the seeds, then so many inputs made of them."""
    yield from seeds
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(1 + rng.randrange(4)):
            rng.choice(_CHANGES)(data, seeds, rng)
        yield bytes(data)


def _flip(data: bytearray, _seeds: Sequence[bytes], rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _insert(data: bytearray, _seeds: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(INTERESTING)


def _replace(data: bytearray, _seeds: Sequence[bytes], rng: random.Random) -> None:
    word = rng.choice(INTERESTING)
    at = rng.randrange(len(data) + 1)
    data[at : at + len(word)] = word


def _cut(data: bytearray, _seeds: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + 1 + rng.randrange(64)]


def _double(data: bytearray, _seeds: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + 1 + rng.randrange(64)]


def _splice(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(seeds)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


_CHANGES: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    _flip, _insert, _replace, _cut, _double, _splice,
)  # fmt: skip
