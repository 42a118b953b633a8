"""What tests of an engine's services share."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperd.config.model import Config, HypervisorConfig, NetworkConfig
from hyperd.container.process import AttachOptions
from hyperd.engine import Engine
from hyperd.errors import OutOfSpace
from hyperd.pod.states import PodState
from hyperd.spec.model import (
    ContainerSpec,
    PodSpec,
)
from hyperd.vm.fake import FakeDriver

DEAF = "SIGCONT"  # a stop signal that ends nothing


@contextmanager
def opened(root: Path, pool: int = 0) -> Iterator[Engine]:
    """Yield an engine with VMs that are threads, on user-mode networks."""
    network = NetworkConfig(bridge="")
    running = Engine(Config(root=root, network=network, hypervisor=HypervisorConfig(driver="fake", pool=pool)))
    running.open()
    try:
        yield running
    finally:
        running.close()


def container(name: str, *argv: str, **more: Any) -> ContainerSpec:
    return ContainerSpec(name=name, image="busybox", command=argv or ("sleep", "99"), **more)


def pod(engine: Engine, *containers: ContainerSpec, **more: Any) -> str:
    """Start a pod of these containers; give its id."""
    ident = engine.pods.create(PodSpec(containers=containers, restart_policy="never", **more))
    engine.pods.start(ident)
    return ident


def crash(engine: Engine, pod_id: str) -> None:
    """Do to the pod's VM what kill -9 of its QEMU does."""
    driver, vm = engine.vms._driver, engine.vms.of_pod(pod_id)
    assert isinstance(driver, FakeDriver)
    assert vm is not None
    driver.crash(vm.id)


def is_stopped(engine: Engine, pod_id: str) -> Callable[[], bool]:
    return lambda: engine.pods.inspect(pod_id).state == PodState.STOPPED


def waits(future: Future[Any]) -> bool:
    """Tell whether a call goes on for a while."""
    time.sleep(0.3)  # nothing tells that something does not happen
    return not future.done()


def attached(engine: Engine, name: str, *, next_run: bool) -> socket.socket:
    """Return a client's end of an attachment without input."""
    session = engine.containers.streams.attach(name, AttachOptions(stdin=False), next_run=next_run)
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    session.run(theirs, b"")
    return ours


def everything(sock: socket.socket) -> bytes:
    """Return what comes until the end, without the heads of the frames."""
    with sock, sock.makefile("rb") as file:
        found = b""
        while head := file.read(8):
            found += file.read(int.from_bytes(head[4:]))
        return found


def full(*_: Any, **_more: Any) -> None:
    raise OutOfSpace("the host's disk is full")
