"""Other people's tools in stores of their own: podman and skopeo as judges of what we write, makers of what we read."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self


class PodmanStore:
    """A podman store below /tmp, gone at the end.

    Args:
        driver: how it keeps layers.

    """

    def __init__(self, *, driver: str = "vfs") -> None:
        self._driver = driver

    def __enter__(self) -> Self:
        # podman wants its run directory's path to be short
        self.directory = Path(tempfile.mkdtemp(prefix="hypod", dir="/tmp"))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run("rmi", "-a", "-f")
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, *words: str, data: bytes | None = None) -> str:
        """Run podman; give its output without the newline at the end."""
        base = ["podman", "--root", f"{self.directory}/store", "--runroot", f"{self.directory}/run"]
        base += ["--storage-driver", self._driver, "--events-backend", "none"]
        return run(*base, *words, data=data).decode().strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what podman says of an image."""
        return dict(json.loads(self.run("image", "inspect", name))[0])


def skopeo(*words: str) -> bytes:
    """Run skopeo without TLS; give its output."""
    return run("skopeo", "--insecure-policy", *words)


def run(*words: str, data: bytes | None = None) -> bytes:
    """Run a program that must succeed; its complaint is part of the error."""
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    done = subprocess.run(words, capture_output=True, check=False, **source)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.returncode}: {done.stderr.decode(errors='replace')[-1000:]}")
    return done.stdout
