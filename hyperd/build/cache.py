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
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hyperd.image.layer.convert import disk_errors
from hyperd.image.model import Image
from hyperd.image.transfer.ingest import Intake

MAX_ENTRIES = 20_000
PRUNE_EVERY = 500  # notes: looking at all entries takes time
_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}")


def chain(key: str, *parts: object) -> str:
    """Return the key of a step that follows the one with ``key``."""
    return hashlib.sha256(json.dumps([key, *parts], sort_keys=True).encode()).hexdigest()


class ImageSteps:
    """Steps of images that somebody else has built (``cache_from``), by what their histories say.

    A step is found when an image begins with all that there is so far, its history and its layers, and goes on with the
    same command. So a command must tell all that its layer is made of: where words do not, it has the step's key.
    """

    def __init__(self, images: Sequence[Image]) -> None:
        self._chains = [_steps_of(image) for image in images]

    def find(
        self, history: Sequence[Mapping[str, Any]], layers: Sequence[str], created_by: str, intake: Intake
    ) -> str | None:
        """Return the diff_id of a step's layer, empty when it made none, None when no image has it."""
        so_far = [(_command(entry), bool(entry.get("empty_layer"))) for entry in history]
        for commands, diff_ids in self._chains:
            if commands[: len(so_far)] != so_far or diff_ids[: len(layers)] != list(layers):
                continue
            following = commands[len(so_far) : len(so_far) + 1]
            if following == [(created_by, True)]:
                return ""
            found = diff_ids[len(layers)] if len(layers) < len(diff_ids) else ""
            if following == [(created_by, False)] and found and intake.use_layer(found):
                return found
        return None


def _steps_of(image: Image) -> tuple[list[tuple[str, bool]], list[str]]:
    entries = image.config.get("history")
    known = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [(_command(entry), bool(entry.get("empty_layer"))) for entry in known], list(image.diff_ids)


def _command(entry: Mapping[str, Any]) -> str:
    return str(entry.get("created_by") or "")


class StepCache:
    """Keys to diff_ids, of whole builds to ids of images; an empty diff_id means that the step changed no file.

    There are MAX_ENTRIES, and PRUNE_EVERY more, at most. It is for several threads.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._noted = 0

    def find(self, key: str, intake: Intake) -> str | None:
        """Return the diff_id of a step's layer, held by ``intake``; None when it has to be made."""
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
        with self._lock, disk_errors():
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = self._directory / f".{secrets.token_hex(8)}"
            draft.write_text((diff_id or "-") + "\n", "ascii")
            draft.rename(self._directory / key)
            self._noted += 1
            if self._noted % PRUNE_EVERY == 0:
                self._prune()

    def prune(self) -> None:
        """Forget half-written and, beyond a bound, the oldest entries."""
        with self._lock:
            self._prune()

    def _prune(self) -> None:
        try:
            entries = list(os.scandir(self._directory))
        except FileNotFoundError:
            return
        drafts = [entry for entry in entries if entry.name.startswith(".")]
        entries = sorted((e for e in entries if e not in drafts), key=lambda entry: entry.stat().st_mtime)
        self._remove([*drafts, *entries[: max(0, len(entries) - MAX_ENTRIES)]])

    def clear(self) -> None:
        """Forget everything."""
        with self._lock, suppress(FileNotFoundError):
            self._remove(list(os.scandir(self._directory)))

    def _remove(self, entries: Iterable[os.DirEntry[str]]) -> None:
        for entry in entries:
            Path(entry.path).unlink(missing_ok=True)
