"""Questions to a name server (RFC 1035), without a resolver of the host in between."""

from __future__ import annotations

import socket
import struct

NXDOMAIN = 3


def question(name: str, kind: int = 1) -> bytes:
    """A question for addresses (A), or for another kind of record."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def addresses(client: socket.socket, server: str, name: str, *, timeout: float = 5) -> list[str]:
    """The IPv4 addresses of a name, sorted; none when the server does not know it.

    Errors: TimeoutError, and ConnectionRefusedError for a port where nobody listens.
    """
    with client:
        client.settimeout(timeout)
        client.connect((server, 53))
        client.send(question(name))
        answer = client.recv(4096)
    count = struct.unpack_from(">H", answer, 6)[0]
    # Every answer of an A record is 16 bytes long: dnsmasq points to the question's name.
    return sorted(socket.inet_ntoa(answer[len(answer) - 16 * n - 4 : len(answer) - 16 * n]) for n in range(count))


def addresses6(client: socket.socket, server: str, name: str, *, timeout: float = 5) -> list[str]:
    """The IPv6 addresses of a name, sorted; otherwise as ``addresses``."""
    with client:
        client.settimeout(timeout)
        client.connect((server, 53))
        client.send(question(name, 28))
        answer = client.recv(4096)
    count, size = struct.unpack_from(">H", answer, 6)[0], len(answer)
    parts = (answer[size - 28 * n - 16 : size - 28 * n] for n in range(count))
    return sorted(socket.inet_ntop(socket.AF_INET6, part) for part in parts)
