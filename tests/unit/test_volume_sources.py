"""Paths and images of volumes on the host: what is opened, what is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import select

from hyperd.capabilities import Holder
from hyperd.config.model import Config
from hyperd.container.records import ContainerRecords
from hyperd.container.volumes import PodVolumes
from hyperd.db.models import ContainerRow, PodRow
from hyperd.db.session import Database
from hyperd.db.spec_codec import dump
from hyperd.errors import Conflict, InvalidInput, NotSupported
from hyperd.event.bus import EventBus
from hyperd.spec.model import ContainerSpec, PodSpec, VolumeRef, VolumeSpec
from hyperd.volume import images
from hyperd.volume.hostpath import HostObject, made_directory, open_path
from hyperd.volume.service import VolumeService
from hyperd.volume.share import ENTRY, clean_up, shareable
from hyperd.volume.sources import Sources
from tests.support.descriptors import descriptors


def opened(path: Path | str, *guarded: Path) -> HostObject:
    return open_path(str(path), what="volume data", guarded=guarded)


def test_a_path_is_opened_and_named_without_links(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "real" / "f").write_text("x")
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "relative").symlink_to("../absolute/./sub/../f")
    with opened(tmp_path / "absolute" / "relative") as found:
        assert (found.path, found.is_file) == ((tmp_path / "real" / "f").resolve(), True)
        fd = found.reopen(os.O_RDONLY)
        assert os.read(fd, 9) == b"x"
        os.close(fd)
    with opened("/") as root:
        assert root.is_directory


def test_what_is_opened_stays_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with opened(tmp_path / "d") as found:
        (tmp_path / "d").rename(tmp_path / "old")
        (tmp_path / "d").symlink_to("/etc")
        assert list(Path(f"/proc/self/fd/{found.fd}").iterdir()) == []


@pytest.mark.parametrize("name", ["missing", "file/below", "loop"])
def test_bad_paths(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = descriptors()
    with pytest.raises(Conflict) as caught:
        opened(tmp_path / name)
    assert "no such" not in str(caught.value).lower()
    assert descriptors() <= before


@pytest.mark.parametrize("link", ["../outside", "/etc", "f", "inner/.."])
def test_links_that_a_guest_can_make_are_not_followed(tmp_path: Path, link: str) -> None:
    shared = tmp_path / "shared"
    (shared / "inner").mkdir(parents=True)
    (shared / "f").touch()
    (tmp_path / "outside").mkdir()
    (shared / "link").symlink_to(link)
    (tmp_path / "way").symlink_to("shared/link")
    for path in (shared / "link", tmp_path / "way"):
        with pytest.raises(Conflict, match="leads over the link"):
            opened(path, shared)
    # A link that leads into the directory is the host's own.
    (tmp_path / "into").symlink_to("shared/inner")
    opened(tmp_path / "into", shared).close()


def test_a_directory_is_made_where_there_is_none(tmp_path: Path) -> None:
    before = descriptors()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with made_directory(f"{tmp_path}/link//a/./b/", what="volume data") as made:
        assert made == tmp_path / "real" / "a" / "b"
    assert made.is_dir()
    with made_directory(str(made), what="volume data"):
        pass
    assert descriptors() <= before


def test_made_directories_go_when_their_use_fails(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="later"), made_directory(f"{tmp_path}/kept/a/b", what="volume data"):
        raise ValueError("later")
    assert list((tmp_path / "kept").iterdir()) == []
    (tmp_path / "nowhere").symlink_to("missing")
    for path in ("nowhere", "nowhere/x", "file/x", "kept/x/../y"):
        with pytest.raises(Conflict), made_directory(f"{tmp_path}/{path}", what="volume data"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "kept", "nowhere"]
    (tmp_path / "kept" / "link").symlink_to("..")
    made = made_directory(f"{tmp_path}/kept/link/x", what="volume data", guarded=[tmp_path / "kept"])
    with pytest.raises(Conflict, match="leads over the link"), made:
        pass
    assert not (tmp_path / "x").exists()


def qcow2(version: int = 3, backing: int = 0, features: int = 0) -> bytes:
    return struct.pack(">4sIQ", b"QFI\xfb", version, backing).ljust(72, b"\0") + struct.pack(">Q", features).ljust(440)


def vdi(kind: int = 1, magic: int = 0xBEDA107F) -> bytes:
    return b"<<< image >>>".ljust(64, b"\0") + struct.pack("<IIII", magic, 0x10001, 400, kind).ljust(448, b"\0")


@pytest.mark.parametrize(
    ("fmt", "data", "error"),
    [
        ("raw", bytes(512), None),
        ("raw", bytes(511), InvalidInput),
        ("raw", b"", InvalidInput),
        ("qcow2", qcow2(), None),
        ("qcow2", qcow2(version=2, features=4), None),  # version 2 has no features
        ("qcow2", qcow2(backing=512), Conflict),
        ("qcow2", qcow2(features=4), Conflict),
        ("qcow2", qcow2()[:60], InvalidInput),
        ("qcow2", bytes(512), InvalidInput),
        ("vdi", vdi(), None),
        ("vdi", vdi(kind=2), None),
        ("vdi", vdi(kind=4), Conflict),
        ("vdi", vdi(magic=1), InvalidInput),
        ("vdi", vdi()[:80], InvalidInput),
    ],
)
def test_images(tmp_path: Path, fmt: str, data: bytes, error: type[Exception] | None) -> None:
    (tmp_path / "image").write_bytes(data)
    with opened(tmp_path / "image") as source:
        if error is None:
            images.check_image(source, fmt, what="volume data", cache="writeback", forbidden=())
        else:
            with pytest.raises(error):
                images.check_image(source, fmt, what="volume data", cache="writeback", forbidden=())


def test_images_lie_where_no_guest_can_exchange_them(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(512))
    with opened(tmp_path / "image") as source, pytest.raises(Conflict, match="lies where"):
        images.check_image(source, "raw", what="v", cache="writeback", forbidden=[tmp_path.resolve()])


def test_only_an_image_that_holds_nothing_is_blank(tmp_path: Path) -> None:
    for name, offset, blank in (("none", None, True), ("first", 0, False), ("last", 2**20 - 1, False)):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(2**20)
            if offset is not None:
                file.seek(offset)
                file.write(b"x")
        with opened(path) as source:
            assert images.is_blank(source) is blank
    with opened(tmp_path) as source:
        assert not images.is_blank(source)


def test_an_image_that_is_too_small_for_a_file_system(tmp_path: Path) -> None:
    with (tmp_path / "image").open("wb") as file:
        file.truncate(512)
    with opened(tmp_path / "image") as source, pytest.raises(Conflict, match="no file system"):
        images.make_file_system(source, "", what="v")


@pytest.mark.root
def test_a_single_file_gets_a_directory_that_no_mount_table_knows(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "file").write_text("x")
    stage = tmp_path / "stage"
    stage.mkdir()
    with opened(tmp_path / "file") as source, shareable(source, stage) as directory:
        names = [path.name for path in Path(f"/proc/self/fd/{directory.fd}").iterdir()]
        assert (directory.is_directory, names) == (True, [ENTRY])
        fd = os.open(ENTRY, os.O_RDWR | os.O_APPEND, dir_fd=directory.fd)
        os.write(fd, b"y")
        os.close(fd)
    assert (tmp_path / "file").read_text() == "xy"
    assert list(stage.iterdir()) == []
    assert str(stage) not in Path("/proc/self/mounts").read_text()


def test_a_directory_is_shared_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path) as source, shareable(source, tmp_path / "unused") as directory:
        assert os.path.samestat(os.fstat(directory.fd), tmp_path.stat())
    assert not (tmp_path / "unused").exists()


def test_other_things_cannot_be_shared(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with opened(tmp_path / "fifo") as source, pytest.raises(NotSupported):
        shareable(source, tmp_path)


@pytest.mark.root
def test_what_a_killed_daemon_left_is_removed(tmp_path: Path) -> None:
    from hyperd.volume import share

    (tmp_path / "file").write_text("x")
    stage = tmp_path / "stage-abc"
    stage.mkdir()
    share._mount("hyperd", str(stage), "tmpfs", 0, "size=64k")
    (stage / ENTRY).touch()
    share._mount(str(tmp_path / "file"), str(stage / ENTRY), "", share._MS_BIND, "")
    clean_up(tmp_path)
    assert not stage.exists()
    assert (tmp_path / "file").read_text() == "x"
    assert str(stage) not in Path("/proc/self/mounts").read_text()


@pytest.mark.root
def test_the_holder_has_no_capabilities_and_ends_with_the_block(tmp_path: Path) -> None:
    with opened(tmp_path) as source:
        with Holder([source.fd]) as holder:
            path = holder.path(source.fd)
            assert os.path.samestat(path.stat(), tmp_path.stat())
            status = Path(path.parent.parent, "status").read_text()
            assert "CapPrm:\t0000000000000000" in status
        assert not path.parent.exists()


def test_what_guests_could_write_to_is_remembered_beyond_their_pods(tmp_path: Path, database: Database) -> None:
    sources = Sources(database=database, volumes=tmp_path / "volumes")
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    shared.mkdir()
    outside.mkdir()
    (tmp_path / "own").symlink_to(outside)
    (tmp_path / "volumes" / "v" / "_data").mkdir(parents=True)
    (tmp_path / "volumes" / "v" / "_data" / "link").symlink_to("/etc")
    with sources.open(str(shared), what="volume data") as source:
        sources.remember(source)
    (shared / "link").symlink_to("/etc")  # by a guest, whose pod is gone
    again = Sources(database=database, volumes=tmp_path / "volumes")
    with again.open(str(tmp_path / "own"), what="volume data") as found:
        assert found.path == outside.resolve()
    shared.rename(tmp_path / "moved")
    for path in (tmp_path / "moved" / "link", tmp_path / "volumes" / "v" / "_data" / "link"):
        with pytest.raises(Conflict, match="leads over the link"):
            again.open(str(path), what="volume data")


def test_what_guests_could_write_to_under_an_older_daemon_is_remembered(tmp_path: Path, database: Database) -> None:
    """A daemon that remembered nothing has left pods: what their guests could write to stays known without them."""
    config = Config(root=tmp_path / "root")
    named = VolumeService(directory=config.root / "volumes", database=database, events=EventBus())
    for pod, state in (("ran", "exited"), ("never", "created")):
        (tmp_path / pod).mkdir()
        (tmp_path / f"{pod}-only-read").mkdir()
        add_pod(database, pod, state, tmp_path)
    volumes = PodVolumes(
        config=config, database=database, records=ContainerRecords(database), vms=cast("Any", None), named=named
    )
    for _ in range(2):
        volumes.recover()
    with database.session() as session:
        for row in session.scalars(select(PodRow)):
            session.delete(row)
    sources = Sources(database=database, volumes=config.root / "volumes")
    assert sources.written() == {config.root / "volumes", tmp_path / "ran"}
    (tmp_path / "ran" / "link").symlink_to("/etc")
    with pytest.raises(Conflict, match="leads over the link"):
        sources.open(str(tmp_path / "ran" / "link"), what="volume data")


def add_pod(database: Database, name: str, state: str, place: Path) -> None:
    """Make a pod with a directory of its name, one that it only reads, one that is gone, and one with a link."""
    directories = {"data": name, "read": f"{name}-only-read", "gone": f"{name}-gone"}
    refs = tuple(VolumeRef(volume=one, path=f"/{one}", read_only=one == "read") for one in directories)
    pod = PodSpec(
        id=name,
        volumes=tuple(VolumeSpec(name=one, source=str(place / to), format="vfs") for one, to in directories.items()),
    )
    with database.session() as session:
        session.add(PodRow(id=name, state="stopped", spec=dump(pod), created_at=0.0))
        session.flush()
        session.add(
            ContainerRow(
                id=name, name=name, pod_id=name, position=0, state=state, image_id="", image_name="", created_at=0.0,
                spec=dump(ContainerSpec(name=name, image="busybox", volumes=refs)),
            )
        )  # fmt: skip
