"""The command itself: start, stop, locks, sockets, what happens when something is wrong."""

from __future__ import annotations

import contextlib
import json
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PROJECT, HyperdLauncher
from tests.support.ports import free_port
from tests.support.until import until

STUB = [sys.executable, str(Path(__file__).parents[1] / "support" / "stub_daemon.py")]


def hyperd(*options: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hyperd.cli", *options],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=PROJECT,
    )


@pytest.fixture
def daemon():
    with HyperdLauncher(command=STUB) as launcher:
        yield launcher


def test_version_and_help():
    assert hyperd("--version").stdout == "hyperd 0.1.0\n"
    assert "--config" in hyperd("--help").stdout


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--config", "/nonexistent.toml"], "cannot read the configuration /nonexistent.toml"),
        (["--host", "http://x"], "bad host 'http://x'"),
        (["--host", "/run/x"], "bad host '/run/x'"),
        (["--host", "unix://relative"], "must be an absolute path"),
        (["--host", "unix:///" + "x" * 120], "at most 107 bytes"),
        (["--host", "tcp://127.0.0.1:notaport"], "bad address"),
        (["--host", "fd://"], "no socket was passed"),
        (["--host", "tcp://203.0.113.7:1"], "cannot listen on tcp://203.0.113.7:1"),
    ],
)
def test_bad_options_are_told(tmp_path, options, word):
    done = hyperd("--root", str(tmp_path / "r"), *options)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("hyperd: ")
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_socket_has_mode_and_goes_with_the_daemon(daemon):
    daemon.start()
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    assert "engine closed" in daemon.log()


def polled(daemon: HyperdLauncher) -> int:
    """Count the connections that hold no thread of the daemon, as its epoll knows them; -1 while they change."""
    process = Path(f"/proc/{daemon.pid}")
    connected = {row.split()[6] for row in Path("/proc/net/unix").read_text().splitlines() if row.split()[5] == "03"}
    try:
        infos = [info.read_text() for info in (process / "fdinfo").iterdir()]
        waiting = re.findall(r"^tfd: +(\d+)", "".join(infos), re.MULTILINE)
        return len({str((process / "fd" / number).stat().st_ino) for number in waiting} & connected)
    except FileNotFoundError:
        return -1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_signals_end_it_cleanly(number):
    with HyperdLauncher(command=STUB, env={"STUB_GRACEFUL_TIMEOUT": "100"}) as daemon:
        daemon.start()
        until(lambda: polled(daemon) == 0)
        # Neither a kept-alive connection nor one that never said anything holds it up.
        with daemon.connection() as connection, contextlib.closing(daemon.raw()):
            connection.request("GET", "/_ping")
            assert connection.getresponse().read() == b"OK"
            until(lambda: polled(daemon) == 2)
            daemon.process.send_signal(number)
            assert daemon.wait_exit(50) == 0
        assert "engine closed" in daemon.log()
        assert not daemon.socket.exists()


def test_a_request_under_way_is_answered_before_the_end(daemon):
    daemon.start()
    with daemon.connection() as idle, daemon.connection() as busy:
        idle.request("GET", "/_ping")
        idle.getresponse().read()
        busy.request("GET", "/container/info?container=slow")
        until((daemon.root / "slow-begun").exists)
        daemon.process.send_signal(signal.SIGTERM)
        assert idle.sock.recv(1) == b""  # at once: the slow one is still being worked on
        assert select.select([busy.sock], [], [], 0)[0] == []
        answer = busy.getresponse()
        assert (answer.status, json.loads(answer.read())["container"]["containerID"]) == (200, "slow")
    assert daemon.wait_exit() == 0


def test_it_is_one_process(daemon):
    daemon.start()
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    assert children == []
    assert (daemon.root / "hyperd.pid").read_text() == f"{daemon.pid}\n"


def test_killed_daemon_leaves_nothing_in_the_way(daemon):
    daemon.start()
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.request("GET", "/_ping")[0] == 200


def test_two_daemons_never_share_a_root(daemon):
    daemon.start()
    other = f"unix://{daemon.directory}/other"
    done = hyperd("--root", str(daemon.root), "--host", other, "--config", str(daemon.config_path))
    assert done.returncode == 1
    assert f"another hyperd (process {daemon.pid}) uses the root directory {daemon.root}" in done.stderr
    assert not Path(f"{daemon.directory}/other").exists()
    assert daemon.request("GET", "/_ping")[0] == 200


def test_two_daemons_never_share_a_socket(daemon):
    daemon.start()
    root = str(daemon.directory / "root2")
    done = hyperd("--root", root, "--host", daemon.host, "--config", str(daemon.config_path))
    assert done.returncode == 1
    assert f"another process answers on {daemon.socket}" in done.stderr
    assert daemon.request("GET", "/_ping")[0] == 200


def test_what_is_no_socket_is_not_removed(daemon):
    daemon.socket.write_text("precious")
    done = hyperd("--root", str(daemon.root), "--host", daemon.host, "--config", str(daemon.config_path))
    assert done.returncode == 1
    assert "exists and is not a socket" in done.stderr
    assert daemon.socket.read_text() == "precious"


def test_engine_that_cannot_start_ends_the_daemon():
    with HyperdLauncher(command=STUB, env={"STUB_FAILS": "1"}) as launcher:
        launcher.start(wait=False)
        assert launcher.wait_exit() == 1
        assert "hyperd: there is no hypervisor (buy one)" in launcher.log()
        assert "Traceback" not in launcher.log()
        assert "engine closed" in launcher.log()
        assert not launcher.socket.exists()


@contextlib.contextmanager
def manager(path: Path) -> Iterator[socket.socket]:
    """Listen as systemd does for what a service tells it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(60)
        yield sock


def test_systemd_is_told(daemon):
    with manager(daemon.directory / "notify") as sock:
        daemon._env["NOTIFY_SOCKET"] = f"{daemon.directory}/notify"
        daemon.start()
        assert sock.recv(4096) == b"READY=1"
        daemon.process.send_signal(signal.SIGHUP)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=[0-9]+", sock.recv(4096))
        assert sock.recv(4096) == b"READY=1"
        assert daemon.stop() == 0
        assert sock.recv(4096) == b"STOPPING=1"


def test_a_deaf_systemd_is_no_error(daemon):
    daemon._env["NOTIFY_SOCKET"] = f"{daemon.directory}/nobody"
    daemon.start()
    assert "notify.failed" in daemon.log()


def wait_log(daemon: HyperdLauncher, word: str, count: int = 1) -> str:
    until(lambda: daemon.log().count(word) >= count, tell=daemon.log)
    return daemon.log()


def test_hangup_reads_the_configuration_again(daemon):
    daemon.start()
    text = daemon.config_path.read_text()
    assert "level=debug" in wait_log(daemon, "server.ready")
    changed = text.replace('log_level = "debug"', 'log_level = "info"\nstop_grace = 1.5\nthreads = 8')
    daemon.config_path.write_text(changed + '[registry]\nmirrors = ["http://127.0.0.1:1"]\n')
    daemon.process.send_signal(signal.SIGHUP)
    log = wait_log(daemon, "config.reloaded")
    assert "config.needs_restart" in wait_log(daemon, "keys=['threads']")
    for key in ("log_level", "stop_grace", "registry.mirrors"):
        assert key in log[log.index("config.reloaded") :].splitlines()[0]
    before = daemon.log().count("level=debug")
    assert daemon.request("GET", "/_ping")[0] == 200
    assert daemon.log().count("level=debug") == before
    daemon.config_path.write_text(text)
    daemon.process.send_signal(signal.SIGHUP)
    wait_log(daemon, "config.reloaded", 2)
    assert daemon.request("GET", "/_ping")[0] == 200
    assert daemon.log().count("level=debug") > before


def test_a_bad_configuration_is_not_taken_over(daemon):
    daemon.start()
    daemon.config_path.write_text("nonsense = 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    log = wait_log(daemon, "config.refused")
    assert "unknown key nonsense" in log
    assert "Traceback" not in log
    assert daemon.request("GET", "/_ping")[0] == 200


def test_pods_are_stopped_when_the_configuration_says_so():
    with HyperdLauncher(command=STUB, config='on_exit = "stop"\n') as launcher:
        launcher.start()
        assert launcher.stop() == 0
        log = launcher.log()
        assert log.index("pods stopped") < log.index("engine closed")


def test_pods_are_left_alone_else(daemon):
    daemon.start()
    assert daemon.stop() == 0
    assert "pods stopped" not in daemon.log()


def test_a_kill_stops_no_pods():
    with HyperdLauncher(command=STUB, config='on_exit = "stop"\n') as launcher:
        launcher.start()
        launcher.kill()
        assert "pods stopped" not in launcher.log()


def test_log_as_json(tmp_path):
    done = hyperd("--root", str(tmp_path), "--host", "fd://", "--log-format", "json", "--log-level", "debug")
    assert done.returncode == 1
    with HyperdLauncher(command=STUB, config='log_format = "json"\n') as launcher:
        launcher.start()
        launcher.stop()
        lines = [json.loads(line) for line in launcher.log().splitlines()]
    ready = next(line for line in lines if line["event"] == "server.ready")
    assert (ready["level"], ready["root"]) == ("info", str(launcher.root))


def test_log_for_people():
    with HyperdLauncher(command=STUB, config='log_format = "console"\n') as launcher:
        launcher.start()
        launcher.stop()
        assert "\x1b" not in launcher.log()  # a file is no terminal
        assert re.search(r"\[info *\] server.ready", launcher.log())


def test_several_hosts_and_tcp(daemon):
    port = free_port()
    daemon.start("--host", f"tcp://127.0.0.1:{port}")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1.17/_ping", timeout=90) as answer:
        assert answer.read() == b"OK"
    assert daemon.request("GET", "/_ping")[0] == 200
    assert "server.unprotected" in daemon.log()


def test_socket_of_systemd(daemon):
    """LISTEN_FDS as systemd passes them: descriptor 3, and the variables of exactly this process."""
    path = f"{daemon.directory}/systemd"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        script = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3);"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
            "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        argv = [sys.executable, "-c", script, str(listener.fileno()), STUB[1]]
        options = ["--config", str(daemon.config_path), "--root", str(daemon.root), "--host", "fd://"]
        with daemon.log_path.open("ab") as log:
            daemon.process = subprocess.Popen(
                [*argv, *options], pass_fds=[listener.fileno()], stdout=log, stderr=log, cwd=PROJECT
            )
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(path)
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n")
            answer = b""
            while more := client.recv(4096):
                answer += more
        assert answer.endswith(b"OK")
        assert daemon.stop() == 0
    assert Path(path).exists()


def test_original_ini_file_is_read(daemon):
    daemon.config_path = daemon.directory / "config"
    daemon.config_path.write_text(f"Bridge={daemon.bridge}\nBridgeIP={daemon.subnet}\nKernel=/none\n")
    daemon.start()
    assert "Kernel is ignored" not in daemon.log()  # the stub shows no warnings; the command does:
    daemon.stop()
    done = hyperd("--config", str(daemon.config_path), "--root", str(daemon.root), "--host", "bad")
    assert "Kernel is ignored: the guest is hyperd's own" in done.stderr


def test_silent_clients_hold_no_thread():
    with HyperdLauncher(command=STUB, config="threads = 4\n") as launcher:
        launcher.start()
        silent = [launcher.raw() for _ in range(12)]
        started = time.monotonic()
        assert launcher.request("GET", "/_ping")[0] == 200
        assert time.monotonic() - started < 30  # a silent client may take 60
        silent[0].sendall(b"GET /_ping HTTP/1.1\r\nHost: \r\n\r\n")
        assert silent[0].recv(4096).startswith(b"HTTP/1.1 200")
        for sock in silent:
            sock.close()


def test_file_limit_is_raised(daemon):
    daemon.start()
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    soft, hard = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3:5]
    assert soft == hard
