"""hyperctl on a real pseudo-terminal: raw mode and its end, window size, detach keys, questions, progress bars."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_hyperd import FakeHyperd, Hijack, Reply, Talk, lines, ok, refuse
from tests.support.hyperctl_process import CID, HYPERCTL, Runner, attached_run


class Terminal:
    """hyperctl as the foreground process of a terminal of 40 rows and 100 columns."""

    def __init__(self, runner: Runner, *words: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(40, 100)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [HYPERCTL, *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=runner.environment,
            cwd=runner.home,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one thread uses it
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def read_until(self, mark: bytes) -> None:
        while mark not in self.seen:
            self.seen += os.read(self.master, 65536)

    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def end(self) -> int:
        """Wait for the process and check that the terminal is as it was."""
        status = self.process.wait(100)
        assert termios.tcgetattr(self.slave) == self.before
        os.set_blocking(self.master, False)
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.master, 65536):
                self.seen += piece
        return status


@pytest.fixture
def terminal(fake: FakeHyperd, tmp_path: Path) -> Iterator[type[Terminal]]:
    made: list[Terminal] = []

    def make(*words: str, **environment: str) -> Terminal:
        runner = Runner(fake.address, tmp_path)
        runner.environment.update(environment)
        made.append(Terminal(runner, *words))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.wait()
        os.close(one.master)
        os.close(one.slave)


def sh(talk: Talk) -> None:
    """A shell of a kind: a prompt when started, then everything up to a q."""
    talk.fake.find("/pod/start" if "attach" in talk.exchange.path else "/exec/start")
    talk.send(b"\1raw# ")
    talk.receive_until(b"q")
    talk.send(b"bye\n")


def test_run_with_a_terminal(fake, terminal):
    attached_run(fake, Hijack(sh), code=9)
    window = terminal("run", "-t", "--rm", "--name", "n", "busybox", "sh")
    window.read_until(b"raw# ")
    assert window.raw()
    window.type(b"ls\r\x03\x1aq")
    assert window.end() == 9
    assert fake.find("/attach").stdin == b"ls\r\x03\x1aq"
    assert window.seen == b"\1raw# bye\n", "nothing is echoed or changed on the way"
    assert fake.requests == [
        "POST /v1.1.0/pod/create",
        "POST /v1.17/attach?container=n",
        "POST /v1.1.0/tty/resize?container=n&exec=&h=40&w=100",
        "POST /v1.1.0/pod/start?podId=p",
        "POST /v1.1.0/tty/resize?container=n&exec=&h=40&w=100",
        "GET /v1.1.0/exitcode?container=n&exec=",
        "DELETE /v1.1.0/pod?podId=p",
    ]
    assert fake.exchanges[0].json()["containers"][0]["tty"] is True


def test_a_size_refused_before_the_start_does_not_matter(fake, terminal):
    attached_run(fake, Hijack(sh))
    fake.on("POST", "/tty/resize", refuse(412, "not running"), Reply())
    window = terminal("run", "-t", "busybox")
    window.read_until(b"raw# ")
    window.type(b"q")
    assert window.end() == 0
    assert fake.find("/tty/resize", 2).parameters["h"] == ["40"]


def test_a_changed_window_is_told(fake, terminal):
    attached_run(fake, Hijack(sh))
    window = terminal("run", "-t", "busybox")
    window.read_until(b"raw# ")
    window.resize(24, 80)
    assert fake.find("/tty/resize", 3).parameters["h"] == ["24"]
    window.resize(25, 81)
    assert fake.find("/tty/resize", 4).parameters["w"] == ["81"]
    window.type(b"q")
    assert window.end() == 0


def test_the_detach_keys_leave_everything_running(fake, terminal):
    attached_run(fake, Hijack(lambda talk: (talk.send(b"raw# "), talk.receive_all())))
    window = terminal("run", "-t", "--rm", "busybox")
    window.read_until(b"raw# ")
    window.type(b"a\x10")
    window.type(b"b\x10\x10\x11")
    assert window.end() == 0
    attach = fake.find("/attach")
    assert attach.half_closed.wait(60)
    assert attach.stdin == b"a\x10b\x10"
    assert [line for line in fake.requests if "exitcode" in line or line.startswith("DELETE")] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_gives_the_terminal_back_and_removes_the_pod(fake, terminal, number):
    attached_run(fake, Hijack(lambda talk: (talk.send(b"raw# "), talk.receive_all())))
    window = terminal("run", "-t", "--rm", "busybox")
    window.read_until(b"raw# ")
    assert window.raw()
    window.process.send_signal(number)
    assert window.end() == 128 + number
    assert fake.requests[-1] == "DELETE /v1.1.0/pod?podId=p"


def test_an_error_gives_the_terminal_back(fake, terminal):
    attached_run(fake, Hijack(sh))
    fake.on("GET", "/exitcode", refuse(500, "gone"))
    window = terminal("run", "-t", "busybox")
    window.read_until(b"raw# ")
    window.type(b"q")
    assert window.end() == 255
    assert b"\x1b[31mhyperctl ERROR:\x1b[0m Error from daemon's response: gone\r\n" in window.seen


def test_exec_with_a_terminal(fake, terminal):
    fake.on("POST", "/exec/create", ok("exec-A", 201)).on("POST", "/exec/start", Hijack(sh))
    fake.on("GET", "/exitcode", ok(5)).on("POST", "/tty/resize", Reply())
    window = terminal("exec", "-t", "full", "sh")
    window.read_until(b"raw# ")
    window.type(b"q")
    assert window.end() == 5
    assert fake.requests == [
        "POST /v1.1.0/exec/create?command=%5B%22sh%22%5D&container=full&tty=true",
        "POST /v1.1.0/tty/resize?container=full&exec=exec-A&h=40&w=100",
        "POST /v1.17/exec/start?container=full&exec=exec-A",
        "POST /v1.1.0/tty/resize?container=full&exec=exec-A&h=40&w=100",
        "GET /v1.1.0/exitcode?container=full&exec=exec-A",
    ]


def test_attach_with_a_terminal(fake, terminal):
    attached_run(fake, Hijack(lambda talk: (talk.send(b"raw# "), talk.receive_until(b"q"))), code=2)
    fake.on("GET", "/container/info", ok({"container": {"containerID": CID, "tty": True}}))
    window = terminal("attach", "web")
    window.read_until(b"raw# ")
    assert fake.find("/tty/resize").parameters["container"] == [CID]
    window.type(b"q")
    assert window.end() == 2


COLOUR = re.compile(rb"\x1b\[[0-9;]*[1-9][0-9;]*m")


@pytest.mark.parametrize(
    ("environment", "bars", "colours"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_pull_draws_bars(fake, terminal, environment, bars, colours):
    fake.on(
        "POST",
        "/image/create",
        lines(
            {"status": "Pulling from library/busybox", "id": "latest"},
            {"status": "Already exists", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
            {"status": "Downloading", "progressDetail": {"current": 50, "total": 1000}, "id": "3f57d9401f8d"},
            {"status": "Pull complete", "progressDetail": {}, "id": "3f57d9401f8d"},
            {"status": "Status: [bold]Downloaded[/bold] newer image"},
        ),
    )
    window = terminal("pull", "busybox", **environment)
    assert window.end() == 0
    assert b"latest: Pulling from library/busybox" in window.seen
    assert b"3f57d9401f8d" in window.seen
    assert b"Pull complete" in window.seen
    assert b"Status: [bold]Downloaded[/bold] newer image" in window.seen
    assert bool(COLOUR.search(window.seen)) == colours
    shown = COLOUR.sub(b"", window.seen).replace(b"\x1b[0m", b"")
    assert ("\N{BOX DRAWINGS HEAVY HORIZONTAL} 1 kB".encode() in shown) == bars
    assert b"1/1" not in shown


def test_login_asks_and_does_not_echo_the_password(fake, terminal):
    fake.on("POST", "/auth", ok({"Status": "Login Succeeded"}))
    window = terminal("login", "h:1")
    window.read_until(b"Username")
    window.type(b"alice\n")
    window.read_until(b"Password")
    window.type(b"secret\n")
    assert window.end() == 0
    assert fake.exchanges[0].json() == {"username": "alice", "password": "secret", "serveraddress": "h:1"}
    assert b"secret" not in window.seen
    assert b"Login Succeeded" in window.seen


@pytest.mark.parametrize(
    "answer",
    [refuse(401, "login please"), lines({"error": "no", "errorDetail": {"code": 401, "message": "no"}})],
    ids=["status", "line"],
)
def test_pull_asks_for_a_login_when_the_registry_wants_one(fake, terminal, answer):
    fake.on("POST", "/auth", ok({"Status": "Login Succeeded"}))
    fake.on("POST", "/image/create", answer, lines({"status": "pulled"}))
    window = terminal("pull", "h:1/x:1")
    window.read_until(b"Please login prior to pull:")
    window.read_until(b"Username")
    window.type(b"alice\n")
    window.read_until(b"Password")
    window.type(b"secret\n")
    assert window.end() == 0
    assert b"pulled" in window.seen
    assert "x-registry-auth" not in fake.exchanges[0].headers
    assert "x-registry-auth" in fake.find("/image/create", 2).headers


def test_save_refuses_a_terminal(fake, terminal):
    window = terminal("save", "busybox")
    assert window.end() == 255
    assert b"Cowardly refusing to save to a terminal" in window.seen
    assert fake.requests == []
