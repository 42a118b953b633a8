"""A daemon whose engine is only as deep as the take-over and error tests need; run with hyperd's own options."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import click

from hyperd.config import load
from hyperd.container.model import Container
from hyperd.container.states import ContainerState
from hyperd.errors import Conflict, HostFault, HyperError, ImageNotFound, NotFound
from hyperd.event.bus import EventBus
from hyperd.image.progress import LayerPull, PullPhase, PullSigned, PullStarted
from hyperd.server import logging as daemon_logging
from hyperd.server import serve, worker
from hyperd.spec.model import ContainerSpec
from hyperd.stream.frames import LAST_CHUNK, chunk, stdcopy
from hyperd.system import SystemInfo
from hyperd.vm.driver import HypervisorInfo


class EchoSession:
    """Echoes what it gets, in a thread; commands at the start of the stream choose the behaviour."""

    tty = False

    def __init__(self, name: str) -> None:
        self.name = name

    def close(self) -> None:
        pass

    def run(self, sock: socket.socket, early: bytes, *, chunked: bool = False) -> None:
        sock.setblocking(True)
        work = {"flood": self.flood, "logs": self.logs, "idle": self.idle}.get(self.name, self.echo)
        threading.Thread(target=work, args=(sock, early, chunked), daemon=True).start()

    def echo(self, sock: socket.socket, early: bytes, chunked: bool) -> None:
        """Frame everything; after the client's half-close say how much came and end."""
        total = 0
        with sock:
            data = early
            while True:
                if data:
                    total += len(data)
                    sock.sendall(stdcopy(1, data))
                data = sock.recv(65536)
                if not data:
                    break
            sock.sendall(stdcopy(2, b"%d bytes" % total))

    def flood(self, sock: socket.socket, early: bytes, chunked: bool) -> None:
        """Send 8 MiB while receiving everything the client sends."""
        received = [len(early)]

        def receive() -> None:
            while data := sock.recv(65536):
                received[0] += len(data)

        thread = threading.Thread(target=receive)
        thread.start()
        for number in range(128):
            sock.sendall(bytes([number]) * 65536)
        thread.join()
        sock.sendall(b"got %d" % received[0])
        sock.close()

    def logs(self, sock: socket.socket, early: bytes, chunked: bool) -> None:
        """Send three chunks and the last."""
        with sock:
            for line in (b"one\n", b"two\n", b"three\n"):
                sock.sendall(chunk(line) if chunked else line)
            if chunked:
                sock.sendall(LAST_CHUNK)

    def idle(self, sock: socket.socket, early: bytes, chunked: bool) -> None:
        """Wait for the client to leave."""
        with sock:
            while sock.recv(65536):
                pass


class StubContainers:
    """Names choose what happens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.records = SimpleNamespace(find=self.info)
        self.queries = SimpleNamespace(inspect=self.info)
        self.streams = SimpleNamespace(attach=self.attach, logs=self.logs)

    def attach(self, name: str) -> EchoSession:
        if name == "missing":
            raise NotFound("The container (missing) can not be found")
        if name == "broken":
            raise RuntimeError("a secret of the daemon")
        return EchoSession(name)

    def logs(self, name: str, query: object) -> EchoSession:
        return self.attach(name)

    def info(self, name: str) -> Container:
        if name == "missing":
            raise NotFound("The container (missing) can not be found")
        if name == "slow":
            self.directory.joinpath("slow-begun").touch()
            time.sleep(2.0)
        return Container(
            id=name,
            name=name,
            pod_id="pod",
            spec=ContainerSpec(image="busybox"),
            image_id="",
            image_name="busybox",
            program=None,
            state=ContainerState.CREATED,
            created_at=1.0,
            labels={},
        )

    def wait(self, name: str, *, cancelled) -> int:
        if name == "endless":
            while not cancelled():
                time.sleep(0.05)
            self.directory.joinpath("wait-cancelled").touch()
        if name == "slow":
            time.sleep(2.5)
        if name == "fails":
            time.sleep(1.5)
            raise Conflict("it went away")
        return 17

    def create(self, pod_id: str, spec: object, *, may_fetch: bool = True) -> str:
        raise NotFound(f"The pod({pod_id}) can not be found")


class StubImages:
    """Pulls by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def pull(self, name, *, tag, auth, headers, progress, cancelled) -> None:
        if name == "missing":
            raise ImageNotFound("No such image: missing:latest")
        if name == "broken":
            raise RuntimeError("a secret of the daemon")
        if name.startswith("silent"):
            while not (self.directory / "speak").exists() and not cancelled():
                time.sleep(0.05)
            if name == "silent-missing":
                raise ImageNotFound("No such image: silent:latest")
        progress(PullStarted(repository="library/busybox", target=tag or "latest"))
        if name == "late":
            raise HostFault("the disk is full")
        if name == "late-broken":
            raise RuntimeError("a secret of the daemon")
        if name == "endless":
            for number in range(10_000):
                if cancelled():
                    (self.directory / "cancelled").write_text(str(number))
                    return
                time.sleep(0.01)
                if number % 10 == 0:
                    progress(
                        LayerPull(layer="sha256:" + "a" * 64, phase=PullPhase.DOWNLOADING, current=number, total=10_000)
                    )
        progress(PullSigned(key=json.dumps({"auth": auth.username if auth else None, "meta": dict(headers)})))

    def load(self, chunks, *, name, references, progress) -> None:
        for _ in chunks:
            pass

    def list(self, **_options) -> list:
        return []


class StubPods:
    """Creation fails as the id says."""

    def create(self, spec, *, may_fetch: bool = True) -> str:
        if spec.id == "image":
            raise ImageNotFound("No such image: none:latest")
        if spec.id == "notfound":
            raise NotFound("no such thing")
        if spec.id == "broken":
            raise RuntimeError("a secret of the daemon")
        return spec.id or "pod-abcdefghij"

    def stop(self, pod_id: str, *, stop_vm: bool, grace: float | None) -> None:
        raise Conflict(f"stop_vm={stop_vm}")

    def start_container(self, name: str) -> None:
        raise Conflict("the container is busy", details="twice", resolution="wait")

    def summaries(self, *, pod_id: str, vm_id: str) -> list:
        return []


class StubEngine:
    """The shape of ``hyperd.engine.Engine``."""

    def __init__(self, config) -> None:
        self.config = config
        self.containers = StubContainers(config.root)
        self.execs = SimpleNamespace(wait=lambda exec_id, **_: 3)
        self.images = StubImages(config.root)
        self.pods = StubPods()
        self.vms = SimpleNamespace(all=list)
        self.database = SimpleNamespace(version=lambda *_tables: ())
        self.events = EventBus()
        self.system = SimpleNamespace(
            check_size=lambda size: None,
            info=lambda: SystemInfo(
                version="x",
                pid=os.getpid(),
                root=config.root,
                host_name="stub",
                operating_system="stub",
                memory=2**30,
                cpus=1,
                hypervisor=HypervisorInfo(driver="stub", accelerator="tcg", reason="", version="", max_vcpu=1),
                guest="none",
                pods=0,
                containers=0,
                images=0,
            ),
        )

    def reconfigure(self, config) -> None:
        self.config = config

    def stop_pods(self) -> None:
        logging.getLogger("stub").info("pods stopped")

    def open(self) -> None:
        if os.environ.get("STUB_FAILS"):
            raise HostFault("there is no hypervisor", resolution="buy one")

    def close(self) -> None:
        logging.getLogger("stub").info("engine closed")


@click.command()
@click.option("--config", type=click.Path(path_type=Path))
@click.option("--root", type=click.Path(path_type=Path))
@click.option("--host", multiple=True)
def main(config, root, host) -> None:
    code = 0
    worker.RECEIVE_TIMEOUT = int(os.environ.get("STUB_RECEIVE_TIMEOUT", worker.RECEIVE_TIMEOUT))
    serve.GRACEFUL_TIMEOUT = int(os.environ.get("STUB_GRACEFUL_TIMEOUT", serve.GRACEFUL_TIMEOUT))
    try:
        settings, _ = load.load(config, root=root, hosts=host)
        daemon_logging.setup(settings.log_level, settings.log_format)
        serve.serve(settings, StubEngine, reload=lambda: load.load(config, root=root, hosts=host))
    except HyperError as error:
        click.echo(f"hyperd: {error}", err=True)
        code = 1
    os._exit(code)


if __name__ == "__main__":
    main()
