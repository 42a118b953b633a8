"""Commits of containers in real guests: what is in the layer, and what the image runs."""

from __future__ import annotations

import concurrent.futures
import io
import json
import stat
import tarfile

import pytest

from hyperd.db.models import BlobRow, ImageLayerRow, ImageRow
from hyperd.db.session import Database
from hyperd.image.layer.compression import decompressed
from tests.support.images import stored
from tests.support.until import until
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
CHANGES = r"""
set -e
echo changed > /etc/passwd
rm /bin/wc
rm -r /usr; mkdir /usr; echo new > /usr/fresh
mkdir -m 1777 /deep; mkdir -m 750 /deep/er; echo text > /deep/er/file
chown 12:34 /deep/er/file; chmod 6711 /deep/er/file
ln /deep/er/file /deep/hard; ln -s ../nowhere /deep/soft
mkfifo -m 640 /deep/fifo; mknod -m 620 /deep/device c 5 300
echo moved > /tmp/a; mv /tmp/a /tmp/b
touch -h -d '2001-02-03 04:05:06' /deep/soft; touch -d '2001-02-03 04:05:06' /deep/er/file
n=$(printf 'n%.0s' $(seq 200)); echo long > /deep/$n
printf x > "$(printf '/deep/latin\351')"
dd if=/dev/zero of=/deep/zeros bs=1M count=3 2>/dev/null
truncate -s 40M /deep/sparse
echo injected > /etc/hosts
sync
"""


def layer_of(host: Host, image: str) -> tuple[dict[str, tarfile.TarInfo], tarfile.TarFile, dict[str, object]]:
    """Return the uppermost layer of an image as its tar, and the image's configuration."""
    database = Database(host.daemon.root / "hyper.db")
    try:
        with database.session() as session:
            row = session.get_one(ImageRow, image)
            top = session.query(ImageLayerRow).filter_by(image_id=image).order_by(ImageLayerRow.position.desc()).first()
            blob = session.query(BlobRow).filter_by(diff_id=top.diff_id).first()
            config = dict(row.config)
    finally:
        database.close()
    packed = (host.daemon.root / "images/blobs/sha256" / blob.digest.removeprefix("sha256:")).read_bytes()
    data = b"".join(decompressed(iter([packed]), max_bytes=1 << 30))
    archive = tarfile.open(fileobj=io.BytesIO(data))  # noqa: SIM115
    members = archive.getmembers()
    found = {member.name: member for member in members}
    assert len(found) == len(members)
    return found, archive, config


def commit(host: Host, container: str, **query: str) -> str:
    return str(host.daemon.json("POST", "/container/commit", container=container, **query)["ID"])


def check_changes(host: Host, image: str) -> None:
    found, archive, _ = layer_of(host, image)
    names = {name for name in found if not name.startswith("deep/")}
    assert names == {
        "etc", "etc/passwd", "bin", "bin/.wh.wc", "usr", "usr/.wh..wh..opq", "usr/fresh", "deep", "tmp", "tmp/b",
    }  # fmt: skip
    assert archive.extractfile("etc/passwd").read() == b"changed\n"
    assert stat.S_IMODE(found["deep"].mode) == 0o1777
    assert stat.S_IMODE(found["deep/er"].mode) == 0o750
    first, second = found["deep/er/file"], found["deep/hard"]
    assert (first.mode, first.uid, first.gid, first.mtime) == (0o6711, 12, 34, 981173106)
    assert second.islnk()
    assert second.linkname == "deep/er/file"
    soft = found["deep/soft"]
    assert (soft.linkname, soft.mtime) == ("../nowhere", 981173106)
    assert found["deep/fifo"].isfifo()
    device = found["deep/device"]
    assert (device.ischr(), device.devmajor, device.devminor, device.mode) == (True, 5, 300, 0o620)
    assert archive.extractfile("deep/" + "n" * 200).read() == b"long\n"
    assert archive.extractfile("deep/latin\udce9").read() == b"x"
    assert archive.extractfile("deep/zeros").read() == bytes(3 << 20)
    assert found["deep/sparse"].size == 40 << 20
    assert found["deep/sparse"].issparse()


SHOW = (
    "cat /etc/passwd /usr/fresh /tmp/b; ls /usr /bin/wc 2>/dev/null; stat -c '%a %u %g %h %Y' /deep/er/file /deep/hard;"
    " stat -c '%F %t %T' /deep/device /deep/fifo; readlink /deep/soft;"
    " stat -c %s /deep/sparse /deep/zeros; ls -d /deep/lat*"
)


def test_everything_that_changed_is_in_the_layer_running_and_stopped(host: Host):
    name = host.pod("changes", f"if ! [ -e /deep ]; then {CHANGES} fi; echo ready; sleep 1000")
    until(lambda: host.ok("logs", name) == "ready\n")
    running = commit(host, name, repo="made/running", pause="yes")
    check_changes(host, running)
    host.ok("stop", name)
    assert host.left()["qemu"] == []
    stopped = commit(host, name, repo="made/stopped")
    check_changes(host, stopped)
    assert layer_of(host, running)[2]["rootfs"] == layer_of(host, stopped)[2]["rootfs"]
    assert host.left()["qemu"] == []
    host.ok("start", name)  # the disk was not harmed
    assert host.ok("exec", name, "cat", "/usr/fresh") == "new\n"
    before = host.ok("exec", name, "sh", "-c", SHOW)
    host.ok("rm", name)
    after = host.ctl("run", "--rm", "made/running", "sh", "-c", SHOW)
    assert after.stdout.decode() == before
    host.ok("rmi", "made/running", "made/stopped")
    host.assert_clean()


def test_configuration_changes_and_history(host: Host):
    name = host.pod("config", "sleep 1000", options=["--env", "A=one", "--workdir", "/tmp"])
    image = host.ok(
        "commit", "-a", "me <me@x>", "-m", "why", "-c", "ENV B=two C=$A", "-c", 'CMD ["echo", "hi"]',
        "-c", "EXPOSE 80 81/udp", "-c", "LABEL k=v", "-c", "USER 7:8", "-c", "VOLUME /data",
        "-c", "WORKDIR sub", name, "made/config:v1",
    ).strip()  # fmt: skip
    found, _, whole = layer_of(host, image)
    assert list(found) == ["tmp"] or found  # the working directory was there before
    config = whole["config"]
    assert {"A=one", "B=two", "C=one"} <= set(config["Env"])
    assert config["Cmd"] == ["echo", "hi"]
    assert config["ExposedPorts"] == {"80/tcp": {}, "81/udp": {}}
    assert (config["Labels"], config["User"], config["Volumes"]) == ({"k": "v"}, "7:8", {"/data": {}})
    assert config["WorkingDir"] == "/tmp/sub"
    assert (whole["author"], whole["comment"]) == ("me <me@x>", "why")
    assert whole["history"][-1]["comment"] == "why"
    assert "sleep 1000" in whole["history"][-1]["created_by"]
    host.ok("rm", name)
    done = host.ctl("run", "--rm", "made/config:v1")
    assert (done.returncode, done.stdout) == (0, b"hi\n")
    host.ok("rmi", "made/config:v1")


def test_nothing_changed_makes_no_layer_and_nothing_named_is_dangling(host: Host):
    name = host.pod("same", "sleep 1000")
    image = commit(host, name)
    rows = host.daemon.json("GET", "/images/get", all="yes")["imagesList"]
    assert any(row.startswith(f"<none>:<none>:{image.removeprefix('sha256:')}") for row in rows)
    database = Database(host.daemon.root / "hyper.db")
    try:
        with database.session() as session:
            config = session.get_one(ImageRow, image).config
    finally:
        database.close()
    assert len(config["rootfs"]["diff_ids"]) == 1
    assert config["history"][-1]["empty_layer"] is True
    host.ok("rm", name)
    host.ok("rmi", image)


def test_a_body_is_merged_and_bad_requests_are_refused(host: Host):
    name = host.pod("body", "echo x > /x; sleep 1000")
    until(lambda: host.ctl("exec", name, "cat", "/x").stdout == b"x\n")
    body = {"cmd": ["cat", "/x"], "Env": ["Z=9"], "exposedPorts": {"1/tcp": {}}, "Memory": 5, "Labels": {"a": "b"}}
    image = host.daemon.json("POST", "/container/commit", body=body, container=name, repo="made/body")["ID"]
    _, _, whole = layer_of(host, image)
    assert whole["config"]["Cmd"] == ["cat", "/x"]
    assert "Z=9" in whole["config"]["Env"]
    assert host.ctl("run", "--rm", "made/body").stdout == b"x\n"

    def refused(status: int, **query: str) -> str:
        code, _, text = host.daemon.request("POST", "/container/commit", **{"container": name, **query})
        assert code == status, text
        return str(text)

    refused(404, container="nosuch")
    refused(400, container="")
    refused(400, changes="RUN rm -rf /")
    refused(400, changes="EXPOSE many")
    refused(400, changes="GARBAGE x")
    refused(400, repo="Bad Name")
    refused(400, tag="lonely")
    code, _, _ = host.daemon.request("POST", "/container/commit", body={"cmd": "text"}, container=name)
    assert code == 400
    host.ok("pause", name)
    refused(412)
    host.ok("unpause", name)
    host.ok("rm", name)
    host.ok("rmi", "made/body")


def test_pause_stops_the_container_and_lets_it_go_on(host: Host):
    writer = "while true; do echo $((++i)) >> /count; cp /count /twin; done"
    name = host.pod("busy", f"dd if=/dev/urandom of=/big bs=1M count=30 2>/dev/null; echo ready; {writer}")
    until(lambda: host.ok("logs", name) == "ready\n")
    image = commit(host, name, pause="1")
    found, archive, _ = layer_of(host, image)
    assert found["big"].size == 30 << 20
    count, twin = (archive.extractfile(key).read() for key in ("count", "twin"))
    assert count.startswith(twin) or twin.startswith(count)
    size = int(host.ok("exec", name, "stat", "-c", "%s", "/count"))
    until(lambda: int(host.ok("exec", name, "stat", "-c", "%s", "/count")) > size)
    host.ok("rm", name)
    host.ok("rmi", image)


def test_a_vm_that_dies_in_a_commit_leaves_nothing(host: Host):
    import os
    import signal

    name = host.pod("dying", "dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null; echo ready; sleep 1000")
    until(lambda: host.ok("logs", name) == "ready\n")
    files = stored(host.daemon.root)
    (qemu,) = host.left()["qemu"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(host.daemon.request, "POST", "/container/commit", container=name, repo="made/never")
        until(lambda: list((host.daemon.root / "images/tmp").iterdir()))
        os.kill(int(qemu), signal.SIGKILL)
        code, _, _ = answer.result(60)
    assert code == 500
    until(lambda: stored(host.daemon.root) == files)
    assert host.ctl("run", "--rm", "made/never").returncode != 0
    host.ok("rm", name)
    host.assert_clean()


def test_all_parameters_by_either_name_of_stopped_and_of_new_containers(host: Host):
    host.daemon.json("POST", "/pod/create", body={"id": "new", "containers": [{"name": "new-c", "image": host.image}]})
    changes = ["ENV N=1", 'CMD ["echo", "made"]', "HEALTHCHECK --retries=2 CMD true", "ONBUILD RUN x", "STOPSIGNAL 9"]
    image = commit(host, "new-c", repo="made/params", tag="new", author="A <a@x>", message="why", pause="no",
                   change=json.dumps(changes))  # fmt: skip
    whole = host.daemon.json("GET", "/image/inspect", imageId="made/params:new")
    assert (whole["Author"], whole["Comment"], whole["Id"]) == ("A <a@x>", "why", image)
    config = whole["Config"]
    assert (config["Cmd"], config["StopSignal"], config["OnBuild"]) == (["echo", "made"], "9", ["RUN x"])
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Retries": 2}
    assert len(whole["RootFS"]["Layers"]) == 1
    host.ok("rm", "new")
    assert host.ctl("run", "--rm", "made/params:new").stdout == b"made\n"
    name = host.pod("halted", "echo kept > /kept; sleep 1000")
    until(lambda: host.ctl("exec", name, "cat", "/kept").stdout == b"kept\n")
    host.ok("stop", name)
    image = commit(host, name, repo="made/params", comment="stopped", author="B", pause="1",
                   changes=json.dumps(['CMD ["cat", "/kept"]', "LABEL a=b"]))  # fmt: skip
    whole = host.daemon.json("GET", "/image/inspect", imageId=image)
    assert (whole["Author"], whole["Comment"], whole["Config"]["Labels"]) == ("B", "stopped", {"a": "b"})
    host.ok("rm", name)
    assert host.ctl("run", "--rm", "made/params").stdout == b"kept\n"
    host.ok("rmi", "made/params", "made/params:new")
    host.assert_clean()
