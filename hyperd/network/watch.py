"""Watches what others do to the host's network, and calls for repair at once.

Bridges, taps and their addresses by rtnetlink(7), tables by nfnetlink, name servers by pidfd_open(2). What this daemon
does itself is seen, too: the repair finds nothing to do then.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import structlog

from hyperd.errors import HyperError
from hyperd.network import nft
from hyperd.network.netlink import NETFILTER, attributes

log = structlog.get_logger(__name__)

LINKS, TABLES, SERVERS, NAMES = "links", "tables", "servers", "names"  # reasons for a repair
CONTAINERS = "containers"  # a reason to look whether names have changed
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_NFT_GROUP, _NFT_SUBSYSTEM, _NEW_GENERATION = 7, 10, 15  # <linux/netfilter/nfnetlink.h>, nf_tables.h
_ADD_MEMBERSHIP, _SOL_NETLINK = 1, 270
_HEADER = struct.Struct("=IHHII")
_RECEIVE = 1 << 18
_PAUSE = 0.05  # seconds that changes are gathered: one command of ip(8) or nft(8) makes many
_AGAIN = 2.0  # seconds after a repair that failed


class Watch:
    """A thread that calls ``repair`` with the reasons.

    Args:
        table: of this daemon.
        repair: is called in the thread; HyperError is logged and it is called again.
        pids: gives the name servers' processes.

    """

    def __init__(self, *, table: str, repair: Callable[[set[str]], None], pids: Callable[[], Iterable[int]]) -> None:
        self._table = table.encode() + b"\0"
        self._repair = repair
        self._pids = pids
        self._asked: set[str] = set()
        self._later: dict[str, float] = {}  # reasons, and when they are to be asked for
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._ended = False

    def open(self) -> None:
        """Start to watch. Can be called again."""
        if self._thread is None:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._ended = False
            self._thread = threading.Thread(target=self._run, name="network-watch", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop to watch; twice is fine."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ended = True
            os.eventfd_write(self._wake, 1)
            thread.join()
            os.close(self._wake)

    def ask(self, reason: str) -> None:
        """Have the repair called soon. It never blocks."""
        with self._lock:
            self._asked.add(reason)
            if self._thread is not None:
                os.eventfd_write(self._wake, 1)

    def ask_later(self, reason: str, delay: float) -> None:
        """Have the repair called after so many seconds, in place of what was asked for last in this way."""
        with self._lock:
            self._later[reason] = time.monotonic() + delay
            if self._thread is not None:
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        with _listen(socket.NETLINK_ROUTE, groups=_GROUPS) as links, _listen(NETFILTER, member=_NFT_GROUP) as tables:
            pidfds: dict[int, int] = {}
            poll = select.epoll()
            for fd in (links.fileno(), tables.fileno(), self._wake):
                poll.register(fd, select.EPOLLIN)
            due: set[str] = set()
            try:
                while not self._ended:
                    self._watch_processes(poll, pidfds)
                    ready = [fd for fd, _ in poll.poll(self._timeout(due))]
                    if set(ready) - {self._wake}:
                        self._thread_pause()
                    due |= self._reasons(links, tables, ready, pidfds)
                    if due and not self._ended:
                        due = self._called(due)
            finally:
                poll.close()
                for fd in pidfds.values():
                    os.close(fd)

    def _timeout(self, due: set[str]) -> float | None:
        """Return how long to wait for something to happen, in seconds; None = for ever."""
        with self._lock:
            waits = [max(when - time.monotonic(), 0.0) for when in self._later.values()]
        return min([*waits, *([_AGAIN] if due else [])], default=None)

    def _thread_pause(self) -> None:
        if not self._ended:
            threading.Event().wait(_PAUSE)

    def _called(self, due: set[str]) -> set[str]:
        try:
            self._repair(due)
        except HyperError as error:
            log.error("network.not_repaired", reasons=sorted(due), error=str(error))
            return due
        except Exception:
            log.exception("network.repair_failed", reasons=sorted(due))
        return set()

    def _reasons(
        self, links: socket.socket, tables: socket.socket, ready: list[int], pidfds: dict[int, int]
    ) -> set[str]:
        if self._wake in ready:
            os.eventfd_read(self._wake)
        with self._lock:
            found, self._asked = self._asked, set()
            for reason in [one for one, when in self._later.items() if when <= time.monotonic()]:
                del self._later[reason]
                found.add(reason)
        if links.fileno() in ready:
            for _ in _messages(links):
                found.add(LINKS)
        if tables.fileno() in ready and self._foreign(tables):
            found.add(TABLES)
        for pid, fd in list(pidfds.items()):
            if fd in ready:
                os.close(pidfds.pop(pid))
                found.add(SERVERS)
        return found

    def _foreign(self, tables: socket.socket) -> bool:
        """Return whether somebody else has changed a table of this daemon."""
        touched = foreign = False
        for kind, body in _messages(tables):
            if kind < 0:
                return True  # messages were lost
            if kind >> 8 != _NFT_SUBSYSTEM:
                continue
            found = attributes(body[4:])
            if kind & 0xFF == _NEW_GENERATION:
                number = int.from_bytes(found.get(1, b""), "big")
                foreign = foreign or (touched and not nft.is_own(number))
                touched = False
            elif found.get(1) == self._table:
                touched = True
        return foreign

    def _watch_processes(self, poll: select.epoll, pidfds: dict[int, int]) -> None:
        for pid in set(self._pids()) - pidfds.keys():
            try:
                pidfds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                self.ask(SERVERS)
            else:
                poll.register(pidfds[pid], select.EPOLLIN)


def _listen(family: int, *, groups: int = 0, member: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.bind((0, groups))
    if member:
        made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, member)
    return made


def _messages(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield all messages that are there: kind and body; -1 when the kernel had to leave some out."""
    while True:
        try:
            data = sock.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS
            yield -1, b""
            continue
        at = 0
        while at + _HEADER.size <= len(data):
            size, kind, *_ = _HEADER.unpack_from(data, at)
            if size < _HEADER.size:
                break
            yield kind, data[at + _HEADER.size : at + size]
            at += size + -size % 4
