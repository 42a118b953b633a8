"""Clients that send or take too slowly: they hold no thread, and nobody waits for them but they themselves."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.ports import free_port
from tests.support.registry import busybox_tar
from tests.support.until import until

STUB = [sys.executable, str(Path(__file__).parents[1] / "support" / "stub_daemon.py")]
THREADS = 4
HALF = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nX-Lo"
HALF_BODY = (
    b"POST /pod/create HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
)
UPLOAD = b"POST /image/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\nabc"
CHUNKS = b"POST /image/load HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
PATIENCE = 90.0  # seconds for what has to happen
PROMPT = 40.0  # seconds; the timeouts that a held thread would cost are 60


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(port: int) -> Iterator[HyperdLauncher]:
    with HyperdLauncher(command=STUB, config=f"threads = {THREADS}\n") as launcher:
        launcher.start("--host", f"tcp://127.0.0.1:{port}")
        yield launcher


def answered(sock: socket.socket) -> bool:
    """Read an answer of ``/_ping`` to its end."""
    data = b""
    while not data.endswith(b"OK"):
        more = sock.recv(4096)
        if not more:
            return False
        data += more
    return data.startswith(b"HTTP/1.1 200 OK")


def threads(daemon: HyperdLauncher) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))


def test_half_requests_hold_no_thread(daemon: HyperdLauncher, port: int) -> None:
    with contextlib.ExitStack() as stack:
        before = threads(daemon)
        for piece in (HALF, HALF_BODY):
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(piece)
            for _ in range(20):
                stack.enter_context(daemon.raw()).sendall(piece)
        for _ in range(20):
            assert daemon.request("GET", "/_ping", timeout=PROMPT)[2] == b"OK"
        tcp = stack.enter_context(socket.create_connection(("127.0.0.1", port), PROMPT))
        tcp.sendall(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answered(tcp)
        assert threads(daemon) <= before + 2 * THREADS


def test_slow_uploads_hold_up_uploads_only(daemon: HyperdLauncher, port: int) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(36):
            for sock in (socket.create_connection(("127.0.0.1", port)), daemon.raw()):
                stack.enter_context(sock).sendall(UPLOAD if number % 2 else CHUNKS)
        for _ in range(20):
            assert daemon.request("GET", "/_ping", timeout=PROMPT)[2] == b"OK"
        # Over TCP all uploads are taken; that is no reason for a caller on the unix socket to wait for an answer.
        tcp = stack.enter_context(socket.create_connection(("127.0.0.1", port), PROMPT))
        tcp.sendall(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answered(tcp)


def test_a_request_that_comes_byte_by_byte_is_answered(daemon: HyperdLauncher) -> None:
    body = json.dumps({"id": "slowly"}).encode()
    head = f"POST /pod/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with daemon.raw() as sock:
        for byte in head.encode() + b"\r\n" + body:
            sock.sendall(bytes([byte]))
        assert sock.recv(4096).startswith(b"HTTP/1.1 201 ")


def test_requests_behind_each_other_are_answered_in_order(daemon: HyperdLauncher) -> None:
    ping = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
    info = b"GET /container/info?container=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with daemon.raw() as sock:
        sock.sendall(ping + b"".join(info % number for number in range(50)) + ping[:-9])
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 51 or not answers.endswith(b"}\n"):
            answers += sock.recv(65536)
        places = [answers.index(b'"containerID":"%d"' % number) for number in range(50)]
        assert places == sorted(places)
        sock.sendall(ping[-9:])
        assert answered(sock)


def test_a_half_request_is_told_that_its_time_is_up() -> None:
    with HyperdLauncher(command=STUB, env={"STUB_RECEIVE_TIMEOUT": "1"}) as launcher:
        launcher.start()
        with launcher.raw() as idle, launcher.raw() as half, launcher.raw() as upload:
            half.sendall(HALF)
            upload.sendall(UPLOAD)
            assert half.recv(4096).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert half.recv(4096) == b""
            assert b"the client left while it sent" in upload.recv(4096)
            idle.sendall(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answered(idle)


@pytest.mark.parametrize(("begin", "status"), [(b"GET /", b"414"), (b"GET / HTTP/1.1\r\nX: ", b"431")])
def test_a_head_without_an_end_is_refused(daemon: HyperdLauncher, begin: bytes, status: bytes) -> None:
    with daemon.raw() as sock:
        with contextlib.suppress(OSError):
            sock.sendall(begin + b"a" * (3 * 2**20))
        assert sock.recv(4096).startswith(b"HTTP/1.1 %b " % status)


def test_answers_that_are_not_read_hold_no_thread(daemon: HyperdLauncher) -> None:
    """The answer is larger than what the kernel keeps; each client asks again and again and reads nothing."""
    name = "n" * 500_000
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(daemon.raw()) for _ in range(THREADS * 4)]
        for sock in sockets:
            sock.sendall(f"GET /container/info?container={name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        for _ in range(10):
            assert daemon.request("GET", "/_ping", timeout=PROMPT)[2] == b"OK"
        answer = b""
        while not answer.endswith(b"}\n"):
            answer += sockets[-1].recv(65536)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["container"]["containerID"] == name


def test_who_does_not_close_holds_up_nobody(daemon: HyperdLauncher) -> None:
    """After ``Connection: close`` the daemon waits for the client to close, and for nothing else meanwhile."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            sock = stack.enter_context(daemon.raw())
            sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert answered(sock)
        assert daemon.request("GET", "/_ping", timeout=PROMPT)[2] == b"OK"


def test_a_refused_upload_is_told_why(daemon: HyperdLauncher) -> None:
    """Most clients look at the answer only when they have sent everything."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(daemon.raw()).sendall(UPLOAD)
        until(lambda: threads(daemon) > 8)
        with daemon.raw() as sock:

            def send() -> None:
                head = b"POST /image/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n"
                with contextlib.suppress(OSError):  # what comes late is not taken
                    sock.sendall(head + bytes(20_000_000))

            sender = threading.Thread(target=send)
            sender.start()
            assert sock.recv(65536).startswith(b"HTTP/1.1 503 ")
            sender.join()


def test_who_goes_on_sending_after_a_refused_upgrade_holds_no_thread(daemon: HyperdLauncher) -> None:
    upgrade = b"POST /none HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    over = threading.Event()

    def drip(socks: list[socket.socket]) -> None:
        while not over.wait(0.8):
            for sock in socks:
                with contextlib.suppress(OSError):
                    sock.send(b"x")

    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(daemon.raw()) for _ in range(THREADS)]
        thread = threading.Thread(target=drip, args=(callers,))
        stack.callback(thread.join)
        stack.callback(over.set)
        for caller in callers:
            caller.sendall(upgrade)
            assert caller.recv(4096).startswith(b"HTTP/1.1 404 ")
        thread.start()
        other = stack.enter_context(daemon.raw())
        other.settimeout(PROMPT)
        other.sendall(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answered(other)


def asks(kind: str, silent: str) -> tuple[str, str, str]:
    """Return API, path and body of a request that makes the daemon ask a server."""
    file = {"name": "f", "uri": f"http://{silent}/f"}
    ref = {"path": "/f", "filename": "f"}
    containers = [{"image": "busybox", "files": [ref]}]
    login = json.dumps({"username": "a", "password": "b", "serveraddress": silent})
    return {
        "auth": ("hyper", "/auth", login),
        "search": ("hyper", f"/images/search?term={silent}/x", ""),
        "pod": ("hyper", "/pod/create", json.dumps({"files": [file], "containers": containers})),
        "docker auth": ("docker", "/auth", login),
        "docker search": ("docker", f"/images/search?term={silent}/x", ""),
        "distribution": ("docker", f"/distribution/{silent}/x/json", ""),
    }[kind]


@pytest.fixture(scope="module")
def full() -> Iterator[HyperdLauncher]:
    """A daemon with few threads, an image and both APIs."""
    with HyperdLauncher(config=f"threads = {THREADS}\n") as launcher:
        launcher.start("--docker-host", f"unix://{launcher.directory}/docker")
        assert launcher.request("POST", "/image/create", body=busybox_tar(), fromSrc="-", repo="busybox")[0] == 200
        yield launcher


@pytest.mark.root
@pytest.mark.parametrize("kind", ["auth", "search", "pod", "docker auth", "docker search", "distribution"])
def test_servers_that_do_not_answer_hold_no_thread(full: HyperdLauncher, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        silent.settimeout(PATIENCE)
        api, path, body = asks(kind, f"127.0.0.1:{silent.getsockname()[1]}")
        place = full.socket if api == "hyper" else full.directory / "docker"
        head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        for _ in range(THREADS):
            caller = stack.enter_context(socket.socket(socket.AF_UNIX))
            caller.connect(str(place))
            caller.sendall(f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\n{head}{body}".encode())
            stack.enter_context(silent.accept()[0])
        caller = stack.enter_context(socket.socket(socket.AF_UNIX))
        caller.settimeout(PROMPT)
        caller.connect(str(place))
        caller.sendall(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answered(caller)
