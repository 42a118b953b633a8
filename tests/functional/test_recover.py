"""The database is lost, damaged, old or new: nothing is destroyed, and a person can have it rebuilt."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperd.config.model import Config, HypervisorConfig, NetworkConfig
from hyperd.db.migrate import migrate
from hyperd.db.session import Database
from hyperd.engine import Engine
from hyperd.errors import HostFault, OutOfSpace
from hyperd.pod.records import CREATING, PodRecords
from hyperd.spec.model import PodSpec
from hyperd.vm.service import VmService
from tests.support.daemon import PROJECT, HyperdLauncher
from tests.support.registry import Layer, RegistryServer, busybox_tar
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]


@pytest.fixture
def daemon() -> Iterator[HyperdLauncher]:
    with HyperdLauncher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with RegistryServer() as registry:
        registry.push("busybox", "latest", [Layer(busybox_tar())])
        yield f"{registry.host}/busybox"


@pytest.fixture
def used(daemon: HyperdLauncher, image: str) -> HyperdLauncher:
    """A daemon with an image of a registry and a pod that has a disk, stopped."""
    daemon.start()
    assert daemon.request("POST", "/image/create", imageName=image)[0] == 200
    container = {"name": "web-1", "image": image, "command": ["sleep", "99"], "envs": [{"env": "A", "value": "b"}]}
    pod = {"id": "web", "labels": {"a": "1"}, "containers": [container]}
    daemon.json("POST", "/pod/create", status=201, body=pod)
    daemon.json("POST", "/pod/start", podId="web")
    daemon.json("POST", "/pod/stop", podId="web")
    until(lambda: not due(daemon))
    return daemon


def due(daemon: HyperdLauncher) -> list[Any]:
    with contextlib.closing(sqlite3.connect(daemon.root / "hyper.db")) as database:
        return database.execute("SELECT kind, id FROM copies_due").fetchall()


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Return inode and size of every file but logs, locks and SQLite's shared memory."""
    return {
        str(path.relative_to(root)): (path.lstat().st_ino, path.lstat().st_size)
        for path in root.rglob("*")
        if not path.is_dir() and path.name not in {"hyperd.pid", "hyper.db-shm", "hyper.db-wal"}
    }


def refused(daemon: HyperdLauncher) -> str:
    """Start a daemon that must refuse to run and touch nothing; give what it says."""
    before = tree(daemon.root)
    said = len(daemon.log())
    daemon.start(wait=False)
    assert daemon.wait_exit() == 1
    assert tree(daemon.root) == before
    text = daemon.log()[said:]
    assert "Traceback" not in text
    return text


def recover(daemon: HyperdLauncher, code: int = 0) -> str:
    argv = [sys.executable, "-m", "hyperd.cli", "--config", str(daemon.config_path), "--root", str(daemon.root)]
    done = subprocess.run([*argv, "recover"], capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def remove_database(root: Path) -> None:
    for name in ("hyper.db", "hyper.db-wal", "hyper.db-shm"):
        (root / name).unlink(missing_ok=True)


def assert_whole(daemon: HyperdLauncher) -> None:
    """Check that pod and image are what they were, and that the pod starts."""
    info = daemon.json("GET", "/pod/info", podName="web")
    assert info["spec"]["labels"] == {"a": "1"}
    (container,) = info["spec"]["containers"]
    assert container["name"] == "/web-1"
    assert container["commands"] == ["sleep", "99"]
    assert "busybox" in json.dumps(daemon.json("GET", "/images/get"))
    daemon.json("POST", "/pod/start", podId="web")
    assert daemon.json("GET", "/list", item="pod")["podData"][0].endswith(":running")
    daemon.json("DELETE", "/pod", podId="web")


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_lost_database_is_not_made_anew_beside_pods(used: HyperdLauncher, how: str) -> None:
    used.kill()
    layers = list((used.root / "images" / "layers").iterdir())
    assert layers
    remove_database(used.root)
    if how == "emptied":
        (used.root / "hyper.db").touch()
    text = refused(used)
    assert "missing or empty" in text
    assert "hyperd recover" in text
    assert "pods" in text
    assert [path for path in layers if not path.exists()] == []
    said = recover(used)
    assert "pods brought back: 1" in said
    assert "images brought back: 1" in said
    used.start()
    assert_whole(used)
    used.stop()


def test_volumes_stay_in_use_when_the_database_is_rebuilt(used: HyperdLauncher, image: str) -> None:
    mine = {"volume": "m", "path": "/m", "detail": {"name": "m", "source": "mine", "format": "volume"}}
    pods = {"volume": "p", "path": "/p"}
    shared = [{"name": "p", "source": "pods", "format": "volume"}]
    pod = {"id": "db", "volumes": shared, "containers": [{"image": image, "volumes": [mine, pods]}]}
    used.json("POST", "/pod/create", status=201, body=pod)
    used.json("POST", "/volume/create", status=201, body={"name": "idle"})
    before = {volume["name"]: volume["containers"] for volume in used.json("GET", "/volume/list")}
    assert [len(before[name]) for name in ("mine", "pods", "idle")] == [1, 1, 0]
    for name in ("mine", "pods"):
        (used.root / "volumes" / name / "_data" / "precious").touch()
    until(lambda: not due(used))
    used.stop()
    remove_database(used.root)
    (used.root / "rows" / "volumes" / "pods.json").unlink()  # its row does not come back; its files are there
    assert "volumes brought back: 2" in recover(used)
    for _ in range(2):  # starts
        used.start()
        assert {volume["name"]: volume["containers"] for volume in used.json("GET", "/volume/list")} == before
        used.stop()
    used.start()
    assert list(used.json("POST", "/volume/prune", all="yes")) == ["idle"]
    assert used.request("DELETE", "/volume", volume="pods")[0] == 409
    assert all((used.root / "volumes" / name / "_data" / "precious").exists() for name in ("mine", "pods"))
    used.json("DELETE", "/pod", podId="db")
    assert sorted(used.json("POST", "/volume/prune", all="yes")) == ["mine", "pods"]
    used.stop()


def test_a_damaged_database_is_kept_and_rebuilt(used: HyperdLauncher) -> None:
    used.stop()
    path = used.root / "hyper.db"
    remove = path.with_name("hyper.db-wal")
    remove.unlink(missing_ok=True)
    path.write_bytes(path.read_bytes()[:4096] + os.urandom(8192) + path.read_bytes()[12288:])
    damaged = path.read_bytes()
    assert "damaged" in refused(used)
    path.write_text("this is no database, whatever it was before; " * 99)
    assert "damaged" in refused(used)
    path.write_bytes(damaged)
    said = recover(used)
    assert "database: replaced" in said
    kept = [file for file in (used.root / "aside").iterdir() if file.read_bytes() == damaged]
    assert len(kept) == 1
    used.start()
    assert_whole(used)
    used.stop()


def test_an_older_database_is_refused_and_completed(used: HyperdLauncher) -> None:
    used.stop()
    old = used.directory / "old.db"
    shutil.copy(used.root / "hyper.db", old)
    used.start()
    used.json("POST", "/pod/create", status=201, body={"id": "later"})
    until(lambda: not due(used))
    used.stop()
    remove_database(used.root)
    shutil.copy(old, used.root / "hyper.db")
    text = refused(used)
    assert "older than the files" in text
    assert "pod later" in text
    assert "pods brought back: 1" in recover(used)
    used.start()
    assert {pod.split(":")[0] for pod in used.json("GET", "/list", item="pod")["podData"]} == {"web", "later"}
    used.json("DELETE", "/pod", podId="later")
    assert_whole(used)
    used.stop()


def test_a_newer_database_is_refused_and_not_recovered(used: HyperdLauncher) -> None:
    used.stop()
    with contextlib.closing(sqlite3.connect(used.root / "hyper.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    assert "newer hyperd" in refused(used)
    assert "newer hyperd" in recover(used, 1)


def test_what_no_row_explains_is_put_aside(used: HyperdLauncher) -> None:
    used.json("POST", "/pod/create", status=201, body={"id": "half"})
    used.kill()
    with contextlib.closing(sqlite3.connect(used.root / "hyper.db")) as database:
        database.execute("UPDATE pods SET reason = ? WHERE id = 'half'", (CREATING,))  # killed before it was complete
        database.commit()
    stray = used.root / "pods" / "stray"
    stray.mkdir()
    (stray / "scratch.img").write_bytes(b"precious")
    layer = used.root / "images" / "layers" / f"{'ab' * 32}.sqfs"
    layer.write_bytes(b"layer")
    (used.root / "pods" / "build-abcdefghij").mkdir()
    (used.root / "pods" / "build-abcdefghij" / "scratch.img").touch()
    used.start()
    found = {path.name.partition("-")[2]: path for path in (used.root / "aside").iterdir()}
    assert set(found) == {"pods-stray", f"layers-{layer.name}"}
    assert (found["pods-stray"] / "scratch.img").read_bytes() == b"precious"
    assert not stray.exists()
    assert not (used.root / "pods" / "build-abcdefghij").exists()
    assert used.log().count("recovery.put_aside") == 2
    assert used.json("GET", "/list", item="pod", pod="half")["podData"] == []
    assert_whole(used)
    used.stop()


def test_copies_follow_what_they_describe(used: HyperdLauncher) -> None:
    copy = used.root / "pods" / "web" / "pod.json"
    assert json.loads(copy.read_text())["rows"]["containers"][0]["name"] == "web-1"
    used.json("POST", "/pod/labels", podId="web", labels=json.dumps({"b": "2"}), override="false")
    until(lambda: "b" in json.loads(json.loads(copy.read_text())["rows"]["pods"][0]["spec"])["labels"])
    (image,) = (used.root / "images" / "rows").glob("*.image.json")
    rows = json.loads(image.read_text())["rows"]
    assert base64.b64decode(rows["images"][0]["config_blob"]["base64"]).startswith(b"{")
    used.kill()
    copy.unlink()
    used.start()
    until(copy.exists)
    used.json("DELETE", "/pod", podId="web")
    until(lambda: not copy.parent.exists())
    used.json("DELETE", "/image", imageId=rows["images"][0]["id"], force="yes")
    until(lambda: not list((used.root / "images" / "rows").iterdir()))
    used.stop()


def test_nothing_that_the_daemon_makes_is_another_users(used: HyperdLauncher) -> None:
    used.json("POST", "/pod/start", podId="web")
    used.stop()
    (used.root / "hyper.db").chmod(0o644)  # as an earlier version left it
    (used.root / "images").chmod(0o755)
    vms = used.root / "pods"  # VMs' users pass through it, and VMs run on
    os.chown(vms, -1, 4711)
    vms.chmod(0o715)
    used.start()
    assert stat.S_IMODE(vms.stat().st_mode) == 0o710
    os.chown(vms, -1, os.getegid())
    used.restart()
    wide = {
        str(path.relative_to(used.root)): oct(path.lstat().st_mode)
        for path in used.root.rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077
    }
    assert wide == {}
    assert (used.root / "hyper.db-wal").exists()
    assert stat.S_IMODE(used.socket.stat().st_mode) == 0o660
    used.json("DELETE", "/pod", podId="web")
    used.stop()


def test_a_database_that_another_program_holds(daemon: HyperdLauncher) -> None:
    daemon.start()
    with contextlib.closing(sqlite3.connect(daemon.root / "hyper.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for path in ("/info", "/version", "/images/get", "/list?item=pod"):
            assert daemon.request("GET", path)[0] in {200, 201}, path
        status, _, body = daemon.request("POST", "/pod/create", body={"id": "late"})
        assert (status, b"locked by another program" in body) == (503, True), body
        other.execute("COMMIT")
    daemon.json("POST", "/pod/create", status=201, body={"id": "late"})
    daemon.json("DELETE", "/pod", podId="late")
    daemon.stop()


def test_a_start_that_fails_leaves_no_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: VmService, **_: object) -> None:
        raise HostFault("there is no guest to boot")

    monkeypatch.setattr(VmService, "open", fail)
    network = NetworkConfig(bridge="hyundo0", subnet="10.214.7.0/24", nft_table="hyperd_undo")
    engine = Engine(Config(root=tmp_path, network=network, hypervisor=HypervisorConfig(driver="fake")))
    with pytest.raises(HostFault, match="no guest"):
        engine.open()
    assert subprocess.run(["ip", "link", "show", "hyundo0"], capture_output=True, check=False).returncode != 0
    assert "hyperd_undo" not in subprocess.check_output(["nft", "list", "tables"], text=True)


def test_removals_work_on_a_full_disk(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(tmp_path)], check=True)
    try:
        database = Database(tmp_path / "hyper.db")
        migrate(database)
        records = PodRecords(database)
        for number in range(20):
            records.insert(PodSpec(id=f"p{number}", labels={"x": "y" * 10_000}))
        database.reserve()
        with (tmp_path / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        fill(records)
        for name in [f"p{number}" for number in range(5)]:
            records.make_room()
            records.update(name, state="removing")
            records.delete(name)
        assert "p0" not in {row.id for row in records.all()}
        database.close()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(records: PodRecords) -> None:
    """Write until the database has used up what it had for itself."""
    with contextlib.suppress(OutOfSpace):
        for number in range(1000):
            records.insert(PodSpec(id=f"q{number}", labels={"x": "y" * 100_000}))
        pytest.fail("the disk is not full")
