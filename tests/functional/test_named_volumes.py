"""Named volumes: the service with real directories and mounts, and the API of a daemon whose VMs only pretend."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyperd.db.copies import Copies, copies
from hyperd.db.migrate import HEAD
from hyperd.db.models import ContainerRow, PodRow
from hyperd.db.session import Database
from hyperd.errors import Conflict, HostFault, InvalidInput, NotFound, NotSupported, OutOfSpace
from hyperd.event.bus import EventBus
from hyperd.spec.model import VolumeSpec
from hyperd.volume.model import NamedVolumeSpec, VolumeKind
from hyperd.volume.service import VolumeService
from tests.support.daemon import HyperdLauncher, UnixConnection
from tests.support.registry import Layer, RegistryServer, busybox_tar

pytestmark = pytest.mark.root


@pytest.fixture
def volumes(database: Database, tmp_path: Path) -> Iterator[VolumeService]:
    made = VolumeService(directory=tmp_path / "volumes", database=database, events=EventBus())
    yield made
    with database.session() as session:
        for row in session.query(ContainerRow):
            session.delete(row)
    made.prune(lambda _volume: True)
    assert not list((tmp_path / "volumes").glob("*"))


def container(database: Database, name: str) -> str:
    with database.session() as session:
        session.merge(PodRow(id="p", state="pending", spec={}, created_at=0.0))
        session.flush()
        session.add(
            ContainerRow(
                id=name, name=name, pod_id="p", position=0, state="created", spec={}, image_id="", image_name="",
                created_at=0.0,
            )
        )  # fmt: skip
    return name


def test_made_used_and_removed(volumes: VolumeService, database: Database) -> None:
    made = volumes.create(NamedVolumeSpec(name="data", labels={"a": "b"}))
    assert (made.kind, made.labels, made.anonymous, made.used_by) == (VolumeKind.DIRECTORY, {"a": "b"}, False, ())
    assert Path(made.mountpoint).is_dir()
    assert volumes.create(NamedVolumeSpec(name="data")) == made
    Path(made.mountpoint, "file").write_bytes(b"x" * 5000)
    assert volumes.size("data") >= 5000
    volumes.use(container(database, "c1"), ["data", "other"])
    assert (volumes.get("data").used_by, volumes.used_by("c1")) == (("c1",), ["data", "other"])
    with pytest.raises(Conflict, match="volume data is in use"):
        volumes.remove("data")
    assert volumes.prune(lambda _volume: True) == {}
    with database.session() as session:
        session.delete(session.get(ContainerRow, "c1"))
    volumes.remove("data")
    assert not Path(made.mountpoint).parent.exists()
    with pytest.raises(NotFound, match="volume data not found"):
        volumes.get("data")


def test_anonymous_ones_go_with_their_last_container(volumes: VolumeService, database: Database) -> None:
    one = volumes.create(NamedVolumeSpec())
    two = volumes.create(NamedVolumeSpec(name="chosen-by-the-api", anonymous=True))
    named = volumes.create(NamedVolumeSpec(name="named"))
    names = [one.name, two.name, named.name]
    assert len(one.name) == 64
    volumes.use(container(database, "c1"), names)
    volumes.use(container(database, "c2"), [one.name])
    used = volumes.used_by("c1")
    with database.session() as session:
        session.delete(session.get(ContainerRow, "c1"))
    volumes.drop_anonymous(used)
    assert [volume.name for volume in volumes.all()] == sorted([one.name, "named"])


def test_what_is_made_while_its_name_is_removed_keeps_its_files(
    volumes: VolumeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(volumes.create(NamedVolumeSpec(name="data")).mountpoint)
    (old / "old").touch()
    deleting, go_on, delete = threading.Event(), threading.Event(), shutil.rmtree

    def slow(path: Path) -> None:
        deleting.set()
        assert go_on.wait(60)
        delete(path)

    monkeypatch.setattr(shutil, "rmtree", slow)
    remover = threading.Thread(target=volumes.remove, args=("data",))
    remover.start()
    assert deleting.wait(60)
    data = Path(volumes.create(NamedVolumeSpec(name="data")).mountpoint)
    assert list(data.iterdir()) == []
    (data / "new").touch()
    go_on.set()
    remover.join(60)
    assert [path.name for path in data.iterdir()] == ["new"]
    assert volumes.get("data").used_by == ()


def test_a_volume_is_not_removed_while_a_container_takes_it(
    volumes: VolumeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(volumes.create(NamedVolumeSpec(name="data")).mountpoint)
    user = threading.Thread(target=volumes.use, args=(container(database, "c1"), ["data"]))
    is_mount = os.path.ismount

    def late(path: Path) -> bool:  # asked by remove, which has seen that nobody uses the volume
        if threading.current_thread() is threading.main_thread():
            user.start()
            user.join(1)
        return is_mount(path)

    monkeypatch.setattr(os.path, "ismount", late)
    volumes.remove("data")
    user.join(60)
    assert volumes.get("data").used_by == ("c1",)
    assert data.is_dir()


def test_one_name_made_by_many_at_once(volumes: VolumeService) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: volumes.create(NamedVolumeSpec(name="data")), range(16)))
    assert set(map(repr, made)) == {repr(volumes.get("data"))}


def test_files_that_cannot_be_deleted_go_with_the_next_start(
    volumes: VolumeService, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes.create(NamedVolumeSpec(name="data"))
    volumes.create(NamedVolumeSpec(name="more"))

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "broken", str(path))

    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(HostFault, match="is removed, but its files cannot be deleted"):
        volumes.remove("data")
    assert volumes.prune(lambda _volume: True) == {}
    assert volumes.all() == []
    monkeypatch.undo()
    assert len(list((tmp_path / "volumes").iterdir())) == 2
    VolumeService(directory=tmp_path / "volumes", database=database, events=EventBus()).recover()
    assert list((tmp_path / "volumes").iterdir()) == []


def test_the_longest_name_has_a_copy(volumes: VolumeService, database: Database, tmp_path: Path) -> None:
    name = "x" * 240
    volumes.create(NamedVolumeSpec(name=name))
    assert Copies(database, tmp_path, version=HEAD).settle()
    assert [(kind, ident) for kind, ident, _ in copies(tmp_path)] == [("volume", name)]


def test_only_users_in_guests_may_enter(volumes: VolumeService, tmp_path: Path) -> None:
    before = os.umask(0o077)  # the daemon's
    try:
        data = Path(volumes.create(NamedVolumeSpec(name="data")).mountpoint)
        for good in (False, True):
            assert stat.S_IMODE(data.stat().st_mode) == 0o755
            assert volumes.begin_fill("data")
            volumes.end_fill("data", good=good)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "volumes", data.parent, data)] == [
        0o700,
        0o700,
        0o755,
    ]


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"name": "a/b"}, InvalidInput, "a/b"),
        ({"name": ".."}, InvalidInput, r"\.\."),
        ({"name": "x" * 241}, InvalidInput, "at most 240"),
        ({"name": "x", "driver": "nfs"}, NotSupported, "driver 'nfs'"),
        ({"name": "x", "options": {"colour": "red"}}, InvalidInput, "colour"),
        ({"name": "x", "options": {"type": "ext4", "device": "/dev/sda1"}}, NotSupported, "type='ext4'"),
        ({"name": "x", "options": {"type": "none", "o": "bind", "device": "rel"}}, InvalidInput, "device"),
        ({"name": "x", "options": {"type": "none", "o": "bind,noatime", "device": "/"}}, NotSupported, "noatime"),
        ({"name": "x", "options": {"type": "nfs", "device": ":/x"}}, InvalidInput, "addr=SERVER"),
        ({"name": "x", "options": {"type": "nfs", "device": ":/x", "o": "addr=h,sec=krb5"}}, NotSupported, "krb5"),
        ({"name": "x", "options": {"type": "tmpfs", "o": "rw,noexec"}}, NotSupported, "noexec"),
        ({"name": "x", "options": {"type": "tmpfs", "o": "size=much"}}, InvalidInput, "size=much"),
        ({"name": "x", "options": {"o": "size=1m"}}, InvalidInput, "type is missing"),
    ],
)
def test_what_cannot_be_made_is_named_and_leaves_nothing(
    volumes: VolumeService, fields: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        volumes.create(NamedVolumeSpec(**fields))  # type: ignore[arg-type]
    assert volumes.all() == []


def test_options_of_the_local_driver(volumes: VolumeService, tmp_path: Path) -> None:
    volumes.create(NamedVolumeSpec(name="bound", options={"type": "none", "o": "bind", "device": str(tmp_path)}))
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    assert volumes.size("bound") == 0  # nothing of it goes with the volume
    assert volumes.definition("bound") == VolumeSpec(source=str(tmp_path), format="vfs")
    volumes.create(NamedVolumeSpec(name="far", options={"type": "nfs", "o": "addr=10.0.0.9,rw", "device": ":/srv"}))
    assert volumes.definition("far") == VolumeSpec(source="10.0.0.9:/srv", format="nas")
    fast = volumes.create(NamedVolumeSpec(name="fast", options={"type": "tmpfs", "o": "size=1m,mode=0711"}))
    directory = Path(fast.mountpoint).parent
    assert os.path.ismount(directory)
    assert os.statvfs(directory).f_blocks * os.statvfs(directory).f_frsize == 2**20
    with pytest.raises(Conflict, match="other options"):
        volumes.create(NamedVolumeSpec(name="fast", options={"type": "tmpfs"}))
    volumes.remove("fast")
    for name, options, seen, filled in (
        ("own", {"o": "mode=2710,uid=1000,gid=1001"}, (0o2710, 1000, 1001), False),
        ("plain", {}, (0o1777, 0, 0), True),
    ):
        found = Path(volumes.create(NamedVolumeSpec(name=name, options={"type": "tmpfs", **options})).mountpoint).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == seen
        assert volumes.begin_fill(name) == filled  # the image's directory has an owner and a mode of its own
        volumes.end_fill(name, good=False)
        volumes.remove(name)
    assert not directory.exists()
    volumes.remove("bound")
    assert tmp_path.is_dir()


def test_first_use_fills_once(volumes: VolumeService) -> None:
    data = Path(volumes.create(NamedVolumeSpec(name="data")).mountpoint)
    assert volumes.begin_fill("data")
    assert not data.exists()  # the guest makes it, whole
    volumes.end_fill("data", good=False)
    assert data.is_dir()
    assert volumes.begin_fill("data")
    data.mkdir()
    (data / "from-the-image").touch()
    volumes.end_fill("data", good=True)
    assert not volumes.begin_fill("data")
    other = Path(volumes.create(NamedVolumeSpec(name="used")).mountpoint)
    (other / "file").touch()
    assert not volumes.begin_fill("used")
    assert (other / "file").exists()


def test_what_a_killed_daemon_left_half_made(volumes: VolumeService, database: Database, tmp_path: Path) -> None:
    data = Path(volumes.create(NamedVolumeSpec(name="data")).mountpoint)
    assert volumes.begin_fill("data")
    again = VolumeService(directory=tmp_path / "volumes", database=database, events=EventBus())
    again.recover()
    assert data.is_dir()
    assert again.begin_fill("data")
    again.end_fill("data", good=False)
    volumes.end_fill("data", good=False)


def test_a_filling_that_cannot_be_noted_is_over(
    volumes: VolumeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who waits for it must not wait for a full disk, and what a start fills beside it must not stay claimed."""

    def full(*_: object, **_more: object) -> None:
        raise OutOfSpace("the host's disk is full")

    data = Path(volumes.create(NamedVolumeSpec(name="data")).mountpoint)
    for good in (True, False):
        assert volumes.begin_fill("data")
        waiting = threading.Thread(target=volumes.begin_fill, args=("data",))
        waiting.start()
        with monkeypatch.context() as broken:
            broken.setattr(volumes, "_note_populated", full)
            broken.setattr(Path, "mkdir", lambda *_, **_more: os.mkdir(tmp_path / "missing" / "x"))  # noqa: PTH102 - Path.mkdir is what is broken
            volumes.end_fill("data", good=good)
            waiting.join(20)
        assert not waiting.is_alive()
        volumes.end_fill("data", good=False)  # that of the one who waited
        data.rmdir()  # as where it could not be made: nothing of the image is in it, so it is filled
    volumes.prepare("data")


def test_a_removal_that_fails_leaves_the_files(
    volumes: VolumeService, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    data = Path(volumes.create(NamedVolumeSpec(name="data")).mountpoint)
    (data / "file").touch()

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        raise OutOfSpace("the host's disk is full")
        yield

    with monkeypatch.context() as broken:
        broken.setattr(database, "session", full)
        with pytest.raises(OutOfSpace):
            volumes.remove("data")
    assert (data / "file").exists()
    assert volumes.get("data").mountpoint == str(data)


def test_a_volume_that_cannot_be_prepared_stops_no_daemon(
    volumes: VolumeService, database: Database, tmp_path: Path
) -> None:
    for name in ("bad", "good"):
        shutil.rmtree(Path(volumes.create(NamedVolumeSpec(name=name)).mountpoint).parent)
    (tmp_path / "volumes" / "bad").touch()  # a file in its way
    VolumeService(directory=tmp_path / "volumes", database=database, events=EventBus()).recover()
    assert (tmp_path / "volumes" / "good" / "_data").is_dir()
    with pytest.raises(HostFault, match="volume bad"):
        volumes.prepare("bad")
    (tmp_path / "volumes" / "bad").unlink()


@pytest.fixture(scope="module")
def daemon() -> Iterator[HyperdLauncher]:
    with RegistryServer() as registry, HyperdLauncher() as launcher:
        registry.push("busybox", "latest", [Layer(busybox_tar())])
        launcher.start("--docker-host", f"unix://{launcher.directory}/docker.sock")
        launcher.image = f"{registry.host}/busybox"  # type: ignore[attr-defined]
        launcher.request("POST", "/image/create", imageName=launcher.image)  # type: ignore[attr-defined]
        yield launcher
        assert "internal_error" not in launcher.log()


def test_volumes_over_the_api(daemon: HyperdLauncher) -> None:
    made = daemon.json("POST", "/volume/create", status=201, body={"name": "shop", "labels": {"a": "b"}})
    assert daemon.json("GET", "/volume/info", volume="shop") == made
    assert daemon.json("GET", "/volume/list") == [made]
    assert daemon.request("POST", "/volume/create", body={"name": "a b"})[0] == 400
    assert daemon.request("POST", "/volume/create", body={"name": "x", "driver": "ceph"})[0] == 501
    assert daemon.request("GET", "/volume/info", volume="none")[0] == 404
    ref = {"volume": "v", "path": "/v", "detail": {"name": "v", "source": "new", "format": "volume"}}
    image = daemon.image  # type: ignore[attr-defined]
    daemon.json("POST", "/pod/create", status=201, body={"id": "p", "containers": [{"image": image, "volumes": [ref]}]})
    assert len(daemon.json("GET", "/volume/info", volume="new")["containers"]) == 1
    assert daemon.request("DELETE", "/volume", volume="new")[0] == 409
    wrong = {**ref, "detail": {**ref["detail"], "source": "../etc"}}
    body = {"id": "q", "containers": [{"image": image, "volumes": [wrong]}]}
    assert daemon.request("POST", "/pod/create", body=body)[0] == 400
    daemon.request("DELETE", "/pod", podId="p")
    assert daemon.json("POST", "/volume/prune") == {}
    assert sorted(daemon.json("POST", "/volume/prune", all="yes")) == ["new", "shop"]


def docker(daemon: HyperdLauncher, path: str, body: dict[str, object]) -> tuple[int, bytes]:
    with contextlib.closing(UnixConnection(daemon.directory / "docker.sock")) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_a_bind_that_comes_with_the_start_is_a_use(daemon: HyperdLauncher) -> None:
    status, body = docker(daemon, "/v1.14/containers/create", {"Image": daemon.image})  # type: ignore[attr-defined]
    assert status == 201, body
    ident = json.loads(body)["Id"]
    assert docker(daemon, f"/v1.14/containers/{ident}/start", {"Binds": ["late:/v"]}) == (204, b"")
    assert daemon.json("GET", "/volume/info", volume="late")["containers"] == [ident]
    assert daemon.request("DELETE", "/volume", volume="late")[0] == 409
    daemon.json("DELETE", "/pod", podId=ident)
    daemon.json("DELETE", "/volume", volume="late")
