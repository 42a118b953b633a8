"""Network namespaces as stand-ins for pods and for the outside: real interfaces, real sockets, no processes."""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words: str) -> str:
    """Run ip(8) and give what it prints."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


class Namespace:
    """A network namespace; sockets made with it belong to it whichever thread uses them."""

    def __init__(self) -> None:
        self.name = f"hyt{secrets.token_hex(4)}"
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")

    def run(self, work: Callable[[], T]) -> T:
        """Call something in a thread that has entered the namespace."""
        result: list[T] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
                try:
                    assert _libc.setns(descriptor, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
                finally:
                    os.close(descriptor)
                result.append(work())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def socket(self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET, proto: int = 0) -> socket.socket:
        """Make a socket that lives in the namespace."""
        made = self.run(lambda: socket.socket(family, kind, proto))
        made.settimeout(60)
        return made

    def plug(self, *, host_end: str, bridge: str, mac: str, cidr: str, gateway: str, name: str = "eth0") -> None:
        """Give the namespace a NIC whose other end is ``host_end``, plugged into a bridge."""
        peer = f"p{secrets.token_hex(5)}"
        ip("link", "add", host_end, "type", "veth", "peer", "name", peer)
        ip("link", "set", peer, "netns", self.name)
        # The host itself would talk IPv6 to the namespace over this end.
        Path(f"/proc/sys/net/ipv6/conf/{host_end}/disable_ipv6").write_text("1", encoding="ascii")
        ip("link", "set", host_end, "master", bridge, "up")
        ip("-n", self.name, "link", "set", peer, "name", name)
        ip("-n", self.name, "link", "set", name, "address", mac, "up")
        ip("-n", self.name, "address", "add", cidr, "dev", name)
        if gateway:
            ip("-n", self.name, "route", "add", "default", "via", gateway)

    def link(self, *, host_end: str, host_cidr: str, cidr: str) -> None:
        """Join the namespace to the host by a cable of its own (it is the outside then)."""
        peer = f"p{secrets.token_hex(5)}"
        ip("link", "add", host_end, "type", "veth", "peer", "name", peer)
        ip("link", "set", peer, "netns", self.name)
        ip("address", "add", host_cidr, "dev", host_end)
        ip("link", "set", host_end, "up")
        ip("-n", self.name, "link", "set", peer, "up")
        ip("-n", self.name, "address", "add", cidr, "dev", peer)

    def close(self) -> None:
        """Remove the namespace; the kernel removes its interfaces with it."""
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


@contextmanager
def serve_tcp(listener: socket.socket, address: tuple[str, int], answer: Callable[[str], bytes]) -> Iterator[int]:
    """Answer every connection with ``answer(client's address)``; gives the port."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(16)
    listener.settimeout(None)

    def loop() -> None:
        while True:
            try:
                client, peer = listener.accept()
            except OSError:
                return
            with client:
                client.sendall(answer(peer[0]))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def serve_udp(sock: socket.socket, address: tuple[str, int], answer: bytes) -> Iterator[int]:
    """Answer every datagram; gives the port."""
    sock.bind(address)
    sock.settimeout(None)
    port: int = sock.getsockname()[1]

    def loop() -> None:
        while True:
            data, peer = sock.recvfrom(2048)
            if data == b"\0stop":
                return
            sock.sendto(answer, peer)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield port
    finally:
        sock.shutdown(socket.SHUT_RDWR) if sock.type == socket.SOCK_STREAM else _poke(sock, address, port)
        thread.join(60)
        sock.close()
        assert not thread.is_alive()


def _poke(sock: socket.socket, address: tuple[str, int], port: int) -> None:
    sock.sendto(b"\0stop", (address[0], port))


def ask_tcp(client: socket.socket, address: tuple[str, int], *, timeout: float = 30) -> bytes:
    """Connect, read to the end, close."""
    with client:
        client.settimeout(timeout)
        client.connect(address)
        found = b""
        while piece := client.recv(4096):
            found += piece
        return found


def ask_udp(client: socket.socket, address: tuple[str, int], *, timeout: float = 30) -> bytes:
    """Send a datagram and give the answer."""
    client.settimeout(timeout)
    client.sendto(b"?", address)
    return client.recv(4096)
