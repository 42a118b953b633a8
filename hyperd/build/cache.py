"""What steps of builds made before: a step's key (all that it depends on) leads to its layer.

One small file a step, below ``<root>/builds/cache``. The cache holds no layer: one that was removed with its image is
simply no longer found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from hyperd.image.layer.convert import disk_errors
from hyperd.image.transfer.ingest import Intake

MAX_ENTRIES = 20_000
_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}")


def chain(key: str, *parts: object) -> str:
    """Give the key of a step that follows the one with ``key``."""
    return hashlib.sha256(json.dumps([key, *parts], sort_keys=True).encode()).hexdigest()


class StepCache:
    """Keys to diff_ids, of whole builds to ids of images; an empty diff_id means that the step changed no file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, key: str, intake: Intake) -> str | None:
        """Give the diff_id of a step's layer, held by ``intake``; None when it has to be made."""
        try:
            found = (self._directory / key).read_text("ascii").strip()
        except (OSError, ValueError):
            return None
        if found == "-":
            return ""
        return found if _DIFF_ID.fullmatch(found) and intake.use_layer(found) else None

    def image(self, key: str) -> str:
        """Return the id of the image that a build with this key has made, empty when there was none."""
        try:
            found = (self._directory / key).read_text("ascii").strip()
        except (OSError, ValueError):
            return ""
        return found if _DIFF_ID.fullmatch(found) else ""

    def note(self, key: str, diff_id: str) -> None:
        """Keep what a step (a layer) or a whole build (an image) made. Errors: OutOfSpace, HostFault."""
        with disk_errors():
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = self._directory / f".{secrets.token_hex(8)}"
            draft.write_text((diff_id or "-") + "\n", "ascii")
            draft.rename(self._directory / key)

    def prune(self) -> None:
        """Forget half-written and, beyond a bound, the oldest entries."""
        try:
            entries = list(os.scandir(self._directory))
        except FileNotFoundError:
            return
        drafts = [entry for entry in entries if entry.name.startswith(".")]
        entries = sorted((e for e in entries if e not in drafts), key=lambda entry: entry.stat().st_mtime)
        self._remove([*drafts, *entries[: max(0, len(entries) - MAX_ENTRIES)]])

    def clear(self) -> None:
        """Forget everything."""
        try:
            self._remove(list(os.scandir(self._directory)))
        except FileNotFoundError:
            return

    def _remove(self, entries: Iterable[os.DirEntry[str]]) -> None:
        for entry in entries:
            Path(entry.path).unlink(missing_ok=True)
