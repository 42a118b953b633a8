"""Hostile layers and archives through every way into a daemon: refused with a clear error, and nothing stays."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import hostile
from tests.support.daemon import HyperdLauncher
from tests.support.faulty import FaultyRegistry
from tests.support.hostile import WAYS, Gate, base256, header
from tests.support.registry import digest_of, directory, layer_tar, member

pytestmark = pytest.mark.root

MIB = 2**20
END = bytes(1024)
SYM, LNK = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with HyperdLauncher(driver="fake") as daemon, FaultyRegistry() as registry:
        daemon.start()
        yield Gate(daemon, registry)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file of the host that hostile archives aim at; it must stay as it is, and nothing may come beside it."""
    path = tmp_path / "canary"
    path.write_bytes(b"alive")
    before = (path.stat(), path.parent.stat().st_mtime_ns)
    yield path
    after = (path.stat(), path.parent.stat().st_mtime_ns)
    assert path.read_bytes() == b"alive"
    assert [list(path.parent.iterdir()), after[0].st_nlink, after[1]] == [[path], 1, before[1]]


def aimed(kind: str, target: Path) -> bytes:
    """An archive that wants to write to or to get at a file of the host."""
    up, name = "../" * 40, str(target).lstrip("/")
    return {
        "leaves by ..": lambda: layer_tar([member(f"{up}{name}", b"evil")]),
        "leaves by .. later": lambda: layer_tar([directory("a"), member(f"a/../{up}{name}", b"evil")]),
        "hard link by ..": lambda: layer_tar([member("a", type=LNK, linkname=f"{up}{name}")]),
        "absolute hard link": lambda: layer_tar([member("a", type=LNK, linkname=str(target))]),
        "below a symbolic link": lambda: layer_tar(
            [member("out", type=SYM, linkname=str(target.parent)), member("out/new", b"evil")]
        ),
        "below a symbolic link by ..": lambda: layer_tar(
            [member("out", type=SYM, linkname=up + str(target.parent)[1:]), member("out/new", b"evil")]
        ),
        "hard link through a symbolic link": lambda: layer_tar(
            [member("out", type=SYM, linkname=str(target.parent)), member("a", type=LNK, linkname="out/canary")]
        ),
        "a whiteout that leaves": lambda: layer_tar([member(f"{up}{Path(name).parent}/.wh.canary")]),
    }[kind]()  # type: ignore[no-untyped-call]


LEAVES, NOTHING, BELOW = "leaves the root", "points to nothing", "below something that is no directory"
AIMED = {
    "leaves by ..": LEAVES,
    "leaves by .. later": LEAVES,
    "hard link by ..": LEAVES,
    "absolute hard link": NOTHING,
    "below a symbolic link": BELOW,
    "below a symbolic link by ..": BELOW,
    "hard link through a symbolic link": NOTHING,
    "a whiteout that leaves": LEAVES,
}
# A context is never unpacked on the host: what lies below a link is a file of a directory of that name.
CONTEXTS = {
    NOTHING: "leads nowhere",
    BELOW: "Dockerfile",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", AIMED)
def test_the_host_is_untouched(gate: Gate, canary: Path, kind: str, way: str) -> None:
    data = aimed(kind, canary)
    said = gate.send(way, data, diff_id=digest_of(data))
    words = AIMED[kind]
    assert (CONTEXTS.get(words, words) if way == "build" else words) in said
    assert gate.nothing_stored()


PAX_HUGE = {"size": "9" * 19}
ODD: dict[str, tuple[bytes, str, str]] = {
    # archive, what is said of a layer, what of a context when it is something else
    "negative size": (header(b"a", size=base256(-512)) + bytes(512) + END, "negative number", ""),
    "negative octal size": (header(b"a", size=b"-0000000100\0") + END, "bad number", ""),
    "huge size": (header(b"a", size=base256(2**62)) + bytes(512), "the files of a layer have more", "cut off"),
    "size beyond 64 bits": (
        header(b"a", size=base256(2**90)) + bytes(512),
        "the files of a layer have more",
        "cut off",
    ),
    "huge size of a long name": (header(b"a", size=base256(2**62), kind=b"L") + bytes(512), "more than", ""),
    "negative size of a pax header": (header(b"a", size=base256(-1), kind=b"x") + bytes(512), "negative number", ""),
    "huge sparse file": (
        layer_tar([member("a", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**60)})]),
        "the files of a layer have more than",
        "sparse file",
    ),
    "links in a circle": (
        layer_tar([member("a", type=LNK, linkname="b"), member("b", type=LNK, linkname="a")]),
        NOTHING,
        "leads nowhere",
    ),
    "a link to itself": (layer_tar([member("a", type=LNK, linkname="a")]), NOTHING, "leads nowhere"),
    "a file below links in a circle": (
        layer_tar([member("a", type=SYM, linkname="b"), member("b", type=SYM, linkname="a"), member("a/x")]),
        BELOW,
        "Dockerfile",
    ),
    "a name that is too long": (layer_tar([member("n" * 256)]), "too long", ""),
    "a path that is too long": (layer_tar([member("/".join(["n" * 250] * 17))]), "too long", ""),
    "an unknown kind": (header(b"a", kind=b"Z") + END, "unknown kind", ""),
    "a wrong checksum": (header(b"a")[:-20] + b"x" * 20 + END, "checksum", ""),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ODD)
def test_odd_numbers_and_links_are_refused(gate: Gate, name: str, way: str) -> None:
    data, layer, context = ODD[name]
    said = gate.send(way, data, diff_id=digest_of(data))
    assert (context if way == "build" and context else layer) in said
    assert gate.nothing_stored()


ACCEPTED = {
    "absolute names": [member("/abs/file", b"x"), directory("/abs/dir")],
    "names that come twice": [member("a", b"1"), directory("d"), member("a", b"2"), member("d", b"3")],
    "links in a circle": [member("a", type=SYM, linkname="b"), member("b", type=SYM, linkname="a")],
    "links that lead out": [member("a", type=SYM, linkname="/etc/passwd"), member("b", type=SYM, linkname="../../x")],
    "a hard link to an absolute name": [member("a", b"1"), member("b", type=LNK, linkname="/a")],
}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "build"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_other_tools_take_is_taken(gate: Gate, name: str, way: str) -> None:
    data = layer_tar(ACCEPTED[name])
    said = gate.send(way, data, diff_id=digest_of(data))
    assert said.startswith(("200 ", "201 ")), said
    assert "error" not in said
    assert len(gate.daemon.json("GET", "/images/df")["Images"]) == 1
    gate.remove()
    assert gate.nothing_stored()


def with_dockerfile(data: bytes) -> bytes:
    """Add a Dockerfile to a context."""
    out = io.BytesIO(data)
    with tarfile.open(fileobj=out, mode="a") as archive:
        info = tarfile.TarInfo("Dockerfile")
        info.size = 13
        archive.addfile(info, io.BytesIO(b"FROM scratch\n"))
    return out.getvalue()


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_other_tools_take_is_a_context(gate: Gate, name: str) -> None:
    said = gate.send("build", with_dockerfile(layer_tar(ACCEPTED[name])))
    assert "Step 1/1 : FROM scratch" in said
    gate.remove()


@pytest.mark.parametrize("way", WAYS)
def test_a_compression_bomb_ends_early(gate: Gate, way: str, bombs: dict[str, bytes]) -> None:
    before = gate.forget()
    said = gate.send(way, bombs["zeros"])
    assert "compressed beyond belief" in said
    assert gate.memory() - before < 64 * MIB
    assert gate.nothing_stored()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["deep", "attributes"])
def test_names_and_attributes_do_not_fill_the_memory(gate: Gate, way: str, kind: str, bombs: dict[str, bytes]) -> None:
    before = gate.forget()
    said = gate.send(way, bombs[kind])
    if way == "build" and kind == "attributes":  # which a context does not keep
        assert "Dockerfile" in said
    else:
        assert "take more than 268435456 bytes" in said
    assert gate.memory() - before < 400 * MIB
    assert gate.nothing_stored()


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    return {
        "zeros": hostile.bomb(1100 * MIB),
        "deep": hostile.packed(iter([hostile.deep(200)])),
        "attributes": hostile.packed(hostile.attributes(5000)),
    }


@pytest.mark.parametrize("way", WAYS)
def test_headers_without_a_member_do_not_fill_the_memory(gate: Gate, way: str) -> None:
    pieces = []
    for number in range(40):
        body = b"524288 SCHILY.xattr.user.%03d=" % number
        body = body.ljust(524287, b"x") + b"\n"
        pieces.append(header(b"x", size=b"%011o\0" % len(body), kind=b"x") + body)
    said = gate.send(way, hostile.packed(iter([*pieces, header(b"a"), END])))
    assert "more than 1048576 bytes" in said
    assert gate.nothing_stored()


def test_the_daemon_is_well_afterwards(gate: Gate) -> None:
    data = layer_tar([member("a", b"1")])
    assert gate.send("pull", data, diff_id=digest_of(data)).startswith("200 ")
    gate.remove()
    assert gate.nothing_stored()
    assert "Traceback" not in gate.daemon.log()
