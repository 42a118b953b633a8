"""The original hyperctl 1.1.0 as its daemon saw it: the bytes it sends, what it reads of the answers, what it prints.

Written from a record of the original Go client on the wire. ``Wire`` speaks (Go's net/http, httputil and url
packages as far as the client uses them), ``Original`` has one method for each command. ``Wire.requests`` keeps the
request lines in the order in which the record has them.
"""

from __future__ import annotations

import email.parser
import json
import re
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

VERSION = "1.1.0"
PLAIN, HIJACK = f"/v{VERSION}", "/v1.17"
HEAD_101 = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
TIMEOUT = 120.0
ERROR = 255

Query = Sequence[tuple[str, str]]


def encode(query: Query) -> str:
    """Write a query as Go's url.Values.Encode does: sorted by key, space as plus."""
    return "&".join(f"{key}={quote_plus(value)}" for key, value in sorted(query, key=lambda pair: pair[0]))


def go_json(value: object) -> str:
    """Write JSON as Go's encoder does."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


class RefusedError(Exception):
    """An answer with status 400 or above, as the client prints it."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"Error from daemon's response: {body.decode().strip()}")
        self.status = status
        self.body = body


@dataclass
class Reply:
    """An answer with its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Reader:
    """Reads one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def until(self, mark: bytes) -> bytes:
        """Return everything up to and with the mark."""
        while mark not in self._buffer:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError(f"the connection ended after {self._buffer!r}")
            self._buffer += more
        head, _, self._buffer = self._buffer.partition(mark)
        return head + mark

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError("the connection ended inside a body")
            self._buffer += more
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def rest(self) -> bytes:
        data, self._buffer = self._buffer, b""
        while more := self.sock.recv(1 << 20):
            data += more
        return data


class Stream:
    """A hijacked connection. ``head`` is what came before the stream, whatever it was."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._reader = Reader(sock)
        self.head = self._reader.until(b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def raw(self) -> bytes:
        """Read until the daemon closes."""
        with self.sock:
            return self._reader.rest()

    def exactly(self, count: int) -> bytes:
        """Read so many bytes, those that came with the head first."""
        return self._reader.exactly(count)

    def frames(self) -> list[tuple[int, bytes]]:
        """Read stdcopy frames until the daemon closes."""
        return frames(self.raw())


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Take stdcopy frames apart as strictly as Docker's StdCopy does."""
    out = []
    while data:
        assert len(data) >= 8, f"a frame's header was cut off: {data!r}"
        stream, zeros, size = struct.unpack_from("!B3sI", data)
        assert (stream in (1, 2), zeros) == (True, b"\0\0\0"), f"Unrecognized input header: {data[:8]!r}"
        assert len(data) >= 8 + size, "a frame was cut off"
        out.append((stream, data[8 : 8 + size]))
        data = data[8 + size :]
    return out


class Wire:
    """One client process: a kept-alive connection for plain calls, a new one for each hijacked call.

    Args:
        path: of the daemon's unix socket.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self.requests: list[str] = []
        self.sent: list[bytes] = []
        self.connections = 0

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def call(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        body: object = None,
        chunks: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make a plain call and read the whole answer. Errors: RefusedError."""
        reply = self.ask(method, path, query, body=body, chunks=chunks, headers=headers)
        if not 200 <= reply.status < 400:
            raise RefusedError(reply.status, reply.body)
        return reply

    def ask(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        body: object = None,
        chunks: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make a plain call whatever is answered."""
        extra = dict(headers or {})
        data, framing = b"", ""
        if body is not None:
            data = go_json(body).encode() + b"\n"
            extra["Content-Type"] = "application/json"
        elif method in ("POST", "PUT", "DELETE"):
            extra.setdefault("Content-Type", "text/plain")
        if chunks is not None:
            framing = "Transfer-Encoding: chunked\r\n"
            data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        elif method in ("POST", "PUT"):
            framing = f"Content-Length: {len(data)}\r\n"
        message = self._message(method, PLAIN + path, query, framing, extra) + data
        sock = self._connected()
        sock.sendall(message)
        return self._answer(sock)

    def hijack(self, path: str, query: Query, *, before: Callable[[], object] | None = None) -> Stream:
        """Make a hijacked call; ``before`` is called when everything is ready to be sent."""
        extra = {"Connection": "Upgrade", "Content-Type": "text/plain", "Upgrade": "tcp"}
        message = self._message("POST", HIJACK + path, query, "Content-Length: 0\r\n", extra)
        sock = self._connect()
        try:
            if before is not None:
                before()
            sock.sendall(message)
            return Stream(sock)
        except BaseException:
            sock.close()
            raise

    def _message(self, method: str, path: str, query: Query, framing: str, extra: Mapping[str, str]) -> bytes:
        target = f"{path}?{encode(query)}" if query else path
        lines = [f"{name}: {extra[name]}\r\n" for name in sorted(extra)]
        agent = f"User-Agent: Hyper-Client/{VERSION}\r\n"
        message = f"{method} {target} HTTP/1.1\r\nHost: \r\n{agent}{framing}{''.join(lines)}\r\n".encode()
        self.requests.append(f"{method} {target}")
        self.sent.append(message)
        return message

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT)
        sock.connect(str(self._path))
        self.connections += 1
        return sock

    def _connected(self) -> socket.socket:
        if self._sock is None:
            self._sock = self._connect()
        return self._sock

    def _answer(self, sock: socket.socket) -> Reply:
        reader = Reader(sock)
        line, _, rest = reader.until(b"\r\n\r\n").decode("latin-1").partition("\r\n")
        version, status = line.split(" ")[:2]
        assert version == "HTTP/1.1", line
        headers = {key.lower(): value for key, value in email.parser.HeaderParser().parsestr(rest).items()}
        if status == "204":
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(reader.until(b"\r\n").split(b";")[0], 16):
                body += reader.exactly(size)
                assert reader.exactly(2) == b"\r\n"
            reader.until(b"\r\n")
        elif "content-length" in headers:
            body = reader.exactly(int(headers["content-length"]))
        else:
            body = reader.rest()
            self.close()
        if headers.get("connection") == "close":
            self.close()
        return Reply(int(status), headers, body)


@dataclass
class Done:
    """How a command ended."""

    code: int = 0
    out: bytes = b""
    err: bytes = b""


@dataclass
class Original:
    """The commands. Errors of the daemon end a command with 255, as RefusedError's text on stdout."""

    path: Path
    wire: Wire = field(init=False)

    def __post_init__(self) -> None:
        self.wire = Wire(self.path)

    def close(self) -> None:
        self.wire.close()

    # -- pods

    def create(self, spec: Mapping[str, Any]) -> str:
        """Create a pod; pull what is missing and try once more."""
        reply = self.wire.ask("POST", "/pod/create", body=spec)
        if reply.status == 404:
            for container in spec["containers"]:
                self.pull(container["image"])
            reply = self.wire.ask("POST", "/pod/create", body=spec)
        if reply.status not in (200, 201):
            raise RefusedError(reply.status, reply.body)
        answer = reply.json
        if answer.get("Code", 0) != 0:
            raise AssertionError(f"Error code is {answer['Code']}, cause is {answer.get('Cause', '')}")
        return str(answer["ID"])

    def run(
        self,
        spec: Mapping[str, Any],
        *,
        attach: bool = True,
        remove: bool = True,
        stdin: bytes = b"",
        tty: bool = False,
    ) -> Done:
        """Run a pod; attached, start and attach are sent at the same time on two connections."""
        pod = self.create(spec)
        if not attach:
            self.wire.call("POST", "/pod/start", [("podId", pod)])
            return Done(out=f"POD id is {pod}\n".encode())
        info = self.wire.call("GET", "/pod/info", [("podName", pod)]).json
        assert isinstance(info["spec"]["containers"][0]["tty"], bool)
        name = spec["containers"][0].get("name", "")
        stream = self._start_and_attach(pod, name)
        done = self._converse(stream, stdin=stdin, tty=tty)
        done.code = self._exit_code(name, "", tty=tty)
        if remove:
            self._coded("DELETE", "/pod", [("podId", pod)], good=(0, 1))
        return done

    def _start_and_attach(self, pod: str, name: str) -> Stream:
        at_once = threading.Barrier(2, timeout=TIMEOUT)
        failed: list[BaseException] = []

        def start() -> None:
            try:
                at_once.wait()
                self.wire.call("POST", "/pod/start", [("podId", pod)])
            except BaseException as error:
                failed.append(error)

        at = len(self.wire.requests)
        starter = threading.Thread(target=start)
        starter.start()
        stream = self.wire.hijack("/attach", [("container", name)], before=at_once.wait)
        starter.join(TIMEOUT)
        self.wire.requests[at:] = sorted(self.wire.requests[at:], reverse=True, key=lambda line: "/pod/start" in line)
        assert not failed, failed
        return stream

    def start(self, pod: str) -> str:
        self.wire.call("POST", "/pod/start", [("podId", pod)])
        return f"Successfully started the Pod({pod})\n"

    def stop(self, pod: str) -> str:
        self._coded("POST", "/pod/stop", [("podId", pod), ("stopVm", "yes")])
        return f"Successfully shutdown the POD: {pod}!\n"

    def remove(self, pod: str) -> str:
        self._coded("DELETE", "/pod", [("podId", pod)], good=(0, 1))
        return f"Pod({pod}) is successfully deleted!\n"

    def pause(self, pod: str) -> None:
        self.wire.call("POST", "/pod/pause", [("podId", pod)])

    def unpause(self, pod: str) -> None:
        self.wire.call("POST", "/pod/unpause", [("podId", pod)])

    def kill_pod(self, pod: str, number: int = 9) -> None:
        self.wire.call("POST", "/pod/kill", [("podName", pod), ("signal", str(number))])

    def ports(self, pod: str) -> list[tuple[str, str, str]]:
        rows = self.wire.call("GET", f"/pod/{pod}/portmappings").json["portMappings"]
        return [(row["protocol"], row["hostPort"], row["containerPort"]) for row in rows]

    def change_ports(self, action: str, pod: str, rules: Sequence[Mapping[str, str]]) -> None:
        reply = self.wire.ask("PUT", f"/pod/{pod}/portmappings/{action}", body=rules)
        if reply.status not in (200, 204):
            raise RefusedError(reply.status, reply.body)

    # -- containers

    def create_container(self, pod: str, spec: Mapping[str, Any]) -> str:
        reply = self.wire.ask("POST", "/container/create", [("podId", pod)], body=spec)
        if reply.status not in (200, 201):
            raise RefusedError(reply.status, reply.body)
        return str(reply.json["ID"])

    def container(self, verb: str, name: str, *more: tuple[str, str]) -> None:
        """Start, stop, kill or remove a container."""
        self.wire.call("POST", f"/container/{verb}", [("container", name), *more])

    def attach(self, name: str, *, stdin: bytes | None = b"") -> tuple[Stream, bool]:
        """Join a container, or the first one of a pod by its generated name; stdin None is not closed."""
        if "pod-" in name:
            found = self.wire.call("GET", "/pod/info", [("podName", name)]).json["spec"]["containers"][0]
            ident, tty = found["containerID"], found["tty"]
        else:
            info = self.wire.call("GET", "/container/info", [("container", name)]).json
            ident, tty = info["container"]["containerID"], info["container"]["tty"]
            assert isinstance(info["status"]["phase"], str)
            assert isinstance(info["status"]["terminated"], dict)
        stream = self.wire.hijack("/attach", [("container", ident)])
        if stdin is not None:
            stream.send(stdin)
            stream.half_close()
        return stream, tty

    def exec(self, name: str, command: Sequence[str], *, stdin: bytes = b"", tty: bool = False) -> Done:
        """Run a command in a container."""
        target = name
        if "pod-" in name:
            rows = self.wire.call("GET", "/list", [("item", "container"), ("pod", name)]).json["cData"]
            target = rows[0].split(":")[0]
        query = [("command", go_json(list(command))), ("container", target), ("tty", "true" if tty else "false")]
        reply = self.wire.call("POST", "/exec/create", query)
        assert reply.status in (200, 201)
        stream = self.wire.hijack("/exec/start", [("container", target), ("exec", reply.json)])
        done = self._converse(stream, stdin=stdin, tty=tty)
        done.code = self._exit_code(target, reply.json, tty=tty)
        return done

    def exec_vm(self, pod: str, command: Sequence[str]) -> Done:
        """Run a command in the guest: raw, no exit code."""
        stream = self.wire.hijack("/execvm", [("command", go_json(list(command))), ("pod", pod)])
        return self._converse(stream, stdin=b"", tty=True)

    def resize(self, container: str, exec_id: str, *, height: int, width: int) -> None:
        query = [("container", container), ("exec", exec_id), ("h", str(height)), ("w", str(width))]
        self.wire.call("POST", "/tty/resize", query)

    def logs(
        self, name: str, *, tail: str = "", since: str = "", timestamps: bool = False, follow: bool = False
    ) -> Done:
        """Read a log by the rules of its Content-Type."""
        info = self.wire.call("GET", "/container/info", [("container", name)]).json
        flags = [("follow", follow), ("stderr", True), ("stdout", True), ("timestamps", timestamps)]
        query = [("container", name), ("since", since), ("tail", tail)]
        query += [(key, "true" if value else "false") for key, value in flags]
        reply = self.wire.call("GET", "/container/logs", query)
        kind = reply.headers.get("content-type", "")
        assert re.fullmatch(r"[a-z-]+/[a-z0-9.+-]+(; *[a-z]+=[\w-]+)*", kind), "error: mime: no media type"
        assert not kind.startswith("application/json")
        if info["container"]["tty"]:
            return Done(out=reply.body)
        return _parted(frames(reply.body))

    # -- lists, system, images

    def list(self, item: str = "pod", **more: str) -> list[list[str]]:
        """Return the rows, split as the client splits them."""
        answer = self.wire.call("GET", "/list", [("item", item), *more.items()]).json
        assert answer["item"] == item
        rows = answer[{"pod": "podData", "container": "cData", "vm": "vmData"}[item]]
        parts = [row.split(":") for row in rows]
        assert all(len(row) >= (3 if item == "vm" else 4) for row in parts), "the original client panics"
        return parts

    def images(self, *, every: bool = False, quiet: bool = False) -> list[tuple[str, str, str]]:
        """Return repository, tag and short id of every image."""
        words = {True: "yes", False: "no"}
        answer = self.wire.call("GET", "/images/get", [("all", words[every]), ("quiet", words[quiet])]).json
        found = []
        for row in answer["imagesList"]:
            repository, tag, ident, created, size = row.rsplit(":", 4)
            assert int(created) > 0
            assert int(size) > 0
            assert len(ident) >= 12
            found.append((repository, tag, ident[:12]))
        return found

    def info(self) -> dict[str, Any]:
        return dict(self.wire.call("GET", "/info").json)

    def pull(self, image: str, *, auth: str = "") -> list[dict[str, Any]]:
        """Pull an image; give the progress lines. Errors: RefusedError, also for an error line."""
        name = image if ":" in image.rpartition("/")[2] else f"{image}:latest"
        headers = {"X-Registry-Auth": auth} if auth else None
        return progress(self.wire.call("POST", "/image/create", [("imageName", name)], headers=headers))

    def remove_image(self, image: str, *, force: bool = False, noprune: bool = False) -> str:
        words = {True: "true", False: "false"}
        query = [("force", words[force]), ("imageId", image), ("noprune", words[noprune])]
        self._coded("DELETE", "/image", query, good=(0, 1))
        return f"Image({image}) is successful to be deleted!\n"

    def login(self, username: str, password: str, server: str) -> str:
        body = {"username": username, "password": password, "email": "e@x", "serveraddress": server}
        return str(self.wire.call("POST", "/auth", body=body).json["Status"])

    # -- inside

    def _converse(self, stream: Stream, *, stdin: bytes, tty: bool) -> Done:
        assert stream.head == HEAD_101
        stream.send(stdin)
        stream.half_close()
        return Done(out=stream.raw()) if tty else _parted(stream.frames())

    def _exit_code(self, container: str, exec_id: str, *, tty: bool) -> int:
        if not tty:
            body = self.wire.call("GET", "/exitcode", [("container", container), ("exec", exec_id)]).body
            assert body.strip().isdigit(), body
            return int(body)
        status = self.wire.call("GET", "/container/info", [("container", container)]).json["status"]
        return 0 if status["phase"] == "running" else status["terminated"].get("exitCode", 0)

    def _coded(self, method: str, path: str, query: Query, good: tuple[int, ...] = (0,)) -> None:
        answer = self.wire.call(method, path, query).json
        assert answer.get("Code", 0) in good, answer


def _parted(parts: Iterable[tuple[int, bytes]]) -> Done:
    done = Done()
    for stream, data in parts:
        if stream == 1:
            done.out += data
        else:
            done.err += data
    return done


def progress(reply: Reply) -> list[dict[str, Any]]:
    """Read Docker's progress lines. Errors: RefusedError for a line with ``error``."""
    assert reply.headers["content-type"] == "application/json", "the client would take it for stdcopy frames"
    lines = [json.loads(line) for line in reply.body.splitlines()]
    for line in lines:
        if line.get("error"):
            raise RefusedError(reply.status, line["error"].encode())
    return lines


def command_line(image: str, command: Sequence[str] = (), *, name: str = "", tty: bool = False, **more: Any) -> Any:
    """Return the pod that ``hyperctl run IMAGE COMMAND`` sends; ``more`` are keys of the pod, ``container`` of it."""
    tag = re.sub(r"[^a-z0-9]+", "-", image.rpartition("/")[2])
    ident = name or f"{tag}-{secrets.randbelow(10**10):010}"
    container = {"name": ident, "image": image, "restartPolicy": "never"}
    if tty:
        container["tty"] = True
    if command:
        container["command"] = list(command)
    container.update(more.pop("container", {}))
    return {"id": ident, "resource": {"vcpu": 1, "memory": 128}, "log": {}, "containers": [container], **more}
