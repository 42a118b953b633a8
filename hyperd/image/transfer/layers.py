"""The way in for every layer, wherever it comes from: converted, checked, kept under its name, noted in the rows.

Pulls bring blobs that stay as they came and can be resumed (``hyperd.image.transfer.fetch``); loads, imports, commits
and builds bring streams, which are recorded (``hyperd.image.transfer.ingest``). What is done with a layer is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperd.failpoint import failpoint
from hyperd.image.catalog import Catalog
from hyperd.image.layer.convert import BuiltLayer, build_layer, measure_layer
from hyperd.image.store import ImageStore, size_of


class NewLayerFile:
    """A layer that was converted and is not in the store yet.

    Args:
        store: the files. catalog: the rows.
        built: what became of it.
        path: its squashfs file, None when the layer is there and was only measured.

    """

    def __init__(self, *, store: ImageStore, catalog: Catalog, built: BuiltLayer, path: Path | None) -> None:
        self._store = store
        self._catalog = catalog
        self._path = path
        self.built = built

    def keep(self, blob: str, blob_size: int) -> bool:
        """Return the layer its name and its row, with the blob it came from; tell whether it is new here.

        Nobody removes a layer between its file and its row: the store's lock is held.

        Raises:
            OutOfSpace, HostFault: the file system says so.

        """
        store, diff_id = self._store, self.built.diff_id
        with store.lock:
            fresh = self._catalog.layer_size(diff_id) < 0
            if self._path is not None and (fresh or size_of(store.layer_path(diff_id)) < 0):
                store.keep(self._path, store.layer_path(diff_id))
            self._catalog.add_layer(self.built, blob=blob, blob_size=blob_size)
            failpoint("image.store.layer_written")
        return fresh


class LayerIngest:
    """See the module's docstring. Safe for threads.

    Args:
        store: the files. catalog: the rows.
        max_bytes: of an uncompressed layer.

    """

    def __init__(self, *, store: ImageStore, catalog: Catalog, max_bytes: int) -> None:
        self._store = store
        self._catalog = catalog
        self.max_bytes = max_bytes

    @contextmanager
    def converted(self, open_chunks: Callable[[], Iterator[bytes]], *, diff_id: str = "") -> Iterator[NewLayerFile]:
        """Convert a layer; what is not kept inside the block goes.

        Args:
            open_chunks: starts the stream of the layer's bytes, compressed or not (see ``build_layer``).
            diff_id: what it should be, if known. When that layer is in the store, the stream is only measured.

        Raises:
            InvalidInput, TooLarge: it is hostile or damaged.
            OutOfSpace, HostFault: this host's part.
            Whatever the stream raises.

        """
        there = size_of(self._store.layer_path(diff_id)) if diff_id and self._catalog.layer_size(diff_id) >= 0 else -1
        if there >= 0:
            built = BuiltLayer(*measure_layer(open_chunks(), max_bytes=self.max_bytes), there)
            yield NewLayerFile(store=self._store, catalog=self._catalog, built=built, path=None)
            return
        with self._store.new_file() as (output, path):
            built = build_layer(open_chunks, output, max_bytes=self.max_bytes)
            yield NewLayerFile(store=self._store, catalog=self._catalog, built=built, path=path)
