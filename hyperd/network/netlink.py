"""Messages to the kernel's networking (netlink(7), RFC 3549), as few as the daemon needs.

A library for this costs 9 MB of the daemon's memory and a thread for every question.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

REQUEST, ACK, DUMP, EXCLUSIVE, CREATE = 0x1, 0x4, 0x300, 0x200, 0x400  # <linux/netlink.h>
NETFILTER = 12
NESTED = 0x8000
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE = 1 << 18
_TIMEOUT = 10  # seconds; the kernel answers at once
_TRIES = 5

Attributes = dict[int, bytes]


def attribute(kind: int, *parts: bytes) -> bytes:
    """Write one attribute, padded; several parts are those of a nested one."""
    data = b"".join(parts)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes) -> Attributes:
    """Read attributes by their kind; what is cut short ends them."""
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or at + size > len(data):
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + size]
        at += size + -size % 4
    return found


class Netlink:
    """A socket to one of the kernel's netlink families, to be used in a ``with`` by one thread.

    Errors: OSError with the kernel's errno, of every method.
    """

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.settimeout(_TIMEOUT)
        self._number = 0
        self._interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, kind: int, body: bytes, *, flags: int = 0) -> None:
        """Have something done."""
        for _ in self._answers(kind, body, REQUEST | ACK | flags):
            pass

    def get(self, kind: int, body: bytes) -> bytes:
        """Ask for one thing; give its message without the header."""
        return next(iter(list(self._answers(kind, body, REQUEST | ACK))), b"")

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Ask for all things of a kind; a list that changed while it was read is read again."""
        for _ in range(_TRIES):
            self._interrupted = False
            found = list(self._answers(kind, body, REQUEST | DUMP))
            if not self._interrupted:
                break
        return found

    def _answers(self, kind: int, body: bytes, flags: int) -> Iterator[bytes]:
        self._number += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._number, 0) + body)
        while True:
            data, at = self._socket.recv(_RECEIVE), 0
            while at + _HEADER.size <= len(data):
                size, what, marks, number, _ = _HEADER.unpack_from(data, at)
                if size < _HEADER.size:
                    raise OSError("netlink: a message without a length")
                payload = data[at + _HEADER.size : at + size]
                at += size + -size % 4
                if number != self._number:
                    continue
                if marks & _INTERRUPTED:
                    self._interrupted = True
                if what in (_ERROR, _DONE):
                    code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                    if code > 0:
                        raise OSError(code, os.strerror(code))
                    return
                yield payload
