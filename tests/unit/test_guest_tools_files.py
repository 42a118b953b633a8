"""The agent's tools that look at a container's files and processes: what they give, of hostile trees too."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.hosted import agent_binary

pytestmark = pytest.mark.root


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
