"""Shared directories of VMs: mounts that no mount table of the host shows, and that outlive a daemon."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperd.errors import HostFault
from hyperd.vm import shares
from hyperd.vm.shares import SharedTrees
from tests.support.descriptors import descriptors

pytestmark = pytest.mark.root


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[SharedTrees]:
    made = SharedTrees(tmp_path / "root", enabled=True)
    made.open(keep=())
    assert made.available
    yield made
    for name in ("vm-a", "vm-b"):
        made.remove(name)
    made.close()
    assert not made._file.exists()


def seen(fd: int, path: str) -> str:
    """Read a file as QEMU does: from the open directory."""
    return Path(f"/proc/self/fd/{fd}/{path}").read_text()


def opened(path: Path) -> int:
    return os.open(path, os.O_PATH)


def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "sub").mkdir(parents=True)
    (directory / "file").write_text("content")
    return directory


def test_no_descriptor_stays_open(trees: SharedTrees, tmp_path: Path) -> None:
    directory = source(tmp_path)
    before = descriptors()
    for name in ("vm-a", "vm-b"):
        root, given = trees.make(name), opened(directory)
        trees.bind(name, "w", given, readonly=True)
        trees.unbind(name, "w")
        trees.remove(name)
        for fd in (root, given):
            os.close(fd)
    assert descriptors() <= before


def test_directories_and_files_appear_and_go(trees: SharedTrees, tmp_path: Path) -> None:
    directory = source(tmp_path)
    root = trees.make("vm-a")
    trees.bind("vm-a", "w", opened(directory), readonly=False)
    trees.bind("vm-a", "r", opened(directory), readonly=True)
    trees.bind("vm-a", "f", opened(directory / "file"), readonly=False)
    assert (seen(root, "w/file"), seen(root, "r/file"), seen(root, "f")) == ("content", "content", "content")
    (directory / "file").write_text("changed")
    assert seen(root, "f") == "changed"
    Path(f"/proc/self/fd/{root}/w/new").write_text("of the guest")
    assert (directory / "new").read_text() == "of the guest"
    with pytest.raises(OSError, match="Read-only"):
        Path(f"/proc/self/fd/{root}/r/other").write_text("x")
    assert trees.names("vm-a") == ["f", "r", "w"]
    trees.unbind("vm-a", "w")
    assert trees.names("vm-a") == ["f", "r"]
    assert not Path(f"/proc/self/fd/{root}/w").exists()
    assert (directory / "new").exists()
    os.close(root)


def test_a_guest_can_change_no_name(trees: SharedTrees, tmp_path: Path) -> None:
    root = trees.make("vm-a")
    trees.bind("vm-a", "w", opened(source(tmp_path)), readonly=False)
    here = Path(f"/proc/self/fd/{root}")
    for change in (
        lambda: (here / "x").symlink_to("/etc"),
        lambda: (here / "w").rename(here / "y"),
        (here / "d").mkdir,
        (here / "w").rmdir,
    ):
        with pytest.raises(OSError, match=r"Read-only|busy"):
            change()
    os.close(root)


def test_nothing_of_it_is_in_the_hosts_mount_table(trees: SharedTrees, tmp_path: Path) -> None:
    directory = source(tmp_path)
    before = Path("/proc/self/mountinfo").read_text()
    os.close(trees.make("vm-a"))
    trees.bind("vm-a", "w", opened(directory), readonly=False)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert not any(Path(tmp_path / "root").rglob("file"))


def test_another_daemon_goes_on(trees: SharedTrees, tmp_path: Path) -> None:
    directory = source(tmp_path)
    root = trees.make("vm-a")
    os.close(trees.make("vm-b"))
    trees.bind("vm-a", "w", opened(directory), readonly=False)
    script = f"""
from pathlib import Path
import errno
import os
from hyperd.vm import shares
from hyperd.vm.shares import SharedTrees
again = SharedTrees(Path({str(tmp_path / "root")!r}), enabled=True)
again.open(keep=["vm-a"])
print(again.names("vm-a"))
again.bind("vm-a", "later", os.open({str(directory / "file")!r}, os.O_PATH), readonly=True)
again.unbind("vm-a", "w")
os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "['w']\n", done.stderr
    assert trees.names("vm-a") == ["later"]
    assert seen(root, "later") == "content"
    with pytest.raises(HostFault):
        trees.names("vm-b")
    os.close(root)


def test_a_removed_vm_leaves_the_hosts_files(trees: SharedTrees, tmp_path: Path) -> None:
    directory = source(tmp_path)
    os.close(trees.make("vm-a"))
    trees.bind("vm-a", "w", opened(directory), readonly=False)
    trees.bind("vm-a", "f", opened(directory / "file"), readonly=False)
    trees.remove("vm-a")
    trees.remove("vm-a")
    assert sorted(path.name for path in directory.iterdir()) == ["file", "sub"]


def test_the_same_name_twice_is_exchanged(trees: SharedTrees, tmp_path: Path) -> None:
    directory = source(tmp_path)
    root = trees.make("vm-a")
    trees.bind("vm-a", "x", opened(directory), readonly=False)
    trees.bind("vm-a", "x", opened(directory / "file"), readonly=True)
    assert seen(root, "x") == "content"
    os.close(root)


def test_who_is_told_not_to_has_none(tmp_path: Path) -> None:
    trees = SharedTrees(tmp_path, enabled=False)
    trees.open(keep=())
    assert not trees.available
    trees.remove("vm-a")
    trees.close()


def test_what_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = SharedTrees(tmp_path / "root", enabled=True)
    enter = SharedTrees._enter

    def fail(_trees: SharedTrees) -> None:
        raise OSError(errno.ENOMEM, "no memory", "tmpfs")

    monkeypatch.setattr(SharedTrees, "_enter", fail)
    trees.open(keep=())
    assert not trees.available
    monkeypatch.setattr(SharedTrees, "_enter", enter)
    assert not trees.available  # not at once
    monkeypatch.setattr(shares, "RETRY", 0.0)
    assert trees.available
    os.close(trees.make("vm-a"))
    trees.remove("vm-a")
    trees.close()
    assert not trees.available


@pytest.mark.parametrize("cpu", sorted(os.sched_getaffinity(0)))
def test_a_daemon_in_a_mount_namespace_of_its_own(tmp_path: Path, cpu: int) -> None:
    """Whichever CPU has made that: each gives them numbers of its own, by which the kernel tells what is older."""
    others = sorted(os.sched_getaffinity(0) - {cpu}) or [cpu]
    program = (
        "import os, sys; from pathlib import Path; from hyperd.vm.shares import SharedTrees\n"
        f"os.sched_setaffinity(0, {others})\n"
        "trees = SharedTrees(Path(sys.argv[1]), enabled=True); trees.open(()); print(trees.available); trees.close()"
    )
    words = ["taskset", "-c", str(cpu), "unshare", "-m", sys.executable, "-c", program, str(tmp_path / "root")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["True"], done
