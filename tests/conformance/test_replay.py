"""The record of the original hyperctl 1.1.0, request by request in its order, on the daemon it is meant for.

Each line is what the client sent, byte for byte, and what has to come back: the status, and the whole body as a
pattern. ``<exec>`` and ``<id>`` stand for what an earlier answer gave. Where the record's daemon had a fault (an
unknown object was a 500, a killed exec had the code 0) the answer is the right one. The VMs only pretend here.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conformance.original import HEAD_101, Original, Stream, frames, go_json
from tests.support.daemon import HyperdLauncher
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]

CODE = r'\{"Cause":"","Code":0,"ID":"%s"\}\n'
VM, ID, EXEC = "vm-[A-Za-z]{10}", "[0-9a-f]{64}", "exec-[A-Za-z]{10}"
PORTS = '{"containerPort":"%s","hostPort":"%s","protocol":"%s"}'
TWO = (PORTS % ("1300", "18400", "tcp"), PORTS % ("1301", "18401", "udp"))
ADDED = PORTS % ("1302", "18402", "tcp")
LOGS = "follow=false&since=&stderr=true&stdout=true&tail=%s&timestamps=%s"


def rows(item: str, key: str, *found: str) -> str:
    listed = f'"{key}":\\[' + ",".join(f'"{row}"' for row in found) + r"\]"
    parts = sorted([listed, f'"item":"{item}"'])
    return r"\{" + ",".join(parts) + "\\}\n"


def ports(*found: str) -> str:
    return re.escape('{"portMappings":[' + ",".join(found) + "]}\n")


def full_pod(image: str) -> dict[str, Any]:
    """What ``hyperctl run -d --name full`` with all its flags sends."""
    container = {
        "name": "full",
        "image": image,
        "workdir": "/tmp",
        "restartPolicy": "never",
        "envs": [{"env": "A", "value": "b"}, {"env": "C", "value": "d=e"}],
        "command": ["-c", "sleep 1000"],
        "entrypoint": ["/bin/sh"],
        "volumes": [{"path": "/data", "volume": "data12345", "detail": {"name": "data12345"}}],
        "readOnly": True,
    }
    return {
        "id": "full",
        "labels": {"k": "v"},
        "resource": {"vcpu": 1, "memory": 160},
        "log": {"type": "json-file", "config": {"max-size": "1m"}},
        "containers": [container],
        "portmappings": [json.loads(text) for text in TWO],
    }


@dataclass
class Replay:
    """A client process that sends lines of the record. ``known`` are the values of placeholders."""

    client: Original
    known: dict[str, str] = field(default_factory=dict)

    def message(self, line: str, body: object = None, more: str = "") -> bytes:
        """Write a request as the client does: nothing in Host, lengths and types only where it gives them."""
        method, target = line.split(" ")
        for name, value in self.known.items():
            target = target.replace(f"<{name}>", value)
        data = b"" if body is None else go_json(body).encode() + b"\n"
        kind = "text/plain" if body is None else "application/json"
        head = f"{method} {target} HTTP/1.1\r\nHost: \r\nUser-Agent: Hyper-Client/1.1.0\r\n"
        if method in ("POST", "PUT"):
            head += f"Content-Length: {len(data)}\r\n"
        if more:
            head += "Connection: Upgrade\r\n"
        if method != "GET":
            head += f"Content-Type: {kind}\r\n"
        return f"{head}{more}\r\n".encode() + data

    def plain(self, line: str, status: int, pattern: str, body: object = None) -> str:
        """Send a plain call on the kept connection; give the body."""
        sock = self.client.wire._connected()
        sock.sendall(self.message(line, body))
        reply = self.client.wire._answer(sock)
        text = reply.body.decode()
        assert (reply.status, bool(re.fullmatch(pattern, text))) == (status, True), (line, reply.status, text, pattern)
        return text

    def hijack(self, line: str) -> Stream:
        """Open a stream on a connection of its own; the head is the original's to the byte."""
        sock = self.client.wire._connect()
        sock.sendall(self.message(line, more="Upgrade: tcp\r\n"))
        stream = Stream(sock)
        assert stream.head == HEAD_101
        return stream

    def exec(self, query: str, *, stdin: bytes = b"", tty: bool = False, code: int | None = 0) -> bytes:
        """Do the three requests of an exec; give what came, raw. ``code`` None: a terminal's client asks otherwise."""
        container = re.findall("container=([^&]+)", query)[0]
        self.known["exec"] = json.loads(self.plain(f"POST /v1.1.0/exec/create?{query}", 201, f'"{EXEC}"\n'))
        stream = self.hijack(f"POST /v1.17/exec/start?container={container}&exec=<exec>")
        stream.send(stdin)
        stream.half_close()
        said = stream.raw()
        if code is None:
            self.plain(f"GET /v1.1.0/container/info?container={container}", 200, r"\{.*\}\n")
        else:
            self.plain(f"GET /v1.1.0/exitcode?container={container}&exec=<exec>", 200, f"{code}\n")
        return said if tty else b"".join(data for _, data in frames(said))

    def list(self, query: str, pattern: str) -> None:
        self.plain(f"GET /v1.1.0/list?{query}", 201, pattern)


@pytest.fixture
def replay(daemon: HyperdLauncher) -> Iterator[Replay]:
    with closing(Original(daemon.socket)) as client:
        yield Replay(client)
        for row in client.list():
            client.remove(row[0])


def test_a_running_pod(replay: Replay, image: str) -> None:
    """The record from ``info`` to ``ports delete``, ``pause`` and ``logs``."""
    replay.plain("GET /v1.1.0/info", 200, r'\{"Containers":0,"DockerRootDir":"[^"]+",.*,"Pods":0\}\n')
    images = rf'\{{"imagesList":\["{re.escape(image)}:{ID}:\d+:\d+"\]\}}\n'
    replay.plain("GET /v1.1.0/images/get?all=no&quiet=no", 200, images)
    replay.plain("GET /v1.1.0/images/get?all=yes&quiet=yes", 200, images)
    replay.list("item=pod", rows("pod", "podData"))
    replay.plain("POST /v1.1.0/pod/create", 201, CODE % "full", full_pod(image))
    replay.plain("POST /v1.1.0/pod/start?podId=full", 200, CODE % VM)
    replay.list("item=pod", rows("pod", "podData", f"full:full:{VM}:running"))
    replay.list("item=container", rows("container", "cData", f"{ID}:full:full:running"))
    replay.list("item=vm", rows("vm", "vmData", f"{VM}:full:associated"))
    replay.list("item=container&pod=full", rows("container", "cData", f"{ID}:full:full:running"))
    words = "%5B%22sh%22%2C%22-c%22%2C%22echo+out%3B+echo+err+%5Cu003e%5Cu00262%3B+exit+37%22%5D"
    both = replay.exec(f"command={words}&container=full&tty=false", code=37)
    assert sorted(both.splitlines()) == [b"err", b"out"]
    assert replay.exec("command=%5B%22cat%22%5D&container=full&tty=false", stdin=b"typed\n") == b"typed\n"
    words = "%5B%22sh%22%2C%22-c%22%2C%22stty+size%3B+exit+5%22%5D"
    size = replay.exec(f"command={words}&container=full&tty=true", tty=True, code=None)
    assert re.fullmatch(rb"\d+ \d+\r\n", size)
    assert replay.exec("command=%5B%22sleep%22%2C%221%22%5D&container=full&tty=false") == b""
    words = "%5B%22sh%22%2C%22-c%22%2C%22kill+-9+%24%24%22%5D"
    assert replay.exec(f"command={words}&container=full&tty=false", code=137) == b""
    words = "%5B%22sh%22%2C%22-c%22%2C%22echo+aaa%3B+exit+3%22%5D"
    stream = replay.hijack(f"POST /v1.17/execvm?command={words}&pod=full")
    stream.half_close()
    assert stream.raw() == b"aaa\n"
    gone = "Can not find container by name\\(nosuch\\)\n"
    replay.plain("POST /v1.1.0/exec/create?command=%5B%22true%22%5D&container=nosuch&tty=false", 404, gone)
    replay.plain("GET /v1.1.0/pod/full/portmappings", 200, ports(*TWO))
    replay.plain("PUT /v1.1.0/pod/full/portmappings/add", 204, "", [json.loads(ADDED)])
    replay.plain("GET /v1.1.0/pod/full/portmappings", 200, ports(ADDED, *TWO))
    replay.plain("PUT /v1.1.0/pod/full/portmappings/delete", 204, "", [json.loads(ADDED)])
    replay.plain("GET /v1.1.0/pod/full/portmappings", 200, ports(*TWO))
    replay.plain("GET /v1.1.0/pod/nosuch/portmappings", 404, "Pod nosuch not found\n")
    replay.plain("POST /v1.1.0/pod/pause?podId=full", 204, "")
    replay.list("item=pod", rows("pod", "podData", f"full:full:{VM}:paused"))
    replay.plain("POST /v1.1.0/pod/unpause?podId=full", 204, "")
    replay.plain("GET /v1.1.0/container/info?container=full", 200, r'\{"container":\{"name":"/full",.*\}\n')
    replay.plain(f"GET /v1.1.0/container/logs?container=full&{LOGS % ('', 'false')}", 200, "")


def test_containers_of_a_pod(replay: Replay, image: str) -> None:
    """The record from ``create -c`` to ``rm``."""
    replay.plain("POST /v1.1.0/pod/create", 201, CODE % "full", full_pod(image))
    replay.plain("POST /v1.1.0/pod/start?podId=full", 200, CODE % VM)
    script = "echo hello-log; echo err >&2; sleep 1000"
    second = {"name": "second", "image": image, "command": ["sh", "-c", script], "restartPolicy": "never"}
    made = replay.plain("POST /v1.1.0/container/create?podId=full", 201, rf'\{{"ID":"{ID}"\}}\n', second)
    replay.known["id"] = json.loads(made)["ID"]
    extra = {"name": "extra", "image": image, "command": ["sleep", "1000"]}
    replay.plain("POST /v1.1.0/container/create?podId=full", 201, rf'\{{"ID":"{ID}"\}}\n', extra)
    replay.plain("POST /v1.1.0/container/start?container=second", 200, r"\{\}\n")
    # At once: who attaches within three seconds of the start is given what was written before.
    stream = replay.hijack("POST /v1.17/attach?container=<id>")
    stream.half_close()  # hyperctl with nothing to say; the container runs on
    stream.sock.settimeout(60)
    seen = stream.exactly(30)  # what it wrote in its first seconds: two frames
    assert sorted(frames(seen)) == [(1, b"hello-log\n"), (2, b"err\n")]
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z "
    line = "GET /v1.1.0/container/logs?container=second&" + LOGS

    def log(query: str) -> list[tuple[int, bytes]]:
        sock = replay.client.wire._connected()
        sock.sendall(replay.message(query))
        reply = replay.client.wire._answer(sock)
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        return sorted(frames(reply.body))

    until(lambda: log(line % ("", "false")) == [(1, b"hello-log\n"), (2, b"err\n")])
    assert all(re.fullmatch(stamp.encode() + rb"(hello-log|err)\n", text) for _, text in log(line % ("5", "true")))
    replay.plain("GET /v1.1.0/container/info?container=nosuch", 404, "Can not find container by name\\(nosuch\\)\n")
    replay.plain(
        "GET /v1.1.0/container/info?container=second", 200, rf'\{{.*"containerID":"{replay.known["id"]}".*\}}\n'
    )
    stream.sock.settimeout(1.0)
    with pytest.raises(TimeoutError):
        stream.sock.recv(1)
    stream.sock.settimeout(60)
    replay.plain("POST /v1.1.0/container/kill?container=second&signal=15", 201, r"\{\}\n")
    assert stream.raw() == b""  # it ends with the container
    replay.plain("POST /v1.1.0/container/kill?container=second&signal=9", 201, r"\{\}\n")
    states = [f"{ID}:full:full:running", f"{ID}:second:full:failed", f"{ID}:extra:full:pending"]
    replay.list("item=container", rows("container", "cData", *states))
    replay.plain("POST /v1.1.0/container/stop?container=extra", 200, r"\{\}\n")
    replay.plain("POST /v1.1.0/container/remove?container=extra", 204, "")
    replay.plain("POST /v1.1.0/container/remove?container=nosuch", 404, ".+nosuch.+\n")


def test_the_end_of_a_pod(replay: Replay, image: str) -> None:
    replay.plain("POST /v1.1.0/pod/create", 201, CODE % "full", full_pod(image))
    replay.plain("POST /v1.1.0/pod/start?podId=full", 200, CODE % VM)
    replay.plain("POST /v1.1.0/pod/kill?podName=full&signal=9", 200, r"\{\}\n")
    replay.list("item=vm", rows("vm", "vmData"))
    replay.plain("POST /v1.1.0/pod/stop?podId=full&stopVm=yes", 200, CODE % "full")
    replay.plain("POST /v1.1.0/pod/stop?podId=nosuch&stopVm=yes", 404, ".*nosuch.*\n")
    replay.plain("POST /v1.1.0/pod/start?podId=full", 200, CODE % VM)
    replay.plain("POST /v1.1.0/pod/start?podId=nosuch", 404, ".*nosuch.*\n")
    replay.plain("DELETE /v1.1.0/pod?podId=full", 200, CODE % "full")
    replay.plain("DELETE /v1.1.0/pod?podId=nosuch", 404, ".*nosuch.*\n")
    replay.plain("DELETE /v1.1.0/pod?podId=nosuch2", 404, ".*nosuch2.*\n")


def test_an_attached_run(replay: Replay, image: str) -> None:
    """Start and attach leave at the same moment on two connections; the code is asked for when the stream has ended."""
    name = "busybox-1058252368"
    container = {"name": name, "image": image, "command": ["sh", "-c", "echo out; echo err >&2; exit 17"]}
    pod = {"id": name, "resource": {"vcpu": 1, "memory": 128}, "log": {}, "containers": [container]}
    replay.plain("POST /v1.1.0/pod/create", 201, CODE % name, pod)
    replay.plain(f"GET /v1.1.0/pod/info?podName={name}", 200, rf'\{{"podID":"{name}",.*"tty":false,.*\}}\n')
    started: list[str] = []
    line = f"POST /v1.1.0/pod/start?podId={name}"
    thread = threading.Thread(target=lambda: started.append(replay.plain(line, 200, CODE % VM)))
    thread.start()
    stream = replay.hijack(f"POST /v1.17/attach?container={name}")
    stream.half_close()
    assert sorted(stream.frames()) == [(1, b"out\n"), (2, b"err\n")]
    thread.join(60)
    assert started
    replay.plain(f"GET /v1.1.0/exitcode?container={name}&exec=", 200, "17\n")
    replay.plain(f"DELETE /v1.1.0/pod?podId={name}", 200, CODE % name)


def test_sizes_times_and_generated_names(replay: Replay, image: str) -> None:
    """``run`` of a podfile without an id, ``exec`` and ``attach`` by it, a terminal's size, ``logs -f --since``."""
    body = {
        "containers": [{"name": "tick", "image": image, "command": ["sh", "-c", "echo tick; sleep 1000"]}],
        "log": {},
    }
    pod = json.loads(replay.plain("POST /v1.1.0/pod/create", 201, CODE % "pod-[A-Za-z]{10}", body))["ID"]
    vm = json.loads(replay.plain(f"POST /v1.1.0/pod/start?podId={pod}", 200, CODE % VM))["ID"]
    replay.list(f"item=container&pod={pod}", rows("container", "cData", f"{ID}:tick:{pod}:running"))
    replay.list(f"item=pod&vm={vm}", rows("pod", "podData", f"{pod}:{pod}:{vm}:running"))
    words = "%5B%22sh%22%2C%22-c%22%2C%22read+x%3B+stty+size%22%5D"
    line = f"POST /v1.1.0/exec/create?command={words}&container=tick&tty=true"
    replay.known["exec"] = json.loads(replay.plain(line, 201, f'"{EXEC}"\n'))
    stream = replay.hijack("POST /v1.17/exec/start?container=tick&exec=<exec>")
    replay.plain("POST /v1.1.0/tty/resize?container=tick&exec=<exec>&h=40&w=100", 200, "")
    stream.send(b"\n")
    assert stream.raw().endswith(b"40 100\r\n")
    query = "container=tick&follow=true&since=1600000000&stderr=true&stdout=true&tail=&timestamps=false"
    with replay.client.wire._connect() as sock:
        sock.sendall(replay.message(f"GET /v1.1.0/container/logs?{query}"))
        said = b""
        while b"tick\n" not in said:
            said += sock.recv(4096)
        assert said.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n")
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)  # it follows
        sock.shutdown(socket.SHUT_RDWR)
