"""A real NFSv4 server for tests: Debian's nfs-ganesha, in user space, on port 2049 of one address."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PORT = 2049
_START_SECONDS = 120

_CONFIG = """
NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = {address}; Enable_NLM = false; Enable_RQUOTA = false; }}
NFSV4 {{ Graceless = true; RecoveryRoot = {recovery}; RecoveryBackend = fs; }}
EXPORT {{
  Export_Id = 1; Path = {path}; Pseudo = /data; Protocols = 4; Transports = TCP;
  Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  FSAL {{ Name = VFS; }}
}}
"""


class NfsServer:
    """Exports ``path`` as ``/data`` on an address of this host."""

    def __init__(self, address: str, path: Path) -> None:
        self.address = address
        self._directory = Path(tempfile.mkdtemp(prefix="hynfs", dir="/tmp"))
        (self._directory / "recovery").mkdir()
        self._log = self._directory / "log"
        config = self._directory / "ganesha.conf"
        config.write_text(_CONFIG.format(port=PORT, address=address, path=path, recovery=self._directory / "recovery"))
        words = ["ganesha.nfsd", "-F", "-f", config, "-L", self._log, "-p", self._directory / "pid", "-N", "EVENT"]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.address, PORT), 1):
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self._log.read_text(errors="replace") if self._log.exists() else ""
                self.close()
                raise AssertionError(f"nfs-ganesha does not start:\n{log[-4000:]}")
            time.sleep(0.1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop it and remove what it wrote."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
