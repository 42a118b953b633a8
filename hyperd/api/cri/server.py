"""The door: a gRPC server with a pool of threads on a unix socket."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from hyperd.api.cri.call import Room
from hyperd.errors import HostFault

if TYPE_CHECKING:
    from hyperd.api.cri.streaming import Secure
    from hyperd.engine import Engine

log = structlog.get_logger(__name__)

THREADS = 128  # calls at a time; more wait, and pulls and hooks may take minutes
STOP_GRACE = 5.0  # seconds that calls under way have when the daemon ends
MAX_MESSAGE = 16 << 20  # bytes, kubelet's own bound


class CriServer:
    """See the module's docstring.

    Args:
        engine: what is served.
        path: of the socket; nobody listens there.
        mode: permission bits of the socket. gid: its group, None leaves it.
        secure: of streams, see ``StreamingServer``.

    """

    def __init__(self, engine: Engine, path: Path, *, mode: int, gid: int | None, secure: Secure | None = None) -> None:
        # libvirt forks in this process to start QEMU; the C core's handlers for that abort the child before its exec.
        os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
        import grpc

        from hyperd.api.cri.handlers import handlers
        from hyperd.api.cri.streaming import StreamingServer

        self._path, self._mode, self._gid = path, mode, gid
        self._inode = 0
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="cri")
        self._streaming = StreamingServer(engine.relay, directory=engine.config.run, secure=secure)
        self._room = Room(engine=engine, streaming=self._streaming)
        self._server = grpc.server(pool, handlers=[handlers(self._room)], options=options)

    def open(self) -> None:
        """Listen. Errors: HostFault."""
        self._streaming.open()
        try:
            self._server.add_insecure_port(f"unix:{self._path}")  # the daemon's umask leaves it to us alone
            self._inode = self._path.lstat().st_ino
            if self._gid is not None:
                os.chown(self._path, -1, self._gid)
            self._path.chmod(self._mode)
        except (OSError, RuntimeError) as error:
            self.close()
            raise HostFault(f"cannot listen on {self._path}", details=str(error)) from error
        self._server.start()
        log.info("server.listening", address=f"unix://{self._path}", api="cri")

    def close(self) -> None:
        """Let calls under way end, and remove the socket if it is still ours; calling it twice is fine."""
        self._room.closing.set()
        self._server.stop(STOP_GRACE).wait()
        self._streaming.close()
        with contextlib.suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
