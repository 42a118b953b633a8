"""Where the output of containers in real VMs goes: rotated files, syslog, the journal, nowhere."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.until import until
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def receiver(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(60)
    sock.bind(str(path))
    return sock


def run(host: Host, name: str, script: str, *, kind: str, config: dict[str, str] | None = None, **more: Any) -> None:
    container = {"name": name, "image": host.image, "command": ["sh", "-c", script], **more}
    pod = {"id": name, "containers": [container], "log": {"type": kind, "config": config or {}}}
    host.daemon.json("POST", "/pod/create", body=pod, status=201)
    host.daemon.json("POST", "/pod/start", podId=name)


def last_line_is(host: Host, name: str, line: str) -> bool:
    return host.ok("logs", "--tail", "1", name) == line


def test_json_file_with_size_number_and_path(host: Host, directory: Path):
    path = directory / "deep" / "own.log"
    # What comes at once is written to one file: never more here than 100 lines of 75 bytes and more.
    script = "mkfifo /go; i=0; while :; do echo line $i; i=$((i+1)); [ $((i % 100)) -ne 0 ] || read go < /go; done"
    run(host, "rotated", script, kind="json-file", config={"max-size": "4k", "max-file": "3"}, logPath=str(path))
    for written in range(100, 501, 100):
        if written > 100:
            host.ok("exec", "rotated", "sh", "-c", "echo go > /go")
        until(partial(last_line_is, host, "rotated", f"line {written - 1}\n"))
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["own.log", "own.log.1", "own.log.2"]
    assert all(file.stat().st_size < 4096 + 100 * 120 for file in files)
    lines = host.ok("logs", "rotated").splitlines()
    assert len(lines) < 500
    assert lines == [f"line {number}" for number in range(500 - len(lines), 500)]
    assert json.loads(path.read_text().splitlines()[-1])["stream"] == "stdout"
    host.ok("rm", "rotated")
    assert list(path.parent.iterdir()) == []


def test_no_log_at_all(host: Host):
    run(host, "quiet", "read line; echo got $line; exit 0", kind="none")
    status, _, body = host.daemon.request("GET", "/container/logs", container="quiet", stdout="yes")
    assert (status, body.startswith(b"the log driver none cannot be read")) == (501, True)
    client = host.background("attach", "quiet")
    out, _ = client.communicate(b"word\n", timeout=90)
    assert out == b"got word\n"
    host.ok("rm", "quiet")


def test_syslog_and_a_receiver_that_comes_late(host: Host, directory: Path):
    path = directory / "log"
    config = {"syslog-address": f"unix://{path}", "tag": "{{.Name}}", "syslog-facility": "local1"}
    pod = {
        "id": "sys",
        "containers": [{"image": host.image}],
        "log": {"type": "syslog", "config": config},
    }
    status, _, body = host.daemon.request("POST", "/pod/create", body=pod)
    assert (status, str(path) in body.decode()) == (501, True)
    with receiver(path) as sock:
        run(host, "sys", "echo out; echo err >&2; read more; echo $more; exit 3", kind="syslog", config=config)
        first = sorted(sock.recv(1000) for _ in range(2))
        assert first[0].startswith(b"<139>")
        assert first[0].endswith(b" sys: err")
        assert first[1].startswith(b"<142>")
        assert first[1].endswith(b" sys: out")
    path.unlink()
    client = host.background("attach", "sys")
    client.communicate(b"later\n", timeout=90)
    with receiver(path) as sock:  # what nobody took is not lost when somebody comes in time
        assert sock.recv(1000).endswith(b" sys: later")
    assert host.daemon.json("GET", "/exitcode", container="sys") == 3
    host.ok("rm", "sys")


def test_nobody_listens_and_the_container_goes_on(host: Host):
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    run(
        host, "deaf", "yes x | head -c 3000000; echo end >&2; exit 5", kind="syslog", config={"syslog-address": address}
    )
    assert host.daemon.json("GET", "/exitcode", container="deaf") == 5
    text = host.daemon.request("GET", "/metrics")[2].decode()
    dropped = next(line for line in text.splitlines() if line.startswith("hyperd_log_lines_dropped_total"))
    assert float(dropped.split()[1]) > 100_000
    host.ok("rm", "deaf")


def test_lines_survive_the_daemon_and_arrive_once_or_twice(registry, directory: Path):
    path = directory / "log"
    daemon, host = launch(registry, config=f'[log]\ndriver = "syslog"\nsyslog_address = "unix://{path}"\n')
    with daemon, receiver(path) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); usleep 10000; done; sleep 1000"
        name = host.pod("durable", script)
        seen: list[int] = []

        def read_until(last: int) -> None:
            while not seen or seen[-1] < last:
                seen.append(int(sock.recv(1000).rsplit(b" ", 1)[1]))

        read_until(50)
        daemon.kill()
        time.sleep(0.5)
        daemon.start()
        read_until(299)
        assert sorted(set(seen)) == list(range(300))
        host.ok("rm", name)


def test_the_journal(registry, directory: Path):
    path = directory / "journal"
    config = f'[log]\njournal_socket = "{path}"\ndirectory = "{directory}/logs"\n'
    daemon, host = launch(registry, config=config)
    with daemon:
        pod = {"id": "jj", "containers": [{"image": host.image}], "log": {"type": "journald"}}
        status, _, body = host.daemon.request("POST", "/pod/create", body=pod)
        assert (status, b"this host has no socket" in body) == (501, True)
        with receiver(path) as sock:
            run(host, "jj", "echo hello; exit 0", kind="journald")
            fields = dict(line.split(b"=", 1) for line in sock.recv(10_000).splitlines())
        assert fields[b"MESSAGE"] == b"hello"
        assert fields[b"CONTAINER_NAME"] == b"jj"
        assert fields[b"PRIORITY"] == b"6"
        assert (
            fields[b"SYSLOG_IDENTIFIER"]
            == host.daemon.json("GET", "/container/info", container="jj")["container"]["containerID"][:12].encode()
        )
        host.ok("rm", "jj")
        # The same daemon's files are where its configuration says, one directory for each pod.
        name = host.pod("filed", "echo in a file; sleep 1000")
        until(lambda: host.ok("logs", name) == "in a file\n")
        (file,) = (directory / "logs" / "filed").iterdir()
        assert file.name.endswith("-json.log")
        host.ok("rm", name)
        assert list((directory / "logs").iterdir()) == []
