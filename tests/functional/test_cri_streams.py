"""Exec, attach and port-forward of Kubernetes' CRI, with clients of others: websocket-client, kubectl."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import websocket

from tests.support.cri import CriClient
from tests.support.daemon import HyperdLauncher
from tests.support.kubectl import KubeProxy, Query
from tests.support.registry import Layer, RegistryServer, busybox_tar, make_certificates
from tests.support.spdy import Frame, SpdyClient
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
SUCCESS = {"metadata": {}, "status": "Success"}
NO_PORT = 1  # nothing listens there


@pytest.fixture(scope="module")
def daemon() -> Iterator[HyperdLauncher]:
    with HyperdLauncher(config="stop_grace = 1\n") as launcher:
        launcher.start("--cri", f"unix://{launcher.directory}/cri.sock")
        yield launcher
        assert "internal_error" not in launcher.log()
        assert "task_failed" not in launcher.log()


@pytest.fixture(scope="module")
def cri(daemon: HyperdLauncher) -> Iterator[CriClient]:
    with CriClient(daemon.directory / "cri.sock") as client:
        yield client


@pytest.fixture(scope="module")
def image(cri: CriClient) -> Iterator[str]:
    with RegistryServer() as server:
        server.push("busybox", "latest", [Layer(busybox_tar())])
        cri.PullImage(image={"image": f"{server.host}/busybox:latest"})
        yield f"{server.host}/busybox:latest"


@pytest.fixture(scope="module")
def pod(cri: CriClient) -> Iterator[str]:
    metadata = {"name": "streams", "uid": "streams", "namespace": "default"}
    ident = cri.RunPodSandbox(config={"metadata": metadata}).pod_sandbox_id
    yield ident
    cri.RemovePodSandbox(pod_sandbox_id=ident)


@pytest.fixture(scope="module")
def run(cri: CriClient, pod: str, image: str) -> Callable[..., str]:
    """Yield a function that runs a container with a script and gives its id."""

    def start(name: str, script: str, **fields: Any) -> str:
        config = {
            "metadata": {"name": name},
            "image": {"image": image},
            "command": ["sh", "-c", script],
            "stdin": True,
            **fields,
        }
        ident = cri.CreateContainer(pod_sandbox_id=pod, config=config).container_id
        cri.StartContainer(container_id=ident)
        return str(ident)

    return start


@pytest.fixture(scope="module")
def main(run: Callable[..., str]) -> str:
    return run("main", "sleep 1000")


_OPEN: list[Callable[[], object]] = []


@pytest.fixture(autouse=True)
def connections() -> Iterator[None]:
    """Close what a test has opened."""
    yield
    while _OPEN:
        _OPEN.pop()()


class Channels:
    """A WebSocket with channels."""

    def __init__(self, url: str, protocol: str = V4) -> None:
        self.socket = websocket.create_connection(url.replace("http", "ws", 1), timeout=30, subprotocols=[protocol])
        _OPEN.append(self.socket.shutdown)
        assert self.socket.subprotocol == protocol
        self.got: dict[int, bytes] = {}

    def send(self, channel: int, data: bytes) -> None:
        self.socket.send_binary(bytes([channel]) + data)

    def read(self, channel: int, wanted: bytes) -> None:
        """Read until something has come on a channel."""
        while wanted not in self.got.get(channel, b""):
            assert self.take(), self.got

    def take(self) -> bool:
        opcode, data = self.socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return False
        self.got[data[0]] = self.got.get(data[0], b"") + data[1:]
        return True

    def rest(self) -> dict[str, Any]:
        """Read to the end and give the status."""
        while self.take():
            pass
        return dict(json.loads(self.got.pop(ERROR)))


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


# -- exec


@pytest.mark.parametrize("protocol", [V4, V5])
def test_a_command(cri: CriClient, main: str, protocol: str) -> None:
    script = "echo out; echo err >&2; exit 3"
    url = cri.Exec(container_id=main, cmd=["sh", "-c", script], stdout=True, stderr=True).url
    assert url.startswith("http://127.0.0.1:")
    client = Channels(url, protocol)
    status = client.rest()
    assert client.got == {STDOUT: b"out\n", STDERR: b"err\n"}
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
    assert status["details"] == {"causes": [{"reason": "ExitCode", "message": "3"}]}


def test_only_the_outputs_that_were_asked_for(cri: CriClient, main: str) -> None:
    client = Channels(cri.Exec(container_id=main, cmd=["sh", "-c", "echo out; echo err >&2"], stderr=True).url)
    assert client.rest() == SUCCESS
    assert client.got == {STDERR: b"err\n"}


def test_input_ends_in_version_5(cri: CriClient, main: str) -> None:
    client = Channels(cri.Exec(container_id=main, cmd=["cat"], stdin=True, stdout=True).url, V5)
    text = b"0123456789abcdef" * 40_000
    for at in range(0, len(text), 50_000):
        client.send(STDIN, text[at : at + 50_000])
    client.send(STDIN, b"")
    client.socket.send_binary(bytes([CLOSE, STDIN]))
    assert client.rest() == SUCCESS
    assert client.got[STDOUT] == text


def test_input_of_version_4_ends_with_the_connection(cri: CriClient, main: str, tmp_path: Path) -> None:
    done = tmp_path / "done"  # the fake guest runs programs here
    client = Channels(cri.Exec(container_id=main, cmd=["sh", "-c", f"cat; touch {done}"], stdin=True, stdout=True).url)
    client.send(STDIN, b"hello")
    client.socket.send_binary(bytes([CLOSE, STDIN]))  # means nothing yet
    client.read(STDOUT, b"hello")
    assert not done.exists()
    client.socket.close()
    until(done.exists)


def test_a_terminal(cri: CriClient, main: str) -> None:
    url = cri.Exec(container_id=main, cmd=["sh"], stdin=True, stdout=True, tty=True).url
    client = Channels(url, V5)
    client.send(RESIZE, b'{"Width":101,"Hei')
    client.send(RESIZE, b'ght":33}\n{"Width":0,"Height":9}rubbish')
    client.send(STDIN, b"until [ \"$(stty size)\" = '33 101' ]; do sleep 0.1; done; echo si''ze\n")
    client.read(STDOUT, b"size\r\n")
    client.send(STDIN, b"exit 5\n")
    assert client.rest()["details"]["causes"][0]["message"] == "5"


def test_a_program_that_cannot_be_executed(cri: CriClient, main: str) -> None:
    client = Channels(cri.Exec(container_id=main, cmd=["/no/such"], stdout=True, stderr=True).url)
    assert client.rest()["details"]["causes"][0]["message"] == "127"
    assert b"No such file" in client.got[STDERR]


def test_the_container_ends_before_the_stream_is_fetched(cri: CriClient, run: Callable[..., str]) -> None:
    ident = run("short", "sleep 1000")
    url = cri.Exec(container_id=ident, cmd=["true"], stdout=True).url
    attached = cri.Attach(container_id=ident, stdout=True).url
    cri.StopContainer(container_id=ident)
    for one in (url, attached):
        status = Channels(one).rest()
        assert (status["status"], status["reason"]) == ("Failure", "InternalError")
        assert "not running" in status["message"]


def test_many_idle_streams_hold_no_threads(cri: CriClient, daemon: HyperdLauncher, main: str) -> None:
    def threads() -> int:
        return len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))

    first = Channels(cri.Exec(container_id=main, cmd=["cat"], stdin=True, stdout=True).url, V5)
    first.send(STDIN, b"ready")
    first.read(STDOUT, b"ready")
    before = threads()
    clients = [Channels(cri.Attach(container_id=main, stdout=True).url, V5) for _ in range(60)]
    assert threads() <= before + 8  # pools may have grown to their size
    for client in clients:
        client.socket.close()
    first.socket.close()


# -- attach


def test_attach(cri: CriClient, run: Callable[..., str]) -> None:
    ident = run("attached", "while read line; do echo got $line; echo err >&2; done; sleep 1000")
    client = Channels(cri.Attach(container_id=ident, stdin=True, stdout=True, stderr=True).url, V5)
    client.send(STDIN, b"one\n")
    client.read(STDOUT, b"got one\n")
    client.read(STDERR, b"err\n")
    other = Channels(cri.Attach(container_id=ident, stdin=True, stdout=True).url, V5)
    other.socket.send_binary(bytes([CLOSE, STDIN]))  # stdin is not stdin_once: it stays open
    other.socket.close()
    client.send(STDIN, b"two\n")
    client.read(STDOUT, b"got two\n")
    cri.StopContainer(container_id=ident)
    assert client.rest() == SUCCESS


def test_stdin_once_ends_with_its_client(cri: CriClient, run: Callable[..., str]) -> None:
    ident = run("once", "cat; echo end; sleep 1000", stdin_once=True)
    client = Channels(cri.Attach(container_id=ident, stdin=True, stdout=True).url, V5)
    client.send(STDIN, b"text\n")
    client.socket.send_binary(bytes([CLOSE, STDIN]))
    client.read(STDOUT, b"text\nend\n")
    client.socket.close()


# -- SPDY, by a client's half of the tests' own


class Spdy:
    """A connection that was upgraded to SPDY/3.1."""

    def __init__(self, url: str, protocol: str = V4) -> None:
        place = urlsplit(url)
        self.socket = socket.create_connection((place.hostname or "", place.port or 0), timeout=90)
        _OPEN.append(self.socket.close)
        self.socket.sendall(
            f"POST {place.path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            f"X-Stream-Protocol-Version: v9.other\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n".encode()
        )
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += self.socket.recv(1)
        self.client = SpdyClient()

    def frames(self) -> Iterator[Frame]:
        while data := self.socket.recv(65_536):
            yield from self.client.frames(data)


def test_a_command_over_spdy(cri: CriClient, main: str) -> None:
    url = cri.Exec(container_id=main, cmd=["sh", "-c", "cat; exit 3"], stdin=True, stdout=True, stderr=True).url
    spdy = Spdy(url)
    assert spdy.head.startswith(b"HTTP/1.1 101 ")
    assert f"x-stream-protocol-version: {V4}\r\n".encode() in spdy.head.lower()
    names = {1: "error", 3: "stdin", 5: "stdout", 7: "stderr"}
    spdy.socket.sendall(b"".join(spdy.client.open(stream, {"streamType": name}) for stream, name in names.items()))
    spdy.socket.sendall(spdy.client.ping(1) + spdy.client.data(3, b"hello\n") + spdy.client.data(3, b"", end=True))
    found = list(spdy.frames())
    data = {
        number: b"".join(one.body for one in found if (one.kind, one.stream) == ("DATA", number)) for number in names
    }
    assert (data[5], data[7]) == (b"hello\n", b"")
    assert json.loads(data[1])["details"]["causes"][0]["message"] == "3"
    assert {one.stream for one in found if one.kind == "DATA" and one.flags & 1} == {1, 5, 7}
    assert [one.kind for one in found].count("PING") == 1
    assert found[-1].kind == "GOAWAY"


def test_a_client_that_leaves_before_its_streams_starts_nothing(cri: CriClient, main: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    spdy = Spdy(cri.Exec(container_id=main, cmd=["touch", str(ran)], stdout=True).url)
    spdy.socket.sendall(spdy.client.open(1, {"streamType": "error"}))
    spdy.socket.close()
    assert Channels(cri.Exec(container_id=main, cmd=["true"], stdout=True).url).rest() == SUCCESS
    assert not ran.exists()


def test_spdy_that_is_none(cri: CriClient, main: str) -> None:
    spdy = Spdy(cri.Exec(container_id=main, cmd=["true"], stdout=True).url)
    spdy.socket.sendall(b"\xff" * 20)
    assert [one.kind for one in spdy.frames()] == ["GOAWAY"]


# -- ports


def test_a_port_where_nobody_listens(cri: CriClient, pod: str) -> None:
    client = Channels(cri.PortForward(pod_sandbox_id=pod, port=[NO_PORT, 2]).url)
    while client.take():
        pass
    number = NO_PORT.to_bytes(2, "little")
    assert client.got[0] == number
    assert client.got[1].startswith(number)
    assert len(client.got[1]) > len(number)
    assert sorted(client.got) == [0, 1, 2, 3]
    # Over SPDY two streams for each connection.
    spdy = Spdy(cri.PortForward(pod_sandbox_id=pod).url, "portforward.k8s.io")
    headers = {"port": str(NO_PORT), "requestID": "0"}
    spdy.socket.sendall(spdy.client.open(1, {"streamType": "error", **headers}, end=True))
    spdy.socket.sendall(spdy.client.open(3, {"streamType": "data", **headers}))
    spdy.socket.sendall(spdy.client.open(5, {"streamType": "data", "port": "x", "requestID": "1"}))
    found: list[Frame] = []
    for frame in spdy.frames():
        found.append(frame)
        ended = {one.stream for one in found if one.kind == "DATA" and one.flags & 1}
        refused = [one.stream for one in found if one.kind == "RST_STREAM"]
        if ended == {1, 3} and refused:  # whichever comes first
            break
    assert b"".join(one.body for one in found if (one.kind, one.stream) == ("DATA", 1))
    assert refused == [5]
    spdy.socket.close()


# -- what is refused


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"cmd": ["true"]}, "INVALID_ARGUMENT", "stdout"),
        ({"cmd": [], "stdout": True}, "INVALID_ARGUMENT", "command"),
        ({"cmd": ["true"], "stdout": True, "stderr": True, "tty": True}, "INVALID_ARGUMENT", "tty"),
        ({"cmd": ["true"], "stdout": True, "container_id": "no"}, "NOT_FOUND", "no"),
    ],
)
def test_commands_that_cannot_be(cri: CriClient, main: str, fields: Any, code: str, word: str) -> None:
    found, message = refused(lambda: cri.Exec(**{"container_id": main, **fields}))
    assert (found, word in message) == (code, True)


def test_other_calls_that_cannot_be(cri: CriClient, run: Callable[..., str], pod: str) -> None:
    ident = run("ended", "true")
    until(lambda: refused(lambda: cri.Attach(container_id=ident, stdout=True))[0] == "FAILED_PRECONDITION")
    assert refused(lambda: cri.Exec(container_id=ident, cmd=["true"], stdout=True))[0] == "FAILED_PRECONDITION"
    assert refused(lambda: cri.PortForward(pod_sandbox_id=pod, port=[0]))[0] == "INVALID_ARGUMENT"
    assert refused(lambda: cri.PortForward(pod_sandbox_id="no"))[0] == "NOT_FOUND"


def asked(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=90)
    connection.request(method, place.path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_tokens_are_good_once(cri: CriClient, main: str) -> None:
    url = cri.Exec(container_id=main, cmd=["true"], stdout=True).url
    kind, token = urlsplit(url).path.strip("/").split("/")
    assert asked(url.replace(kind, "attach"))[0] == 404
    assert asked(url.replace(token, "x" * len(token)))[0] == 404
    assert asked(url, "DELETE")[0] == 405
    assert Channels(url).rest() == SUCCESS
    assert asked(url)[0] == 404
    url = cri.Exec(container_id=main, cmd=["true"], stdout=True).url
    assert asked(url)[0] == 400  # it wants an upgrade, and the token is gone, too
    assert asked(url)[0] == 404


def test_protocols_that_nobody_knows(cri: CriClient, main: str) -> None:
    def url() -> str:
        return str(cri.Exec(container_id=main, cmd=["true"], stdout=True).url)

    spdy = Spdy(url(), "v0.other")
    assert spdy.head.startswith(b"HTTP/1.1 403 ")
    assert b"X-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io" in spdy.head
    words = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    status, message = asked(url(), Sec_WebSocket_Version="13", Sec_WebSocket_Protocol="v0.other", **words)
    assert (status, V5 in message) == (400, True)
    assert asked(url(), Sec_WebSocket_Version="8", Sec_WebSocket_Protocol=V4, **words)[0] == 400
    assert asked(url(), Connection="Upgrade", Upgrade="tcp")[0] == 400


def test_requests_that_are_none(cri: CriClient, main: str) -> None:
    place = urlsplit(cri.Exec(container_id=main, cmd=["true"], stdout=True).url)
    for sent in (b"rubbish\r\n\r\n", b"G" * 100_000, b""):
        client = socket.create_connection((place.hostname or "", place.port or 0), timeout=90)
        with client, contextlib.suppress(OSError):  # it may have closed already
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1000) == b""
    assert Channels(place.geturl()).rest() == SUCCESS


# -- kubectl (Go's client), where there is one


@pytest.fixture(scope="module")
def kube(pod: str, main: str, cri: CriClient) -> Iterator[KubeProxy]:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")

    def stream(kind: str, query: Query) -> str:
        wanted = {key: query.get(key) == ["true"] for key in ("stdin", "stdout", "stderr", "tty")}
        if kind == "exec":
            return str(cri.Exec(container_id=main, cmd=query["command"], **wanted).url)
        return str(cri.PortForward(pod_sandbox_id=pod).url)

    with KubeProxy(stream) as proxy:
        yield proxy


@pytest.mark.parametrize("spdy", [False, True])
def test_kubectl_exec(kube: KubeProxy, spdy: bool) -> None:
    done = kube.kubectl("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3", spdy=spdy)
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert done.stderr == b"err\ncommand terminated with exit code 3\n"
    text = b"0123456789abcdef" * 40_000
    done = kube.kubectl("exec", "-i", "web", "--", "cat", data=text, spdy=spdy)
    assert (done.returncode, done.stdout, done.stderr) == (0, text, b"")
    assert kube.protocols[-1] == ("spdy" if spdy else "websocket")


def test_streams_over_tls(image: str, tmp_path: Path) -> None:
    authority, certificate, key = make_certificates(tmp_path)
    settings = f'stop_grace = 1\n[cri]\nstream_cert = "{certificate}"\nstream_key = "{key}"\n'
    with HyperdLauncher(config=settings) as launcher:
        launcher.start("--cri", f"unix://{launcher.directory}/cri.sock")
        with CriClient(launcher.directory / "cri.sock") as cri:
            cri.PullImage(image={"image": image})
            metadata = {"name": "tls", "uid": "tls", "namespace": "default"}
            pod = cri.RunPodSandbox(config={"metadata": metadata}).pod_sandbox_id
            config = {"metadata": {"name": "main"}, "image": {"image": image}, "command": ["sleep", "100"]}
            container = cri.CreateContainer(pod_sandbox_id=pod, config=config).container_id
            cri.StartContainer(container_id=container)
            url = str(cri.Exec(container_id=container, cmd=["cat"], stdin=True, stdout=True).url)
            assert url.startswith("https://127.0.0.1:")
            plain = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
            with contextlib.closing(plain):
                plain.request("GET", urlsplit(url).path)
                with pytest.raises((OSError, http.client.HTTPException)):
                    plain.getresponse()
            client = websocket.create_connection(
                url.replace("https", "wss", 1), subprotocols=[V5], sslopt={"ca_certs": str(authority)}, timeout=30
            )
            with contextlib.closing(client):
                text = bytes(range(256)) * 4000
                for at in range(0, len(text), 32_000):
                    client.send_binary(bytes([STDIN]) + text[at : at + 32_000])
                client.send_binary(bytes([CLOSE, STDIN]))
                got = b""
                while (message := client.recv())[:1] != bytes([ERROR]):
                    got += message[1:] if message[0] == STDOUT else b""
                assert json.loads(message[1:]) == SUCCESS
                assert got == text
            cri.RemovePodSandbox(pod_sandbox_id=pod)
        launcher.stop()
        assert not (launcher.root / "run" / "cri-streams.sock").exists()
