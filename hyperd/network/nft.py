"""Carries out nftables texts through libnftables, the library behind ``nft``.

In this process it takes a tenth of what a process of its own takes (``docs/performance.md``). Where the library
cannot be loaded, the command does it. Source of the interface: libnftables(3).

The library waits for the kernel with select(2), which ends the process when a descriptor has a number of 1,024 or
more. So it is called by one thread that has a table of descriptors of its own (unshare(2), ``CLONE_FILES``) with
nothing in it but the three standard ones: what the library opens there has a low number, whatever the daemon has open.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import struct
import subprocess
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import structlog

from hyperd.errors import HostFault
from hyperd.network.netlink import NETFILTER, Netlink, attributes

LIBRARY = "libnftables.so.1"
_TIMEOUT = 30.0  # seconds; nft waits for the kernel only
_CLONE_FILES = 0x400  # <sched.h>
_FIRST = 3  # the first descriptor after the standard ones
_GET_GENERATION = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_applying = threading.Lock()
_own: deque[int] = deque(maxlen=1024)  # generations that came from here, the newest last
log = structlog.get_logger(__name__)


def apply(text: str) -> None:
    """Carry out a text in one transaction: all of it or nothing. Errors: HostFault."""
    with _applying:
        before = _generation()
        complaint = _caller.run(text)
        _own.extend(range(before + 1, _generation() + 1))
    if complaint:
        raise HostFault("the nftables rules were refused", details=complaint[:2000])


def is_own(number: int) -> bool:
    """Return whether a generation of the kernel's rules came from this process."""
    with _applying:  # one that is under way is noted first
        return number in _own


def _generation() -> int:
    """Return the number of the kernel's newest rules, 0 when it does not tell."""
    try:
        with Netlink(NETFILTER) as netlink:
            message = netlink.get(_GET_GENERATION, struct.pack("=BBH", socket.AF_UNSPEC, 0, 0))
    except OSError as error:
        log.debug("nft.no_generation", error=str(error))
        return 0
    return int.from_bytes(attributes(message[4:]).get(1, b""), "big")


class _Caller:
    """The one thread that calls the library. It is started at the first text.

    What is open elsewhere in the process is closed there, the log's file too: the thread does nothing else, and what is
    to be logged of it is logged by who called it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="nft", initializer=self._leave_descriptors)
        self._alone = False  # the thread has a table of descriptors of its own
        self._refusal = ""  # why it has none, until that is logged

    def run(self, text: str) -> str:
        """Carry a text out; return what is wrong with it, or nothing. Errors: HostFault."""
        library = _library()
        complaint = None if library is None else self._pool.submit(self._carry_out, library, text).result()
        if self._refusal:
            log.info("nft.by_command", reason=self._refusal)
            self._refusal = ""
        return _by_command(text) if complaint is None else complaint

    def _leave_descriptors(self) -> None:
        """Give this thread a table of descriptors of its own, and empty it. The other threads keep theirs."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_FILES) != 0:
            self._refusal = f"unshare: {os.strerror(ctypes.get_errno())}"
            return
        os.closerange(_FIRST, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        self._alone = True

    def _carry_out(self, library: Any, text: str) -> str | None:
        """Have the library carry a text out; return its complaint, or None where only the command can do it."""
        return _by_library(library, text) if self._alone else None


_caller = _Caller()


@cache
def _library() -> Any | None:
    """Load the library, once; None where that cannot be."""
    try:
        library = ctypes.CDLL(LIBRARY)
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        library.nft_ctx_free.restype = None
        library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    except (OSError, AttributeError) as error:
        log.info("nft.by_command", reason=str(error))
        return None
    return library


def _by_library(library: Any, text: str) -> str:
    # A context for each text: one that stays keeps half a megabyte for every table of the host.
    context = library.nft_ctx_new(0)
    if not context:
        return "no memory"
    try:
        if library.nft_ctx_buffer_error(context):
            return "no memory"
        failed = library.nft_run_cmd_from_buffer(context, text.encode())
        said = library.nft_ctx_get_error_buffer(context)
        return (said or b"").decode("utf-8", "replace").strip() or "no reason given" if failed else ""
    finally:
        library.nft_ctx_free(context)


def _by_command(text: str) -> str:
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise HostFault("nft is not installed", resolution="apt-get install nftables") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostFault("nft could not be run", details=str(error)) from error
    return done.stderr.strip() or "no reason given" if done.returncode else ""
