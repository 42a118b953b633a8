"""Files of a specification in real guests."""

from __future__ import annotations

import base64
import hashlib
import http.client
import http.server
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.registry import Layer, RegistryServer, busybox_tar, layer_tar, member
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]

BIG = hashlib.shake_256(b"big").digest(3_000_000)


class Server:
    """An HTTP server on a loopback port whose paths are what a test says."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = outer.pages.get(self.path, (404, {}, b"nothing"))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hyfile", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def people(host: Host, registry: RegistryServer) -> str:
    """An image with users, groups, and files and links where files will be put."""
    extra = layer_tar(
        [
            member("etc/passwd", b"root:x:0:0::/root:/bin/sh\nalice:x:1001:100::/:/bin/sh\n"),
            member("etc/group", b"root:x:0:\nusers:x:100:\nwheel:x:10:\n"),
            member("longer", b"x" * 1000, mode=0o600),
            member("out", type=b"2", linkname="/../../../tmp"),
            member("dangling", type=b"2", linkname="/nowhere/at/all"),
        ]
    )
    registry.push("people", "latest", [Layer(busybox_tar()), Layer(extra)])
    host.ok("pull", f"{registry.host}/people")
    return f"{registry.host}/people"


def pod(image: str, files: list[dict[str, Any]], refs: list[dict[str, Any]], **container: Any) -> dict[str, Any]:
    """Make a pod's specification."""
    inner = {"name": "files", "image": image, "command": ["sleep", "1000"], "files": refs, **container}
    return {"id": "files", "files": files, "containers": [inner]}


@pytest.fixture
def run(host: Host) -> Iterator[Any]:
    """Create and start a pod."""

    def start(body: dict[str, Any]) -> None:
        host.daemon.json("POST", "/pod/create", body=body, status=201)
        host.daemon.json("POST", "/pod/start", podId="files")

    yield start
    host.ctl("rm", "files")
    host.assert_clean()


def sh(host: Host, script: str) -> str:
    return host.ok("exec", "files", "sh", "-c", script)


def test_permissions_and_owners(host: Host, run: Any, people: str) -> None:
    kinds = [
        ("/plain", {}, "755 0 0"),
        ("/perm", {"perm": "0640"}, "640 0 0"),
        ("/setuid", {"perm": "04711"}, "4711 0 0"),
        ("/none", {"perm": "0"}, "0 0 0"),
        ("/number", {"perm": "0600", "user": "77", "group": "88"}, "600 77 88"),
        ("/name", {"perm": "0604", "user": "alice", "group": "wheel"}, "604 1001 10"),
        ("/by-root", {"user": "root", "group": "root"}, "755 0 0"),
    ]
    refs = [{"path": path, "filename": "f", **more} for path, more, _ in kinds]
    run(pod(people, [{"name": "f", "content": "x"}], refs))
    found = sh(host, "stat -c '%a %u %g' " + " ".join(path for path, _, _ in kinds))
    assert found.splitlines() == [wanted for _, _, wanted in kinds]


def test_an_unknown_owner_fails_with_its_name(host: Host, run: Any, people: str) -> None:
    body = pod(people, [{"name": "f", "content": "x"}], [{"path": "/f", "filename": "f", "user": "bob"}])
    host.daemon.json("POST", "/pod/create", body=body, status=201)
    code, _, answer = host.daemon.request("POST", "/pod/start", podId="files")
    assert (code, b"no user bob in /etc/passwd" in answer) == (500, True)
    assert host.left()["qemu"] == []


def test_contents_and_targets(host: Host, run: Any, people: str) -> None:
    files = [
        {"name": "raw", "content": "grüße\n"},
        {"name": "b64", "encoding": "base64", "content": base64.encodebytes(bytes(range(256))).decode()},
        {"name": "empty"},
    ]
    refs = [
        {"path": "/made/for/it/", "filename": "raw"},
        {"path": "/bytes", "filename": "b64"},
        {"path": "/empty", "filename": "empty"},
        {"path": "/longer", "filename": "raw", "perm": "0644"},
        {"path": "/dangling", "filename": "raw"},
        {"path": "/out/hosts", "filename": "raw"},
        {"path": "/etc/hostname", "filename": "raw"},
    ]
    run(pod(people, files, refs, readOnly=True))
    assert sh(host, "cat /made/for/it/raw /longer /dangling /etc/hostname") == "grüße\n" * 4
    assert sh(host, "md5sum < /bytes").split()[0] == hashlib.md5(bytes(range(256))).hexdigest()  # noqa: S324
    assert sh(host, "stat -c %s /empty; stat -c %a /made/for/it /longer") == "0\n755\n644\n"
    # A link of the image that points out of it leads to a path inside it.
    assert "localhost" in sh(host, "cat /etc/hosts")
    assert sh(host, "cat /tmp/hosts") == "grüße\n"
    # The guest's own file, which other containers share, is as it was.
    assert host.ok("exec", "-m", "files", "/sbin/busybox", "cat", "/run/etc/hostname") == "files\n"


def test_large_files_from_every_source(host: Host, run: Any, server: Server, place: Path) -> None:
    (place / "big one").write_bytes(BIG)
    server.pages["/big"] = (200, {}, BIG[::-1])
    files = [
        {"name": "inline", "encoding": "base64", "content": base64.b64encode(BIG).decode()},
        {"name": "file", "uri": f"file://{place}/big%20one"},
        {"name": "http", "uri": f"{server.url}/big"},
        {"name": "small", "content": "x"},
    ]
    refs = [{"path": f"/{file['name']}", "filename": file["name"], "perm": "0640", "user": "5"} for file in files]
    run(pod(host.image, files, refs))
    once, twice = hashlib.md5(BIG).hexdigest(), hashlib.md5(BIG[::-1]).hexdigest()  # noqa: S324
    assert sh(host, "md5sum /inline /file /http").split()[::2] == [once, once, twice]
    assert sh(host, "cat /small; stat -c '%a %u' /http") == "x640 5\n"
    # What was sent ahead is gone; what was fetched is kept for the next start.
    left = host.ok("exec", "-m", "files", "/sbin/busybox", "sh", "-c", "ls -d /run/scratch/containers/*/files || true")
    assert "No such file" in left
    server.pages.clear()
    host.ok("stop", "files")
    host.ok("start", "files")
    assert sh(host, "md5sum /http").split()[0] == twice


def test_redirects_are_followed_and_bounded(host: Host, run: Any, server: Server) -> None:
    server.pages["/a"] = (302, {"Location": "b"}, b"")
    server.pages["/b"] = (301, {"Location": f"{server.url}/c"}, b"")
    server.pages["/c"] = (200, {}, b"found\n")
    run(pod(host.image, [{"name": "f", "uri": f"{server.url}/a"}], [{"path": "/f", "filename": "f"}]))
    assert sh(host, "cat /f") == "found\n"


def test_what_cannot_be_fetched_is_refused_at_once(host: Host, server: Server, place: Path) -> None:
    os.mkfifo(place / "fifo")
    with (place / "huge").open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    server.pages["/loop"] = (302, {"Location": "/loop"}, b"")
    server.pages["/out"] = (302, {"Location": "file:///etc/hostname"}, b"")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
        cases = [
            (f"{server.url}/none", 400, b"answers 404"),
            (f"{server.url}/loop", 400, b"redirects"),
            (f"{server.url}/out", 400, b"no http address"),
            (f"http://127.0.0.1:{closed}/", 400, b"cannot get"),
            (f"file://{place}/nothing", 409, b"does not exist"),
            (f"file://{place}/fifo", 409, b"not a regular file"),
            (f"file://{place}", 409, b"cannot read"),
            (f"file://{place}/huge", 413, b"too large"),
            ("ftp://127.0.0.1/x", 400, b"no http, https or file URI"),
        ]
        for uri, status, word in cases:
            body = pod(host.image, [{"name": "f", "uri": uri}], [{"path": "/f", "filename": "f"}])
            code, _, answer = host.daemon.request("POST", "/pod/create", body=body)
            assert (code, word in answer) == (status, True), (uri, answer)
    host.assert_clean()


def test_files_of_a_container_added_later(host: Host, run: Any, server: Server) -> None:
    run(pod(host.image, [{"name": "pods", "content": "of the pod\n"}], []))
    server.pages["/f"] = (200, {}, b"fetched\n")
    refs = [
        {"path": "/pods", "filename": "pods"},
        {"path": "/own", "filename": "own", "detail": {"name": "own", "uri": f"{server.url}/f"}},
    ]
    body = {"name": "later", "image": host.image, "command": ["cat", "/pods", "/own"], "files": refs}
    host.daemon.json("POST", "/container/create", podId="files", body=body, status=201)
    host.daemon.json("POST", "/container/start", container="later")
    assert host.daemon.json("GET", "/exitcode", container="later") == 0
    assert host.ok("logs", "later") == "of the pod\nfetched\n"
    missing = {**body, "name": "no", "files": [{"path": "/x", "filename": "unknown"}]}
    code, _, answer = host.daemon.request("POST", "/container/create", podId="files", body=missing)
    assert (code, b"does not exist in file list" in answer) == (400, True)


@pytest.mark.parametrize("allowed", [False, True])
def test_over_tcp_only_where_the_configuration_says_so(registry: RegistryServer, place: Path, *, allowed: bool) -> None:
    (place / "f").write_text("x")
    port = free_port()
    config = f"[api]\nfetch_over_tcp = {'true' if allowed else 'false'}\n"
    daemon, host = launch(registry, config=config)
    with daemon:
        assert daemon.stop() == 0
        daemon.start("--host", f"tcp://127.0.0.1:{port}")
        body = pod(host.image, [{"name": "f", "uri": f"file://{place}/f"}], [{"path": "/f", "filename": "f"}])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/pod/create", body=json.dumps(body), headers=headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status == (201 if allowed else 403), text
        if not allowed:
            assert b"fetch_over_tcp" in text
            daemon.json("POST", "/pod/create", body=body, status=201)
