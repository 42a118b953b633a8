"""Volumes of every kind in real guests."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nfs import NfsServer
from tests.support.registry import Layer, RegistryServer, busybox_tar, directory, layer_tar, member
from tests.support.until import until
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the host whose way is open for every user."""
    path = Path(tempfile.mkdtemp(prefix="hyvol", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def pods(host: Host) -> Iterator[Any]:
    """Make and start pods; they are removed afterwards, and nothing of them is left."""
    made = []

    def make(name: str, *, start: bool = True, containers: list[dict[str, Any]] | None = None, **fields: Any) -> str:
        if containers is None:
            refs = [{"volume": volume["name"], "path": f"/{volume['name']}"} for volume in fields.get("volumes", [])]
            containers = [{"volumes": refs}]
        whole = [
            {"name": name if n == 0 else f"{name}-{n}", "image": host.image, "command": ["sleep", "1000"], **container}
            for n, container in enumerate(containers)
        ]
        host.daemon.json("POST", "/pod/create", body={"id": name, "containers": whole, **fields}, status=201)
        made.append(name)
        if start:
            host.daemon.json("POST", "/pod/start", podId=name)
        return name

    yield make
    for name in made:
        host.ctl("rm", name)
    host.assert_clean()


def refused(host: Host, status: int, pod: dict[str, Any]) -> str:
    """Create a pod, which must be refused and leave nothing; give the message."""
    code, _, body = host.daemon.request("POST", "/pod/create", body=pod)
    assert code == status, body
    assert host.daemon.request("GET", "/pod/info", podName=pod["id"])[0] == 404
    return body.decode()


def sh(host: Host, container: str, script: str) -> str:
    """Run a script in a container; give what it prints."""
    return host.ok("exec", container, "sh", "-c", script)


def vfs(path: Path, name: str = "data") -> dict[str, Any]:
    return {"name": name, "source": str(path), "format": "vfs"}


# -- host directories and files


def test_a_host_directory_is_seen_and_changed_from_both_sides(host: Host, pods: Any, place: Path) -> None:
    (place / "sub").mkdir()
    (place / "sub" / "owned").write_text("by 1234\n")
    os.chown(place / "sub" / "owned", 1234, 2345)
    (place / "sub" / "owned").chmod(0o640)
    pods("both", volumes=[vfs(place)])
    assert sh(host, "both", "cd /data/sub; cat owned; stat -c '%u %g %a' owned") == "by 1234\n1234 2345 640\n"
    sh(host, "both", "echo guest > /data/made; chown 77:88 /data/made; chmod 4751 /data/made; mv /data/sub /data/moved")
    made = (place / "made").stat()
    assert ((place / "made").read_text(), made.st_uid, made.st_gid) == ("guest\n", 77, 88)
    assert stat.S_IMODE(made.st_mode) == 0o4751
    assert (place / "moved" / "owned").exists()
    # What the host does is seen at once, whatever the guest has looked at before.
    (place / "made").write_text("host, and longer\n")
    (place / "new").mkdir()
    assert sh(host, "both", "cat /data/made; ls -d /data/new") == "host, and longer\n/data/new\n"
    (place / "made").unlink()
    assert host.ctl("exec", "both", "cat", "/data/made").returncode != 0


def test_users_of_the_guest_have_their_rights_and_no_more(host: Host, pods: Any, place: Path) -> None:
    (place / "private").write_text("x")
    (place / "private").chmod(0o600)
    (place / "mine").mkdir()
    os.chown(place / "mine", 1000, 1000)
    user = {"user": {"name": "1000", "group": "1000"}, "volumes": [{"volume": "data", "path": "/data"}]}
    pods("rights", volumes=[vfs(place)])
    assert sh(host, "rights", "cat /data/private") == "x"
    script = "id -u; cat /data/private; echo x > /data/mine/f; echo y > /data/no"
    pods("rights2", volumes=[vfs(place)], containers=[{**user, "command": ["sh", "-c", script]}])
    assert host.daemon.json("GET", "/exitcode", container="rights2") == 1
    assert host.ok("logs", "rights2") == "1000\n"
    assert (place / "mine" / "f").stat().st_uid == 1000
    assert not (place / "no").exists()


def test_read_only_is_kept_by_the_guest_and_by_the_host(host: Host, pods: Any, place: Path) -> None:
    (place / "f").write_text("old\n")
    containers = [{"volumes": [{"volume": "data", "path": "/data", "readOnly": True}]}]
    pods("readonly", volumes=[vfs(place)], containers=containers)
    done = host.ctl("exec", "readonly", "sh", "-c", "cat /data/f; echo new > /data/f")
    assert done.stdout == b"old\n"
    assert b"Read-only file system" in done.stderr
    # A guest that takes the write protection away on its side still cannot write.
    remount = "d=$(ls -d /run/shared/*); /sbin/busybox mount -o remount,rw /run/shared; echo new > $d/f"
    done = host.ctl("exec", "-m", "readonly", "/sbin/busybox", "sh", "-c", remount)
    assert b"Read-only file system" in done.stdout + done.stderr
    assert (place / "f").read_text() == "old\n"


def test_one_directory_read_only_for_one_container_and_writable_for_another(host: Host, pods: Any, place: Path) -> None:
    ref = {"volume": "data", "path": "/data"}
    pods("mixed", volumes=[vfs(place)], containers=[{"volumes": [ref]}, {"volumes": [{**ref, "readOnly": True}]}])
    sh(host, "mixed", "echo x > /data/f")
    assert host.ctl("exec", "mixed-1", "sh", "-c", "cat /data/f; rm /data/f").stdout == b"x\n"
    assert (place / "f").exists()


def test_a_single_file(host: Host, pods: Any, place: Path) -> None:
    (place / "one").write_text("one\n")
    (place / "secret").write_text("not shared\n")
    os.chown(place / "one", 5, 6)
    ref = {"volume": "data", "path": "/etc/deep/inside.conf"}
    pods("file", volumes=[vfs(place / "one")], containers=[{"volumes": [ref]}])
    assert sh(host, "file", "cat /etc/deep/inside.conf; stat -c '%u %g' /etc/deep/inside.conf") == "one\n5 6\n"
    sh(host, "file", "echo two >> /etc/deep/inside.conf")
    assert (place / "one").read_text() == "one\ntwo\n"
    (place / "one").write_text("three\n")
    assert sh(host, "file", "cat /etc/deep/inside.conf") == "three\n"
    # Its neighbours are nowhere in the guest.
    inside = host.ok("exec", "-m", "file", "/sbin/busybox", "sh", "-c", "ls /run/shared | wc -l")
    assert inside == "1\n"
    assert [line for line in Path("/proc/mounts").read_text().splitlines() if "stage-" in line] == []


def test_links_a_guest_makes_lead_nowhere_on_the_host(host: Host, pods: Any, place: Path) -> None:
    (place / "shared").mkdir()
    pods("links", volumes=[vfs(place / "shared")])
    target = place / "outside"
    target.write_text("secret\n")
    script = f"ln -s {target} /data/link; ln -s .. /data/up; ln -s / /data/root; cat /data/link /data/up/outside"
    assert host.ctl("exec", "links", "sh", "-c", script).stdout == b""
    assert (place / "shared" / "link").is_symlink()
    # Nor may another pod be told to follow them.
    for source in ("link", "up", "root/etc"):
        pod = {
            "id": "follow",
            "volumes": [vfs(place / "shared" / source)],
            "containers": [{"image": host.image, "volumes": [{"volume": "data", "path": "/data"}]}],
        }
        assert "leads over the link" in refused(host, 409, pod)


def test_a_guest_makes_no_device_nodes_on_the_host(host: Host, pods: Any, place: Path) -> None:
    pods("nodes", volumes=[vfs(place)])
    for words in ("/data/disk b 8 0", "/data/mem c 1 1"):
        assert host.ctl("exec", "nodes", "sh", "-c", f"mknod {words}").returncode != 0
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("source", "word"), [("nothing/here", "does not exist"), ("fifo", "neither a directory")])
def test_a_source_that_cannot_be_shared_is_refused_at_once(host: Host, place: Path, source: str, word: str) -> None:
    os.mkfifo(place / "fifo")
    pod = {
        "id": "missing",
        "volumes": [vfs(place / source)],
        "containers": [{"image": host.image, "volumes": [{"volume": "data", "path": "/data"}]}],
    }
    assert word in refused(host, 409, pod)


def test_a_source_that_vanished_before_the_start_leaves_a_pod_that_can_start_later(
    host: Host, pods: Any, place: Path
) -> None:
    source = place / "later"
    source.mkdir()
    pods("later", start=False, volumes=[vfs(source)])
    source.rmdir()
    code, _, body = host.daemon.request("POST", "/pod/start", podId="later")
    assert (code, b"does not exist" in body) == (409, True)
    assert host.left()["qemu"] == []
    source.mkdir()
    host.daemon.json("POST", "/pod/start", podId="later")


def test_a_container_added_to_a_running_pod(host: Host, pods: Any, place: Path) -> None:
    (place / "f").write_text("shared\n")
    pods("added", volumes=[vfs(place)])
    body = {"name": "added-2", "image": host.image, "command": ["cat", "/more/f"]}
    known = {**body, "volumes": [{"volume": "data", "path": "/more"}]}
    host.daemon.json("POST", "/container/create", podId="added", body=known, status=201)
    host.daemon.json("POST", "/container/start", container="added-2")
    assert host.daemon.json("GET", "/exitcode", container="added-2") == 0
    assert host.ok("logs", "added-2") == "shared\n"


def bound(host: Host, pod: str) -> list[str]:
    """What of the host a pod's guest sees, by the names it has there."""
    return host.ok("exec", "-m", pod, "/sbin/busybox", "ls", "/run/shared").split()


def test_host_directories_come_to_a_running_pod_and_go_with_their_container(host: Host, pods: Any, place: Path) -> None:
    for name in ("rw", "ro", "rw/inner", "nested", "first"):
        (place / name).mkdir()
    (place / "ro" / "f").write_text("fixed\n")
    (place / "one").write_text("one\n")
    (place / "secret").write_text("secret\n")
    pods("late", volumes=[vfs(place / "first", "first")])
    paths = {"rw": "/data", "ro": "/fixed", "one": "/etc/deep/one", "nested": "/data/inner"}
    volumes = [
        {"volume": name, "path": path, "readOnly": name == "ro", "detail": vfs(place / name, name)}
        for name, path in paths.items()
    ]
    body = {"name": "late-2", "image": host.image, "command": ["sleep", "1000"], "volumes": volumes}
    host.daemon.json("POST", "/container/create", podId="late", body=body, status=201)
    host.daemon.json("POST", "/container/start", container="late-2")
    assert sh(host, "late-2", "cat /fixed/f /etc/deep/one; echo x > /data/f; echo y > /data/inner/g") == "fixed\none\n"
    assert ((place / "rw" / "f").read_text(), (place / "nested" / "g").read_text()) == ("x\n", "y\n")
    (place / "one").write_text("two\n")
    (place / "rw" / "f").write_text("of the host\n")
    assert sh(host, "late-2", "cat /etc/deep/one /data/f") == "two\nof the host\n"
    assert b"Read-only" in host.ctl("exec", "late-2", "sh", "-c", "echo z > /fixed/f").stderr
    assert str(place) not in Path("/proc/mounts").read_text()
    # What a guest does to its side of the share reaches nothing outside.
    tamper = f"""
        cd /run/shared; mkdir /tmp/r; for d in *; do ln -s {place}/secret $d/link; cat $d/link $d/../secret; done
        mount -t 9p -o trans=virtio,version=9p2000.L hyper /tmp/r; ln -s / /tmp/r/root; mkdir /tmp/r/x
        mv /tmp/r/* /tmp/r/y; mount -o remount,rw /tmp/r; echo n > $(echo *r | cut -d' ' -f1)/f; umount /tmp/r"""
    done = host.ctl("exec", "-m", "late", "/sbin/busybox", "sh", "-c", tamper)
    assert b"secret\n" not in done.stdout
    assert (place / "ro" / "f").read_text() == "fixed\n"
    assert len(bound(host, "late")) == 5
    host.daemon.restart(kill=True)
    assert sh(host, "late-2", "cat /fixed/f; echo again > /data/f") == "fixed\n"
    third = {**body, "name": "late-3", "volumes": volumes[:1]}
    host.daemon.json("POST", "/container/create", podId="late", body=third, status=201)
    host.daemon.json("POST", "/container/start", container="late-3")
    assert sh(host, "late-3", "cat /data/f") == "again\n"
    host.daemon.json("POST", "/container/remove", container="late-2", status=204)
    assert len(bound(host, "late")) == 2
    host.daemon.json("POST", "/container/remove", container="late-3", status=204)
    assert len(bound(host, "late")) == 1
    assert (place / "rw" / "f").read_text() == "again\n"


@pytest.mark.parametrize("fmt", ["vfs", "raw"])
def test_a_pod_that_was_started_without_files_of_the_host_can_be_given_some(
    host: Host, pods: Any, place: Path, fmt: str
) -> None:
    source = place / "data"
    if fmt == "raw":
        new_image(source, "raw", content="x\n")
    else:
        source.mkdir()
        (source / "f").write_text("x\n")
    pods("plain")
    detail = {"name": "data", "source": str(source), "format": fmt}
    volumes = [{"volume": "data", "path": "/data", "detail": detail}]
    body = {"name": "plain-2", "image": host.image, "command": ["sleep", "1000"], "volumes": volumes}
    host.daemon.json("POST", "/container/create", podId="plain", body=body, status=201)
    host.daemon.json("POST", "/container/start", container="plain-2")
    assert sh(host, "plain-2", "cat /data/f; echo y > /data/g; chown 7:8 /data/g; stat -c %u:%g /data/g") == "x\n7:8\n"
    host.daemon.restart(kill=True)
    host.daemon.json("POST", "/pod/stop", podId="plain")
    host.daemon.json("POST", "/pod/start", podId="plain")
    assert sh(host, "plain-2", "cat /data/f /data/g; stat -c %u:%g /data/g") == "x\ny\n7:8\n"


def test_volumes_survive_a_restart_of_the_daemon_and_of_the_pod(host: Host, pods: Any, place: Path) -> None:
    pods("again", volumes=[vfs(place), {"name": "own"}])
    sh(host, "again", "echo x > /data/f; echo y > /own/f")
    host.daemon.restart(kill=True)
    assert sh(host, "again", "cat /data/f /own/f; echo z >> /data/f") == "x\ny\n"
    host.ok("stop", "again")
    host.ok("start", "again")
    assert sh(host, "again", "cat /data/f /own/f") == "x\nz\ny\n"


# -- new volumes


def test_new_volumes_are_shared_by_the_pods_containers(host: Host, pods: Any) -> None:
    ref = {"volume": "shared", "path": "/shared"}
    own = {"volume": "own", "path": "/own", "detail": {"name": "own"}}
    pods(
        "new", volumes=[{"name": "shared"}], containers=[{"volumes": [ref, own], "readOnly": True}, {"volumes": [ref]}]
    )
    sh(host, "new", "echo x > /shared/f; echo y > /own/f")
    assert sh(host, "new-1", "cat /shared/f; stat -c %a /shared") == "x\n777\n"
    assert host.ctl("exec", "new", "touch", "/f").returncode != 0
    info = host.daemon.json("GET", "/pod/info", podName="new")["spec"]
    assert sorted(volume["name"] for volume in info["volumes"]) == ["own", "shared"]
    assert info["containers"][0]["volumeMounts"] == [
        {"name": "shared", "mountPath": "/shared", "readOnly": False},
        {"name": "own", "mountPath": "/own", "readOnly": False},
    ]


@pytest.fixture(scope="module")
def image_with_volumes(host: Host, registry: RegistryServer) -> str:
    """An image that has content where it declares volumes."""
    extra = layer_tar(
        [
            directory("data", mode=0o750, uid=7, gid=8),
            member("data/f", b"from the image\n", mode=0o604, uid=9, gid=10, mtime=1_000_000_000),
            directory("data/sub"),
            member("data/sub/link", type=b"2", linkname="../f"),
            directory("plain"),
            member("plain/f", b"plain\n"),
        ]
    )
    paths = ("/data", "/fresh/deep", "/plain/")
    config = {"config": {"Env": ["PATH=/bin"], "Volumes": {path: {} for path in paths}}}
    registry.push("volumes", "latest", [Layer(busybox_tar()), Layer(extra)], config=config)
    host.ok("pull", f"{registry.host}/volumes")
    return f"{registry.host}/volumes"


def test_volumes_of_an_image_begin_with_its_content(host: Host, pods: Any, image_with_volumes: str) -> None:
    container = {
        "image": image_with_volumes,
        "readOnly": True,
        "volumes": [{"volume": "mine", "path": "/plain", "detail": {"name": "mine"}}],
    }
    pods("image", containers=[container])
    look = "cd /data; cat f sub/link; stat -c '%u %g %a' . f; stat -c %Y f; ls -A /fresh/deep /plain"
    assert sh(host, "image", look) == (
        "from the image\nfrom the image\n7 8 750\n9 10 604\n1000000000\n/fresh/deep:\n\n/plain:\n"
    )
    sh(host, "image", "echo changed > /data/f; rm -r /data/sub; touch /fresh/deep/x")
    host.ok("stop", "image")
    host.ok("start", "image")
    assert sh(host, "image", "cat /data/f; ls /data /fresh/deep") == "changed\n/data:\nf\n\n/fresh/deep:\nx\n"
    mounts = host.daemon.json("GET", "/pod/info", podName="image")["spec"]["containers"][0]["volumeMounts"]
    assert sorted(mount["mountPath"] for mount in mounts) == ["/data", "/fresh/deep", "/plain"]


# -- images


def new_image(path: Path, fmt: str, *, content: str = "", inner: str = "") -> Path:
    """Make an image with an ext4 that holds ``inner``/f, or an empty one."""
    raw = path.with_suffix(".tmp")
    with raw.open("wb") as file:
        file.truncate(32 * 2**20)
    if content:
        tree = path.with_suffix(".tree")
        (tree / inner).mkdir(parents=True)
        (tree / inner / "f").write_text(content)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", tree, raw], check=True)
    if fmt == "raw":
        raw.rename(path)
    else:
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", fmt, raw, path], check=True)
        raw.unlink()
    return path


@pytest.mark.parametrize(
    ("fmt", "cache"),
    [
        ("raw", ""),
        ("raw", "directsync"),
        ("qcow2", "none"),
        ("qcow2", "off"),
        ("vdi", "writethrough"),
        ("vdi", "unsafe"),
    ],
)
def test_images(host: Host, pods: Any, place: Path, fmt: str, cache: str) -> None:
    image = new_image(place / f"disk.{fmt}", fmt, content="in the image\n")
    os.chown(image, 1234, 1234)
    image.chmod(0o600)
    volume = {"name": "disk", "source": str(image), "format": fmt, "cache": cache}
    pods("images", volumes=[volume])
    assert sh(host, "images", "cat /disk/f; echo more >> /disk/f") == "in the image\n"
    host.ok("stop", "images")
    host.ok("start", "images")
    assert sh(host, "images", "cat /disk/f") == "in the image\nmore\n"
    assert image.stat().st_uid == 1234


def test_the_data_directory_of_the_original_is_used(host: Host, pods: Any, place: Path) -> None:
    image = new_image(place / "disk.img", "raw", content="old volume\n", inner="_data")
    pods("data", volumes=[{"name": "disk", "source": str(image), "format": "raw", "fstype": "ext4"}])
    assert sh(host, "data", "ls -A /disk; cat /disk/f") == "f\nold volume\n"


def test_an_empty_raw_image_gets_a_file_system(host: Host, pods: Any, place: Path) -> None:
    image = new_image(place / "disk.img", "raw")
    pods("empty", volumes=[{"name": "disk", "source": str(image), "format": "raw"}])
    sh(host, "empty", "echo x > /disk/f")
    host.ok("stop", "empty")
    host.ok("start", "empty")
    assert sh(host, "empty", "cat /disk/f") == "x\n"


def test_a_read_only_image_is_shared_by_pods_and_a_written_one_is_not(host: Host, pods: Any, place: Path) -> None:
    image = new_image(place / "disk.img", "raw", content="x\n")
    before = image.read_bytes()
    volume = {"name": "disk", "source": str(image), "format": "raw"}
    ref = {"volume": "disk", "path": "/disk"}
    for name in ("reader1", "reader2"):
        pods(name, volumes=[volume], containers=[{"volumes": [{**ref, "readOnly": True}]}])
        assert sh(host, name, "cat /disk/f") == "x\n"
        assert host.ctl("exec", name, "touch", "/disk/g").returncode != 0
    pods("writer", start=False, volumes=[volume])
    code, _, body = host.daemon.request("POST", "/pod/start", podId="writer")
    assert (code, b"in use" in body) == (409, True)
    host.ok("rm", "reader1", "reader2")
    assert image.read_bytes() == before
    host.daemon.json("POST", "/pod/start", podId="writer")


def test_images_that_are_not_what_they_should_be(host: Host, place: Path) -> None:
    (place / "text").write_text("x" * 4096)
    (place / "short").write_text("x")
    new_image(place / "base.raw", "raw", content="x\n")
    backing = ["-F", "raw", "-b", place / "base.raw"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, place / "child.qcow2"], check=True)
    data = ["-o", f"data_file={place}/outside,data_file_raw=on"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *data, place / "data.qcow2", "1M"], check=True)
    for name, fmt, status, word in (
        ("text", "qcow2", 400, "not in the format"),
        ("text", "vdi", 400, "not in the format"),
        ("short", "raw", 400, "smaller than a sector"),
        ("child.qcow2", "qcow2", 409, "refers to another file"),
        ("data.qcow2", "qcow2", 409, "refers to another file"),
        ("", "raw", 409, "neither a file nor a block device"),
        ("nothing", "raw", 409, "does not exist"),
    ):
        pod = {
            "id": "bad",
            "volumes": [{"name": "disk", "source": str(place / name), "format": fmt}],
            "containers": [{"image": host.image, "volumes": [{"volume": "disk", "path": "/disk"}]}],
        }
        assert word in refused(host, status, pod), name
    # A guest could exchange what lies in a directory that it may write to.
    refs = [{"volume": "data", "path": "/data"}, {"volume": "disk", "path": "/disk"}]
    pod = {
        "id": "bad",
        "volumes": [vfs(place), {"name": "disk", "source": str(place / "base.raw"), "format": "raw"}],
        "containers": [{"image": host.image, "volumes": refs}],
    }
    assert "where guests or hyperd itself can change it" in refused(host, 409, pod)


def test_an_image_without_a_file_system_fails_with_a_reason_and_leaves_nothing(
    host: Host, pods: Any, place: Path
) -> None:
    (place / "text").write_text("x" * 65536)
    pods("nofs", start=False, volumes=[{"name": "disk", "source": str(place / "text"), "format": "raw"}])
    code, _, body = host.daemon.request("POST", "/pod/start", podId="nofs")
    assert (code, b"cannot be mounted" in body) == (409, True)
    assert host.left()["qemu"] == []


def test_an_image_for_a_container_of_a_running_pod(host: Host, pods: Any, place: Path) -> None:
    image = new_image(place / "disk.qcow2", "qcow2", content="late\n")
    (place / "first").mkdir()
    pods("late", volumes=[vfs(place / "first", "first")])
    detail = {"name": "disk", "source": str(image), "format": "qcow2"}
    body = {
        "name": "late-2",
        "image": host.image,
        "command": ["cat", "/disk/f"],
        "volumes": [{"volume": "disk", "path": "/disk", "detail": detail}],
    }
    host.daemon.json("POST", "/container/create", podId="late", body=body, status=201)
    host.daemon.json("POST", "/container/start", container="late-2")
    assert host.daemon.json("GET", "/exitcode", container="late-2") == 0
    assert host.ok("logs", "late-2") == "late\n"


@pytest.mark.parametrize(
    ("modes", "past_the_host", "guest_waits"),
    [(("writeback", "writethrough"), False, True), (("none",), True, False), (("directsync", "off"), True, True)],
)
def test_the_containers_cache_mode_is_the_pods_disks(
    host: Host, pods: Any, modes: tuple[str, ...], past_the_host: bool, guest_waits: bool
) -> None:
    pods("cache", containers=[{"cache": mode} for mode in modes])
    (pid,) = host.left()["qemu"]
    words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    options = [json.loads(word) for word in words if word.startswith("{")]
    (disk,) = [found for found in options if found.get("filename", "").endswith("/scratch.img")]
    assert disk["cache"] == {"direct": past_the_host, "no-flush": False}
    (device,) = [found for found in options if found.get("driver") == "scsi-hd" and found["lun"] == 0]
    assert device["write-cache"] == ("off" if guest_waits else "on")
    assert sh(host, "cache", "echo x > /f; cat /f") == "x\n"


def test_an_idle_vm_gives_images_and_host_directories_back(host: Host, pods: Any, place: Path) -> None:
    image = new_image(place / "disk.img", "raw", content="x\n")
    volume = {"name": "disk", "source": str(image), "format": "raw"}
    vm = host.daemon.json("POST", "/vm/create", cpu=1, mem=128)["ID"]
    for name in ("guest1", "guest2"):
        pods(name, start=False, resource={"vcpu": 1, "memory": 128}, volumes=[volume])
        host.daemon.json("POST", "/pod/start", podId=name, vmId=vm)
        assert sh(host, name, "cat /disk/f") == "x\n"
        host.daemon.json("POST", "/pod/stop", podId=name, stopVM="no")
    with image.open("rb") as file:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    pods("dir", start=False, resource={"vcpu": 1, "memory": 128}, volumes=[vfs(place)])
    host.daemon.json("POST", "/pod/start", podId="dir", vmId=vm)
    assert "disk.img" in sh(host, "dir", "ls /data")
    host.daemon.json("POST", "/pod/stop", podId="dir", stopVM="no")
    assert host.daemon.json("GET", "/list", item="vm")["vmData"] != []
    assert host.daemon.request("DELETE", "/vm", vm=vm)[0] == 200


# -- hyperctl


def test_hyperctl_run_with_volumes(host: Host, place: Path) -> None:
    script = "echo x > /rw/f; echo y > /own/f; cat /ro/f /own/f; echo z > /ro/f"
    (place / "ro").mkdir()
    (place / "ro" / "f").write_text("given\n")
    words = ["-v", f"{place}/made:/rw", "-v", f"{place}/ro:/ro:ro", "-v", "/own"]
    done = host.ctl("run", "--rm", *words, host.image, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (1, b"given\ny\n"), done
    assert (place / "made" / "f").read_text() == "x\n"
    assert (place / "ro" / "f").read_text() == "given\n"
    until(lambda: not host.left()["pods"])
    host.assert_clean()


# -- NFS


def test_an_nfs_export(host: Host, pods: Any, place: Path) -> None:
    (place / "f").write_text("on the server\n")
    os.chown(place / "f", 1234, 2345)
    gateway = host.daemon.subnet.replace(".0/24", ".1")
    with NfsServer(gateway, place):
        volume = {"name": "nas", "source": f"{gateway}:/data", "format": "nas", "fstype": "nfs"}
        ref = {"volume": "nas", "path": "/nas"}
        pods("nas", volumes=[volume], containers=[{"volumes": [ref]}, {"volumes": [{**ref, "readOnly": True}]}])
        assert sh(host, "nas", "cat /nas/f; stat -c '%u %g' /nas/f") == "on the server\n1234 2345\n"
        sh(host, "nas", "echo guest > /nas/made; chown 5:6 /nas/made")
        assert ((place / "made").read_text(), (place / "made").stat().st_uid) == ("guest\n", 5)
        assert host.ctl("exec", "nas-1", "rm", "/nas/made").returncode != 0
        host.ok("rm", "nas")


def test_an_nfs_server_that_is_not_there(host: Host, pods: Any) -> None:
    gateway = host.daemon.subnet.replace(".0/24", ".1")
    pods("nonas", start=False, volumes=[{"name": "nas", "source": f"{gateway}:/data", "format": "nas"}])
    code, _, body = host.daemon.request("POST", "/pod/start", podId="nonas")
    assert (code, b"volume nas cannot be mounted" in body) == (409, True), body
    assert host.left()["qemu"] == []
