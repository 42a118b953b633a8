"""Running the installed `hyperctl` as a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.fake_hyperd import FakeHyperd, Hijack, Reply, ok

HYPERCTL = str(Path(sys.executable).parent / "hyperctl")
CODE = {"Cause": "", "Code": 0, "ID": "x"}
CID = "ed59671c4b13fe1e2ce69d2656b537466a2f2c3b601edd020f714dd9c5b6ac11"
PATIENCE = 100.0  # seconds until a hanging process fails its test


class Runner:
    """Runs hyperctl in an empty home.

    Args:
        address: of the daemon.
        home: HOME and working directory.

    """

    def __init__(self, address: str, home: Path) -> None:
        self.home = home
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TZ": "UTC",
            "TERM": "xterm",
            "HYPER_HOST": address,
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }

    def __call__(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [HYPERCTL, *words],
            input=stdin,
            capture_output=True,
            env=self.environment,
            cwd=self.home,
            check=False,
            timeout=PATIENCE,
        )

    def on_terminal(self, *words: str, typed: bytes = b"") -> tuple[int, bytes]:
        """Run it on a terminal of 40 rows and 100 columns; give its exit status and what it showed.

        Args:
            words: the command line.
            typed: on the terminal, as soon as it shows `ready`.

        """
        outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        argv = [HYPERCTL, *words]
        with subprocess.Popen(
            argv, stdin=inner, stdout=inner, stderr=inner, env=self.environment, cwd=self.home, start_new_session=True
        ) as process:
            os.close(inner)
            shown, deadline = b"", time.monotonic() + PATIENCE
            try:
                while time.monotonic() < deadline:
                    if select.select([outer], [], [], 1.0)[0]:
                        shown += os.read(outer, 65536)
                    if typed and b"ready" in shown:
                        os.write(outer, typed)
                        typed = b""
            except OSError:  # EIO: nobody has the terminal open any more
                code = process.wait(PATIENCE)
            else:
                process.kill()
                raise AssertionError(f"hyperctl {words} does not end: {shown!r}")
            finally:
                os.close(outer)
        return code, shown

    @contextlib.contextmanager
    def start(self, *words: str, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
        """Start it with pipes; it is killed at the end if it still runs."""
        with subprocess.Popen(
            [HYPERCTL, *words],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.home,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def attached_run(fake: FakeHyperd, hijack: Hijack, code: int = 0) -> None:
    """Write down the answers an attached run of the pod `p` needs."""
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "p"}, 201)).on("POST", "/pod/start", ok({}))
    fake.on("POST", "/attach", hijack).on("GET", "/exitcode", ok(code)).on("DELETE", "/pod", ok(CODE))
    fake.on("POST", "/tty/resize", Reply()).on("POST", "/container/kill", ok({}, 201))
    fake.on("GET", "/pod/info", ok({"spec": {"containers": [{"containerID": CID, "tty": True}]}}))
