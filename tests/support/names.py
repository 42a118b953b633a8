"""A name server that gives every name one address (RFC 1035): something that answers by UDP and tells who it is."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_A, _IN = 1, 1


@contextmanager
def serve_dns(address: tuple[str, int], answer: str) -> Iterator[int]:
    """Answer every question for an A record with ``answer``, others with nothing; gives the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(address)
        place = server.getsockname()

        def loop() -> None:
            while True:
                data, peer = server.recvfrom(1024)
                if not data:
                    return
                server.sendto(_reply(data, answer), peer)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield int(place[1])
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as poke:
                poke.sendto(b"", place)
            thread.join(60)
            assert not thread.is_alive()


def _reply(question: bytes, answer: str) -> bytes:
    end = question.index(b"\0", 12) + 5
    (kind,) = struct.unpack_from("!H", question, end - 4)
    count = int(kind == _A)
    head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, count, 0, 0)
    record = struct.pack("!HHHIH", 0xC00C, _A, _IN, 0, 4) + socket.inet_aton(answer)
    return head + question[12:end] + record * count
