"""Volumes of a pod by name, and how containers mount them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hyperd.agent.plan import MS_BIND, MS_RDONLY, Op
from hyperd.container.files import PlannedFile
from hyperd.container.plan import Program, RootFs, container_plan
from hyperd.container.volumes import Mounted
from hyperd.errors import Conflict, InvalidInput, NotSupported
from hyperd.spec.model import ContainerSpec, FileRef, VolumeOption, VolumeRef, VolumeSpec
from hyperd.volume import catalog

DATA = VolumeSpec(name="data", source="/srv", format="vfs")
PROGRAM = Program(argv=("true",), env={}, workdir="/", user="", groups=(), tty=False)


def test_volumes_of_pod_and_containers() -> None:
    one = ContainerSpec(name="a", volumes=(VolumeRef(path="/d", volume="data"),))
    own = VolumeSpec(name="own")
    two = ContainerSpec(name="b", volumes=(VolumeRef(path="/o", volume="own", detail=own, read_only=True),))
    same = ContainerSpec(name="c", volumes=(VolumeRef(path="/d", volume="data", detail=DATA),))
    assert catalog.volumes_of([DATA], [one, two, same]) == {"data": DATA, "own": own}
    assert catalog.used([one, two]) == {"data", "own"}
    assert catalog.is_writable("data", [one, two])
    assert not catalog.is_writable("own", [one, two])


def test_one_name_is_one_volume() -> None:
    other = replace(DATA, source="/other")
    container = ContainerSpec(name="a", volumes=(VolumeRef(path="/d", volume="data", detail=other),))
    with pytest.raises(Conflict, match="two different volumes"):
        catalog.volumes_of([DATA], [container])


@pytest.mark.parametrize("name", ["a", "x" * 128, "A-b.c_d"])
def test_keys_fit_tags_and_paths(name: str) -> None:
    key = catalog.key(name)
    assert len(key) <= 31
    assert key.isalnum()
    assert key != catalog.key(name + "2")


def test_cache_modes() -> None:
    assert [catalog.cache_mode(mode) for mode in ("", "off", "unsafe")] == ["writeback", "none", "unsafe"]
    assert catalog.most_careful(["", ""]) == "writeback"
    assert catalog.most_careful(["unsafe", "", "off"]) == "none"
    assert catalog.most_careful(["writethrough", "directsync", "writeback"]) == "directsync"


def test_volumes_of_an_image() -> None:
    spec = ContainerSpec(
        name="a",
        volumes=(VolumeRef(path="/taken/", volume="data"),),
        files=(FileRef(path="/file", filename="f"),),
    )
    paths = ["/taken", "/file", "/", "", "/a//b/./", "/up/../x", "relative", "/nul\0", 5, "/a/b"]
    found = catalog.image_volumes(spec, {"config": {"Volumes": {path: {} for path in paths}}}, "0123456789abcdef")
    assert [ref.path for ref in found] == ["/a/b", "/5", "/relative"]
    assert all(ref.volume.startswith("0123456789ab-") for ref in found)
    assert len({ref.volume for ref in found}) == 3


@pytest.mark.parametrize("config", [{}, {"config": None}, {"config": {"Volumes": None}}, {"config": {"Volumes": []}}])
def test_images_without_volumes(config: dict[str, object]) -> None:
    assert catalog.image_volumes(ContainerSpec(), config, "c") == ()


def steps(volumes: list[Mounted], files: list[PlannedFile] | None = None) -> list[tuple[int, tuple[object, ...]]]:
    rootfs = RootFs(container_id="c" * 64, layers=["/run/l/1"], volumes=volumes)
    plan = container_plan(process="p", base=16, spec=ContainerSpec(), program=PROGRAM, rootfs=rootfs, files=files or [])
    return list(plan.steps)


def test_mounts_of_a_plan() -> None:
    found = steps(
        [
            Mounted(source="/run/v/1", path="/data", read_only=True),
            Mounted(source="/run/v/2/f", path="/data/file", is_file=True),
            Mounted(source="/run/scratch/new", path="/new", made=False),
            Mounted(source="/run/scratch/up", path="/up", made=False, copy_up=True),
        ]
    )
    binds = [args[:2] for op, args in found if op == Op.MOUNT and int(args[3]) & MS_BIND]
    assert [bind for bind in binds if str(bind[0]).startswith(("/run/v/", "/run/scratch/"))] == [
        ("/run/v/1", "root:/data"),
        ("/run/v/2/f", "root:/data/file"),
        ("/run/scratch/new", "root:/new"),
        ("/run/scratch/up", "root:/up"),
    ]
    readonly = [args[1] for op, args in found if op == Op.MOUNT and args[0] == "none" and int(args[3]) & MS_RDONLY]
    assert "root:/data" in readonly
    assert "root:/new" not in readonly
    assert (Op.MKDIR, ("/run/scratch/new", "777")) in found
    assert (Op.COPYUP, ("/up", "/run/scratch/up")) in found
    assert not any(op == Op.MKDIR and args[0] == "/data/file" for op, args in found)
    # The image's content is copied before the volume hides it.
    order = [op for op, args in found if args[:1] == ("/up",) or args[1:2] == ("root:/up",)]
    assert order == [Op.COPYUP, Op.MKDIR, Op.MOUNT]


def test_files_come_after_volumes_and_replace_the_pods_own() -> None:
    files = [
        PlannedFile(target="/etc/hosts", mode=0o644, user="", group="", content=b"x"),
        PlannedFile(target="/big", mode=0o4755, user="alice", group="7", staged="/run/scratch/f/0"),
    ]
    found = steps([Mounted(source="/run/v/1", path="/data")], files)
    assert (Op.WRITE, ("/etc/hosts", "644", "0", "0", b"x")) in found
    assert (Op.FILE, ("/run/scratch/f/0", "/big", "4755", "alice", "7")) in found
    targets = [args[1] for op, args in found if op == Op.MOUNT]
    assert "root:/etc/hosts" not in targets
    assert "root:/etc/hostname" in targets
    written = found.index((Op.WRITE, ("/etc/hosts", "644", "0", "0", b"x")))
    assert written > next(at for at, (_, args) in enumerate(found) if args[1:2] == ("root:/data",))


def rbd(source: str, *monitors: str, **option: str) -> VolumeSpec:
    return VolumeSpec(name="c", source=source, format="rbd", option=VolumeOption(monitors=monitors, **option))


def test_ceph_images() -> None:
    assert catalog.ceph(VolumeSpec(name="c", source="rbd:pool/image", format="rbd")) == ("pool/image", ())
    found = catalog.ceph(rbd("pool/space/image", "mon1", "mon2:3300", "[2001:db8::1]:6790", "2001:db8::2"))
    assert found == (
        "pool/space/image",
        (("mon1", 6789), ("mon2", 3300), ("2001:db8::1", 6790), ("2001:db8::2", 6789)),
    )


@pytest.mark.parametrize("source", ["image", "/image", "pool/", "pool/image:conf=/etc/x", "pool/a@snap", "pool/a\\b"])
def test_bad_ceph_images(source: str) -> None:
    with pytest.raises(InvalidInput):
        catalog.ceph(rbd(source))


@pytest.mark.parametrize("monitor", ["", "a b", "mon:", "mon:0", "mon:65536", "mon,x:1"])
def test_bad_monitors(monitor: str) -> None:
    with pytest.raises(InvalidInput):
        catalog.ceph(rbd("pool/image", monitor))


def test_keys_of_ceph_are_refused() -> None:
    with pytest.raises(NotSupported):
        catalog.ceph(rbd("pool/image", user="admin", keyring="key"))
