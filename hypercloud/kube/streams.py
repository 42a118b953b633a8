"""Output of pods, and programs in them that are talked to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from hypercloud.engine.ending import Shared, hang_up
from hypercloud.engine.streams import Line, stamped_line
from hypercloud.kube.client import KubeClient

STDIN, STDOUT, STDERR, RESIZE = 0, 1, 2, 4  # channels of the websocket


class PodLog:
    """The output of a pod, line by line; ``close`` ends it from another thread.

    Args:
        client: of the cluster.
        pod: its name.
        tail: lines from before; None = all.
        follow: wait for more.

    Errors: NotFound, EngineError.

    """

    def __init__(self, client: KubeClient, pod: str, *, tail: int | None, follow: bool) -> None:
        self._stream = client.log(pod, tail=tail, follow=follow)

    def __iter__(self) -> Iterator[Line]:
        with contextlib.suppress(Exception):  # the cluster or our reader has gone: the stream is over
            for one in self._stream.lines():
                yield stamped_line("stdout", one + b"\n")  # a cluster does not tell the two streams apart
        self.close()

    def close(self) -> None:
        """End the stream."""
        self._stream.close()


class PodSession:
    """A program in a pod, with a terminal.

    Args:
        client: of the cluster.
        pod: its name.
        command: the program and its arguments.

    Errors: NotFound, EngineError.

    """

    def __init__(self, client: KubeClient, pod: str, command: list[str]) -> None:
        self._socket = client.socket(pod, command)
        self._shared = Shared(lambda: hang_up(self._socket.sock), self._socket.close)

    def read(self) -> bytes:
        """Return some output; empty at the end."""
        with contextlib.suppress(Exception), self._shared.using() as alive:  # it may be over at any time
            while alive:
                kind, data = self._socket.recv_data()
                if kind not in {1, 2}:  # neither text nor binary: the end
                    return b""
                if data[:1] in {bytes([STDOUT]), bytes([STDERR])} and len(data) > 1:
                    return bytes(data[1:])
        return b""

    def write(self, data: bytes) -> None:
        """Send input."""
        self._send(STDIN, data)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the size of the terminal."""
        self._send(RESIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def _send(self, channel: int, data: bytes) -> None:
        with contextlib.suppress(Exception), self._shared.using() as alive:
            if alive:
                self._socket.send_binary(bytes([channel]) + data)

    def close(self) -> None:
        """Hang up."""
        self._shared.end()
