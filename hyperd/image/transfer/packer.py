"""Compressing a layer that comes unpacked, in a thread of its own: it is converted at the same time on another CPU."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from typing import BinaryIO

from backports import zstd

from hyperd.image.layer.convert import disk_errors

_FAST = 1  # level of zstd: disks are slower
_AHEAD = 16  # pieces that may wait


class BackgroundPacker:
    """Writes what it gets to a file, packed by zstd. ``finish`` or ``abandon`` end its thread.

    Args:
        file: open for writing; nobody else writes to it.

    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._written = hashlib.sha256()
        self._failure: BaseException | None = None
        self.size = 0
        self._thread = threading.Thread(target=self._run, name="layer-packer", daemon=True)
        self._thread.start()

    @property
    def digest(self) -> str:
        """The digest of what was written; after ``finish``."""
        return f"sha256:{self._written.hexdigest()}"

    def write(self, piece: bytes) -> None:
        """Take a piece. Errors: OutOfSpace, HostFault of pieces before it."""
        self._raise()
        self._pieces.put(bytes(piece))

    def finish(self) -> None:
        """Write what is left. Calling it twice is fine. Errors: OutOfSpace, HostFault."""
        self.abandon()
        self._raise()

    def abandon(self) -> None:
        """End the thread; what has come is still written."""
        if self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        packer = zstd.ZstdCompressor(level=_FAST)
        while (piece := self._pieces.get()) is not None:
            if self._failure is None:  # else the rest is only taken, so that nobody waits for room
                self._try(packer.compress, piece)
        if self._failure is None:
            self._try(packer.flush)

    def _try(self, make: Callable[..., bytes], *piece: bytes) -> None:
        try:
            data = make(*piece)
            self._written.update(data)
            self.size += len(data)
            with disk_errors():
                self._file.write(data)
        except BaseException as error:
            self._failure = error
