"""The agent's archive tools against Python's tarfile and GNU tar."""

from __future__ import annotations

import io
import os
import random
import socket
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hosted import agent_binary
from tests.support.trees import members, nasty, snapshot, tool

OPAQUE = "trusted.overlay.opaque"

pytestmark = pytest.mark.root


def test_a_tree_goes_out_and_comes_back_the_same(tmp_path: Path) -> None:
    nasty(tmp_path / "a")
    archive = tool("--pack-tree", tmp_path / "a").stdout
    (tmp_path / "b").mkdir()
    tool("--unpack", tmp_path / "b", data=archive)
    assert snapshot(tmp_path / "b") == snapshot(tmp_path / "a")
    assert (tmp_path / "b/sparse").stat().st_blocks < 1000
    assert tool("--pack-tree", tmp_path / "b").stdout == archive
    assert len(archive) < 6 << 20


def test_other_programs_read_what_is_packed(tmp_path: Path) -> None:
    nasty(tmp_path / "a")
    archive = tool("--pack-tree", tmp_path / "a").stdout
    found = members(archive)
    assert list(found) == sorted(found, key=lambda name: [os.fsencode(part) for part in name.split("/")])
    assert found["big"].pax_headers["mtime"] == "1600000000.123456789"
    assert found["second"].islnk()
    assert found["second"].linkname == "deep/third"
    (tmp_path / "b").mkdir()
    command = ["tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", tmp_path / "b"]
    subprocess.run(command, input=archive, check=True)
    assert snapshot(tmp_path / "b") == snapshot(tmp_path / "a")


@pytest.mark.parametrize(
    ("kind", "sparse"),
    [
        *((kind, ()) for kind in ("gnu", "pax", "ustar", "v7", "oldgnu")),
        ("gnu", ("--sparse",)),
        ("oldgnu", ("--sparse",)),
        ("pax", ("--sparse",)),
        ("pax", ("--sparse", "--sparse-version=0.1")),
    ],
)
def test_archives_of_gnu_tar_are_read(tmp_path: Path, kind: str, sparse: tuple[str, ...]) -> None:
    source = tmp_path / "a"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 1000)
    os.link(source / "file", source / "other")
    (source / "dir").mkdir(mode=0o711)
    (source / "link").symlink_to("file")
    with (source / "sparse").open("wb") as file:
        for at in range(1, 12):
            file.seek(at << 20)
            file.write(b"%d" % at)
    if kind in {"gnu", "pax", "oldgnu"}:
        (source / ("n" * 200)).symlink_to("t" * 300)
    for path in source.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    archive = subprocess.check_output(["tar", "-c", f"--format={kind}", *sparse, "-C", source, "."])
    (tmp_path / "b").mkdir()
    tool("--unpack", tmp_path / "b", data=archive)
    assert snapshot(tmp_path / "b") == snapshot(source)


def test_a_difference_has_whiteouts_and_opaque_directories(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for directory in (
        upper,
        lower,
        upper / "etc",
        lower / "etc",
        upper / "etc2",
        lower / "etc2",
        upper / "dev",
        upper / "opaque",
    ):
        directory.mkdir()
    for name in ("etc/hosts", "etc2/hosts", ".wh.fake"):
        (upper / name).touch()
    (upper / "etc2").chmod(0o700)
    os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(upper / "opaque", OPAQUE, b"y")
    os.setxattr(upper / "opaque", "trusted.overlay.impure", b"y")
    (upper / "opaque" / "in").write_bytes(b"1")
    done = tool("--pack", upper, lower, "dev", "etc/hosts", "etc2/hosts")
    found = members(done.stdout)
    assert list(found) == ["etc2", ".wh.gone", "opaque", "opaque/.wh..wh..opq", "opaque/in"]
    assert found[".wh.gone"].isreg()
    assert not any("trusted" in key for member in found.values() for key in member.pax_headers)
    assert b".wh.fake" in done.stderr
    everything = members(tool("--pack", upper).stdout)
    assert {"etc", "etc/hosts", "dev"} < set(everything)


@pytest.mark.parametrize(
    "changed", [lambda p: p.chmod(0o1777), lambda p: os.chown(p, 1, 2), lambda p: os.setxattr(p, "user.a", b"b")]
)
def test_a_root_that_changed_is_in_the_difference(tmp_path: Path, changed: Callable[[Path], None]) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    upper.mkdir()
    lower.mkdir()
    (upper / "dev").mkdir()
    assert members(tool("--pack", upper, lower, "dev").stdout) == {}
    changed(upper)
    (root,) = members(tool("--pack", upper, lower, "dev").stdout).values()
    status = upper.stat()
    assert (root.name, root.mode, root.uid, root.gid) == (
        ".",
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
    )
    assert sum("xattr" in key for key in root.pax_headers) == len(os.listxattr(upper))
    changed(lower)  # as before: nothing to say, unless there is something else
    assert members(tool("--pack", upper, lower, "dev").stdout) == {}
    (upper / "f").touch()
    assert list(members(tool("--pack", upper, lower, "dev").stdout)) == [".", "f"]


def put(root: Path, build: Callable[[tarfile.TarFile], None], *words: str, code: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        build(archive)
    return tool("--unpack", root, *words, data=out.getvalue(), code=code).stderr


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    "entries",
    [
        [("../evil", {})],
        [("a/../../evil", {})],
        [("hard", {"type": tarfile.LNKTYPE, "linkname": "../outside/secret"})],
        [("n" * 256, {})],
        [("x", {"type": tarfile.CHRTYPE, "devmajor": 100_000})],
        [("", {})],
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, entries: list[tuple[str, dict[str, object]]]) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"s")
    message = put(root, lambda archive: [add(archive, name, **fields) for name, fields in entries], code=1)
    assert b"unpack" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]


def test_links_never_lead_out_of_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "there").symlink_to(outside)
    (root / "up").symlink_to("../outside")
    inside = root / str(outside)[1:]
    inside.mkdir(parents=True)
    (root / "outside").mkdir()

    def build(archive: tarfile.TarFile) -> None:
        add(archive, "mine", type=tarfile.SYMTYPE, linkname=str(outside))
        add(archive, "/there/a", b"1")
        add(archive, "up/b", b"1")
        add(archive, "mine/c", b"1")

    put(root, build)
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in inside.iterdir()) == ["a", "c"]
    assert (root / "outside/b").exists()


def test_owner_mode_and_new_name(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("app:x:77:88::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("team:x:99:\n")
    put(tmp_path, lambda archive: add(archive, "one", b"1"), "/new/dir/name", "app:team", "0640", "single")
    info = (tmp_path / "new/dir/name").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (77, 99, 0o640)
    assert (tmp_path / "new").stat().st_uid == 77
    put(tmp_path, lambda archive: add(archive, "one", b"1"), "/new/dir", "-", "-", "single")
    assert (tmp_path / "new/dir/one").read_bytes() == b"1"
    put(tmp_path, lambda archive: add(archive, "one", b"2"), "/fresh/", "5", "-", "single")
    assert (tmp_path / "fresh/one").stat().st_gid == 5
    assert b"nobody" in put(tmp_path, lambda archive: add(archive, "x"), "/", "nobody", code=1)


def test_files_take_the_place_of_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/file").touch()
    (tmp_path / "file").write_bytes(b"old and long")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/stays").touch()

    def build(archive: tarfile.TarFile) -> None:
        add(archive, "tree", b"now a file")
        add(archive, "file", b"new")
        add(archive, "kept", type=tarfile.DIRTYPE, mode=0o711)
        add(archive, "kept/more", b"1")
        add(archive, "file", b"last")

    put(tmp_path, build)
    assert (tmp_path / "tree").read_bytes() == b"now a file"
    assert (tmp_path / "file").read_bytes() == b"last"
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["more", "stays"]
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o711


def test_copy_between_trees(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    nasty(source)
    target.mkdir()
    tool("--copy", source, target, "/all", "-", "-", "/")
    assert snapshot(target / "all") == snapshot(source)
    tool("--copy", source, target, "/name", "7:8", "-", "/plain")
    assert (target / "name").stat().st_uid == 7
    tool("--copy", source, target, "/many/", "0:0", "-", "/b*", "/link")
    assert sorted(path.name for path in (target / "many").iterdir()) == ["big", "link"]
    assert (target / "many/link").read_bytes() == b"hello\n"
    assert b"/none*: no such" in tool("--copy", source, target, "/x", "-", "-", "/none*", code=1).stderr
    assert not (target / "x").exists()


def test_a_sparse_file_without_a_size_is_refused(tmp_path: Path) -> None:
    message = put(tmp_path, lambda archive: add(archive, "x", pax_headers={"GNU.sparse.map": "0,0"}), code=1)
    assert message == b"unpack: the archive is damaged\n"


def test_damaged_archives_do_no_harm(tmp_path: Path) -> None:
    nasty(tmp_path / "a")
    (tmp_path / "a/big").unlink()
    good = tool("--pack-tree", tmp_path / "a").stdout
    chance = random.Random(7)
    for number in range(300):
        data = bytearray(good)
        if number % 3 == 0:
            del data[chance.randrange(len(data)) :]
        for _ in range(chance.randrange(1, 6)):
            at = min(int(chance.expovariate(1 / 30_000)), len(data) - 1)
            block = at - at % 512
            data[at] = chance.randrange(256)
            if len(data) >= block + 512:  # most damage must get past the checksum to be interesting
                head = data[block : block + 512]
                head[148:156] = b" " * 8
                data[block + 148 : block + 156] = b"%06o\0 " % sum(head)
        root = tmp_path / "b"
        root.mkdir()
        done = subprocess.run(
            [agent_binary(), "--unpack", root], input=data, capture_output=True, timeout=30, check=False
        )
        assert done.returncode in (0, 1), done
        assert done.returncode == 0 or done.stderr
        subprocess.run(["rm", "-rf", root], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_connections(family: int) -> None:
    with socket.create_server(("127.0.0.1" if family == socket.AF_INET else "::1", 0), family=family) as server:
        port = str(server.getsockname()[1])
        text = random.Random(1).randbytes(1_000_000)

        def serve() -> None:
            with server.accept()[0] as client:
                client.sendall(b"hello")  # before anything is read
                got = b""
                while data := client.recv(65_536):
                    got += data
                client.sendall(got[::-1])

        thread = threading.Thread(target=serve)
        thread.start()
        assert tool("--connect", port, data=text).stdout == b"hello" + text[::-1]
        thread.join()
    assert b"Connection refused" in tool("--connect", port, code=1).stderr
    assert b"is no port" in tool("--connect", "0", code=1).stderr


def test_a_connection_ends_with_the_program_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [agent_binary(), "--connect", str(server.getsockname()[1])]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            with server.accept()[0] as client:
                client.sendall(b"bye")
            assert process.stdout is not None
            assert process.stdout.read() == b"bye"  # although stdin is open
            assert process.wait(60) == 0
