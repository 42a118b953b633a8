"""Ports and subnets that no test beside this one gets, nor the kernel gives to a connection in between."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from pathlib import Path

# Below what the kernel gives to connections (net.ipv4.ip_local_port_range), above and below what tests name themselves.
_PORTS = range(12_000, 18_000)
_SUBNETS = 256 * 10


def ticket(kind: str) -> int:
    """Return a number that rises by one with each call, in whichever process of this user."""
    directory = Path(tempfile.gettempdir()) / f"hyperd-test-slots-{os.getuid()}"
    directory.mkdir(exist_ok=True)
    with (directory / kind).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or 0)
        file.truncate(0)
        file.write(str(number + 1))
        file.flush()
    return number


def free_port() -> int:
    """Return a port, of TCP and of UDP, that nobody has on any address; thousands of calls later it comes again."""
    for _ in _PORTS:
        port = _PORTS[ticket("ports") % len(_PORTS)]
        if _is_free(port):
            return port
    raise AssertionError(f"none of the ports {_PORTS} is free")


def free_ports(count: int) -> list[int]:
    """Return several of them."""
    return [free_port() for _ in range(count)]


def fresh_net(first: int) -> str:
    """Return the first three numbers of a subnet: ``10.FIRST.0`` and what follows, ten times 256 of them."""
    number = ticket("subnets") % _SUBNETS
    return f"10.{first + number // 256}.{number % 256}"


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return False
    return True
