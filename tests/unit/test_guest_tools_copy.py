"""What COPY, ADD and ``--from`` do where something stands in the way: every pair of what comes and what is there.

The rules of COPY are BuildKit's. A directory and anything else never replace each other, a link to a directory is no
directory; but the target itself is looked up with its links. An archive of ADD follows tar, and never puts what is
behind a link to a directory out of reach.
"""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hosted import agent_binary

pytestmark = pytest.mark.root

COMES = ("file", "directory", "link", "device")
THERE = ("nothing", "file", "directory", "link to file", "link to directory", "dangling link", "device")


def make(path: Path, kind: str) -> None:
    """Make what comes or stands there; links lead to files beside the tree."""
    if kind == "file":
        path.write_bytes(b"old")
    elif kind == "directory":
        path.mkdir()
        (path / "kept").write_bytes(b"kept")
    elif kind == "device":
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    elif kind.endswith("link") or kind.startswith("link"):
        path.symlink_to({"link to file": "/real/file", "link to directory": "/real/dir"}.get(kind, "/real/none"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image: what links lead to, and a directory ``in`` for what stands in the way."""
    root = tmp_path / "root"
    (root / "real/dir").mkdir(parents=True)
    (root / "real/dir/kept").write_bytes(b"kept")
    (root / "real/file").write_bytes(b"real")
    (root / "in").mkdir()
    return root


def source(tmp_path: Path, kind: str) -> Path:
    """A tree with one member ``x`` of a kind; directories have ``new`` in them."""
    tree = tmp_path / "from"
    (tree / "src").mkdir(parents=True)
    if kind == "directory":
        (tree / "src/x").mkdir(mode=0o711)
        (tree / "src/x/new").write_bytes(b"new")
    elif kind == "file":
        (tree / "src/x").write_bytes(b"new")
    elif kind == "link":
        (tree / "src/x").symlink_to("new")
    else:
        os.mkfifo(tree / "src/x")
    return tree


def copy_tree(tree: Path, root: Path, target: str, *sources: str) -> subprocess.CompletedProcess[bytes]:
    """COPY --from."""
    words = [agent_binary(), "--copy", tree, root, target, "-", "-", *sources]
    return subprocess.run(words, capture_output=True, timeout=60, check=False)


def unpack(tree: Path, root: Path, target: str, *names: str, rules: str = "copy") -> subprocess.CompletedProcess[bytes]:
    """COPY of a context, whose files come as a tar; with other rules an archive of ADD."""
    out, single = io.BytesIO(), False
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            path = tree / name.lstrip("/")
            single = len(names) == 1 and not path.is_dir()
            if single:
                archive.add(path, path.name)
                continue
            for inner in sorted(path.rglob("*")):
                archive.add(inner, str(inner.relative_to(path)), recursive=False)
    words = ["-", "-", *(["single"] if single else []), *([rules] if rules else [])]
    return subprocess.run(
        [agent_binary(), "--unpack", root, target, *words],
        input=out.getvalue(),
        capture_output=True,
        timeout=60,
        check=False,
    )


Way = Callable[..., subprocess.CompletedProcess[bytes]]
WAYS = [pytest.param(copy_tree, id="from"), pytest.param(unpack, id="context")]


def looks(root: Path) -> dict[str, str]:
    """Everything in an image as text."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "directory"
        elif path.is_fifo():
            found[name] = "fifo"
        else:
            found[name] = path.read_text() if path.is_file() else "device"
    return found


CAME = {"file": "new", "link": "-> new", "device": "fifo", "directory": "directory"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("there", THERE)
@pytest.mark.parametrize("comes", COMES)
def test_a_member_of_a_directory(root: Path, tmp_path: Path, way: Way, comes: str, there: str) -> None:
    """COPY src/ /in/, and /in/x is there."""
    make(root / "in/x", there)
    before = looks(root)
    done = way(source(tmp_path, comes), root, "/in/", "/src")
    after = looks(root)
    if comes == "directory" and there not in {"nothing", "directory"}:
        assert (done.returncode, b"cannot copy to non-directory" in done.stderr) == (1, True), done
        assert after == before
    elif comes != "directory" and there == "directory":
        assert (done.returncode, b"cannot replace a directory" in done.stderr) == (1, True), done
        assert after == before
    else:
        want = before | {"in/x": CAME[comes]} | ({"in/x/new": "new"} if comes == "directory" else {})
        assert (done.returncode, after) == (0, want), done
        if comes == "directory":
            assert stat.S_IMODE((root / "in/x").stat().st_mode) == 0o711


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("there", THERE)
def test_a_file_to_a_target(root: Path, tmp_path: Path, way: Way, there: str, slash: str) -> None:
    """COPY src/x /in/y, with and without a slash."""
    make(root / "in/y", there)
    before = looks(root)
    done = way(source(tmp_path, "file"), root, f"/in/y{slash}", "/src/x")
    written = {
        "nothing": "in/y/x" if slash else "in/y",
        "file": "" if slash else "in/y",
        "directory": "in/y/x",
        "link to file": "" if slash else "real/file",
        "link to directory": "real/dir/x",
        "dangling link": "real/none/x" if slash else "real/none",
        "device": "" if slash else "in/y",
    }[there]
    if not written:
        assert (done.returncode, b"cannot copy to non-directory" in done.stderr) == (1, True), done
        assert looks(root) == before
        return
    parents = {} if str(Path(written).parent) in before else {str(Path(written).parent): "directory"}
    assert (done.returncode, looks(root)) == (0, before | parents | {written: "new"}), done


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("there", THERE)
def test_a_directory_to_a_target(root: Path, tmp_path: Path, way: Way, there: str, slash: str) -> None:
    """COPY src /in/y, with and without a slash: its content goes there."""
    make(root / "in/y", there)
    before = looks(root)
    done = way(source(tmp_path, "file"), root, f"/in/y{slash}", "/src")
    base = {
        "nothing": "in/y",
        "directory": "in/y",
        "link to directory": "real/dir",
        "dangling link": "real/none",
    }.get(there)
    if base is None:
        assert (done.returncode, b"cannot copy to non-directory" in done.stderr) == (1, True), done
        assert looks(root) == before
        return
    assert (done.returncode, looks(root)) == (0, before | {base: "directory", f"{base}/x": "new"}), done


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("there", ["link to directory", "dangling link"])
def test_links_on_the_way_to_a_target(root: Path, tmp_path: Path, way: Way, there: str) -> None:
    make(root / "in/y", there)
    assert way(source(tmp_path, "file"), root, "/in/y/deep/z", "/src/x").returncode == 0
    assert (root / "real" / ("none" if there == "dangling link" else "dir") / "deep/z").read_bytes() == b"new"
    assert (root / "in/y").is_symlink()


@pytest.mark.parametrize("there", THERE)
@pytest.mark.parametrize("comes", COMES)
def test_an_archive(root: Path, tmp_path: Path, comes: str, there: str) -> None:
    """ADD src.tar /in/, and /in/x is there."""
    make(root / "in/x", there)
    before = looks(root)
    done = unpack(source(tmp_path, comes), root, "/in/", "/src", rules="")
    if comes == "directory" and there == "link to directory":
        want = before | {"real/dir/new": "new"}  # and the link stays, with all that is behind it
    elif comes == "directory":
        want = before | {"in/x": "directory", "in/x/new": "new"}
    else:
        want = {name: what for name, what in before.items() if name != "in/x/kept"} | {"in/x": CAME[comes]}
    assert (done.returncode, looks(root)) == (0, want), done


def test_a_merged_root_keeps_working(root: Path, tmp_path: Path) -> None:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/sh").write_bytes(b"sh")
    (root / "bin").symlink_to("usr/bin")
    tree = tmp_path / "from"
    (tree / "src/bin").mkdir(parents=True)
    (tree / "src/bin/tool").write_bytes(b"tool")
    for way in (copy_tree, unpack):
        assert b"cannot copy to non-directory" in way(tree, root, "/", "/src").stderr
        assert (root / "bin/sh").read_bytes() == b"sh"
    assert unpack(tree, root, "/", "/src", rules="").returncode == 0
    assert ((root / "bin").is_symlink(), (root / "usr/bin/tool").read_bytes()) == (True, b"tool")
    assert copy_tree(tree, root, "/bin/", "/src/bin").returncode == 0


def test_links_in_a_circle_end(root: Path, tmp_path: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    tree = source(tmp_path, "file")
    for target in ("/a", "/a/", "/a/b/c"):
        assert copy_tree(tree, root, target, "/src/x").returncode == 1


# Links whose last part is "..": what they lead to is found by what is there, and by what would be there.
CLIMBING = {"nope/..": "in", "real/..": "in", ".": "in", "..": "", "../..": "", "nope/../..": ""}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("link", CLIMBING)
def test_a_link_that_climbs_is_a_directory(root: Path, tmp_path: Path, way: Way, link: str) -> None:
    """COPY src/x /in/out; nothing on the way goes, and nothing outside of the image."""
    (root / "in/kept").write_bytes(b"kept")
    (root / "in/out").symlink_to(link)
    (tmp_path / "beside").mkdir()
    before = looks(root)
    done = way(source(tmp_path, "file"), root, "/in/out", "/src/x")
    assert (done.returncode, looks(root)) == (0, before | {f"{CLIMBING[link]}/x".lstrip("/"): "new"}), done
    assert (tmp_path / "beside").is_dir()


@pytest.mark.parametrize("link", CLIMBING)
def test_an_archive_through_a_link_that_climbs(root: Path, tmp_path: Path, link: str) -> None:
    """ADD of an archive with a member below such a link."""
    tree = tmp_path / "from"
    (tree / "src/out").mkdir(parents=True)
    (tree / "src/out/x").write_bytes(b"new")
    (root / "in/out").symlink_to(link)
    (tmp_path / "beside").mkdir()
    before = looks(root)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(tree / "src/out/x", "out/x")
    words = [agent_binary(), "--unpack", root, "/in/"]
    done = subprocess.run(words, input=data.getvalue(), capture_output=True, timeout=60, check=False)
    assert (done.returncode, looks(root)) == (0, before | {f"{CLIMBING[link]}/x".lstrip("/"): "new"}), done
    assert (tmp_path / "beside").is_dir()


MODES = [
    ("644", 0o755, 0o644, 0o644), ("0", 0o755, 0, 0), ("4755", 0o644, 0o4755, 0o4755),
    ("u=rwX,go=rX", 0o600, 0o644, 0o755), ("a+x", 0o644, 0o755, 0o755), ("+x", 0o600, 0o711, 0o711),
    ("go-rwx", 0o777, 0o700, 0o700), ("u+s,g=u", 0o750, 0o4770, 0o4770), ("o=,u-w", 0o777, 0o570, 0o570),
    ("ug=rw,o=r", 0o777, 0o664, 0o664), ("+X", 0o611, 0o711, 0o711), ("+t", 0o755, 0o1755, 0o1755),
    ("u=g-x", 0o070, 0o670, 0o670),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "before", "file", "directory"), MODES)
def test_modes(tmp_path: Path, mode: str, before: int, file: int, directory: int) -> None:
    tree, root = source(tmp_path, "directory"), tmp_path / "root"
    root.mkdir()
    (tree / "src/x").chmod(before)
    (tree / "src/x/new").chmod(before)
    done = subprocess.run(
        [agent_binary(), "--copy", tree, root, "/", "-", mode, "/src"], capture_output=True, check=False
    )
    assert done.returncode == 0, done
    found = [stat.S_IMODE((root / name).stat().st_mode) for name in ("x/new", "x")]
    assert found == [file, directory]
    for name in ("f", "d"):
        path = tmp_path / name
        path.touch() if name == "f" else path.mkdir()
        path.chmod(before)
    subprocess.run(["chmod", mode, tmp_path / "f"], check=True)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == file


@pytest.mark.parametrize("mode", ["", "8", "17777", "u", "u+", "x=r", "u=rq", "u+x,", ",u+x", "r"])
def test_bad_modes(tmp_path: Path, mode: str) -> None:
    tree, root = source(tmp_path, "file"), tmp_path / "root"
    root.mkdir()
    done = subprocess.run(
        [agent_binary(), "--copy", tree, root, "/", "-", mode, "/src"], capture_output=True, check=False
    )
    assert (done.returncode == 0) is (mode == "u+"), done  # no permission is a good one
    assert list(root.iterdir()) == [] or mode == "u+"
