"""Which names of a host in a request are its own."""

from __future__ import annotations

import socket

import pytest

from hyperd.api.origin import is_own_name


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "localhost:2375",
        "LOCALHOST.",
        "127.0.0.1:2375",
        "192.0.2.7",
        "[::1]:2375",
        "[2001:db8::1]",
        socket.gethostname(),
        f"{socket.gethostname().upper()}:2375",
        "node.example.com:2375",
    ],
)
def test_own_names(host: str) -> None:
    assert is_own_name(host, ("Node.example.com",))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com",
        "localhost.evil.example.com:2375",
        "127.0.0.1.evil.example.com",
        "a:b:c",
        "[::1",
        "x@localhost",
    ],
)
def test_names_of_others(host: str) -> None:
    assert not is_own_name(host, ("node.example.com",))
