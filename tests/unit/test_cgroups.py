"""Control groups of VMs: hierarchies of both versions, as files; ``tests/vm/test_vm_users.py`` has real ones."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from hyperd.errors import HostFault, InvalidInput
from hyperd.vm import cgroups
from hyperd.vm.cgroups import Groups, Limits, Tree

SMALL = Limits(memory=2**20, pids=7, weight=2.0, cpus=1.5)
V1 = {
    "memory": ("memory.limit_in_bytes",),
    "pids": ("pids.max",),
    "cpu": ("cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"),
    "blkio": (),
}
V2 = ("memory.max", "pids.max", "cpu.weight", "cpu.max", "cgroup.procs", "cgroup.subtree_control")


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give new directories the files that a kernel gives them, and remove directories with these alone."""
    real_mkdir, real_rmdir = Path.mkdir, Path.rmdir

    def mkdir(path: Path, *rest: object, **more: object) -> None:
        existed = path.is_dir()
        real_mkdir(path, *rest, **more)  # type: ignore[arg-type]
        names = V2 if "unified" in path.parts else next((V1[one] for one in V1 if one in path.parts), None)
        if not existed and names is not None:
            for name in (*names, "cgroup.procs", "tasks"):
                (path / name).touch()

    def rmdir(path: Path) -> None:
        for file in path.iterdir():
            if file.is_file():
                file.unlink()
        real_rmdir(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)


def hierarchies_of_v1(top: Path) -> list[Tree]:
    own = PurePosixPath("/service")
    for name in V1:
        (top / name / "service").mkdir(parents=True)
    return [Tree(mount=top / name, version=1, controllers=(name,), own=own) for name in V1]


def proc(top: Path, mountinfo: str, groups: str) -> Path:
    (top / "mountinfo").write_text(mountinfo)
    (top / "cgroup").write_text(groups)
    return top


def test_hierarchies_of_v1_are_found_with_the_groups_of_this_process(tmp_path: Path) -> None:
    place = proc(
        tmp_path,
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "33 31 0:30 /box /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory\n"
        "34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
        "35 31 0:38 / /nowhere/unified rw - cgroup2 cgroup2 rw\n",
        "4:cpu,cpuacct:/a\n3:memory:/box/b\n1:name=systemd:/x\n0::/\n",
    )
    assert cgroups.trees(place) == [
        Tree(mount=Path("/sys/fs/cgroup/cpu,cpuacct"), version=1, controllers=("cpu",), own=PurePosixPath("/a")),
        Tree(mount=Path("/sys/fs/cgroup/my memory"), version=1, controllers=("memory",), own=PurePosixPath("/b")),
    ]


def test_one_hierarchy_of_v2_is_found(tmp_path: Path) -> None:
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified" / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    place = proc(tmp_path, f"25 22 0:22 / {tmp_path}/unified rw - cgroup2 cgroup2 rw,nsdelegate\n", "0::/../x\n")
    found = [Tree(mount=tmp_path / "unified", version=2, controllers=("memory", "pids", "cpu", "blkio"),
                  own=PurePosixPath("/"))]  # fmt: skip
    assert cgroups.trees(place) == found


def test_a_host_that_tells_nothing(tmp_path: Path) -> None:
    with pytest.raises(HostFault):
        cgroups.trees(tmp_path)


def test_limits_of_v1(tmp_path: Path) -> None:
    groups = Groups(tmp_path / "root", hierarchies=hierarchies_of_v1(tmp_path))
    groups.open()
    assert (groups.controllers, groups.obstacles) == (("memory", "pids", "cpu", "blkio"), {})
    groups.make("vm-a", SMALL)
    (memory,) = (tmp_path / "memory" / "service").glob("hyperd-*/vm-a")
    assert (memory / "memory.limit_in_bytes").read_text() == str(2**20)
    (cpu,) = (tmp_path / "cpu" / "service").glob("hyperd-*/vm-a")
    assert [(cpu / name).read_text() for name in V1["cpu"]] == ["2048", "100000", "150000"]
    groups.put("vm-a", 77)
    assert (memory / "cgroup.procs").read_text() == "77\n"
    groups.weigh("vm-a", 0.25)
    assert (cpu / "cpu.shares").read_text().startswith("512")
    assert groups.names() == {"vm-a"}
    groups.reconcile({"vm-a"})
    assert groups.names() == {"vm-a"}
    groups.remove("vm-a")
    groups.remove("vm-a")
    groups.close()
    assert list(tmp_path.rglob("hyperd-*")) == []


def test_limits_of_v2_need_their_controllers_on(tmp_path: Path) -> None:
    top = tmp_path / "unified"
    top.mkdir()
    tree = Tree(mount=top, version=2, controllers=("memory", "pids", "cpu", "blkio"), own=PurePosixPath("/service"))
    groups = Groups(tmp_path / "root", hierarchies=[tree])
    groups.open()
    groups.make("vm-a", SMALL)
    (group,) = top.glob("hyperd-*/vm-a")
    found = [(group / name).read_text() for name in ("memory.max", "pids.max", "cpu.weight", "cpu.max")]
    assert found == [str(2**20), "7", "200", "150000 100000"]
    for above in (top, group.parent):
        assert (above / "cgroup.subtree_control").read_text() == "+memory +pids +cpu +io"
    assert (group / "cgroup.subtree_control").read_text() == ""


def test_a_group_may_lie_elsewhere(tmp_path: Path) -> None:
    groups = Groups(tmp_path / "root", hierarchies=hierarchies_of_v1(tmp_path))
    groups.open()
    groups.make("vm-a", SMALL, parent="/kubepods/pod1")
    assert (tmp_path / "memory/kubepods/pod1/vm-a/memory.limit_in_bytes").read_text() == str(2**20)
    groups.remove("vm-a")
    assert list((tmp_path / "memory/kubepods/pod1").glob("vm-*")) == []
    for parent in ("relative", "/a/../b", "/a\0"):
        with pytest.raises(InvalidInput):
            groups.make("vm-b", SMALL, parent=parent)
    with pytest.raises(InvalidInput):
        Groups(tmp_path, parent="relative")


def test_two_daemons_have_different_groups_in_one_parent(tmp_path: Path) -> None:
    hierarchies = hierarchies_of_v1(tmp_path)
    one, other = (Groups(tmp_path / name, parent="/vms", hierarchies=hierarchies) for name in ("one", "other"))
    for groups in (one, other):
        groups.open()
    one.make("vm-a", SMALL)
    other.reconcile(())
    assert (one.names(), other.names()) == ({"vm-a"}, set())
    one.reconcile(())
    assert one.names() == set()


def test_what_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hierarchies = [tree for tree in hierarchies_of_v1(tmp_path) if "pids" not in tree.controllers]
    (tmp_path / "cpu" / "service").rmdir()
    (tmp_path / "cpu" / "service").write_text("no directory")
    groups = Groups(tmp_path / "root", hierarchies=hierarchies)
    groups.open()
    assert groups.controllers == ("memory", "blkio")
    assert set(groups.obstacles) == {"cpu", "pids"}
    assert groups.told().startswith("memory, blkio; not cpu (")
    groups.make("vm-a", SMALL)
    groups.weigh("vm-a", 0.5)  # of nothing
    nowhere = Groups(tmp_path / "root")
    nowhere.open()
    assert nowhere.told().startswith("nothing; not blkio (no hierarchy")


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = Groups(tmp_path / "root", hierarchies=hierarchies_of_v1(tmp_path))
    groups.open()
    monkeypatch.setitem(V1, "pids", ())  # a file of the kernel's is missing
    with pytest.raises(HostFault, match="vm-a"):
        groups.make("vm-a", SMALL)
    assert groups.names() == set()
    with pytest.raises(HostFault):
        groups.put("vm-a", os.getpid())


def test_a_guest_alone_does_not_reach_its_limits() -> None:
    found = cgroups.limits(vcpu=2, memory=1024)
    assert found == Limits(memory=(1024 + 32 + 256) * 2**20, pids=514, weight=2.0, cpus=3.0)


@pytest.fixture
def one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process be in one group of a hierarchy, as with a kernel, and one that ended in none."""
    real_write = Path.write_text

    def write_text(path: Path, data: str, *rest: object, **more: object) -> int:
        if path.name != "cgroup.procs":
            return real_write(path, data, *rest, **more)  # type: ignore[arg-type]
        top = next(one for one in path.parents if one.name in (*V1, "unified"))
        for other in top.rglob("cgroup.procs"):
            real_write(other, "".join(line for line in other.read_text().splitlines(True) if line != data))
        if data == "99\n":
            raise ProcessLookupError
        return real_write(path, path.read_text() + data)

    monkeypatch.setattr(Path, "write_text", write_text)


def test_a_vm_moves_with_all_of_its_processes(tmp_path: Path, one_place: None) -> None:
    groups = Groups(tmp_path / "root", hierarchies=hierarchies_of_v1(tmp_path))
    groups.open()
    groups.make("vm-a", SMALL)
    for pid in (77, 78):
        groups.put("vm-a", pid)
    (old,) = (tmp_path / "memory").rglob("vm-a")
    (old / "cgroup.procs").write_text("79\n")
    groups.move("vm-a", SMALL, parent="/kubepods/pod1")
    new = tmp_path / "memory/kubepods/pod1/vm-a"
    assert (new / "cgroup.procs").read_text() == "77\n78\n79\n"
    assert (new / "memory.limit_in_bytes").read_text() == str(2**20)
    assert groups.names() == set()  # the old one is gone
    groups.move("vm-a", SMALL, parent="/kubepods/pod1")  # it is there already
    groups.remove("vm-a")
    assert list(tmp_path.rglob("vm-a")) == []


def test_a_vm_that_cannot_move_stays(tmp_path: Path, one_place: None) -> None:
    top = tmp_path / "unified"
    top.mkdir()
    tree = Tree(mount=top, version=2, controllers=("memory", "pids", "cpu"), own=PurePosixPath("/"))
    groups = Groups(tmp_path / "root", hierarchies=[tree])
    groups.open()
    groups.make("vm-a", SMALL)
    groups.put("vm-a", 77)
    (top / "pod1").write_text("no directory")
    with pytest.raises(HostFault, match="vm-a"):
        groups.move("vm-a", SMALL, parent="/pod1")
    (group,) = top.glob("hyperd-*/vm-a")
    assert (group / "cgroup.procs").read_text() == "77\n"
    groups.move("vm-a", SMALL, parent="/pod2")
    assert (top / "pod2/vm-a/cgroup.procs").read_text() == "77\n"
    assert not group.exists()


def test_a_group_that_bounds_memory_too_low_does_not_fit(tmp_path: Path) -> None:
    groups = Groups(tmp_path / "root", hierarchies=hierarchies_of_v1(tmp_path))
    groups.open()
    assert groups.fits("/kubepods/pod1", SMALL)  # it is not there yet
    group = tmp_path / "memory/kubepods/pod1"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(str(SMALL.memory - 1))
    assert not groups.fits("/kubepods/pod1", SMALL)
    assert not groups.fits("/kubepods/pod1/below", SMALL)
    (group / "memory.limit_in_bytes").write_text("max\n")  # v2's word
    assert groups.fits("/kubepods/pod1", SMALL)
    assert Groups(tmp_path / "root").fits("/kubepods/pod1", SMALL)  # nothing is bounded here


def test_a_process_enters_by_itself_while_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[str, int]] = []
    monkeypatch.setattr(os, "chown", lambda path, uid, _gid: owners.append((path.parts[len(tmp_path.parts)], uid)))
    groups = Groups(tmp_path / "root", hierarchies=hierarchies_of_v1(tmp_path))
    groups.open()
    groups.make("vm-a", SMALL)
    with groups.opened("vm-a", 4711) as files:
        assert [file.relative_to(tmp_path).parts[::4] for file in files] == [(one, "tasks") for one in V1]
        assert owners == [(one, 4711) for one in V1]
        owners.clear()
    assert owners == [(one, 0) for one in V1]


def test_nobody_enters_a_group_of_v2_by_himself(tmp_path: Path) -> None:
    top = tmp_path / "unified"
    top.mkdir()
    tree = Tree(mount=top, version=2, controllers=("memory",), own=PurePosixPath("/"))
    groups = Groups(tmp_path / "root", hierarchies=[tree])
    groups.open()
    groups.make("vm-a", SMALL)
    with groups.opened("vm-a", 4711) as files:
        assert files == ()


def test_a_process_that_is_in_its_group_is_left_alone(tmp_path: Path, one_place: None) -> None:
    groups = Groups(tmp_path / "root", hierarchies=hierarchies_of_v1(tmp_path))
    groups.open()
    groups.make("vm-a", SMALL)
    for file in tmp_path.rglob("vm-a/cgroup.procs"):
        file.write_bytes(b"78\n99\n")
    groups.put("vm-a", 99)  # to write it would fail
