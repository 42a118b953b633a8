"""Archives of saved pods: what is written can be read, and what is not so is refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperd.errors import HyperError, InvalidInput, NotSupported, TooLarge
from hyperd.pod import archive
from hyperd.pod.restoring import admitted
from hyperd.spec.model import (
    CniSpec,
    ContainerSpec,
    InterfaceSpec,
    LogSpec,
    NetworkAttachment,
    PodSpec,
    Resource,
    VolumeRef,
    VolumeSpec,
    WhiteLists,
)
from hyperd.vm.driver import Machine

MIB = 1 << 20
IDENT = "a" * 64


@pytest.fixture
def saved(tmp_path: Path) -> tuple[archive.Manifest, Path, Path]:
    """A pod with 3 MiB of disk, of which two pieces are no holes."""
    memory, disk = tmp_path / "m", tmp_path / "d"
    memory.write_bytes(os.urandom(70_001))
    with disk.open("wb") as file:
        file.write(b"head" * 1024)
        file.seek(2 * MIB)
        file.write(b"tail" * 1024)
        file.truncate(3 * MIB)
    size, extents = archive.data_of(disk)
    parts = {
        archive.MEMORY: archive.part_of(archive.blocks(memory)),
        archive.DISK: archive.part_of(archive.blocks(disk, extents)),
    }
    container = ContainerSpec(name="main", id=IDENT, image="busybox")
    manifest = archive.Manifest(
        pod=PodSpec(id="web", hostname="web", resource=Resource(vcpu=1, memory=1), containers=(container,)),
        created_at=1.5,
        saved_at=2.5,
        machine=Machine(accelerator="tcg", version="QEMU 7.2", ports=3, places=(1,), cloned=True),
        vcpu=1,
        memory=1,
        containers=(archive.SavedContainer(id=IDENT, name="main", image_id="i", state="running", created_at=1.0),),
        images={"i": "busybox"},
        layers=(archive.SavedLayer(diff_id="sha256:1", sha256="2", lun=1),),
        nics=(archive.SavedNic(mac="52:54:00:00:00:01", addresses=("10.0.0.2/24",)),),
        disk_lun=0,
        disk_size=size,
        extents=extents,
        parts=parts,
    )
    return manifest, memory, disk


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 511, 65_536])
def test_what_is_written_is_read_again(saved: tuple[archive.Manifest, Path, Path], tmp_path: Path, size: int) -> None:
    manifest, memory, disk = saved
    data = b"".join(archive.written(manifest, memory, disk))
    source = archive.Source(in_pieces(data[: 8 * 512] if size == 1 else data, size))
    if size == 1:  # byte by byte is enough for the manifest
        assert archive.read_manifest(source) == manifest
        return
    found = archive.read_manifest(source)
    assert found == manifest
    target = tmp_path / "out"
    target.mkdir()
    archive.unpack(source, found, target)
    assert (target / archive.MEMORY).read_bytes() == memory.read_bytes()
    assert (target / archive.DISK).read_bytes() == disk.read_bytes()
    assert (target / archive.DISK).stat().st_blocks * 512 < 2 * MIB  # its holes are holes
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:  # and it is a tar like any other
        assert tar.getnames() == [archive.MANIFEST, archive.MEMORY, archive.DISK]


@pytest.mark.parametrize("cut", [0, 100, 600, 5000, 60_000])
def test_an_archive_that_ends_early(saved: tuple[archive.Manifest, Path, Path], tmp_path: Path, cut: int) -> None:
    manifest, memory, disk = saved
    data = b"".join(archive.written(manifest, memory, disk))[:cut]

    def read() -> None:
        source = archive.Source([data])
        archive.unpack(source, archive.read_manifest(source), tmp_path)

    with pytest.raises(InvalidInput, match="ends in the middle"):
        read()


@pytest.mark.parametrize("name", [archive.MEMORY, archive.DISK])
def test_a_damaged_byte_is_noticed(saved: tuple[archive.Manifest, Path, Path], tmp_path: Path, name: str) -> None:
    manifest, memory, disk = saved
    data = bytearray(b"".join(archive.written(manifest, memory, disk)))
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        data[tar.getmember(name).offset_data + 10] ^= 1
    source = archive.Source([bytes(data)])
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(InvalidInput, match=f"{name} in the archive is damaged"):
        archive.unpack(source, archive.read_manifest(source), target)


def other_tar(name: str, kind: bytes = tarfile.REGTYPE, size: int = 2) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + b"{}".ljust(512, b"\0")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"x" * 1024, InvalidInput),
        (other_tar("../../etc/passwd"), InvalidInput),
        (other_tar(archive.MANIFEST, tarfile.SYMTYPE), InvalidInput),
        (other_tar(archive.MANIFEST, size=archive.MAX_MANIFEST + 1), TooLarge),
        (other_tar(archive.MANIFEST), InvalidInput),
    ],
)
def test_what_is_no_archive(data: bytes, kind: type[HyperError]) -> None:
    with pytest.raises(kind):
        archive.read_manifest(archive.Source([data]))


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *way, last = path.split("/")
        place: Any = data
        for word in way:
            place = place[int(word) if word.isdigit() else word]
        place[int(last) if last.isdigit() else last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("extents", [[2 * MIB, 4096], [0, 4096]]),
        _set("extents", [[0, 4096], [2048, 4096]]),
        _set("extents", [[0, 8192], [3 * MIB, 1]]),
        _set("extents", [[0, 1]]),
        _set("extents", "all"),
        _set("disk_size", -1),
        _set("disk_size", 1 << 60),
        _set("disk_lun", 1),
        _set("disk_lun", 255),
        _set("layers/0/lun", 300),
        _set("memory", 0),
        _set("memory", 2),
        _set("memory", True),
        _set("vcpu", "1"),
        _set("parts/memory/size", 1 << 50),
        _set("parts", {}),
        _set("machine/places", [1, 2]),
        _set("machine/places", [9]),
        _set("machine/ports", 10_000),
        _set("machine/cloned", "yes"),
        _set("nics", [{"mac": ["x"]}]),
        _set("containers", []),
        _set("containers/0/name", "other"),
        _set("containers/0/created_at", float("nan")),
        _set("containers/0/state", 7),
        _set("containers/0/state", "starting"),
        _set("containers", [{}] * 5000),
        _set("images", [1]),
        _set("pod", "web"),
        _set("pod/containers", 3),
        _set("created_at", "now"),
    ],
)
def test_manifests_that_cannot_be_right(
    saved: tuple[archive.Manifest, Path, Path], change: Callable[[dict[str, Any]], None]
) -> None:
    data = json.loads(archive.dump(saved[0]))
    change(data)
    with pytest.raises(InvalidInput):
        archive.load(json.dumps(data).encode())


def test_another_version_is_named(saved: tuple[archive.Manifest, Path, Path]) -> None:
    data = json.loads(archive.dump(saved[0]))
    data["version"] = 99
    with pytest.raises(NotSupported, match="99"):
        archive.load(json.dumps(data).encode())


def test_what_is_of_a_host_is_left_to_this_one(saved: tuple[archive.Manifest, Path, Path]) -> None:
    spec = saved[0].pod
    container = replace(spec.containers[0], log_path="/etc/cron.d/x", log=LogSpec(type="cri"))
    found = admitted(replace(spec, owner="cri", cni=CniSpec(), log=LogSpec(type="syslog"), containers=(container,)))
    assert found == replace(spec, owner="hyper")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"id": "../up"}, InvalidInput),
        ({"id": ""}, InvalidInput),
        ({"hostname": "a\n10.0.0.1 b"}, InvalidInput),
        ({"containers": (ContainerSpec(name="main", id="../x"),)}, InvalidInput),
        ({"containers": (ContainerSpec(name="../x", id=IDENT),)}, InvalidInput),
        ({"volumes": (VolumeSpec(name="v", source="/etc", format="vfs"),)}, NotSupported),
        ({"interfaces": (InterfaceSpec(bridge="br0"),)}, NotSupported),
        ({"networks": (NetworkAttachment(network="n", aliases=("a b",)),)}, InvalidInput),
        ({"networks": (NetworkAttachment(network="n", mac='"'),)}, InvalidInput),
        ({"portmapping_white_lists": WhiteLists(internal_networks=("1.2.3.4; drop",))}, InvalidInput),
    ],
)
def test_pods_that_are_not_admitted(
    saved: tuple[archive.Manifest, Path, Path], change: dict[str, Any], kind: type[HyperError]
) -> None:
    with pytest.raises(kind):
        admitted(replace(saved[0].pod, **change))


def test_a_volume_of_a_container_is_named(saved: tuple[archive.Manifest, Path, Path]) -> None:
    detail = VolumeSpec(name="data", source="data", format="volume")
    ref = VolumeRef(path="/data", volume="data", detail=detail)
    container = replace(saved[0].pod.containers[0], volumes=(ref,))
    with pytest.raises(NotSupported, match="volume data of main"):
        admitted(replace(saved[0].pod, containers=(container,)))
