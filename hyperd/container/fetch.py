"""Getting a file by its URI: ``file://`` from this host, ``http(s)://`` from a server.

Size, time and redirects are bounded.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3 import exceptions as http_errors

import hyperd
from hyperd.errors import Conflict, Forbidden, InvalidInput, Timeout, TooLarge

MAX_SIZE = 64 * 2**20  # bytes
MAX_REDIRECTS = 5
IDLE_TIMEOUT = 15.0  # seconds a server may be silent
TOTAL_TIMEOUT = 60.0  # seconds for one file
_BLOCK = 2**16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def check_allowed(what: str, *, may_fetch: bool, instead: str) -> None:
    """Refuse to fetch for who may not let this host do it.

    Args:
        what: whose file it is, for the message.
        may_fetch: whether the caller may.
        instead: what the caller can do without.

    Errors: Forbidden.

    """
    if not may_fetch:
        raise Forbidden(
            f"{what}: this host fetches files only for callers on its unix sockets",
            resolution=f"{instead}, or set fetch_over_tcp in the section [api] of the configuration",
        )


def fetch(uri: str, target: Path, *, what: str) -> int:
    """Write what a URI names to a file; give its size in bytes.

    Args:
        uri: file, http or https.
        target: made or replaced, only when everything has come.
        what: whose it is, for messages.

    Errors: InvalidInput (the URI, or what the server answers), Conflict (a file that cannot be read), TooLarge,
    Timeout.

    """
    parts = urlsplit(uri)
    draft = target.with_name(f".{target.name}.new")
    try:
        source = _local(parts.path, parts.netloc, what) if parts.scheme == "file" else _remote(uri, what)
        size = 0
        with draft.open("wb") as out:
            for block in source:
                size += len(block)
                if size > MAX_SIZE:
                    raise TooLarge(f"{what}: {uri[:200]} is too large", details=f"over {MAX_SIZE} bytes")
                out.write(block)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    return size


def _local(path: str, host: str, what: str) -> Iterator[bytes]:
    path = unquote(path)
    if host not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise InvalidInput(f"{what}: a file URI is file:///path", details=repr(path[:200]))
    try:
        # O_NONBLOCK: a FIFO must not hold us.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as source:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Conflict(f"{what}: {path} is not a regular file")
            while block := source.read(_BLOCK):
                yield block
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        details = "it does not exist on this host" if missing else error.strerror or str(error)
        raise Conflict(f"{what}: cannot read {path}", details=details) from error


def _remote(uri: str, what: str) -> Iterator[bytes]:
    deadline = time.monotonic() + TOTAL_TIMEOUT
    timeout = urllib3.Timeout(connect=IDLE_TIMEOUT, read=IDLE_TIMEOUT)
    headers = {"User-Agent": f"hyperd/{hyperd.__version__}", "Accept-Encoding": "identity"}
    with urllib3.PoolManager(retries=False, timeout=timeout, headers=headers) as pool:
        try:
            for _ in range(MAX_REDIRECTS + 1):
                response = pool.request("GET", uri, preload_content=False, redirect=False)
                where = response.headers.get("Location", "")
                if response.status in _REDIRECTS and where:
                    response.close()
                    uri = urljoin(uri, where)
                    if urlsplit(uri).scheme not in ("http", "https"):
                        raise InvalidInput(f"{what}: the server sends us to {uri[:200]!r}, which is no http address")
                    continue
                if response.status != 200:
                    response.close()
                    raise InvalidInput(
                        f"{what}: {uri[:200]} answers {response.status} {response.reason or ''}".rstrip()
                    )
                for block in response.stream(_BLOCK):
                    if time.monotonic() > deadline:
                        raise Timeout(f"{what}: {uri[:200]} takes longer than {TOTAL_TIMEOUT:g} s")
                    yield block
                return
            raise InvalidInput(f"{what}: {uri[:200]}: more than {MAX_REDIRECTS} redirects")
        except http_errors.NewConnectionError as error:  # one of the time-outs to urllib3
            raise InvalidInput(f"{what}: cannot get {uri[:200]}", details=str(error)[:300]) from error
        except http_errors.TimeoutError as error:
            raise Timeout(f"{what}: no answer from {uri[:200]}", details=f"for {IDLE_TIMEOUT:g} s") from error
        except (http_errors.HTTPError, ValueError) as error:
            raise InvalidInput(f"{what}: cannot get {uri[:200]}", details=str(error)[:300]) from error
