"""The image store's files: content-addressed, complete under a good name or not there at all.

::

    <root>/layers/<hex of diff_id>.sqfs   a layer, ready to attach read-only
    <root>/blobs/sha256/<hex>             the same layer as the registry sent it
    <root>/tmp/<hex>.partial              a download that was broken off, to be resumed
    <root>/tmp/*.tmp                      half-made; removed at start

A file is written under ``tmp``, synced, renamed, and its directory synced.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import BinaryIO

import structlog

from hyperd.aside import Aside
from hyperd.errors import InvalidInput
from hyperd.failpoint import failpoint
from hyperd.image.layer.convert import disk_errors, sync_directory
from hyperd.registry.reference import is_digest

log = structlog.get_logger(__name__)

KEEP_UNUSED = 24 * 3600.0  # seconds that broken-off downloads and layers of broken-off pulls are kept for the next try
_PARTIAL = ".partial"
_LAYER = ".sqfs"


class ImageStore:
    """Files of layers and blobs below one directory. Safe for threads.

    Args:
        root: made when missing.

    """

    def __init__(self, root: Path) -> None:
        self._aside = Aside(root.parent)
        self.layers = root / "layers"
        self.blobs = root / "blobs" / "sha256"
        self.temporary = root / "tmp"
        self.lock = threading.RLock()  # held while it is decided what is used and what goes
        self._pins: Counter[str] = Counter()
        with disk_errors():
            for directory in (self.layers, self.blobs, self.temporary):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def layer_path(self, diff_id: str) -> Path:
        """Return the place of a layer's squashfs file, whether it is there or not."""
        return self.layers / f"{_hex(diff_id)}{_LAYER}"

    def blob_path(self, digest: str) -> Path:
        """Return the place of a blob, whether it is there or not."""
        return self.blobs / _hex(digest)

    def partial_path(self, digest: str) -> Path:
        """Return the place of a download that is not complete."""
        return self.temporary / f"{_hex(digest)}{_PARTIAL}"

    @contextmanager
    def new_file(self) -> Iterator[tuple[BinaryIO, Path]]:
        """Yield an empty file to be filled and ``keep``-ed inside the block; else it is removed.

        Raises:
            OutOfSpace, HostFault: the file system says so.

        """
        with disk_errors():
            descriptor, name = mkstemp(dir=self.temporary, suffix=".tmp")
        path = Path(name)
        try:
            with open(descriptor, "r+b") as file:  # noqa: PTH123
                yield file, path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, path: Path, target: Path) -> None:
        """Give a complete, synced file its name, lasting."""
        with disk_errors():
            path.rename(target)
            sync_directory(target.parent)
            failpoint("image.store.file_named")

    @contextmanager
    def pinned(self, digests: Collection[str]) -> Iterator[None]:
        """Keep layers (by diff_id) and blobs (by digest) from being removed while the block runs."""
        with self.lock:
            self._pins.update(digests)
        try:
            yield
        finally:
            with self.lock:
                self._pins.subtract(digests)
                self._pins = +self._pins

    def pins(self) -> frozenset[str]:
        """Return everything that somebody works with; ask with ``lock`` held."""
        return frozenset(self._pins)

    def pin_count(self, digest: str) -> int:
        """Return the number of those who work with it; ask with ``lock`` held."""
        return self._pins[digest]

    def is_pinned(self, digest: str) -> bool:
        """Whether somebody works with it; ask with ``lock`` held."""
        return self._pins[digest] > 0

    def remove(self, path: Path) -> None:
        """Remove a file; it may be missing."""
        with disk_errors():
            path.unlink(missing_ok=True)

    def remove_layers(self, diff_ids: Collection[str], digests: Collection[str]) -> None:
        """Remove the files of layers and blobs whose rows are gone."""
        for diff_id in diff_ids:
            self.remove(self.layer_path(diff_id))
            failpoint("image.delete.layer_removed")
        for digest in digests:
            self.remove(self.blob_path(digest))

    def recover(self) -> None:
        """Remove half-made files, and broken-off downloads that nobody resumed."""
        self._sweep(self.temporary, lambda name: not name.endswith(_PARTIAL))
        self.expire()

    def expire(self) -> None:
        """Remove broken-off downloads that nobody resumed."""
        with self.lock:
            for path in self.temporary.iterdir():
                if path.suffix == _PARTIAL and not self.is_pinned(f"sha256:{path.stem}") and is_old(path):
                    self.remove(path)

    def remove_strangers(self, *, diff_ids: Collection[str], digests: Collection[str]) -> None:
        """Take away files that no row names: a crash came between the rename and the row, or the row was lost.

        Layers are put aside, old blobs removed.

        Args:
            diff_ids: layers that have rows.
            digests: blobs that have rows.

        """
        known_layers = {f"{_hex(diff_id)}{_LAYER}" for diff_id in diff_ids}
        known_blobs = {_hex(digest) for digest in digests}
        for path in self.layers.iterdir():
            if path.name not in known_layers:
                self._aside.put(path, reason="no row of this layer")
        for path in self.blobs.iterdir():
            if path.name not in known_blobs and is_old(path):
                self.remove(path)

    def _sweep(self, directory: Path, unwanted: object) -> None:
        for path in directory.iterdir():
            if callable(unwanted) and unwanted(path.name):
                log.info("store-file-removed", path=str(path))
                self.remove(path)


def is_old(path: Path) -> bool:
    """Whether a file was last written longer than ``KEEP_UNUSED`` ago (or is gone)."""
    try:
        return path.stat().st_mtime < time.time() - KEEP_UNUSED
    except FileNotFoundError:
        return True


def size_of(path: Path) -> int:
    """Return a file's size in bytes, -1 when it is missing."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except FileNotFoundError:
        return -1


def _hex(digest: str) -> str:
    if not digest.startswith("sha256:") or not is_digest(digest):
        raise InvalidInput("only sha256 digests can be stored", details=digest[:100])
    return digest.removeprefix("sha256:")
