"""Which directories of the host guests can have written to: links in them lead where a guest wants.

What a guest has made stays when its pod is gone, so the directories are remembered for good: by their paths, and by
their inodes, since a directory may be moved.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import select

from hyperd.db.models import SharedPathRow
from hyperd.db.session import Database
from hyperd.volume.hostpath import HostObject, made_directory, open_path


class Sources:
    """Opens directories, files and images of the host that a caller names.

    Args:
        database: of the daemon.
        volumes: the directory of the named volumes; guests write to all of it.

    """

    def __init__(self, *, database: Database, volumes: Path) -> None:
        self._database = database
        self._volumes = volumes

    def open(self, path: str, *, what: str, guarded: Collection[Path] = ()) -> HostObject:
        """Open a path; no link that a guest may have made is followed.

        Args:
            path: absolute.
            what: whose it is, for messages.
            guarded: directories that guests can write to, beside those that are remembered.

        Errors: Conflict.

        """
        return open_path(path, what=what, guarded={*guarded, *self.written()}, inodes=self._inodes())

    def made(self, path: str, *, what: str, guarded: Collection[Path] = ()) -> contextlib.AbstractContextManager[Path]:
        """Make a directory where there is none; as ``open`` and ``hostpath.made_directory``. Errors: Conflict."""
        return made_directory(path, what=what, guarded={*guarded, *self.written()}, inodes=self._inodes())

    def _inodes(self) -> set[tuple[int, int]]:
        with self._database.reading() as session:
            return {(row.device, row.inode) for row in session.scalars(select(SharedPathRow))}

    def remember(self, source: HostObject) -> None:
        """Note that a guest is about to be able to write to a directory; a file has no links in it."""
        if not source.is_directory:
            return
        stat = os.fstat(source.fd)
        with self._database.session() as session:
            session.merge(
                SharedPathRow(path=str(source.path), device=stat.st_dev, inode=stat.st_ino, shared_at=time.time())
            )

    def written(self) -> set[Path]:
        """Return the directories that guests can have written to."""
        with self._database.reading() as session:
            return {Path(os.path.realpath(self._volumes)), *map(Path, session.scalars(select(SharedPathRow.path)))}
