"""Users of VMs: who gets which, and what each can open below the daemon's directory."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hyperd.agent.client import AgentClient
from hyperd.capabilities import Holder
from hyperd.config.model import HypervisorConfig
from hyperd.db.session import Database
from hyperd.errors import Busy, HostFault
from hyperd.vm.driver import DiskSpec, VmSpec
from hyperd.vm.libvirt.custody import Custody
from hyperd.vm.libvirt.memory import Memories
from hyperd.vm.model import Vm
from hyperd.vm.table import VmTable

UIDS = range(1_879_048_192, 1_879_048_200)
ONE, TWO = UIDS[1], UIDS[2]


def vm(name: str) -> Vm:
    return Vm(id=name, vcpu=1, memory=64, rundir=Path("/"), agent=cast("AgentClient", SimpleNamespace()))


def test_no_two_vms_have_one_user_and_a_free_one_rests(database: Database) -> None:
    table, uids = VmTable(database), range(5000, 5004)
    vms = [vm(f"vm-{number}") for number in range(5)]
    for each in vms[:4]:
        table.add(each)
        table.give_uid(each, uids)
    assert {each.uid for each in vms[:4]} == set(uids)
    table.add(vms[4])
    with pytest.raises(Busy):
        table.give_uid(vms[4], uids)
    table.drop("vm-2")
    table.give_uid(vms[4], uids)
    assert vms[4].uid == vms[2].uid
    with table.changing(vms[4]):
        pass
    assert table.rows()["vm-4"].detail["uid"] == vms[4].uid

    wide, last = range(5000, 6000), vm("vm-last")
    table.add(last)
    table.give_uid(last, wide)
    before = last.uid
    table.drop("vm-last")
    for number in range(20):
        other = vm(f"vm-other{number}")
        table.add(other)
        table.give_uid(other, wide)
        assert other.uid != before


def test_each_vm_with_a_namespace_has_its_ids_to_itself(database: Database) -> None:
    table, blocks = VmTable(database), HypervisorConfig(uid_range="1000000-1262143").blocks
    assert list(blocks) == [1065536, 1131072, 1196608]
    old = vm("vm-old")  # of a daemon with another range
    old.uid, old.mapped = 1131071, False
    table.add(old)
    found = []
    for number in range(2):
        one = vm(f"vm-{number}")
        table.add(one)
        table.give_uid(one, blocks)
        one.mapped = True
        found.append(one.uid)
    assert set(found) == {1131072, 1196608}
    last = vm("vm-last")
    table.add(last)
    with pytest.raises(Busy):
        table.give_uid(last, blocks)
    table.give_uid(last, range(1131070, 1196609))  # without a namespace
    assert last.uid == 1131070
    with table.changing(one):
        pass
    assert table.rows()[one.id].detail["mapped"] is True


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A daemon's directory whose way is open for every user."""
    for parent in (tmp_path, *tmp_path.parents[:3]):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    before = os.umask(0o077)
    path = tmp_path / "root"
    for name in ("pods/a", "pods/b", "images/layers", "guest", "libvirt/lib/qemu"):
        (path / name).mkdir(parents=True)
    for name in ("pods/a/disk", "pods/b/disk", "pods/a/pod.json", "images/layers/l", "guest/kernel", "guest/initrd"):
        (path / name).write_text("x")
    yield path
    os.umask(before)


def opens(uid: int, path: Path, how: str = "<") -> bool:
    who = ["setpriv", f"--reuid={uid}", f"--regid={UIDS.start}", "--clear-groups"]
    return subprocess.run([*who, "sh", "-c", f'true {how}"$0"', path], capture_output=True, check=False).returncode == 0


def spec(root: Path, uid: int, *disks: DiskSpec) -> VmSpec:
    kernel, initrd = root / "guest/kernel", root / "guest/initrd"
    return VmSpec(vm_id="vm-a", vcpu=1, memory=64, kernel=kernel, initrd=initrd, rundir=root, disks=disks, uid=uid)


@pytest.mark.root
def test_a_user_can_open_its_vms_files_only(root: Path) -> None:
    custody = Custody(root, UIDS, accelerator="tcg")
    assert custody.obstacle(root / "guest/kernel", root / "guest/initrd") == ""
    layer = DiskSpec(lun=1, path=root / "images/layers/l", readonly=True)
    for uid, pod in ((ONE, "a"), (TWO, "b")):
        custody.prepare(
            spec(root, uid, DiskSpec(lun=0, path=root / f"pods/{pod}/disk"), layer), root / "libvirt/lib/qemu"
        )
    for path in ("guest/kernel", "guest/initrd", "images/layers/l"):
        assert opens(ONE, root / path)
        assert not opens(ONE, root / path, ">>")
        assert stat.S_IMODE((root / path).stat().st_mode) == 0o640
    assert opens(ONE, root / "pods/a/disk", "<>")
    assert not opens(ONE, root / "pods/b/disk")
    assert not opens(ONE, root / "pods/a/pod.json")
    assert not opens(ONE, root / "pods/a/new", ">")
    # The next VM takes it over, and in the end it is the daemon's.
    custody.hand_over(DiskSpec(lun=0, path=root / "pods/a/disk"), (TWO, UIDS.start))
    assert (opens(ONE, root / "pods/a/disk"), opens(TWO, root / "pods/a/disk", "<>")) == (False, True)
    custody.take_back(root / "pods/a/disk", ONE)  # is not its any more
    assert opens(TWO, root / "pods/a/disk", "<>")
    custody.take_back(root / "pods/a/disk", TWO)
    assert not opens(TWO, root / "pods/a/disk")
    custody.take_back(root / "pods/a/gone", TWO)
    # A VM of the daemon's user has its disk, too, when it has no capabilities.
    custody.hand_over(DiskSpec(lun=0, path=root / "pods/b/disk"), (0, 0))
    assert (root / "pods/b/disk").stat().st_uid == 0


@pytest.mark.root
def test_nothing_outside_of_the_daemons_directory_is_changed(root: Path, tmp_path: Path) -> None:
    custody = Custody(root, UIDS, accelerator="tcg")
    foreign = tmp_path / "foreign"
    foreign.write_text("x")
    before = foreign.stat()
    custody.hand_over(DiskSpec(lun=0, path=foreign), (ONE, UIDS.start))
    custody.hand_over(DiskSpec(lun=0, path=foreign, readonly=True), (ONE, UIDS.start))
    custody.take_back(foreign, ONE)
    assert foreign.stat() == before


@pytest.mark.root
def test_what_others_cannot_reach_is_an_obstacle(root: Path, tmp_path: Path) -> None:
    custody = Custody(root, UIDS, accelerator="tcg")
    kernel = tmp_path / "elsewhere" / "kernel"
    kernel.parent.mkdir(mode=0o755)
    kernel.parent.chmod(0o755)
    kernel.write_text("x")
    assert str(kernel) in custody.obstacle(kernel)
    kernel.chmod(0o644)
    assert custody.obstacle(kernel) == ""
    kernel.parent.chmod(0o700)
    assert str(kernel.parent) in custody.obstacle(kernel)
    kernel.parent.chmod(0o755)
    assert Custody(root, range(0), accelerator="tcg").obstacle(kernel)
    assert "namespace" in Custody(root, range(2**32 - 4, 2**32 - 1 + 4), accelerator="tcg").obstacle(kernel)
    tmp_path.chmod(0o700)
    assert str(tmp_path) in custody.obstacle()


@pytest.mark.root
def test_memory_that_is_lent_can_be_mapped_and_not_written(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    with file.open("wb") as out:
        out.truncate(1 << 22)
        out.seek(1 << 20)
        out.write(b"data")
    memories = Memories()
    try:
        copied = memories.lend(file)
        with Holder([copied], user=(ONE, UIDS.start)) as holder:
            path = holder.path(copied)
            script = (
                "import mmap, os, sys; f = os.open(sys.argv[1], os.O_RDWR); n = os.fstat(f).st_size;"
                "m = mmap.mmap(f, n, flags=mmap.MAP_PRIVATE); m[0:1] = b'x'; print(n, m[1 << 20:(1 << 20) + 4]);"
                "os.write(f, b'y')"
            )
            who = ["setpriv", f"--reuid={ONE}", f"--regid={UIDS.start}", "--clear-groups"]
            done = subprocess.run([*who, "/usr/bin/python3", "-c", script, path], capture_output=True, check=False)
            assert done.stdout == b"4194304 b'data'\n", done
            assert b"PermissionError" in done.stderr
            other = ["setpriv", f"--reuid={TWO}", f"--regid={UIDS.start}", "--clear-groups", "cat", str(path)]
            assert subprocess.run(other, capture_output=True, check=False).returncode != 0
            with path.open("rb") as copy:
                assert fcntl.fcntl(copy, fcntl.F_GET_SEALS) == 0xF
                assert os.fstat(copy.fileno()).st_blocks < 1 << 12  # holes are holes
        os.close(copied)
        file.unlink()
        with pytest.raises(HostFault):
            memories.lend(file)
    finally:
        memories.close()
