"""A real hypercloud as a process, and a client of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.docker_engine import FakeEngine
from tests.support.ports import free_port
from tests.support.until import until

PASSWORD = re.compile(r"password (\S+) ")


def _exists(group: int) -> bool:
    """Say whether a process group has members."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class CloudProcess:
    """One server with a root directory of its own."""

    def __init__(self, root: Path, *, extra: str = "", tables: str = "") -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = root / "hypercloud.toml"
        self.config.write_text(
            f'root = "{root}"\nhosts = ["tcp://127.0.0.1:{self.port}"]\nlog_level = "info"\n{extra}\n'
            f'[engines]\nlocal = ""\nhealth_interval = 0.2\nstop_timeout = 0\n{tables}\n',
            encoding="utf-8",
        )
        self.output = root / "output"
        self.log = root / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.password = ""
        self.service_key = ""
        self.look: Callable[[str, str, Answer], None] = lambda _method, _path, _answer: None  # at every answer

    def start(self) -> CloudProcess:
        with self.output.open("ab") as output, self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hypercloud", "--config", str(self.config)],
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, tell=lambda: self.log.read_text(encoding="utf-8"))
        if not self.password:
            found = PASSWORD.search(self.output.read_text(encoding="utf-8"))
            assert found, self.log.read_text(encoding="utf-8")
            self.password = found[1]
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """kill -9 of all its processes."""
        if self.process is not None:
            group, self.process = self.process, None
            os.killpg(group.pid, signal.SIGKILL)
            group.wait()
            until(lambda: not _exists(group.pid))  # the worker is not our child: it may take a moment longer

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    # -- requests ----------------------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, raw: bytes | None = None
    ) -> Answer:
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, method=method, headers=headers or {})
        if data is not None and not request.has_header("Content-type"):
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=150) as response:
                answer = Answer(response.status, response.headers, response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                answer = Answer(error.code, error.headers, error.read().decode())
        self.look(method, path, answer)
        return answer

    def key(self) -> str:
        """A service key, made by signing in."""
        if not self.service_key:
            token = self.call("POST", "/auth/login", {"username": "admin", "password": self.password}).json[
                "auth_token"
            ]
            headers = {"X-Access-Token": f"admin:{token}"}
            self.service_key = self.call("POST", "/api/servicekeys", {"description": "tests"}, headers).json["key"]
        return self.service_key

    def ship(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request of Shipyard's API with a service key."""
        return self.call(
            method, path, body, {"X-Service-Key": self.key(), **{k.replace("_", "-"): v for k, v in headers.items()}}
        )

    def basic(self, username: str = "admin", secret: str = "") -> str:
        return "Basic " + b64encode(f"{username}:{secret or self.password}".encode()).decode()

    def dc(self, method: str, path: str, body: Any = None, *, auth: str = "", **headers: str) -> Answer:
        """A request of Docker Cloud's API."""
        given = {"Authorization": auth or self.basic(), "Accept": "application/json", **headers}
        return self.call(method, path, body, given)

    def add_engine(self, name: str, url: str, labels: list[str] | None = None, **more: Any) -> Answer:
        inner = {"id": name, "addr": url, "cpus": 4.0, "memory": 4096, "labels": labels or [], **more}
        body = {"id": name, "ssl_cert": "", "ssl_key": "", "ca_cert": "", "engine": inner}
        return self.ship("POST", "/api/engines", body)

    def action(self, answer: Answer, state: str = "Success") -> dict[str, Any]:
        """Wait until the action of an answer is over; it must end in a state."""
        uri = answer.headers["X-DockerCloud-Action-URI"]
        deadline = time.monotonic() + 120
        while True:
            found: dict[str, Any] = self.dc("GET", uri).json
            if found["state"] not in {"Pending", "In progress", "Canceling"}:
                assert found["state"] == state, found
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.03)


@contextlib.contextmanager
def over_one_engine(root: Path, engine: FakeEngine, name: str, labels: Sequence[str] = ()) -> Iterator[CloudProcess]:
    """Yield a server in this directory with an engine of this name."""
    server = CloudProcess(root).start()
    try:
        assert server.add_engine(name, engine.url, list(labels)).status == 201
        yield server
    finally:
        server.stop()
