"""What is measured: a daemon of our own with real VMs, reached by its API and by hyperctl."""

from __future__ import annotations

import copy
import http.client
import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from benchlib.procs import cpu_seconds, find
from hyperd.config.model import HypervisorConfig
from tests.support.daemon import PROJECT, HyperdLauncher, UnixConnection

HYPERCTL = str(Path(sys.executable).with_name("hyperctl"))
TIMEOUT = 120.0
FRESH = 2.0  # seconds that a connection is used again after; the daemon keeps idle ones somewhat longer
HAS_TEMPLATES = any(field.name == "templates" for field in fields(HypervisorConfig))
TEMPLATE_TIMEOUT = 30.0
LOOK = 0.1  # seconds between two looks into the daemon's log; nothing is measured meanwhile
REFILL_TIMEOUT = 60.0
_OPENED = re.compile(r"event=hypervisor\.open accelerator=(\w+)")
_BOOTED = re.compile(r"event=vm\.booted vm=(\S+).*? create_ms=(\d+) ready_ms=(\d+)")
_TEMPLATE = re.compile(r"event=(template\.|vm\.booted .*template=true)")  # one was made, or was there
_POOLED = re.compile(r"event=vm\.pooled vm=(\S+)")
_FRAME_HEADER = 8


class RequestFailed(RuntimeError):
    """The daemon refused something that must work."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """A stream that was read to its end: the payload's size and first bytes, and seconds from the first byte on."""

    size: int
    head: bytes
    seconds: float


class Target:
    """One daemon with one image.

    Args:
        image: reference of the image; pulled at once.
        guest: directory of kernel and initramfs.
        pool: VMs that wait ready; 0 = every start is cold.
        templates: VMs go on from the memory of one that has booted, where the daemon can do that.

    """

    def __init__(self, image: str, guest: Path, *, pool: int = 0, templates: bool = True) -> None:
        self.image = image
        self.guest = guest
        # The launcher asks for debug messages, which nobody runs with.
        self.daemon = HyperdLauncher(driver="libvirt", guest=guest, pool=pool)
        text = self.daemon.config_path.read_text().replace('log_level = "debug"', 'log_level = "info"')
        self._templates = templates and HAS_TEMPLATES
        if HAS_TEMPLATES and not templates:
            text = text.replace("[hypervisor]\n", "[hypervisor]\ntemplates = false\n")
        self.daemon.config_path.write_text(text)
        self._connection: UnixConnection | None = None
        self._used = 0.0
        self.daemon.start()
        self.ctl("pull", image)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for line in self.last_words():
                print(f"bench: daemon: {line}", file=sys.stderr, flush=True)
        self.close()

    def close(self) -> None:
        """Remove every pod and VM, then the daemon."""
        try:
            for row in self.api("GET", "/list", item="pod")["podData"]:
                self.api("DELETE", "/pod", podId=row.split(":")[0])
        finally:
            if self._connection is not None:
                self._connection.close()
            self.daemon.close(check=False)

    @contextmanager
    def apart(self) -> Iterator[Self]:
        """Yield the same target with a connection of its own, for another thread."""
        other = copy.copy(self)
        other._connection = None
        try:
            yield other
        finally:
            if other._connection is not None:
                other._connection.close()

    def ctl(self, *words: str) -> bytes:
        """Run hyperctl, which must succeed; give its output. Errors: RequestFailed."""
        argv = self.command(*words)
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False, cwd=PROJECT
        )
        if done.returncode:
            raise RequestFailed(f"hyperctl {words[0]}: exit code {done.returncode}, {done.stderr.decode()[-300:]}")
        return done.stdout

    def command(self, *words: str) -> list[str]:
        """Return hyperctl's whole command line."""
        return [HYPERCTL, "-H", self.daemon.host, *words]

    def api(self, method: str, path: str, *, body: object = None, **query: str | int) -> Any:
        """Ask over the connection that is kept alive; give the decoded answer. Errors: RequestFailed, OSError."""
        if self._connection is not None and time.monotonic() - self._used > FRESH:
            self._connection.close()  # the daemon has closed it by now, or is about to
            self._connection = None
        if self._connection is None:
            self._connection = UnixConnection(self.daemon.socket, TIMEOUT)
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        try:
            self._connection.request(method, target, body=data, headers=headers)
            answer = self._connection.getresponse()
            text = answer.read()
            self._used = time.monotonic()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            raise
        if answer.status >= 400:
            raise RequestFailed(f"{method} {path}: {answer.status} {text[:300].decode(errors='replace')}")
        return json.loads(text) if text.strip() else None

    def create(self, name: str, command: Sequence[str], *, ports: Mapping[int, int] | None = None) -> str:
        """Define a pod of one container, which gets the name ``<pod>-c``; give the container's name.

        Args:
            name: of the pod. command: of the container.
            ports: TCP ports of the host, and which of the container's each leads to.

        """
        container = {"name": f"{name}-c", "image": self.image, "command": list(command)}
        pod: dict[str, Any] = {"id": name, "containers": [container]}
        if ports:
            pod["portmappings"] = [
                {"hostPort": str(host), "containerPort": str(inside), "protocol": "tcp"}
                for host, inside in ports.items()
            ]
        self.api("POST", "/pod/create", body=pod)
        return f"{name}-c"

    def start(self, name: str) -> None:
        """Start a pod; the container runs when this returns."""
        self.api("POST", "/pod/start", podId=name)

    def remove(self, name: str) -> None:
        """Remove a pod, running or not."""
        self.api("DELETE", "/pod", podId=name)

    def execute(self, container: str, command: Sequence[str]) -> Received:
        """Run a command in a container, read its output to the end, ask for its exit code, which must be 0."""
        ident = self.api("POST", "/exec/create", container=container, command=json.dumps(list(command)))
        received = self.stream("POST", "/exec/start", container=container, exec=ident)
        code = self.api("GET", "/exitcode", container=container, exec=ident)
        if code != 0:
            raise RequestFailed(f"{command[0]} ended with {code}: {received.head!r}")
        return received

    def stream(self, method: str, path: str, *, wait_for: str = "", **query: str | int) -> Received:
        """Take a stream of multiplexed output to its end.

        Args:
            method: HTTP's. path: of the endpoint.
            wait_for: a pod that is started once the stream is open.
            query: parameters.

        """
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(TIMEOUT)
            link.connect(str(self.daemon.socket))
            upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if method == "POST" else "Connection: close\r\n"
            target = f"{path}?{urllib.parse.urlencode(query)}"
            version = "1.1" if method == "POST" else "1.0"  # a follower of 1.0 gets no chunks
            link.sendall(
                f"{method} {target} HTTP/{version}\r\nHost: localhost\r\n{upgrade}Content-Length: 0\r\n\r\n".encode()
            )
            early = self._head(link, path)
            if wait_for:
                self.start(wait_for)
            return _read_stream(link, early)

    def accelerator(self) -> str:
        """Return what runs the guests: kvm or tcg."""
        found = _OPENED.search(self.daemon.log())
        return found[1] if found else "unknown"

    def last_words(self) -> list[str]:
        """Return what the daemon's log tells after a failure: every error whole, and its last lines but requests."""
        lines = [line for line in self.daemon.log().splitlines() if "event=request " not in line]
        errors, told = [], False
        for line in lines[:-40]:  # what belongs to an error stands in the lines behind it
            told = "level=error" in line if line.startswith("timestamp=") else told
            errors += [line] if told else []
        return errors[-200:] + [line[:300] for line in lines[-40:]]

    def warm_up(self) -> None:
        """Start a pod and remove it, and wait for the template that the daemon makes of its VM, if it does."""
        self.create("warm-up", ("sleep", "3600"))
        self.start("warm-up")
        self.remove("warm-up")
        until = time.monotonic() + TEMPLATE_TIMEOUT
        while self._templates and not _TEMPLATE.search(self.daemon.log()) and time.monotonic() < until:
            time.sleep(LOOK)

    def pooled(self) -> set[str]:
        """Return the ids of the VMs that were ever made ready for the pool."""
        return set(_POOLED.findall(self.daemon.log()))

    def wait_pooled(self, used: AbstractSet[str]) -> str:
        """Wait until a VM is in the pool that is none of these; give its id. Errors: RuntimeError."""
        until = time.monotonic() + REFILL_TIMEOUT
        while not (waiting := self.pooled() - used):
            if time.monotonic() > until:
                raise RuntimeError(f"the pool is empty for {REFILL_TIMEOUT:g} s")
            time.sleep(LOOK)
        return waiting.pop()

    def vm_of(self, pod: str) -> str:
        """Return the id of a running pod's VM. Errors: RequestFailed when it has none."""
        for row in self.api("GET", "/list", item="vm")["vmData"]:
            vm_id, owner, _ = row.split(":")
            if owner == pod:
                return vm_id
        raise RequestFailed(f"the pod {pod} has no VM")

    def guest_seconds(self, vm_id: str) -> float:
        """Return the CPU time that a VM's QEMU has taken, in seconds."""
        return sum(map(cpu_seconds, find("qemu-system-", f"{self.daemon.directory}/", vm_id)))

    def boot_times(self, vm_id: str) -> tuple[float, float] | None:
        """Return (libvirt's create, then until the agent is ready) of a VM, in seconds; None if there was nothing."""
        return boot_times(self.daemon.log()).get(vm_id)

    def _head(self, link: socket.socket, path: str) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = link.recv(4096)
            if not piece:
                raise RequestFailed(f"{path}: no answer")
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status >= 400:
            raise RequestFailed(f"{path}: {status} {rest[:300].decode(errors='replace')}")
        if b"transfer-encoding: chunked" in head.lower():
            raise RequestFailed(f"{path}: a chunked answer to a request that ends its connection")
        return rest


def boot_times(log: str) -> dict[str, tuple[float, float]]:
    """Read from a daemon's log, by VM, what ``Target.boot_times`` gives."""
    return {vm: (int(create) / 1e3, (int(ready) - int(create)) / 1e3) for vm, create, ready in _BOOTED.findall(log)}


def _read_stream(link: socket.socket, early: bytes) -> Received:
    """Read stdcopy frames (Docker Remote API, attach) to the end; only their headers are looked at."""
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    filled = len(early)
    buffer[:filled] = early
    header, head = bytearray(), bytearray()
    size = left = 0
    first = time.monotonic() if early else 0.0
    while True:
        at = 0
        while at < filled:
            if not left:
                take = min(_FRAME_HEADER - len(header), filled - at)
                header += view[at : at + take]
                at += take
                if len(header) == _FRAME_HEADER:
                    left = int.from_bytes(header[4:], "big")
                    header.clear()
                continue
            take = min(left, filled - at)
            if len(head) < 256:
                head += view[at : at + min(take, 256)]
            at, left, size = at + take, left - take, size + take
        filled = link.recv_into(view)
        if not filled:
            return Received(size=size, head=bytes(head), seconds=time.monotonic() - (first or time.monotonic()))
        first = first or time.monotonic()


def wall(argv: Sequence[str]) -> float:
    """Run a command, which must succeed, without looking at its output; give the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
    )
    took = time.monotonic() - started
    if done.returncode:
        raise RequestFailed(f"{Path(argv[0]).name}: exit code {done.returncode}, {done.stderr.decode()[-300:]}")
    return took


def piped(argv: Sequence[str]) -> tuple[int, float]:
    """Run a command and read its output from a pipe; give its size and the seconds from the first byte to the end."""
    buffer = bytearray(1 << 20)
    size, first = 0, 0.0
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as run:
        pipe = cast("io.FileIO", run.stdout)
        while taken := pipe.readinto(buffer):
            first = first or time.monotonic()
            size += taken
        took = time.monotonic() - first
        if run.wait(TIMEOUT):
            raise RequestFailed(f"{Path(argv[0]).name}: exit code {run.returncode}")
    return size, took
