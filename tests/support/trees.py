"""Directories with everything that is hard about files, and the agent's program for archives."""

from __future__ import annotations

import hashlib
import io
import os
import random
import stat
import subprocess
import tarfile
from pathlib import Path

from tests.support.hosted import agent_binary

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service+ep, revision 2


def tool(*words: str | Path, data: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([agent_binary(), *words], input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = archive.getmembers()
    assert len({member.name for member in found}) == len(found)
    return {member.name: member for member in found}


def snapshot(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything about every file below a directory; hard links by their group."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    top = os.fsencode(root)
    for directory, names, files in os.walk(top):
        for name in sorted(names + files):
            path = directory + b"/" + name
            info = os.lstat(path)
            content: object = None
            if stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)  # noqa: PTH115 - names that are no UTF-8 are bytes, and Path has none
            relative = os.path.relpath(path, top)
            group = relative if stat.S_ISDIR(info.st_mode) else first.setdefault(info.st_ino, relative)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            found[relative] = (
                info.st_mode,
                info.st_uid,
                info.st_gid,
                info.st_mtime_ns,
                info.st_rdev,
                0 if stat.S_ISDIR(info.st_mode) else info.st_nlink,
                group,
                content,
                tuple(sorted(xattrs.items())),
            )
    return found


def nasty(root: Path) -> None:
    """A directory with everything that is hard about files."""
    root.mkdir()
    (root / "empty").mkdir(mode=0o700)
    (root / "plain").write_bytes(b"hello\n")
    (root / "plain").chmod(0o6755)
    os.chown(root / "plain", 12, 34)
    os.chown(root / "empty", 3_000_000, 4_000_000_000)
    os.link(root / "plain", root / "second")
    (root / "deep").mkdir()
    os.link(root / "plain", root / "deep" / "third")
    (root / "link").symlink_to("plain")
    (root / "dangling").symlink_to("/no/where/" + "x" * 200)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(5, 300))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    (root / ("n" * 255)).write_bytes(b"long name")
    path = root / "deep"
    for _ in range(12):
        path = path / ("d" * 100)
        path.mkdir()
    (path / "bottom").write_bytes(b"down here")
    Path(os.fsdecode(os.fsencode(root) + b"/latin\xe9")).write_bytes(b"not utf-8")
    Path(os.fsdecode(os.fsencode(root) + b"/" + b"\xff\xfe" * 100)).write_bytes(b"long and not utf-8")
    (root / "grüße").write_bytes(b"utf-8")
    (root / "new\nline").write_bytes(b"x")
    with (root / "sparse").open("wb") as file:
        file.seek(50 << 20)
        file.write(b"island")
        file.truncate(200 << 20)
    (root / "big").write_bytes(random.Random(1).randbytes(3_000_001))
    os.setxattr(root / "big", "user.note", b"binary\0value\n=")
    os.setxattr(root / "deep", "user.dir", b"yes")
    os.setxattr(root / "big", "security.capability", CAPABILITY)
    os.utime(root / "big", ns=(0, 1_600_000_000_123_456_789))
    os.utime(root / "second", ns=(0, -1_500_000_000))
    os.utime(root / "link", ns=(0, 5_000_000_000), follow_symlinks=False)
    os.utime(root / "empty", ns=(0, 9_000_000_000_000_000_000))
