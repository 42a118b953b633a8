"""The daemon is killed while it builds and commits, at several moments, and ended in a good way: nothing is left."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import select

from hyperd.db.models import BlobRow, LayerRow, VmRow
from hyperd.db.session import Database
from tests.support.builds import built, context
from tests.support.images import stored
from tests.support.until import until
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

BIG = "dd if=/dev/urandom of=/big bs=1M count=100 2>/dev/null"


def check(host: Host) -> None:
    """Files and rows are the same, and there is nothing half made; VMs are those of pods."""
    images, root = host.daemon.root / "images", host.daemon.root
    assert list((images / "tmp").iterdir()) == []
    assert list((root / "builds").glob("build-*")) == []
    assert list((root / "builds/cache").glob(".*")) == []
    database = Database(root / "hyper.db")
    try:
        with database.session() as session:
            layers, blobs = set(session.scalars(select(LayerRow.diff_id))), set(session.scalars(select(BlobRow.digest)))
            pods = list(session.scalars(select(VmRow.pod_id)))
    finally:
        database.close()
    assert {path.name for path in (images / "layers").iterdir()} == {f"{_hex(layer)}.sqfs" for layer in layers}
    assert {path.name for path in (images / "blobs/sha256").iterdir()} == {_hex(blob) for blob in blobs}
    running = [row.split(":")[0] for row in host.daemon.json("GET", "/list", item="pod")["podData"] if "running" in row]
    assert sorted(filter(None, pods)) == sorted(running)
    assert len(pods) == len(running) == len(host.left()["qemu"])


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def names(host: Host) -> list[str]:
    return [row for row in host.daemon.json("GET", "/images/get", all="yes")["imagesList"] if "made/" in row]


@contextmanager
def building(host: Host, dockerfile: str, *, cut: int = 0) -> Iterator[Callable[[], bytes]]:
    """Ask for a build on a connection that is read in a thread; give what shows what came until now.

    With ``cut`` that many bytes of the context are not sent.
    """
    data = context({"Dockerfile": dockerfile, "file": bytes(3 << 20)})
    seen = bytearray()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(host.daemon.host.removeprefix("unix://"))
        head = f"POST /image/build?t=made/never HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data[: len(data) - cut])

        def read() -> None:
            with contextlib.suppress(ConnectionError):  # the daemon is killed in the middle
                while piece := client.recv(65536):
                    seen.extend(piece)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield lambda: bytes(seen)
        finally:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            reader.join()


def uploading(host: Host, _seen: bytes) -> bool:
    return any(path.stat().st_size > 1 << 20 for path in (host.daemon.root / "builds").glob("build-*/context"))


def booting(host: Host, _seen: bytes) -> bool:
    return bool(list((host.daemon.root / "pods").glob("build-*/scratch.img"))) and bool(
        list((host.daemon.root / "run").glob("*"))
    )


def stepping(_host: Host, seen: bytes) -> bool:
    return b'"first\\n' in seen


def between(_host: Host, seen: bytes) -> bool:
    return b"Step 3/4" in seen


def packing(host: Host, _seen: bytes) -> bool:
    sizes = [path.stat().st_size for path in (host.daemon.root / "images/tmp").glob("*.tmp") if path.exists()]
    return max(sizes, default=0) > 5 << 20


def waiting(_host: Host, seen: bytes) -> bool:
    return b'"waiting\\n' in seen


@pytest.mark.parametrize("moment", [uploading, booting, stepping, between, packing, waiting])
def test_killed_in_a_build(host: Host, moment: Callable[[Host, bytes], bool]):
    dockerfile = f"FROM {host.image}\nRUN echo first; sleep 0.3; echo {moment.__name__} > /x\nRUN {BIG}\n"
    with building(host, dockerfile + "RUN echo waiting; sleep 1000\n", cut=moment is uploading) as seen:
        until(lambda: moment(host, seen()))
        host.daemon.kill()
    host.daemon.start()
    until(lambda: not any(host.left().values()))
    check(host)
    assert names(host) == []
    said = built(host, {"Dockerfile": dockerfile.partition("RUN dd")[0]}, t="made/after")
    assert ("Using cache" in said) == (moment in (between, packing, waiting))  # what was done is not done again
    host.ok("rmi", "made/after")
    host.assert_clean()


def test_a_good_end_ends_builds_and_commits(host: Host):
    host.pod("busy", f"{BIG}; echo ready; sleep 1000")
    until(lambda: host.ok("logs", "busy") == "ready\n")
    files = stored(host.daemon.root)
    codes: list[int] = []

    def commit() -> None:
        codes.append(host.daemon.request("POST", "/container/commit", container="busy", repo="made/never")[0])

    with building(host, f"FROM {host.image}\nRUN echo waiting; sleep 1000\n") as seen:
        until(lambda: waiting(host, seen()))
        client = threading.Thread(target=commit)
        client.start()
        until(lambda: packing(host, b""))
        assert host.daemon.stop() == 0
        assert b'"error"' in seen() or not seen().endswith(b"0\r\n\r\n")
    client.join()
    finished = codes == [200]  # on a quick machine, within the time that requests under way are given
    assert finished or stored(host.daemon.root) == files
    assert list((host.daemon.root / "pods").glob("build-*")) == []
    host.daemon.start()
    check(host)
    assert bool(names(host)) == finished
    if finished:
        host.ok("rmi", "made/never")
    host.ok("rm", "busy")
    host.assert_clean()


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_killed_in_a_commit(host: Host, stopped: bool):
    host.pod("big", f"[ -e /big ] || {BIG}; echo ready; n=0; while sleep 0.1; do n=$((n+1)); echo $n > /count; done")
    until(lambda: "ready\n" in host.ok("logs", "big"))
    if stopped:
        host.ok("stop", "big")
    moments = [packing] if not stopped else [lambda host, _: bool(list((host.daemon.root / "run").glob("*"))), packing]
    for moment in moments:
        failed = threading.Thread(target=broken_off, args=(host, "big"))
        failed.start()
        until(lambda moment=moment: moment(host, b""))
        host.daemon.kill()
        failed.join()
        host.daemon.start()
        until(lambda: len(host.left()["qemu"]) == (0 if stopped else 1))
        check(host)
        assert names(host) == []
    if stopped:
        host.ok("start", "big")
    until(lambda: host.ctl("exec", "big", "cat", "/count").stdout)
    before = host.ok("exec", "big", "cat", "/count")
    until(lambda: host.ok("exec", "big", "cat", "/count") != before)  # it is not frozen
    image = host.daemon.json("POST", "/container/commit", container="big", repo="made/big", pause="1")["ID"]
    sums = [
        host.ctl("run", "--rm", "made/big", "md5sum", "/big").stdout,
        host.ok("exec", "big", "md5sum", "/big").encode(),
    ]
    assert sums[0] == sums[1] != b""
    assert image
    host.ok("rm", "big")
    host.ok("rmi", "made/big")
    host.assert_clean()


def broken_off(host: Host, container: str) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        host.daemon.request("POST", "/container/commit", container=container, repo="made/never", pause="1")
