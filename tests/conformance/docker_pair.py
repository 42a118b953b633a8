"""The docker CLI run against two daemons, and its output made comparable."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TIMEOUT = 120.0
_PATTERNS = (
    (re.compile(r"sha256:[0-9a-f]{64}"), "DIGEST"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "SHORT"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^\s\"]*"), "TIME"),
    (re.compile(r"\b(?:Less than a second|About a minute|\d+ (?:seconds?|minutes?))\b"), "SPAN"),
    (re.compile(r"\b\d+\.\d+ ms\b"), "MS"),
    (re.compile(r"\b\d+\.\d+/\d+\.\d+/\d+\.\d+ ms"), "MS"),
    (re.compile(r"[ \t]+\n"), "\n"),
)


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    stdout: str
    stderr: str

    @property
    def plain(self) -> tuple[int, str, str]:
        """Return it without what differs from run to run."""
        return self.code, plain(self.stdout), plain(self.stderr)


def plain(text: str) -> str:
    """Return a text without ids, times and durations."""
    text = text.replace("\r\n", "\n")
    for pattern, word in _PATTERNS:
        text = pattern.sub(word, text)
    return text


class Docker:
    """The docker CLI with one daemon."""

    def __init__(self, socket: Path, *, home: Path, program: str = "docker") -> None:
        self.socket = socket
        self._program = program
        self.environment: Mapping[str, str] = {
            **os.environ,
            "DOCKER_HOST": f"unix://{socket}",
            "DOCKER_CONFIG": str(home),
            "DOCKER_BUILDKIT": "0",
        }

    def __call__(self, *words: str, stdin: str = "", timeout: float = TIMEOUT) -> Done:
        """Run the CLI."""
        done = subprocess.run(
            [self._program, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=self.environment,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def line(self, words: str, *, stdin: str = "") -> Done:
        """Run a command line as a shell would split it."""
        return self(*shlex.split(words), stdin=stdin)

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        """Start the CLI."""
        return subprocess.Popen(
            [self._program, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(self.environment),
        )


class Dockerd:
    """Debian's own dockerd with a root, a network namespace and a socket of its own.

    Args:
        directory: of its root and socket.
        options: further ones.
        namespace: the name of an existing network namespace to run in; "" = a new one without links.

    """

    def __init__(self, directory: Path, *, options: Sequence[str] = (), namespace: str = "") -> None:
        self.directory = directory
        self.socket = directory / "docker.sock"
        self._options = options
        self._enter = ["nsenter", f"--net=/run/netns/{namespace}", "unshare"] if namespace else ["unshare", "--net"]
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._log = (self.directory / "dockerd.log").open("wb")
        self._process = subprocess.Popen(
            [
                *self._enter,
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                'ip link set lo up && exec "$@"',
                "sh",
                "dockerd",
                "--data-root",
                str(self.directory / "root"),
                "--exec-root",
                str(self.directory / "exec"),
                "--pidfile",
                str(self.directory / "pid"),
                "--host",
                f"unix://{self.socket}",
                "--storage-driver",
                "overlay2",
                *self._options,
            ],
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self.socket.exists() and Docker(self.socket, home=self.directory)("version").code == 0:
                return
            time.sleep(0.2)
        raise AssertionError((self.directory / "dockerd.log").read_text())

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
        if self._log is not None:
            self._log.close()
