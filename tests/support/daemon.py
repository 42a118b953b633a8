"""Starts real ``hyperd`` processes for tests, each with its own root, socket, bridge, subnet and nftables table.

    with HyperdLauncher(driver="fake") as daemon:
        daemon.start()
        status, headers, body = daemon.request("GET", "/_ping")

``stop`` is SIGTERM, ``kill`` is SIGKILL; the root stays until the launcher is closed, so ``start`` again is a restart.
Closing stops the daemon and checks that nothing of it is left: process, socket, bridge, table, programs in its root.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from hyperd.db.migrate import migrate
from hyperd.db.session import Database
from hyperd.errors import HostFault
from hyperd.vm import cgroups
from tests.support import forked
from tests.support.processes import Process

PROJECT = Path(__file__).parents[2]
START_TIMEOUT = 120.0
STOP_TIMEOUT = 90.0
ENDS_WITHIN = 2.0  # seconds for a killed program
SLOTS = 64


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: Path, timeout: float = 120.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class HyperdLauncher:
    """One daemon of a test.

    Args:
        driver: ``fake`` or ``libvirt``.
        guest: directory of kernel and initramfs (libvirt).
        templates: directory of templates of VMs; None = one beside the guest, for all daemons of all tests.
        config: further lines of the TOML file; keys before the first section are top-level ones.
        command: what to run instead of ``python -m hyperd.cli`` (it gets the same options).
        cwd: where to run it.
        spawn: what starts the daemon with options and a log, instead of ``command``.

    Without ``command``, ``cwd`` and ``env`` the daemon is forked (``tests.support.forked``) and finds a database
    of this version without rows: both save a second of CPU time.

    """

    def __init__(
        self,
        *,
        driver: str = "fake",
        guest: Path | None = None,
        templates: Path | None = None,
        config: str = "",
        pool: int = 0,
        command: Sequence[str] = (),
        cwd: Path = PROJECT,
        env: Mapping[str, str] | None = None,
        spawn: Callable[[Sequence[str], Path], Process] | None = None,
    ) -> None:
        plain = not command and not env and cwd == PROJECT
        self._seeded = plain
        self._spawn = spawn or (forked.spawn if plain else None)
        self.pool = pool
        self.directory = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
        self.directory.chmod(0o711)  # the way to the root is open: VMs have users of their own
        self.root = self.directory / "root"
        self.socket = self.directory / "s"
        self.log_path = self.directory / "log"
        self.config_path = self.directory / "hyperd.toml"
        self.process: Process | None = None
        self._command = list(command) or [sys.executable, "-m", "hyperd.cli"]
        self._cwd = cwd
        self._env = {**os.environ, **(env or {})}
        self._slot, self._slot_file = _take_slot()
        self.bridge = f"hyt{self._slot}"
        self.subnet = f"10.213.{self._slot}.0/24"
        self.table = f"hyperd_test_{self._slot:02}"  # no name is the beginning of another
        if templates is None and guest is not None:
            templates = guest.parent / "templates"
        self._write_config(driver, guest, templates, config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            sys.stderr.write(f"--- log of hyperd in {self.root}\n{self.log()}\n---\n")
        self.close(check=kind is None)

    @property
    def pid(self) -> int:
        """Process id of the running daemon."""
        assert self.process is not None
        return self.process.pid

    @property
    def host(self) -> str:
        """Address for ``hyperctl -H``."""
        return f"unix://{self.socket}"

    @property
    def number(self) -> int:
        """A number from 1 that no other daemon of a test has: for names, ports and addresses of the test's own."""
        return self._slot

    def configure(self, sections: str) -> None:
        """Add sections to the configuration, for the next start."""
        with self.config_path.open("a") as file:
            file.write(sections)

    def start(self, *options: str, wait: bool = True) -> None:
        """Start the daemon and wait until it answers."""
        if self._seeded and not self.root.exists():
            self.root.mkdir(mode=0o700)
            shutil.copy(_empty_database(), self.root / "hyper.db")
        words = ["--config", str(self.config_path), "--root", str(self.root), "--host", self.host, *options]
        if self._spawn is not None:
            self.process = self._spawn(words, self.log_path)
        else:
            with self.log_path.open("ab") as log:
                argv = [*self._command, *words]
                self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=self._env, cwd=self._cwd)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until ``/_ping`` answers; fail with the log if the daemon ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            assert self.process is not None
            if (code := self.process.poll()) is not None:
                raise AssertionError(f"hyperd ended with {code}:\n{self.log()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = UnixConnection(self.socket, timeout=2.0)
                with contextlib.closing(connection):
                    connection.request("GET", "/_ping")
                    if connection.getresponse().status == 200:
                        return
            time.sleep(0.05)
        raise AssertionError(f"hyperd does not answer after {START_TIMEOUT} s:\n{self.log()}")

    def stop(self) -> int:
        """End the daemon as a service manager does; give its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the daemon at once."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) the daemon and start it again on the same root."""
        if kill:
            self.kill()
        else:
            assert self.stop() == 0, self.log()
        self.start()

    def replace(self, command: Sequence[str], guest: Path) -> None:
        """Run another program, with another guest, from the next start on: another version of the daemon.

        Args:
            command: what to run, without options. guest: directory of its kernel and initramfs.

        """
        self._command, self._cwd, self._spawn = list(command), PROJECT, None
        text = re.sub(r'(?m)^guest_dir = ".*"$', f'guest_dir = "{guest}"', self.config_path.read_text())
        self.config_path.write_text(text)

    def wait_exit(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait until the daemon ends by itself; give its exit code."""
        assert self.process is not None
        code = self.process.wait(timeout)
        self.process = None
        return code

    def log(self) -> str:
        """Everything the daemon has logged."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 120.0,
        **query: str | int | bool | None,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Ask once, on a connection of its own; ``body``: bytes and text as they are, anything else as JSON."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        given = {key: str(value) for key, value in query.items() if value is not None}
        target = f"{path}?{urllib.parse.urlencode(given)}" if given else path
        connection = UnixConnection(self.socket, timeout)
        with contextlib.closing(connection):
            connection.request(method, target, body=body.encode() if isinstance(body, str) else body, headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def json(self, method: str, path: str, *, status: int | None = None, body: object = None, **query: Any) -> Any:
        """Ask and decode the answer, which must have the given status (any below 400)."""
        code, _, data = self.request(method, path, body=body, **query)
        assert code == status if status is not None else code < 400, (code, data, self.log())
        return json.loads(data) if data.strip() else None

    @contextlib.contextmanager
    def connection(self, timeout: float = 120.0) -> Iterator[UnixConnection]:
        """Yield a kept-alive connection."""
        connection = UnixConnection(self.socket, timeout)
        with contextlib.closing(connection):
            yield connection

    def raw(self, timeout: float = 90.0) -> socket.socket:
        """Return a connected socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(str(self.socket))
        return sock

    def close(self, *, check: bool = True) -> None:
        """Stop the daemon, remove everything and (unless ``check`` is off) fail if something had to be removed."""
        left: list[str] = []
        try:
            if self.process is not None:
                self.stop()
                if check and self.socket.exists():
                    left.append(f"socket {self.socket}")
            left += [f"process {entry}" for entry in self._end_processes()]
        finally:
            self._remove_network()
            self._remove_groups()
            shutil.rmtree(self.directory, ignore_errors=True)
            self._slot_file.close()
        if check and left:
            raise AssertionError(f"left behind: {', '.join(left)}")

    def _end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        try:
            code = self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"hyperd does not end on signal {number}:\n{self.log()}") from None
        finally:
            self.process = None
        return code

    def _end_processes(self) -> list[str]:
        """Kill programs (VMs, programs of fake VMs) that name our directory or live in it; give what they were.

        What somebody has killed already has a moment to end.
        """
        deadline = time.monotonic() + ENDS_WITHIN
        while (found := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return [f"{pid} {words[:120]!r}" for pid, words in found.items()]

    def _processes(self) -> dict[int, bytes]:
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                prefix = os.fsencode(f"{self.directory}/")
                inside = os.fsencode((entry / "cwd").readlink()).startswith(prefix)
                if inside or any(prefix in word for word in words):
                    found[int(entry.name)] = b" ".join(words)
        return found

    def _remove_groups(self) -> None:
        """Remove control groups of VMs; a daemon that leaves its VMs leaves them, too."""
        with contextlib.suppress(HostFault):
            groups = cgroups.Groups(self.root, hierarchies=cgroups.trees())
            groups.reconcile(())
            groups.close()

    def _remove_network(self) -> None:
        """Remove bridges, taps and tables; they outlive a daemon on purpose."""
        for bridge in (self.bridge, *self._network_bridges()):
            listed = subprocess.run(["ip", "-j", "link", "show", "master", bridge], capture_output=True, check=False)
            if listed.returncode == 0:
                for link in json.loads(listed.stdout or b"[]"):
                    if link.get("ifname"):
                        subprocess.run(["ip", "link", "delete", link["ifname"]], capture_output=True, check=False)
            subprocess.run(["ip", "link", "delete", bridge], capture_output=True, check=False)
        tables = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, check=False)
        if tables.returncode == 0:
            for item in json.loads(tables.stdout).get("nftables", []):
                table = item.get("table")
                if table and table["name"].startswith(self.table):
                    words = ["nft", "delete", "table", table["family"], table["name"]]
                    subprocess.run(words, capture_output=True, check=False)

    def _network_bridges(self) -> list[str]:
        """The bridges of networks that a test has made and not removed."""
        try:
            with contextlib.closing(sqlite3.connect(self.root / "hyper.db")) as database:
                rows = database.execute("SELECT options FROM networks").fetchall()
        except sqlite3.Error:
            return []
        return [json.loads(options)["bridge"] for (options,) in rows]

    def _write_config(self, driver: str, guest: Path | None, templates: Path | None, extra: str) -> None:
        top, mark, sections = extra.partition("[")
        lines = [
            top,
            'log_level = "debug"',
            "[hypervisor]",
            f'driver = "{driver}"',
            f"pool = {self.pool}",
            f'guest_dir = "{guest or ""}"',
            f'template_dir = "{templates or ""}"',
            "[network]",
            f'bridge = "{self.bridge}"',
            f'subnet = "{self.subnet}"',
            f'nft_table = "{self.table}"',
            mark + sections,
        ]
        self.config_path.write_text("\n".join(lines) + "\n")


@functools.cache
def _empty_database() -> Path:
    """Return a database with this version's tables and no rows."""
    directory = Path(tempfile.mkdtemp(prefix="hydb", dir="/tmp"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    database = Database(directory / "hyper.db")
    try:
        migrate(database)
    finally:
        database.close()
    return directory / "hyper.db"


def _take_slot() -> tuple[int, IO[str]]:
    """Reserve a number that no other test of this host uses at the same time; the lock ends with the file."""
    directory = Path(tempfile.gettempdir()) / f"hyperd-test-slots-{os.getuid()}"
    directory.mkdir(exist_ok=True)
    for slot in range(1, SLOTS):
        file = (directory / str(slot)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        return slot, file
    raise AssertionError(f"all of the {SLOTS} test networks are in use")
