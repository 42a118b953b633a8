"""Taking connections over from gunicorn: everything that the decision for ``gthread`` rests on, on a real server."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.until import until

STUB = Path(__file__).parents[1] / "support" / "stub_daemon.py"
HEAD = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
THREADS = 8


@pytest.fixture(scope="module")
def daemon():
    with HyperdLauncher(command=[sys.executable, str(STUB)], config=f"threads = {THREADS}\n") as launcher:
        launcher.start()
        yield launcher


def ask(name: str, *, path: str = "/v1.17/attach", upgrade: bool = True, extra: str = "") -> bytes:
    wish = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else ""
    return (
        f"POST {path}?container={name} HTTP/1.1\r\nHost: \r\nUser-Agent: Hyper-Client/1.1.0\r\n{wish}"
        f"Content-Type: text/plain\r\n{extra}Content-Length: 0\r\n\r\n"
    ).encode()


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more, data
        data += more
    return data


def receive_all(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(1 << 20):
        data += more
    return data


def frame(sock: socket.socket) -> tuple[int, bytes]:
    stream, size = struct.unpack("!BxxxI", receive(sock, 8))
    return stream, receive(sock, size)


def test_head_is_exactly_the_original_one(daemon):
    with daemon.raw() as sock:
        sock.sendall(ask("echo"))
        assert receive(sock, len(HEAD)) == HEAD


def test_ping_pong_and_half_close(daemon):
    with daemon.raw() as sock:
        sock.sendall(ask("echo"))
        receive(sock, len(HEAD))
        for word in (b"ping", b"pong"):
            sock.sendall(word)
            assert frame(sock) == (1, word)
        sock.shutdown(socket.SHUT_WR)
        assert frame(sock) == (2, b"8 bytes")
        assert sock.recv(1) == b""


def test_bytes_glued_behind_the_request_are_kept(daemon):
    with daemon.raw() as sock:
        sock.sendall(ask("echo") + b"early bird")
        receive(sock, len(HEAD))
        sock.shutdown(socket.SHUT_WR)
        text = b""
        while True:
            stream, data = frame(sock)
            if stream == 2:
                break
            text += data
        assert text == b"early bird"
        assert data == b"10 bytes"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_bytes_glued_behind_a_body_are_kept(daemon, chunked):
    body = b"4\r\nwiki\r\n0\r\n\r\n" if chunked else b"wiki"
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = ask("echo").replace(b"Content-Length: 0", framing.encode())
    with daemon.raw() as sock:
        sock.sendall(head + body + b"early")
        receive(sock, len(HEAD))
        assert frame(sock) == (1, b"early")


def test_200_when_no_upgrade_is_asked_for(daemon):
    with daemon.raw() as sock:
        sock.sendall(ask("echo", upgrade=False))
        wanted = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
        assert receive(sock, len(wanted)) == wanted
        sock.sendall(b"x")
        assert frame(sock) == (1, b"x")


def test_eight_mebibytes_each_way_at_once(daemon):
    with daemon.raw() as sock:
        sock.sendall(ask("flood"))
        receive(sock, len(HEAD))

        def send() -> None:
            for _ in range(128):
                sock.sendall(b"c" * 65536)
            sock.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        data = receive_all(sock)
        thread.join()
    body, tail = data[: 8 * 2**20], data[8 * 2**20 :]
    assert tail == b"got 8388608"
    assert all(body[n * 65536 : (n + 1) * 65536] == bytes([n]) * 65536 for n in range(128))


def test_on_a_kept_alive_connection(daemon):
    with daemon.raw() as sock:
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: \r\n\r\n")
        answer = b""
        while not answer.endswith(b"OK"):
            answer += sock.recv(4096)
        sock.sendall(ask("echo"))
        assert receive(sock, len(HEAD)) == HEAD
        sock.sendall(b"x")
        assert frame(sock) == (1, b"x")


def test_errors_come_before_the_upgrade(daemon):
    for name, status in (("missing", b"404"), ("broken", b"500"), ("", b"400")):
        with daemon.raw() as sock:
            sock.sendall(ask(name) + b"input that nobody will read")
            answer = receive_all(sock)  # the connection is closed: old clients wait for that
            assert answer.split()[1] == status
            assert b"secret" not in answer


def test_streams_hold_no_thread(daemon):
    """Many more streams than threads, and the server still answers; afterwards none is counted."""
    socks = []
    for _ in range(THREADS * 4):
        sock = daemon.raw()
        sock.sendall(ask("idle"))
        receive(sock, len(HEAD))
        socks.append(sock)
    started = time.monotonic()
    assert daemon.request("GET", "/_ping")[0] == 200
    assert time.monotonic() - started < 30
    for sock in socks:
        sock.close()
    assert daemon.request("GET", "/_ping")[0] == 200


def test_logs_are_chunked(daemon):
    status, headers, body = daemon.request("GET", "/container/logs", container="logs", stdout=1)
    assert status == 200
    assert headers["Transfer-Encoding"] == "chunked"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert body == b"one\ntwo\nthree\n"


def test_logs_for_an_old_client_are_not_chunked(daemon):
    with daemon.raw() as sock:
        sock.sendall(b"GET /container/logs?container=logs&stdout=1 HTTP/1.0\r\n\r\n")
        head, _, body = receive_all(sock).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b"one\ntwo\nthree\n"


def test_pull_streams_lines(daemon):
    status, headers, body = daemon.request(
        "POST",
        "/image/create",
        imageName="busybox",
        tag="1",
        headers={"X-Meta-Color": "red", "Content-Type": "text/plain"},
    )
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Transfer-Encoding"] == "chunked"
    assert body.endswith(b"\r\n")
    lines = [json.loads(line) for line in body.split(b"\r\n") if line]
    assert lines[0] == {"status": "Pulling from library/busybox", "id": "1"}
    done = json.loads(lines[1]["status"].removeprefix("Signature: by "))
    assert {key.lower(): value for key, value in done["meta"].items()} == {"x-meta-color": "red"}


def test_pull_that_fails_at_once_has_an_ordinary_status(daemon):
    assert daemon.request("POST", "/image/create", imageName="missing")[::2] == (
        404,
        b"No such image: missing:latest\n",
    )
    status, _, body = daemon.request("POST", "/image/create", imageName="broken")
    assert status == 500
    assert body.startswith(b"internal error (see the daemon's log, request ")


@pytest.mark.parametrize(("name", "word"), [("late", "the disk is full"), ("late-broken", "internal error")])
def test_pull_that_fails_late_ends_with_an_error_line(daemon, name, word):
    status, _, body = daemon.request("POST", "/image/create", imageName=name)
    last = json.loads(body.split(b"\r\n")[-2])
    assert status == 200
    assert last["error"] == last["errorDetail"]["message"]
    assert last["error"].startswith(word)
    assert b"secret" not in body


def test_silent_registries_hold_no_thread(daemon):
    """The first line is waited for in the background; what fails before it still has its status."""
    seen = len(daemon.log())
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(daemon.raw()) for _ in range(THREADS * 5)]
        for sock in silent:
            sock.sendall(b"POST /image/create?imageName=silent HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        late = stack.enter_context(daemon.raw())
        late.sendall(
            b"POST /image/create?imageName=silent-missing HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
            b"Accept: application/json\r\n\r\n"
        )
        for _ in range(5):
            assert daemon.request("GET", "/_ping", timeout=90)[0] == 200
        until(lambda: daemon.log()[seen:].count("path=/image/create status=101") == len(silent) + 1)
        (daemon.root / "speak").touch()
        for sock in silent:
            assert receive_all(sock).startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        head, _, body = receive_all(late).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n")
        assert json.loads(body)["message"] == "No such image: silent:latest"


def test_pull_is_cancelled_when_the_client_leaves(daemon):
    mark = daemon.root / "cancelled"
    with daemon.raw() as sock:
        sock.sendall(b"POST /image/create?imageName=endless HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
    until(mark.exists)


@pytest.mark.parametrize("name", ["quick", "slow"])
def test_exit_code_is_waited_for(daemon, name):
    status, headers, body = daemon.request("GET", "/exitcode", container=name)
    assert (status, headers["Content-Type"], json.loads(body)) == (200, "application/json", 17)


def test_late_failure_of_a_wait_keeps_its_status(daemon):
    status, _, body = daemon.request("GET", "/exitcode", container="fails")
    assert (status, body) == (409, b"it went away\n")


def test_waits_hold_no_thread(daemon):
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(daemon.request("GET", "/exitcode", container="slow")[0]))
        for _ in range(THREADS * 2)
    ]
    for thread in threads:
        thread.start()
    assert daemon.request("GET", "/_ping", timeout=90)[0] == 200
    for thread in threads:
        thread.join()
    assert answers == [200] * (THREADS * 2)


def test_wait_ends_when_the_client_leaves(daemon):
    mark, seen = daemon.root / "wait-cancelled", len(daemon.log())
    with daemon.raw() as sock:
        sock.sendall(b"GET /exitcode?container=endless HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: "path=/exitcode status=101" in daemon.log()[seen:])  # it is taken over after a second
        assert not mark.exists()
    until(mark.exists)


def test_sigterm_ends_at_once_with_streams_open():
    with HyperdLauncher(command=[sys.executable, str(STUB)]) as launcher:
        launcher.start()
        with launcher.raw() as sock:
            sock.sendall(ask("idle"))
            receive(sock, len(HEAD))
            started = time.monotonic()
            assert launcher.stop() == 0
            assert time.monotonic() - started < 30
            assert sock.recv(1) == b""
        assert "engine closed" in launcher.log()
        assert not launcher.socket.exists()
