"""Named volumes in real guests: filled from the image, used by several pods at a time, kept when pods go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.registry import Layer, RegistryServer, busybox_tar, directory, layer_tar, member
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    files = layer_tar(
        [
            directory("data", mode=0o2750, uid=1000, gid=1001),
            member("data/file", b"from the image\n", mode=0o640, uid=1000, gid=1001),
            directory("data/sub", mode=0o700),
        ]
    )
    registry.push("withdata", "latest", [Layer(busybox_tar()), Layer(files)])
    daemon, host = launch(registry)
    with daemon:
        host.image = f"{registry.host}/withdata"
        host.ok("pull", host.image)
        yield host
        for row in daemon.json("GET", "/list", item="pod")["podData"]:
            host.ctl("rm", row.split(":")[0])
        daemon.json("POST", "/volume/prune", all="yes")
        host.assert_clean()


def start(host: Host, pod: str, source: str, path: str = "/data", **ref: Any) -> str:
    make(host, pod, source, path, **ref)
    host.daemon.json("POST", "/pod/start", podId=pod)
    return pod


def make(host: Host, pod: str, source: str, path: str = "/data", **ref: Any) -> None:
    detail = {"name": "v", "source": source, "format": "volume"}
    container = {
        "name": f"{pod}-c",
        "image": host.image,
        "command": ["sleep", "1000"],
        "volumes": [{"volume": "v", "path": path, "detail": detail, **ref}],
    }
    host.daemon.json("POST", "/pod/create", body={"id": pod, "containers": [container]}, status=201)


def inside(host: Host, pod: str, script: str) -> str:
    return host.ok("exec", f"{pod}-c", "sh", "-c", script).strip()


def test_filled_shared_and_kept(host: Host) -> None:
    start(host, "one", "shop")
    seen = inside(host, "one", "stat -c '%n %a %u %g' /data /data/file /data/sub; cat /data/file")
    assert seen.splitlines() == [
        "/data 2750 1000 1001",
        "/data/file 640 1000 1001",
        "/data/sub 700 0 0",
        "from the image",
    ]
    mountpoint = Path(host.daemon.json("GET", "/volume/info", volume="shop")["mountpoint"])
    assert (mountpoint / "file").stat().st_uid == 1000
    # Another pod at the same time; what it removes is not filled in again.
    start(host, "two", "shop", "/elsewhere")
    start(host, "reader", "shop", readOnly=True)
    inside(host, "one", "rm -r /data/sub; echo more >> /data/file")
    assert inside(host, "two", "cat /elsewhere/file; ls /elsewhere") == "from the image\nmore\nfile"
    assert inside(host, "reader", "cat /data/file; echo x 2>/dev/null > /data/x || echo refused").endswith("refused")
    assert host.daemon.request("DELETE", "/volume", volume="shop")[0] == 409
    host.ok("rm", "one", "two", "reader")
    # Restarted daemon, new pod: everything is there.
    host.daemon.restart(kill=True)
    start(host, "again", "shop")
    assert inside(host, "again", "cat /data/file; ls /data") == "from the image\nmore\nfile"
    host.ok("rm", "again")
    # A file system in memory, and one that does not take the image's files.
    body = {"name": "fast", "options": {"type": "tmpfs", "o": "size=8m"}}
    host.daemon.json("POST", "/volume/create", status=201, body=body)
    start(host, "quick", "fast")
    content, size = inside(host, "quick", "cat /data/file; df /data | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2").split(
        "\n"
    )
    assert (content, int(size) <= 8192) == ("from the image", True)
    host.ok("rm", "quick")
    body = {"name": "own", "options": {"type": "tmpfs", "o": "size=8m,mode=0700,uid=1000"}}
    host.daemon.json("POST", "/volume/create", status=201, body=body)
    start(host, "owner", "own")
    assert inside(host, "owner", "stat -c '%a %u %g' /data; ls -A /data") == "700 1000 0"
    host.ok("rm", "owner")
    assert sorted(host.daemon.json("POST", "/volume/prune", all="yes")) == ["fast", "own", "shop"]
    assert not mountpoint.parent.exists()


def test_a_copy_before_the_start_fills_a_new_volume(host: Host, tmp_path: Path) -> None:
    make(host, "early", "fresh")
    added = tmp_path / "added"
    added.write_text("copied\n")
    host.ok("cp", str(added), "early-c:/data/added")
    host.daemon.json("POST", "/pod/start", podId="early")
    assert inside(host, "early", "cat /data/file /data/added") == "from the image\ncopied"
    host.ok("rm", "early")
    assert list(host.daemon.json("POST", "/volume/prune", all="yes")) == ["fresh"]
