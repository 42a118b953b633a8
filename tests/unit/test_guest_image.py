"""The guest's image: archives, module order, caching."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from hyperd.errors import HostFault, InvalidInput, NotFound
from hyperd.guest import cpio, image
from hyperd.guest.modules import ModuleTree


def unpack(data: bytes, where: Path) -> Path:
    """Let cpio(1) judge an archive."""
    where.mkdir()
    done = subprocess.run(
        ["cpio", "-idm", "--no-absolute-filenames", "--quiet"], input=data, cwd=where, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return where


def test_an_archive_is_what_cpio_expects(tmp_path: Path) -> None:
    entries = [
        cpio.directory("etc", 0o750),
        cpio.file("etc/one", b"x", 0o600),
        cpio.file("etc/four", b"1234", 0o755),
        cpio.file("etc/empty", b""),
        cpio.symlink("etc/link", "one"),
    ]
    root = unpack(cpio.archive(entries), tmp_path / "out")
    assert stat.S_IMODE((root / "etc").stat().st_mode) == 0o750
    assert (root / "etc/one").read_bytes() == b"x"
    assert stat.S_IMODE((root / "etc/one").stat().st_mode) == 0o600
    assert (root / "etc/four").read_bytes() == b"1234"
    assert (root / "etc/empty").read_bytes() == b""
    assert (root / "etc/link").readlink() == Path("one")


def test_device_nodes() -> None:
    data = cpio.archive([cpio.character_device("console", major=5, minor=1)])
    listing = subprocess.run(["cpio", "-tv", "--quiet"], input=data, capture_output=True, check=True).stdout.decode()
    assert listing.startswith("crw-------")
    assert "5,   1" in listing


names = st.text("abcdefghij", min_size=1, max_size=9)


@given(st.dictionaries(names, st.binary(max_size=30), max_size=8))
def test_every_part_of_an_archive_is_aligned(files: dict[str, bytes]) -> None:
    data = cpio.archive([cpio.file(name, body) for name, body in files.items()])
    assert len(data) % 512 == 0
    at, found = 0, {}
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = data[at + 110 : at + 109 + name_size].decode()
        body = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            break
        found[name] = data[body : body + size]
        at = (body + size + 3) // 4 * 4
    assert found == files


@pytest.fixture
def module_tree(tmp_path: Path) -> Path:
    """A kernel tree with made-up modules."""
    needs = {"top": "mid_one,mid-two", "mid-one": "base", "mid_two": "base", "base": "", "alone": "inside"}
    for name, needed in needs.items():
        path = tmp_path / "kernel" / "drivers" / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7fELF\0license=GPL\0depends=" + needed.encode() + b"\0name=x\0")
    (tmp_path / "modules.builtin").write_text("kernel/fs/inside.ko\n")
    return tmp_path


def test_modules_come_after_what_they_need(module_tree: Path) -> None:
    assert ModuleTree(module_tree).load_order(["top", "base"]) == ["base", "mid_one", "mid_two", "top"]


def test_built_in_modules_need_no_loading_and_optional_ones_no_file(module_tree: Path) -> None:
    assert ModuleTree(module_tree).load_order(["inside", "alone"], optional=["missing", "base"]) == ["alone", "base"]


def test_a_missing_module_is_named(module_tree: Path) -> None:
    with pytest.raises(NotFound, match="no module missing"):
        ModuleTree(module_tree).load_order(["missing"])


def test_find_guest_prefers_a_whole_minimal_flavour(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        image.find_guest(tmp_path)
    for name in ("kernel-distro", "initrd-distro", "initrd-minimal"):
        (tmp_path / name).touch()
    assert image.find_guest(tmp_path).flavour == "distro"
    (tmp_path / "kernel-minimal").touch()
    found = image.find_guest(tmp_path)
    assert (found.flavour, found.kernel.name, found.initrd.name) == ("minimal", "kernel-minimal", "initrd-minimal")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the minimal flavour (and a stand-in for its kernel)."""
    directory = tmp_path_factory.mktemp("guest")
    (directory / "kernel-minimal").touch()
    image.build_guest(directory, kernel="minimal")
    return directory


def test_the_minimal_initramfs(built: Path, tmp_path: Path) -> None:
    data = (built / "initrd-minimal").read_bytes()
    listing = subprocess.run(["cpio", "-tv", "--quiet"], input=data, capture_output=True, check=True).stdout.decode()
    assert "dev/console" in listing
    assert "lib/modules/" not in listing
    root = unpack(data, tmp_path / "out") if os.geteuid() == 0 else None
    if root:
        assert (root / "init").read_bytes() == (built / "agent" / "hyper-agent").read_bytes()
        assert subprocess.run([root / "sbin/busybox", "true"], check=False).returncode == 0
        assert (root / "bin/sh").readlink() == Path("/sbin/busybox")


def test_nothing_is_built_twice(built: Path, mocker: MockerFixture) -> None:
    before = (built / "initrd-minimal").stat().st_mtime_ns
    spy = mocker.spy(subprocess, "run")
    image.build_guest(built, kernel="minimal")
    assert spy.call_count == 0
    assert (built / "initrd-minimal").stat().st_mtime_ns == before


def test_force_builds_the_same_bytes_again(built: Path) -> None:
    before, data = (built / "initrd-minimal").stat().st_mtime_ns, (built / "initrd-minimal").read_bytes()
    image.build_guest(built, kernel="minimal", force=True)
    assert (built / "initrd-minimal").stat().st_mtime_ns != before
    assert (built / "initrd-minimal").read_bytes() == data


def test_a_lost_file_or_another_input_builds_again(built: Path) -> None:
    (built / "initrd-minimal.inputs").write_text("something else")
    before = (built / "initrd-minimal").stat().st_mtime_ns
    image.build_guest(built, kernel="minimal")
    assert (built / "initrd-minimal").stat().st_mtime_ns != before
    (built / "initrd-minimal").unlink()
    image.build_guest(built, kernel="minimal")
    assert (built / "initrd-minimal").exists()


def test_a_compiler_that_fails_leaves_the_old_files(built: Path, mocker: MockerFixture) -> None:
    before = (built / "initrd-minimal").read_bytes()
    (built / "initrd-minimal.inputs").write_text("old")
    failure = subprocess.CalledProcessError(2, ["make"], stderr="main.c:1: error")
    mocker.patch("subprocess.run", side_effect=failure)
    with pytest.raises(HostFault) as caught:
        image.build_guest(built, kernel="minimal")
    assert "main.c:1: error" in caught.value.details
    assert (built / "initrd-minimal").read_bytes() == before


def test_a_missing_tool_says_what_to_install(built: Path, mocker: MockerFixture) -> None:
    (built / "initrd-minimal.inputs").write_text("old")
    mocker.patch("subprocess.run", side_effect=FileNotFoundError(2, "No such file", "make"))
    with pytest.raises(HostFault) as caught:
        image.build_guest(built, kernel="minimal")
    assert caught.value.resolution == "install make"


def test_unknown_flavours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        image.build_guest(tmp_path, kernel="bsd")


def test_the_package_behind_the_meta_package(mocker: MockerFixture) -> None:
    depends = "linux-image-6.1.0-9-cloud-amd64 (= 6.1.9-1)"
    answer = f"Package: linux-image-cloud-amd64\nVersion: 6.1.9-1\nDepends: {depends}\n x: y\n"
    mocker.patch("subprocess.run", return_value=subprocess.CompletedProcess([], 0, stdout=answer))
    assert image._kernel_package() == ("linux-image-6.1.0-9-cloud-amd64", "6.1.9-1")
    mocker.patch("subprocess.run", return_value=subprocess.CompletedProcess([], 0, stdout="Package: x\n"))
    with pytest.raises(NotFound):
        image._kernel_package()
