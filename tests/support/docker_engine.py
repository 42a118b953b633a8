"""A small engine that speaks the calls of the Docker API that hypercloud makes; containers are entries in a table.

A container whose command is ``["exit", "N"]`` ends at once with N; every other runs until it is stopped. An exec
answers each line with ``echo: LINE``. Images that begin with ``missing/`` are in no registry. All containers have the
same files, ``engine.files``, and every reading of one finds that it has used more. A build says each line of its
Dockerfile, and fails at ``RUN false``.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import queue
import re
import secrets
import ssl
import tarfile
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

EVERYWHERE = "0.0.0.0"  # noqa: S104  # text in an answer
OUTPUT = "listening on :8080\n"


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class FakeEngine:
    """One engine on a port of 127.0.0.1 (or another address of this host)."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.images: dict[str, list[str]] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.volumes_removed: list[str] = []
        self.requests: list[str] = []
        self.pulls: list[tuple[str, str]] = []
        self.execs: dict[str, dict[str, Any]] = {}
        self.ports = itertools.count(49153)
        self.addresses = itertools.count(2)
        self.lock = threading.RLock()
        self.watchers: list[queue.Queue[dict[str, Any] | None]] = []
        self.broken = False  # every request is cut off
        self.redirect = ""  # every request is sent there
        self.hold = ""  # requests with this in them wait, and are then cut off
        self.held = False  # one waits
        self.pulling = False  # pulls go on
        self.refuse = ""  # requests with this in them are answered with 500
        self.env = ["PATH=/bin", "HOME=/root", "GOPATH=/gopath"]
        self.output = OUTPUT
        self.files: dict[str, bytes | str] = {}  # by path; a text is a symbolic link
        self.readings = itertools.count(1)
        self.host = host
        self._tls = tls
        self._serve(port)

    def _serve(self, port: int) -> None:
        engine = self

        class Handler(_Handler):
            owner = engine

        self.server = ThreadingHTTPServer((self.host, port), Handler)
        self.server.daemon_threads = True
        if self._tls is not None:
            self.server.socket = self._tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def lose(self) -> None:
        """Go away: the port refuses, streams end; containers stay in the table."""
        self.server.shutdown()
        self.server.server_close()
        self.broken = True
        with self.lock:
            for watcher in self.watchers:
                watcher.put(None)

    def come_back(self) -> None:
        self.broken = False
        self._serve(self.port)

    def close(self) -> None:
        self.lose()

    # -- the table ---------------------------------------------------------------------------------------------------

    def find(self, key: str) -> dict[str, Any] | None:
        for one in self.containers.values():
            if one["Id"] == key or one["Name"] == f"/{key}" or (len(key) >= 3 and one["Id"].startswith(key)):
                return one
        return None

    def running(self) -> list[dict[str, Any]]:
        return [one for one in self.containers.values() if one["State"]["Running"]]

    def emit(self, action: str, one: dict[str, Any]) -> None:
        now = time.time()
        event = {
            "Type": "container",
            "Action": action,
            "status": action,
            "id": one["Id"],
            "from": one["Config"]["Image"],
            "Actor": {"ID": one["Id"], "Attributes": {"image": one["Config"]["Image"], "name": one["Name"][1:]}},
            "time": int(now),
            "timeNano": int(now * 1e9),
        }
        for watcher in list(self.watchers):
            watcher.put(event)

    def create(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        container_id = secrets.token_hex(32)
        host = dict(body.get("HostConfig") or {})
        config = {key: value for key, value in body.items() if key not in {"HostConfig", "NetworkingConfig"}}
        config["Env"] = [*self.env, *(config.get("Env") or [])]
        config["Tty"] = bool(config.get("Tty"))
        config["Hostname"] = config.get("Hostname") or container_id[:12]
        one = {
            "Id": container_id,
            "Name": f"/{name or 'auto_' + container_id[:8]}",
            "Created": _now(),
            "Image": "sha256:" + "0" * 64,
            "Config": config,
            "HostConfig": host,
            "State": {"Running": False, "Pid": 0, "ExitCode": 0, "StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": ""},
            "NetworkSettings": {"Ports": {}, "Networks": {}},
            "_networking": body.get("NetworkingConfig") or {},
        }
        self.containers[container_id] = one
        self.emit("create", one)
        return one

    def start(self, one: dict[str, Any]) -> None:
        if one["State"]["Running"]:
            return
        mode = one["HostConfig"].get("NetworkMode") or "default"
        network = "bridge" if mode == "default" else mode
        bindings: dict[str, Any] = {}
        for key, wanted in (one["HostConfig"].get("PortBindings") or {}).items():
            bindings[key] = [
                {
                    "HostIp": where.get("HostIp") or EVERYWHERE,
                    "HostPort": where.get("HostPort") or str(next(self.ports)),
                }
                for where in wanted
            ]
        one["NetworkSettings"] = {
            "Ports": bindings,
            "Networks": {network: {"IPAddress": f"172.17.0.{next(self.addresses)}"}},
        }
        one["State"] |= {"Running": True, "Pid": 4242, "StartedAt": _now(), "ExitCode": 0}
        self.emit("start", one)
        command = one["Config"].get("Cmd") or []
        if command[:1] == ["exit"]:
            self.end(one, int(command[1]))

    def end(self, one: dict[str, Any], code: int) -> None:
        """Let a container's program end."""
        if not one["State"]["Running"]:
            return
        one["State"] |= {"Running": False, "Pid": 0, "ExitCode": code, "FinishedAt": _now()}
        self.emit("die", one)

    def remove(self, one: dict[str, Any]) -> None:
        self.end(one, 137)
        self.containers.pop(one["Id"], None)
        self.emit("destroy", one)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FakeEngine

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        engine = self.owner
        parts = urlsplit(self.path)
        path = re.sub(r"^/v[0-9.]+", "", unquote(parts.path))
        self.query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else self._chunks()
        self.raw = raw
        self.body = json.loads(raw) if raw.strip().startswith(b"{") else {}
        engine.requests.append(f"{self.command} {path}")
        while engine.hold and engine.hold in f"{self.command} {path}":
            engine.held = True
            time.sleep(0.02)
            self.close_connection = not engine.hold
        if engine.broken or self.close_connection:
            self.close_connection = True
            return
        if engine.refuse and engine.refuse in f"{self.command} {path}":
            self._json({"message": "the engine's disk is full"}, 500)
            return
        if engine.redirect:
            self.send_response(302)
            self.send_header("Location", engine.redirect + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        for pattern, name in _ROUTES:
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found:
                getattr(self, name)(*found.groups())
                return
        self._json({"message": f"page not found: {self.command} {path}"}, 404)

    def _chunks(self) -> bytes:
        """The body of a request without a length."""
        data = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return data

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815  # the base class's names

    def _json(self, value: Any, status: int = 200) -> None:
        data = b"" if status in {204, 304} else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status not in {204, 304}:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _raw(self, data: bytes, kind: str = "application/vnd.docker.raw-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _chunked(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _one(self, key: str) -> dict[str, Any] | None:
        found = self.owner.find(key)
        if found is None:
            self._json({"message": f"No such container: {key}"}, 404)
        return found

    # -- the calls ---------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        self._raw(b"OK", "text/plain")

    def version(self) -> None:
        self._json({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux"})

    def info(self) -> None:
        self._json({"NCPU": 4, "MemTotal": 4096 * 2**20, "Driver": "fake", "DefaultRuntime": "runc"})

    def listed(self) -> None:
        self._json([{"Id": one["Id"], "Names": [one["Name"]]} for one in list(self.owner.containers.values())])

    def create(self) -> None:
        engine, name = self.owner, self.query.get("name", "")
        image = self.body["Image"]
        with engine.lock:
            if image not in engine.images:
                self._json({"message": f"No such image: {image}"}, 404)
            elif name and any(one["Name"] == f"/{name}" for one in engine.containers.values()):
                self._json({"message": f'Conflict. The container name "/{name}" is already in use'}, 409)
            else:
                self._json({"Id": engine.create(self.body, name)["Id"], "Warnings": []}, 201)

    def inspect(self, key: str) -> None:
        if one := self._one(key):
            self._json({name: value for name, value in one.items() if not name.startswith("_")})

    def start(self, key: str) -> None:
        if one := self._one(key):
            for link in one["HostConfig"].get("Links") or []:
                if self.owner.find(link.split(":")[0]) is None:
                    self._json({"message": f"could not get container for {link.split(':')[0]}"}, 400)
                    return
            wanted = {
                where.get("HostPort")
                for bindings in (one["HostConfig"].get("PortBindings") or {}).values()
                for where in bindings
                if where.get("HostPort")
            }
            used = {
                where["HostPort"]
                for other in self.owner.running()
                if other is not one
                for bindings in other["NetworkSettings"]["Ports"].values()
                for where in bindings
            }
            if wanted & used:
                self._json({"message": f"driver failed: port is already allocated: {wanted & used}"}, 500)
                return
            self.owner.start(one)
            self._json({}, 204)

    def stop(self, key: str) -> None:
        if one := self._one(key):
            self.owner.end(one, 0)
            self._json({}, 204)

    def restart(self, key: str) -> None:
        if one := self._one(key):
            self.owner.end(one, 0)
            self.owner.start(one)
            self._json({}, 204)

    def rename(self, key: str) -> None:
        if one := self._one(key):
            one["Name"] = "/" + self.query["name"]
            self.owner.emit("rename", one)
            self._json({}, 204)

    def remove(self, key: str) -> None:
        if one := self._one(key):
            self.owner.remove(one)
            self._json({}, 204)

    def logs(self, key: str) -> None:
        if one := self._one(key):
            stamp = "2016-02-01T16:47:28.000000000Z " if self.query.get("timestamps") in {"1", "True", "true"} else ""
            text = (stamp + self.owner.output).encode()
            frame = b"\x01\0\0\0" + len(text).to_bytes(4, "big") + text
            if self.query.get("follow") in {"1", "True", "true"}:
                self._chunked()
                self._chunk(frame)
                while one["State"]["Running"] and not self.owner.broken:
                    time.sleep(0.02)
                with contextlib.suppress(OSError):
                    self._chunk(b"")
            else:
                self._raw(frame)

    def stats(self, key: str) -> None:
        if self._one(key):
            number = next(self.owner.readings)
            self._json(
                {
                    "read": _now(),
                    "cpu_stats": {
                        "cpu_usage": {"total_usage": number * 10**9},
                        "system_cpu_usage": number * 4 * 10**9,
                        "online_cpus": 4,
                    },
                    "memory_stats": {"usage": 7 * 2**20, "limit": 2**30, "stats": {"inactive_file": 2 * 2**20}},
                    "networks": {"eth0": {"rx_bytes": number * 1000, "tx_bytes": number * 2000}},
                }
            )

    def archive(self, key: str) -> None:
        if not self._one(key):
            return
        path = self.query["path"]
        content = self.owner.files.get(path)
        inside = {name: one for name, one in self.owner.files.items() if name.startswith(path.rstrip("/") + "/")}
        if content is None and not inside:
            self._json({"message": f"Could not find the file {path} in container {key}"}, 404)
            return
        stat = {"name": path.rpartition("/")[2], "size": 0, "mode": 0o644, "mtime": _now(), "linkTarget": ""}
        if content is None:
            stat["mode"] = 1 << 31 | 0o755
        elif isinstance(content, str):
            stat |= {"mode": 1 << 27 | 0o777, "linkTarget": content}
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, one in ({path: content} if content is not None else inside).items():
                info = tarfile.TarInfo(name.rpartition("/")[2])
                data = one if isinstance(one, bytes) else b""
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        self.send_response(200)
        self.send_header("X-Docker-Container-Path-Stat", base64.b64encode(json.dumps(stat).encode()).decode())
        self.send_header("Content-Length", str(len(out.getvalue())))
        self.end_headers()
        self.wfile.write(out.getvalue())

    def extract(self, key: str) -> None:
        if not self._one(key):
            return
        with tarfile.open(fileobj=io.BytesIO(self.raw)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                self.owner.files[f"{self.query['path'].rstrip('/')}/{member.name}"] = file.read() if file else b""
        self._json({}, 200)

    def build(self) -> None:
        with tarfile.open(fileobj=io.BytesIO(self.raw)) as archive:
            names = archive.getnames()
            wanted = self.query["dockerfile"]
            file = archive.extractfile(wanted) if wanted in names else None
            lines = file.read().decode().splitlines() if file else []
        if not lines:
            self._json({"message": f"Cannot locate specified Dockerfile: {wanted}"}, 400)
            return
        self._chunked()
        for number, line in enumerate(lines, 1):
            self._chunk(json.dumps({"stream": f"Step {number}/{len(lines)} : {line}\n"}).encode() + b"\n")
            if line == "RUN false":
                self._chunk(json.dumps({"error": "The command returned a non-zero code: 1"}).encode() + b"\n")
                break
        else:
            self.owner.images[self.query["t"]] = names
            self._chunk(json.dumps({"stream": f"Successfully tagged {self.query['t']}\n"}).encode() + b"\n")
        self._chunk(b"")

    def image_list(self) -> None:
        self._json(
            [{"Id": "sha256:" + "1" * 64, "RepoTags": [name], "Size": 100, "Created": 1} for name in self.owner.images]
        )

    def image(self, name: str) -> None:
        if name in self.owner.images:
            self._json({"Id": "sha256:" + "1" * 64, "Config": {"Env": self.owner.env, "ExposedPorts": {"80/tcp": {}}}})
        else:
            self._json({"message": f"No such image: {name}"}, 404)

    def remove_image(self, name: str) -> None:
        if self.owner.images.pop(name, None) is None:
            self._json({"message": f"No such image: {name}"}, 404)
        else:
            self._json([{"Untagged": name}])

    def pull(self) -> None:
        name, tag = self.query["fromImage"], self.query.get("tag", "latest")
        self.owner.pulls.append((f"{name}:{tag}", self.headers.get("X-Registry-Auth", "")))
        self._chunked()
        if name.startswith("missing/"):
            self._chunk(
                json.dumps({"error": f"pull access denied for {name}, repository does not exist"}).encode() + b"\n"
            )
        else:
            self._chunk(json.dumps({"id": tag, "status": f"Pulling from {name}"}).encode() + b"\n")
            for status, detail in (("Downloading", {"current": 5, "total": 10}), ("Pull complete", {})):
                line = {"id": "0123456789ab", "status": status, "progressDetail": detail}
                self._chunk(json.dumps(line).encode() + b"\n")
            while self.owner.pulling and not self.owner.broken:
                self._chunk(json.dumps({"status": "Downloading", "progressDetail": {"current": 1}}).encode() + b"\n")
                time.sleep(0.1)
            self.owner.images[f"{name}:{tag}"] = []
        self._chunk(b"")

    def events(self) -> None:
        mine: queue.Queue[dict[str, Any] | None] = queue.Queue()
        with self.owner.lock:
            self.owner.watchers.append(mine)
        self._chunked()
        self.wfile.flush()
        with contextlib.suppress(OSError):
            while (event := mine.get()) is not None:
                self._chunk(json.dumps(event).encode() + b"\n")
        with self.owner.lock:
            self.owner.watchers.remove(mine)
        self.close_connection = True

    def network_list(self) -> None:
        made = self.owner.networks.items()
        self._json([{"Name": name, "Id": name, "Labels": body.get("Labels") or {}} for name, body in made])

    def network_create(self) -> None:
        self.owner.networks[self.body["Name"]] = self.body
        self._json({"Id": self.body["Name"], "Warning": ""}, 201)

    def network_remove(self, name: str) -> None:
        if self.owner.networks.pop(name, None) is None:
            self._json({"message": f"network {name} not found"}, 404)
        else:
            self._json({}, 204)

    def volume_remove(self, name: str) -> None:
        self.owner.volumes_removed.append(name)
        self._json({}, 204)

    def exec_create(self, key: str) -> None:
        if self._one(key):
            exec_id = secrets.token_hex(32)
            self.owner.execs[exec_id] = self.body
            self._json({"Id": exec_id}, 201)

    def exec_resize(self, exec_id: str) -> None:
        self.owner.execs[exec_id]["size"] = (self.query.get("h"), self.query.get("w"))
        self._json({}, 200)

    def exec_inspect(self, exec_id: str) -> None:
        self._json({"ID": exec_id, "Running": False, "ExitCode": 0})

    def exec_start(self, exec_id: str) -> None:
        tty = self.owner.execs[exec_id].get("Tty")
        self.wfile.write(
            b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
            b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
        self.close_connection = True

        def say(data: bytes) -> None:
            self.wfile.write(data if tty else b"\x01\0\0\0" + len(data).to_bytes(4, "big") + data)
            self.wfile.flush()

        command = self.owner.execs[exec_id].get("Cmd") or []
        say(f"ran: {' '.join(command)}\n".encode())
        if "sh" not in command[0]:
            return
        line = b""
        while (byte := self.rfile.read(1)) not in {b"", b"\x04"}:
            line += byte.replace(b"\r", b"\n")  # as a terminal: Enter sends a carriage return
            if line.endswith(b"\n"):
                say(b"echo: " + line)
                line = b""


_KEY = r"([^/]+)"
_ROUTES = (
    (r"(?:GET|HEAD) /_ping", "ping"),
    (r"GET /version", "version"),
    (r"GET /info", "info"),
    (r"GET /events", "events"),
    (r"GET /containers/json", "listed"),
    (r"POST /containers/create", "create"),
    (rf"GET /containers/{_KEY}/json", "inspect"),
    (rf"POST /containers/{_KEY}/start", "start"),
    (rf"POST /containers/{_KEY}/stop", "stop"),
    (rf"POST /containers/{_KEY}/restart", "restart"),
    (rf"POST /containers/{_KEY}/rename", "rename"),
    (rf"GET /containers/{_KEY}/logs", "logs"),
    (rf"GET /containers/{_KEY}/stats", "stats"),
    (rf"GET /containers/{_KEY}/archive", "archive"),
    (rf"PUT /containers/{_KEY}/archive", "extract"),
    (r"POST /build", "build"),
    (rf"POST /containers/{_KEY}/exec", "exec_create"),
    (rf"POST /exec/{_KEY}/start", "exec_start"),
    (rf"POST /exec/{_KEY}/resize", "exec_resize"),
    (rf"GET /exec/{_KEY}/json", "exec_inspect"),
    (rf"DELETE /containers/{_KEY}", "remove"),
    (r"GET /images/json", "image_list"),
    (r"POST /images/create", "pull"),
    (r"GET /images/(.+)/json", "image"),
    (r"DELETE /images/(.+)", "remove_image"),
    (r"GET /networks", "network_list"),
    (r"POST /networks/create", "network_create"),
    (rf"DELETE /networks/{_KEY}", "network_remove"),
    (rf"DELETE /volumes/{_KEY}", "volume_remove"),
)


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The engine's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
