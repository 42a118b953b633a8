"""Wrong requests to a real server: a clear 4xx that names what is wrong, never a traceback, nothing left behind."""

from __future__ import annotations

import base64
import json
import socket
import sys
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.pods import ORIGINAL_ERRORS, WRONG_VALUES, changed, wrong_types
from tests.support.registry import Layer, RegistryServer, busybox_tar

pytestmark = pytest.mark.root

STUB = Path(__file__).parents[1] / "support" / "stub_daemon.py"


@pytest.fixture(scope="module")
def registry():
    with RegistryServer() as server:
        server.push("busybox", "latest", [Layer(busybox_tar())])
        yield server


@pytest.fixture(scope="module")
def daemon(registry):
    """Yield a daemon with an image and a pod; in the end those are all it has, and it never lost its head."""
    with HyperdLauncher() as launcher:
        launcher.start()
        name = f"{registry.host}/busybox"
        assert launcher.request("POST", "/image/create", imageName=name)[0] == 200
        launcher.json("POST", "/pod/create", body={"id": "good", "containers": [{"image": name, "name": "good-c"}]})
        yield launcher
        assert launcher.json("GET", "/list", item="pod")["podData"] == ["good:good::pending"]
        assert launcher.json("GET", "/list", item="vm")["vmData"] == []
        assert len(launcher.json("GET", "/list", item="container")["cData"]) == 1
        assert len(launcher.json("GET", "/images/get")["imagesList"]) == 1
        assert "internal_error" not in launcher.log()
        assert "Traceback" not in launcher.log()


def refused(answer, status: int | tuple[int, ...], word: str = "") -> None:
    code, headers, body = answer
    assert code in ((status,) if isinstance(status, int) else status), (code, body)
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    text = body.decode()
    assert text.endswith("\n")
    assert len(text) > 3
    assert "Traceback" not in text
    assert word in text, text


def test_every_field_with_every_wrong_type(daemon):
    with daemon.connection() as connection:
        for path, value in wrong_types():
            data = json.dumps(changed(path, value))
            connection.request("POST", "/pod/create", data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 400, (path, value, body)
            assert b"Traceback" not in body


@pytest.mark.parametrize(("path", "value", "word"), WRONG_VALUES, ids=[f"{p}={v!r}"[:50] for p, v, _ in WRONG_VALUES])
def test_every_wrong_value(daemon, path, value, word):
    refused(daemon.request("POST", "/pod/create", body=changed(path, value)), 400, word)


@pytest.mark.parametrize(
    ("path", "value", "message"), ORIGINAL_ERRORS, ids=[entry[2][:50] for entry in ORIGINAL_ERRORS]
)
def test_messages_of_the_original(daemon, path, value, message):
    answer = daemon.request("POST", "/pod/create", body=changed(path, value))
    refused(answer, 400)
    assert answer[2].decode().startswith(message)
    status, headers, body = daemon.request(
        "POST", "/pod/create", body=changed(path, value), headers={"Accept": "application/json"}
    )
    assert (status, headers["Content-Type"]) == (400, "application/json")
    assert json.loads(body)["message"].startswith(message)


def test_names_in_use(daemon, registry):
    taken = {"image": f"{registry.host}/busybox", "name": "good-c"}
    answer = daemon.request("POST", "/pod/create", body={"id": "other", "containers": [taken]})
    refused(answer, 409, "container name good-c has already taken by pod good\n")
    refused(
        daemon.request("POST", "/container/create", body=taken, podId="good"), 409, "has already taken by pod good\n"
    )
    refused(daemon.request("POST", "/pod/create", body={"id": "good"}), 409, "pod name good has already in use\n")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("{", "not valid JSON"),
        ("[1,2", "not valid JSON"),
        ("{} {}", "not valid JSON"),
        ('{"id": NaN}', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"resource":{"memory":' + "9" * 5000 + "}}", "not valid JSON"),
        ('{"id": "a", "id": "b"}', "the key 'id' comes twice in one object"),
        ('{"id": "a", "resource": {"vcpu": 1, "vcpu": 2}}', "the key 'vcpu' comes twice in one object"),
        ("null", "must be an object"),
        ("[]", "must be an object"),
        ('"pod"', "must be an object"),
    ],
    ids=["open", "array", "two", "nan", "bytes", "deep", "huge", "twice", "inner", "null", "list", "text"],
)
@pytest.mark.parametrize("path", ["/pod/create", "/container/create?podId=good"])
def test_bad_json(daemon, path, body, word):
    refused(daemon.request("POST", path, body=body, headers={"Content-Type": "application/json"}), 400, word)


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/jsonx", ""])
def test_wrong_content_type(daemon, kind):
    answer = daemon.request("POST", "/pod/create", body="{}", headers={"Content-Type": kind} if kind else {})
    refused(answer, 400, f"Content-Type specified ({kind}) must be 'application/json'")


def test_bad_pod_args(daemon):
    refused(daemon.request("POST", "/pod/create"), 400, "neither a body nor podArgs")
    refused(daemon.request("POST", "/pod/create", podArgs="{"), 400, "podArgs is not valid JSON")
    refused(daemon.request("POST", "/pod/create", podArgs='{"id":5}'), 400, "id: must be a string")


def test_missing_image_is_the_only_404_of_the_create_calls(daemon, registry):
    gone = f"{registry.host}/gone"
    refused(daemon.request("POST", "/pod/create", body={"containers": [{"image": gone}]}), 404, "No such image: ")
    for bad in ("UPPER", "a b", "a:b:c", "-x", "a@sha256:12", "/"):
        refused(daemon.request("POST", "/pod/create", body={"containers": [{"image": bad}]}), 400)
    body = {"image": f"{registry.host}/busybox"}
    refused(daemon.request("POST", "/container/create", body=body, podId="none"), (409, 412), "none")
    refused(daemon.request("POST", "/container/create", body=body), 400, "podId is required")
    refused(daemon.request("POST", "/container/create", podId="good"), 400, "the body is empty")
    refused(daemon.request("POST", "/pod/create", body={"id": "good"}), 409, "already in use")
    taken = {"containers": [{"image": f"{registry.host}/busybox", "name": "good-c"}]}
    refused(daemon.request("POST", "/pod/create", body=taken), 409, "good-c")


UNKNOWN = [
    ("POST", "/pod/start", {"podId": "none"}),
    ("POST", "/pod/stop", {"podId": "none"}),
    ("DELETE", "/pod", {"podId": "none"}),
    ("GET", "/pod/info", {"podName": "none"}),
    ("POST", "/pod/labels", {"podId": "none", "labels": '{"a":"b"}'}),
    ("POST", "/pod/kill", {"podName": "none"}),
    ("POST", "/pod/pause", {"podId": "none"}),
    ("POST", "/pod/unpause", {"podId": "none"}),
    ("GET", "/pod/none/portmappings", {}),
    ("PUT", "/pod/none/portmappings/add", {}),
    ("POST", "/pod/start", {"podId": "good", "vmId": "vm-none"}),
    ("DELETE", "/vm", {"vm": "vm-none"}),
    ("GET", "/service/list", {"podId": "none"}),
    ("POST", "/container/start", {"container": "none"}),
    ("POST", "/container/stop", {"container": "none"}),
    ("POST", "/container/kill", {"container": "none"}),
    ("POST", "/container/remove", {"container": "none"}),
    ("POST", "/container/rename", {"oldName": "none", "newName": "new-name"}),
    ("POST", "/container/commit", {"container": "none"}),
    ("GET", "/container/info", {"container": "none"}),
    ("GET", "/container/logs", {"container": "none", "stdout": "1"}),
    ("POST", "/exec/create", {"container": "none", "command": '["sh"]'}),
    ("POST", "/exec/start", {"container": "good-c", "exec": "exec-none"}),
    ("GET", "/exitcode", {"container": "none"}),
    ("GET", "/exitcode", {"container": "good-c", "exec": "exec-none"}),
    ("POST", "/attach", {"container": "none"}),
    ("POST", "/tty/resize", {"container": "none", "h": "1", "w": "1"}),
    ("POST", "/execvm", {"pod": "none", "command": '["sh"]'}),
    ("DELETE", "/image", {"imageId": "none"}),
]


@pytest.mark.parametrize(("method", "path", "query"), UNKNOWN, ids=[f"{m} {p}" for m, p, _ in UNKNOWN])
def test_unknown_objects(daemon, method, path, query):
    refused(daemon.request(method, path, **query), 404, "none")


MISSING = [
    ("POST", "/pod/start", {}),
    ("POST", "/pod/stop", {"podId": " "}),
    ("DELETE", "/pod", {}),
    ("GET", "/list", {}),
    ("GET", "/list", {"item": "dog"}),
    ("GET", "/pod/info", {}),
    ("POST", "/pod/labels", {"podId": "good"}),
    ("POST", "/pod/labels", {"podId": "good", "labels": "["}),
    ("POST", "/pod/labels", {"podId": "good", "labels": "[]"}),
    ("POST", "/pod/labels", {"podId": "good", "labels": '{"a":1}'}),
    ("POST", "/pod/kill", {"podId": "good", "signal": "loud"}),
    ("POST", "/pod/kill", {"podId": "good", "signal": "65"}),
    ("POST", "/pod/kill", {"podId": "good", "signal": "0"}),
    ("PUT", "/pod/good/portmappings/turn", {}),
    ("PUT", "/pod/good/portmappings/add", {}),
    ("POST", "/service/add", {"podId": "good"}),
    ("POST", "/service/update", {"podId": "good", "services": "["}),
    ("DELETE", "/service", {"podId": "good", "services": "{}"}),
    ("POST", "/vm/create", {"cpu": "many"}),
    ("POST", "/vm/create", {"cpu": "0"}),
    ("POST", "/vm/create", {"mem": "1"}),
    ("POST", "/vm/create", {"mem": "9" * 30}),
    ("DELETE", "/vm", {}),
    ("POST", "/container/start", {"container": ""}),
    ("POST", "/container/kill", {}),
    ("POST", "/container/kill", {"container": "good-c", "signal": "SIGNOPE"}),
    ("POST", "/container/rename", {"oldName": "good-c"}),
    ("POST", "/container/rename", {"oldName": "good-c", "newName": "a b"}),
    ("POST", "/container/rename", {"oldName": "good-c", "newName": "a:b"}),
    ("GET", "/container/info", {}),
    ("GET", "/container/logs", {"container": "good-c"}),
    ("GET", "/container/logs", {"container": "good-c", "stdout": "no", "stderr": "0"}),
    ("GET", "/container/logs", {"container": "good-c", "stdout": "1", "since": "yesterday"}),
    ("GET", "/container/logs", {"container": "good-c", "stdout": "1", "since": "-5"}),
    ("POST", "/exec/create", {"container": "good-c"}),
    ("POST", "/exec/create", {"container": "good-c", "command": "[]"}),
    ("POST", "/exec/create", {"container": "good-c", "command": "[1]"}),
    ("POST", "/exec/create", {"container": "good-c", "command": '["sh"'}),
    ("POST", "/exec/create", {"container": "good-c", "command": '["a\\u0000b"]'}),
    ("POST", "/exec/create", {"container": "good-c", "command": "'open"}),
    ("POST", "/exec/start", {"container": "good-c"}),
    ("GET", "/exitcode", {}),
    ("POST", "/attach", {}),
    ("POST", "/tty/resize", {"container": "good-c"}),
    ("POST", "/tty/resize", {"container": "good-c", "h": "1", "w": "wide"}),
    ("POST", "/tty/resize", {"container": "good-c", "h": "-1", "w": "1"}),
    ("POST", "/tty/resize", {"container": "good-c", "h": "1", "w": "70000"}),
    ("POST", "/execvm", {"pod": "good"}),
    ("POST", "/execvm", {"command": '["sh"]'}),
    ("POST", "/image/create", {}),
    ("POST", "/image/create", {"imageName": "UPPER"}),
    ("POST", "/image/create", {"imageName": "a b"}),
    ("DELETE", "/image", {}),
    ("DELETE", "/image", {"imageId": " "}),
    ("GET", "/images/get", {"filters": "["}),
    ("GET", "/images/get", {"filters": '{"size":["1"]}'}),
    ("GET", "/images/get", {"filters": '{"dangling":["maybe"]}'}),
    ("POST", "/auth", {}),
]


@pytest.mark.parametrize(("method", "path", "query"), MISSING, ids=[f"{m} {p} {q}"[:70] for m, p, q in MISSING])
def test_bad_parameters(daemon, method, path, query):
    refused(daemon.request(method, path, **query), 400)


NOT_RUNNING = [
    ("POST", "/exec/create", {"container": "good-c", "command": '["sh"]'}),
    ("POST", "/execvm", {"pod": "good", "command": '["sh"]'}),
    ("POST", "/pod/pause", {"podId": "good"}),
    ("POST", "/container/stop", {"container": "good-c"}),
]


@pytest.mark.parametrize(("method", "path", "query"), NOT_RUNNING, ids=[path for _, path, _ in NOT_RUNNING])
def test_what_needs_a_running_pod(daemon, method, path, query):
    refused(daemon.request(method, path, **query), (409, 412))


@pytest.mark.parametrize("body", ["{", "[]", '{"username":1}', '"x"'])
def test_bad_credentials_body(daemon, body):
    refused(daemon.request("POST", "/auth", body=body, headers={"Content-Type": "application/json"}), 400)


def test_unreachable_registry(daemon):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        refused(daemon.request("POST", "/image/create", imageName=f"127.0.0.1:{port}/x"), (502, 504))


def test_registry_without_the_image(daemon, registry):
    refused(daemon.request("POST", "/image/create", imageName=f"{registry.host}/none"), 404)


def test_body_that_is_too_large(daemon):
    body = b'{"id":"' + b"x" * (17 * 2**20) + b'"}'
    refused(daemon.request("POST", "/pod/create", body=body, headers={"Content-Type": "application/json"}), 413)


def test_chunked_body_that_is_too_large(daemon):
    with daemon.raw() as sock:
        sock.sendall(
            b"POST /pod/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        data = b"x" * 2**20
        try:
            for _ in range(18):
                sock.sendall(b"%x\r\n%s\r\n" % (len(data), data))
        except OSError:
            pass  # the server may answer and hang up before the end
        assert sock.recv(4096).startswith(b"HTTP/1.1 413")


def test_request_line_that_is_too_long(daemon):
    with daemon.raw() as sock:
        try:
            sock.sendall(b"GET /list?item=" + b"x" * (2 * 2**20))
            sock.sendall(b" HTTP/1.1\r\n\r\n")
        except OSError:
            pass
        assert sock.recv(4096).startswith(b"HTTP/1.1 414")


@pytest.mark.parametrize(
    "junk", [b"\r\n\r\n", b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00", bytes(100)]
)
def test_not_http(daemon, junk):
    with daemon.raw() as sock:
        sock.sendall(junk)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.recv(4096)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer
    assert daemon.request("GET", "/_ping")[0] == 200


def test_unexpected_failures_stay_in_the_log():
    with HyperdLauncher(command=[sys.executable, str(STUB)]) as launcher:
        launcher.start()
        status, _, body = launcher.request("POST", "/pod/create", body={"id": "broken"})
        assert status == 500
        text = body.decode()
        assert text.startswith("internal error (see the daemon's log, request ")
        assert "secret" not in text
        request_id = text.split()[-1].rstrip(")")
        assert request_id in launcher.log()
        assert "a secret of the daemon" in launcher.log()
        refused(launcher.request("POST", "/pod/create", body={"id": "notfound"}), 409, "no such thing")
        refused(launcher.request("POST", "/pod/create", body={"id": "image"}), 404, "No such image")
        refused(launcher.request("POST", "/container/start", container="x"), 409, "the container is busy: twice (wait)")
        for given, seen in (
            ("stopVM=no", "False"),
            ("STOPVM=0", "False"),
            ("stopvm=none", "False"),
            ("stopVm=yes", "True"),
            ("x=y", "True"),
            ("stopVM=no&stopVm=yes", "False"),
            ("stopVM=", "False"),
        ):
            refused(launcher.request("POST", f"/pod/stop?podId=a&{given}"), 409, f"stop_vm={seen}")


@pytest.mark.parametrize(
    "body",
    [b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n", b"5\r\n{}\r\n0\r\n\r\n000", b"2\r\n{}xx0\r\n\r\n", b"2;=\r\n{}\r\n0\r\n\r\n"],
    ids=["size", "negative", "short", "end", "extension"],
)
@pytest.mark.parametrize("path", ["/pod/create", "/image/load", "/image/build", "/image/push?remote=x"])
def test_bad_chunks(daemon, path, body):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with daemon.raw() as sock:
        sock.sendall(head.encode() + body)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(65536).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 499 "))


@pytest.mark.parametrize(
    "text", ['{"auth": "\u00e9"}', '{"auth": "%"}', '{"username": "\\ud800", "password": "x"}', "{}"]
)
def test_odd_credentials_of_a_push(daemon, registry, text):
    """They are no credentials: the push goes on without, and fails for its own reason."""
    headers = {"X-Registry-Auth": base64.urlsafe_b64encode(text.encode()).decode()}
    for answer in (
        daemon.request("POST", "/image/push", remote="nosuch", headers=headers),
        daemon.request("POST", "/image/push", remote="nosuch", body=text.encode()),
    ):
        refused(answer, 404, "nosuch")


@pytest.mark.parametrize(
    "given", [b'{"serveraddress": "http://[::1"}', b'{"username": "\\ud800", "serveraddress": "::"}']
)
def test_bad_credentials(daemon, given):
    status, _, body = daemon.request("POST", "/auth", body=given, headers={"Content-Type": "application/json"})
    assert status != 500
    assert b"internal error" not in body
