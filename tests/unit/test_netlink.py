"""Attributes of netlink messages, and the kernel's own answers."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperd.network.bridge import host_addresses
from hyperd.network.netlink import Netlink, attribute, attributes

GETLINK, GETADDR = 18, 22
LINK = struct.Struct("=BxHiII")


@given(st.dictionaries(st.integers(1, 100), st.binary(max_size=40), max_size=6))
def test_attributes_come_back(values):
    data = b"".join(attribute(kind, value) for kind, value in values.items())
    assert len(data) % 4 == 0
    assert attributes(data) == values


@given(st.binary(max_size=80))
def test_any_bytes_are_read_without_a_failure(data):
    assert all(1 <= len(value) + 4 <= len(data) for value in attributes(data).values())


def test_nested_attributes():
    inner = attribute(4, b"\1") + attribute(5, b"two")
    assert attributes(attributes(attribute(12 | 0x8000, inner))[12]) == {4: b"\1", 5: b"two"}


def test_the_loopback_interface_and_its_address():
    index = socket.if_nametoindex("lo")
    with Netlink() as netlink:
        message = netlink.get(GETLINK, LINK.pack(0, 0, index, 0, 0))
        assert attributes(message[LINK.size :])[3] == b"lo\0"
        assert netlink.dump(GETADDR, struct.pack("=BBBBI", socket.AF_INET, 0, 0, 0, 0))
    assert "127.0.0.1" in host_addresses()


def test_the_kernels_refusal_is_an_error():
    with Netlink() as netlink:
        with pytest.raises(OSError, match="No such device") as caught:
            netlink.get(GETLINK, LINK.pack(0, 0, 2**31 - 1, 0, 0))
        assert caught.value.errno == errno.ENODEV
        index = socket.if_nametoindex("lo")
        assert netlink.get(GETLINK, LINK.pack(0, 0, index, 0, 0))  # and the socket is still good
