"""From OCI layers to overlayfs layers: whiteouts, duplicates, hostile names."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperd.errors import InvalidInput, TooLarge
from hyperd.image.layer.members import Limits, normalise
from hyperd.image.layer.tarstream import Entry, TarReader
from hyperd.image.layer.whiteout import Untidy, filter_layer, filter_planned, plan_layer
from tests.support.registry import directory, layer_tar, member

Members = list[tuple[tarfile.TarInfo, bytes]]
OPAQUE = "SCHILY.xattr.trusted.overlay.opaque"


def reader(data: bytes) -> TarReader:
    pieces = iter([data])
    return TarReader(lambda: next(pieces, b""), max_entries=10_000)


def limits() -> Limits:
    return Limits(10**8)


def one_pass(data: bytes) -> bytes:
    out = io.BytesIO()
    filter_layer(reader(data), out.write, limits())
    return out.getvalue()


def planned(data: bytes) -> bytes:
    out = io.BytesIO()
    filter_planned(reader(data), plan_layer(reader(data), limits()), out.write, limits())
    return out.getvalue()


def seen(data: bytes) -> dict[str, str]:
    """Name to what it is; tar2sqfs refuses duplicates, so does this."""
    found: dict[str, str] = {}
    contents: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as archive:
        for info in archive:
            name = info.name.rstrip("/") or "."
            assert name not in found
            if info.ischr() and info.devmajor == info.devminor == 0:
                found[name] = "whiteout"
            elif info.isdir():
                found[name] = "opaque" if info.pax_headers.get(OPAQUE) == "y" else "dir"
            elif info.islnk():
                found[name] = contents[name] = contents[info.linkname]
            elif info.isfile():
                file = archive.extractfile(info)
                assert file is not None
                found[name] = contents[name] = f"file {file.read().decode()}"
            else:
                found[name] = contents[name] = f"link {info.linkname}"
    return found


BOTH = pytest.mark.parametrize("convert", [one_pass, planned])


@BOTH
def test_whiteouts(convert: object) -> None:
    assert callable(convert)
    data = layer_tar(
        [
            directory("d"),
            member("d/.wh.gone"),
            member("e/.wh..wh..opq"),
            directory("f"),
            member("f/new", b"1"),
            member("f/.wh..wh..opq"),
            directory("g"),
            member(".wh.g"),
            member("h", b"2"),
            member(".wh.h"),
            member("k/.wh..wh.plnk"),
            member(".wh..wh.orph/x", b"3"),
        ]
    )
    assert seen(convert(data)) == {
        "d": "dir",
        "d/gone": "whiteout",
        "e": "opaque",
        "f": "opaque",
        "f/new": "file 1",
        "g": "opaque",
        "h": "file 2",
    }


@BOTH
def test_an_opaque_root(convert: object) -> None:
    assert callable(convert)
    assert seen(convert(layer_tar([member(".wh..wh..opq")]))) == {".": "opaque"}
    assert seen(convert(layer_tar([directory("./"), member("./.wh..wh..opq")]))) == {".": "opaque"}


@BOTH
def test_a_device_0_0_is_a_whiteout_as_for_overlayfs(convert: object) -> None:
    assert callable(convert)
    assert seen(convert(layer_tar([member("x", type=tarfile.CHRTYPE)]))) == {"x": "whiteout"}


@BOTH
def test_an_image_cannot_steer_overlayfs(convert: object) -> None:
    assert callable(convert)
    headers = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.metacopy": "",
        "SCHILY.xattr.system.posix_acl_access": "x",
        "SCHILY.xattr.user.kept": "yes",
    }
    out = convert(layer_tar([directory("d", pax_headers=headers), member("f", b"", pax_headers=headers)]))
    with tarfile.open(fileobj=io.BytesIO(out + bytes(1024))) as archive:
        assert [info.pax_headers for info in archive] == [{"SCHILY.xattr.user.kept": "yes"}] * 2


UNTIDY: dict[str, tuple[Members, dict[str, str]]] = {
    "file twice": ([member("a", b"1"), member("a", b"2")], {"a": "file 2"}),
    "link keeps the old content": (
        [member("a", b"1"), member("b", type=tarfile.LNKTYPE, linkname="a"), member("a", b"2")],
        {"a": "file 2", "b": "file 1"},
    ),
    "file over directory": (
        [directory("a"), member("a/b", b"1"), member("a", b"2")],
        {"a": "file 2"},
    ),
    "directory over file": ([member("a", b"1"), directory("a"), member("a/b", b"2")], {"a": "dir", "a/b": "file 2"}),
    "below a symbolic link": (
        [directory("r"), member("a", type=tarfile.SYMTYPE, linkname="r"), member("a/b", b"1")],
        {"r": "dir", "a": "link r", "r/b": "file 1"},
    ),
    "below a chain of links": (
        [
            directory("r"),
            directory("d"),
            member("d/x", type=tarfile.SYMTYPE, linkname="../y"),
            member("y", type=tarfile.SYMTYPE, linkname="/../../r"),
            member("d/x/b", b"1"),
            member("d/x/.wh.gone"),
        ],
        {"r": "dir", "d": "dir", "d/x": "link ../y", "y": "link /../../r", "r/b": "file 1", "r/gone": "whiteout"},
    ),
    "new directories below a link": (
        [directory("r"), member("a", type=tarfile.SYMTYPE, linkname="r"), member("a/new/b", b"1")],
        {"r": "dir", "a": "link r", "r/new/b": "file 1"},
    ),
    "link through a link": (
        [
            directory("r"),
            member("r/f", b"1"),
            member("a", type=tarfile.SYMTYPE, linkname="r"),
            member("h", type=tarfile.LNKTYPE, linkname="a/f"),
        ],
        {"r": "dir", "r/f": "file 1", "a": "link r", "h": "file 1"},
    ),
    "only the second name is left": (
        [member("a", b"1"), member("b", type=tarfile.LNKTYPE, linkname="a"), directory("a")],
        {"a": "dir", "b": "file 1"},
    ),
    "a link to itself": (
        [member("a", b"1"), member("a", type=tarfile.LNKTYPE, linkname="a")],
        {"a": "file 1"},
    ),
}


@pytest.mark.parametrize("name", UNTIDY)
def test_the_last_one_wins(name: str) -> None:
    members, want = UNTIDY[name]
    data = layer_tar(members)
    with pytest.raises(Untidy):
        one_pass(data)
    assert seen(planned(data)) == want


def test_links_to_lower_layers_are_noted() -> None:
    links = [("a", "b"), ("d/c", "d/x"), ("e", "a"), ("gone", "b")]
    members = [member(name, type=tarfile.LNKTYPE, linkname=target) for name, target in links]
    data = layer_tar([directory("d"), *members, member("b", b"later"), member("gone", b"file"), member(".wh.f")])
    with pytest.raises(Untidy):
        one_pass(data)
    plan = plan_layer(reader(data), limits())
    assert plan.notes.links == {b"a": b"b", b"e": b"b", b"d/c": b"d/x"}
    placeholders = dict.fromkeys(("a", "e", "d/c"), "file ")
    assert seen(planned(data)) == {**placeholders, "d": "dir", "b": "file later", "gone": "file file", "f": "whiteout"}


HOSTILE: dict[str, Members] = {
    "leaves the root": [member("../etc/passwd")],
    "leaves the root later": [member("a/../../b")],
    "link leaves the root": [member("a", type=tarfile.LNKTYPE, linkname="../b")],
    "link to itself": [member("a", type=tarfile.LNKTYPE, linkname="a")],
    "link below a file": [member("b", b"1"), member("a", type=tarfile.LNKTYPE, linkname="b/c")],
    "link below a symbolic link": [
        member("b", type=tarfile.SYMTYPE, linkname="c"),
        member("a", type=tarfile.LNKTYPE, linkname="b/d"),
    ],
    "link to what the layer hides": [member(".wh.b"), member("a", type=tarfile.LNKTYPE, linkname="b")],
    "link below what the layer hides": [member("b/.wh..wh..opq"), member("a", type=tarfile.LNKTYPE, linkname="b/c/d")],
    "link to a directory": [directory("b"), member("a", type=tarfile.LNKTYPE, linkname="b")],
    "long component": [member("a" * 256)],
    "long path": [member("/".join(["a" * 250] * 17))],
    "root is a file": [member(".")],
    "empty link": [member("a", type=tarfile.SYMTYPE, linkname="")],
    "long link": [member("a", type=tarfile.SYMTYPE, linkname="x" * 4096)],
    "device number": [member("a", type=tarfile.CHRTYPE, devmajor=5000)],
    "whiteout of the directory itself": [member("a/.wh..")],
    "whiteout of the parent": [member("a/.wh...")],
    "whiteout of nothing": [member("a/.wh.")],
    "below a file": [member("a", b"1"), member("a/b")],
    "below a dangling link": [member("a", type=tarfile.SYMTYPE, linkname="nowhere"), member("a/b")],
    "below a loop": [member("a", type=tarfile.SYMTYPE, linkname="a"), member("a/b")],
    "user id": [member("a", uid=2**32)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_are_refused(name: str) -> None:
    data = layer_tar(HOSTILE[name])
    with pytest.raises((InvalidInput, Untidy)):
        one_pass(data)
    with pytest.raises(InvalidInput):
        planned(data)


@BOTH
def test_bounds(convert: object) -> None:
    assert callable(convert)
    with pytest.raises(TooLarge):
        convert(layer_tar([member("a", b"", pax_headers={"SCHILY.xattr.user.a": "x" * 70_000})]))
    with pytest.raises(TooLarge):
        convert(layer_tar([member("a", b"", pax_headers={f"SCHILY.xattr.user.{i}": "x" for i in range(200)})]))
    sparse = member("a", b"", pax_headers={"GNU.sparse.map": "", "GNU.sparse.size": str(10**15)})
    sparse[0].pax_headers["GNU.sparse.map"] = "0,0"
    with pytest.raises(TooLarge):
        convert(layer_tar([sparse]))


def test_too_many_users() -> None:
    bounds = limits()
    for number in range(30_000):
        bounds.count(Entry(b"x", b"0", uid=2 * number, gid=2 * number + 1))
    with pytest.raises(TooLarge):
        bounds.count(Entry(b"x", b"0", uid=70_000, gid=70_000))


@pytest.mark.parametrize(
    ("name", "want"),
    [
        (b"", b""),
        (b"./", b""),
        (b"/a//b/./c/", b"a/b/c"),
        (b"a/../b", b"b"),
        (b".../..a", b".../..a"),
        (b"\xff", b"\xff"),
    ],
)
def test_normalise(name: bytes, want: bytes) -> None:
    assert normalise(name) == want


NAMES = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/a/a", "b/b/b", "./a", ""])
KINDS = st.sampled_from(["file", "dir", "link", "symlink", "whiteout", "opaque"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=7))
def test_both_ways_agree(steps: list[tuple[str, str, str]]) -> None:
    members: Members = []
    for number, (name, kind, target) in enumerate(steps):
        if kind == "file":
            members.append(member(name or "f", str(number).encode()))
        elif kind == "dir":
            members.append(directory(name or "./"))
        elif kind == "link":
            members.append(member(name or "l", type=tarfile.LNKTYPE, linkname=target))
        elif kind == "symlink":
            members.append(member(name or "s", type=tarfile.SYMTYPE, linkname=target or "."))
        elif kind == "whiteout":
            head, slash, base = (name or "w").rpartition("/")
            members.append(member(f"{head}{slash}.wh.{base}"))
        else:
            members.append(member(f"{name}/.wh..wh..opq"))
    data = layer_tar(members)
    try:
        quick = one_pass(data)
    except (Untidy, InvalidInput):
        try:
            seen(planned(data))
        except InvalidInput:
            return
    else:
        assert seen(quick) == seen(planned(data))
