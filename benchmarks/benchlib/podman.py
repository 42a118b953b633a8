"""The peer: the same work as plain containers of podman and runc, in a store of their own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

# What it takes on hosts where limits may be lowered only, and where crun refuses a mix of cgroup versions.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
TIMEOUT = 120.0


class Podman:
    """Containers in a store of our own; ``close`` removes it. Errors: RuntimeError when podman refuses."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="hypod", dir="/tmp"))
        self._base = ["podman", "--root", f"{self._directory}/store", "--runroot", f"{self._directory}/run"]
        self._base += ["--runtime", "runc", "--events-backend", "none"]

    def run(self, *words: str) -> bytes:
        """Run podman; give its output."""
        done = subprocess.run(
            [*self._base, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False
        )
        if done.returncode:
            raise RuntimeError(f"podman {words[0]}: {done.stderr.decode(errors='replace')[-300:]}")
        return done.stdout

    def command(self, *words: str) -> list[str]:
        """Return the whole command line."""
        return [*self._base, *words]

    def pull(self, image: str) -> None:
        """Fetch an image over plain HTTP."""
        self.run("pull", "-q", "--tls-verify=false", image)

    def close(self) -> None:
        """Remove containers, images and the store."""
        try:
            self.run("rm", "-a", "-f", "-t", "0")
            self.run("rmi", "-a", "-f")
        finally:
            # overlay's own mount of the store's directory
            subprocess.run(["umount", f"{self._directory}/store/overlay"], capture_output=True, check=False)
            shutil.rmtree(self._directory, ignore_errors=True)
