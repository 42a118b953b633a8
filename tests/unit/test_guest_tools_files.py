"""The agent's tools that look at a container's files and processes: what they give, of hostile trees too."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.hosted import agent_binary, cgroup2

pytestmark = pytest.mark.root

BUSYBOX = "/bin/busybox"
OPAQUE = "trusted.overlay.opaque"


def tool(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """Run one of the agent's tools."""
    done = subprocess.run([agent_binary(), *words], capture_output=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done


def in_mounts(steps: Sequence[str], *words: str | Path) -> bytes:
    """Run one of the agent's tools where commands of a shell have mounted something."""
    script = " && ".join([*steps, 'exec "$@"'])
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", agent_binary(), *words]
    return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout


def contents(data: bytes) -> dict[str, bytes | str]:
    """The members of an archive: bytes of files, else the kind."""
    found: dict[str, bytes | str] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            link = f"link {member.linkname}" if member.issym() or member.islnk() else ""
            found[member.name] = file.read() if file else link or ("directory" if member.isdir() else "device")
    return found


# -- pack-device


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What is mounted into a container."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"not of the container")
    os.setxattr(outside / "file", "user.secret", b"not of the container")
    (outside / "file").chmod(0o4755)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(outside / "sock"))
        yield outside


def test_what_is_mounted_in_a_root_is_not_packed(tmp_path: Path, outside: Path) -> None:
    """The root is an overlay of two file systems, as in guests: files have other device numbers than directories."""
    image, root = tmp_path / "image", tmp_path / "root"
    root.mkdir()
    for name in ("etc", "data", "run", "shared", "usr/bin"):
        (image / name).mkdir(parents=True)
    for name in ("etc/hosts", "etc/secret", "run/docker.sock", "masked"):
        (image / name).touch()
    for name in ("etc/passwd", "etc/key", "usr/bin/tool"):
        (image / name).write_bytes(b"image")
    places = {
        "etc/hosts": outside / "file",
        "etc/secret": outside / "file",  # the same file twice is no hard link
        "run/docker.sock": outside / "sock",
        "masked": "/dev/null",
        "shared": outside,
        "etc/key": root / "etc/key",  # as paths are that can only be read
        "usr": root / "usr",
    }
    data = in_mounts(
        [
            f"cd {tmp_path} && mkdir over && mount -t tmpfs tmpfs over && mkdir over/upper over/work",
            "mount -t overlay -o lowerdir=image,upperdir=over/upper,workdir=over/work overlay root",
            "printf new > root/etc/new && mount -t tmpfs -o mode=1777 tmpfs root/data && printf x > root/data/x",
            *(f"mount --bind {source} root/{place}" for place, source in places.items()),
        ],
        *("--pack-device", root),
    )
    directories = dict.fromkeys(("data", "etc", "run", "shared", "usr", "usr/bin"), "directory")
    empty = dict.fromkeys(("etc/hosts", "etc/secret", "masked", "run/docker.sock"), b"")
    whole = dict.fromkeys(("etc/key", "etc/passwd", "usr/bin/tool"), b"image")
    assert contents(data) == {**directories, **empty, **whole, "etc/new": b"new"}
    assert b"not of the container" not in data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [archive.getmember(name).mode for name in ("etc/hosts", "data")] == [0o755, 0o1777]


# -- pack-path


def test_a_path_is_packed_under_its_own_or_another_name(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "dir/deep").mkdir(parents=True)
    (root / "dir/deep/file").write_bytes(b"1")
    (root / "dir/link").symlink_to("/dir/deep")
    (root / "way").symlink_to("/dir")
    whole = {"dir": "directory", "dir/deep": "directory", "dir/deep/file": b"1", "dir/link": "link /dir/deep"}

    def packed(*words: str) -> dict[str, bytes | str]:
        return contents(tool("--pack-path", root, *words).stdout)

    assert packed("/", "dir") == whole
    assert packed("/", "dir", "new") == {name.replace("dir", "new", 1): what for name, what in whole.items()}
    assert packed("/dir", ".") == {name.removeprefix("dir/"): what for name, what in whole.items() if name != "dir"}
    assert packed("/way", "link") == {"link": "link /dir/deep"}  # links on the way are followed, in the root
    assert packed("/dir/deep", "file", "other") == {"other": b"1"}
    for directory, name in (("/dir", "none"), ("/none", "file"), ("/dir/deep/file", "x")):
        assert name.encode() in tool("--pack-path", root, directory, name, code=1).stderr


# -- stat


def test_what_a_path_is(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "dir/file").write_bytes(b"12345")
    (root / "dir/file").chmod(0o4750)
    os.utime(root / "dir/file", ns=(0, 1_600_000_000_123_456_789))
    (root / "link").symlink_to("/dir/../dir/file")
    (root / "out").symlink_to("../../../etc/passwd")

    def parts(directory: str, name: str) -> list[bytes]:
        return tool("--stat", root, directory, name).stdout.split(b"\0")

    assert parts("/dir", "file") == [b"104750 5 1600000000 123456789", b"", b"", b""]
    assert parts("/dir", ".")[0].startswith(b"40")
    assert parts("/", "link")[1:3] == [b"/dir/../dir/file", b"/dir/file"]
    assert parts("/", "out")[1:3] == [b"../../../etc/passwd", b""]  # there is none in the root
    assert parts("/", "none") == [b"!%d" % errno.ENOENT, b""]
    assert parts("/dir/file", "x") == [b"!%d" % errno.ENOTDIR, b""]


# -- changes


def changes(upper: Path, lower: Path, *left_out: str) -> list[str]:
    """What ``--changes`` tells, sorted by path."""
    told = tool("--changes", upper, lower, *left_out).stdout.decode().split("\0")
    return sorted(told[:-1], key=lambda line: (line[1:], line[0]))


def test_what_an_upper_directory_changes(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for name in ("same", "mode", "opaque/hidden", "etc", "was_dir"):
        (lower / name).mkdir(parents=True)
    for name in ("same/file", "opaque/kept", "gone", "was_file", "etc/hosts"):
        (lower / name).touch()
    for name in ("same", "mode", "opaque", "etc", "was_file", "new/deep", "skipped"):
        (upper / name).mkdir(parents=True)
    for name in ("same/file", "opaque/kept", "was_dir", "etc/hosts"):
        (upper / name).touch()
    (upper / "mode").chmod(0o700)
    os.setxattr(upper / "opaque", OPAQUE, b"y")
    for name in ("gone", "never_there"):
        os.mknod(upper / name, stat.S_IFCHR, os.makedev(0, 0))
    assert changes(upper, lower, "etc/hosts", "skipped") == [
        "Dgone", "Cmode", "Anew", "Anew/deep", "Copaque", "Dopaque/hidden", "Copaque/kept", "Csame", "Csame/file",
        "Cwas_dir", "Awas_file", "Dwas_file",
    ]  # fmt: skip


def deep(top: Path, name: str, depth: int, *, attribute: str = "") -> None:
    """Make directories in each other, deeper than a path can name, and give the last of them an attribute or a file."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    if attribute:
        os.setxattr(fd, attribute, b"y")
    else:
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_changes_of_deep_trees(tmp_path: Path) -> None:
    """A level takes descriptors; programs of the guest begin with a limit of 1,024."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for top in (upper, lower):
        top.mkdir()
        deep(top, "d", 600)
    command = ["prlimit", "--nofile=1024:", agent_binary(), "--changes", upper, lower]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert len(done.stdout.split(b"\0")) == 602
    subprocess.run(["rm", "-rf", upper, lower], check=True)


@pytest.mark.parametrize("hidden", [False, True])
def test_changes_with_names_that_are_too_long(tmp_path: Path, hidden: bool) -> None:
    """The limit is told with the place, also where an opaque directory hides such names."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    upper.mkdir()
    lower.mkdir()
    deep(lower if hidden else upper, "d" * 250, 17)
    if hidden:
        deep(upper, "d" * 250, 16, attribute=OPAQUE)
    error = tool("--changes", upper, lower, code=1).stderr
    assert error.startswith(b"changes " + b"d" * 250 + b"/")
    assert error.endswith(b": File name too long\n")
    subprocess.run(["rm", "-rf", upper, lower], check=True)


# -- processes


def test_processes_of_a_group_and_of_those_in_it(tmp_path: Path) -> None:
    """A container may divide its group, as systemd does."""
    name = f"hyproc{os.getpid()}"
    groups = [cgroup2() / name / part for part in ("", "a", "a/b")]
    processes = [subprocess.Popen([BUSYBOX, "sleep", f"100{number}"]) for number in range(len(groups))]
    try:
        for group, process in zip(groups, processes, strict=True):
            group.mkdir()
            (group / "cgroup.procs").write_text(str(process.pid))
        told = in_mounts([f"mount --bind {cgroup2()} /sys/fs/cgroup"], "--processes", name).decode().split("\0")
        found = {
            int(status.split()[1]): (status.split()[0], words)
            for status, words in zip(told[:-1:2], told[1::2], strict=True)
        }
        assert found == {process.pid: ("0", f"{BUSYBOX} sleep 100{n}") for n, process in enumerate(processes)}
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for group in reversed(groups):
            group.rmdir()
