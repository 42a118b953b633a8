"""Pods by the API, for tests with real VMs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.vm.conftest import Host


@contextmanager
def client(host: Host, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run hyperctl beside the test; what still runs at the end is killed."""
    process = host.background(*words)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def info(host: Host, name: str) -> dict[str, Any]:
    found: dict[str, Any] = host.daemon.json("GET", "/container/info", container=name)
    return found


def restarts(host: Host, name: str) -> int:
    return int(info(host, name)["status"]["restartCount"])


def make(host: Host, pod: dict[str, Any], *, start: bool = True) -> None:
    for container in pod["containers"]:
        container.setdefault("image", host.image)
    host.daemon.json("POST", "/pod/create", body=pod, status=201)
    if start:
        host.daemon.json("POST", "/pod/start", podId=pod["id"])
