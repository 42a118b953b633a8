"""Tars that come from a container are unpacked below one directory, whatever they say."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperctl import tars
from hyperctl.api.errors import HyperctlError


def tar(*members: tuple[str, bytes | str | None], kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> bytes:
    """A tar of files (bytes), directories (None) and links (texts)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = mode
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                file.addfile(info)
            elif isinstance(content, str):
                info.type = kind if kind in {tarfile.LNKTYPE, tarfile.SYMTYPE} else tarfile.SYMTYPE
                info.linkname = content
                file.addfile(info)
            else:
                if kind not in {tarfile.LNKTYPE, tarfile.SYMTYPE}:
                    info.type = kind
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def unpack(data: bytes, place, *, name: str | None = "new", rooted: bool = True) -> list[str]:
    return tars.unpack(iter([data[:700], data[700:]]), tars.Paths(str(place), name=name, rooted=rooted), owner=False)


def test_the_first_part_is_replaced_or_left_away(tmp_path):
    data = tar(("d", None), ("d/a", b"1"), ("d/sub", None), ("d/sub/b", b"2"), ("d/link", "a"))
    assert unpack(data, tmp_path) == []
    assert (tmp_path / "new/sub/b").read_bytes() == b"2"
    assert (tmp_path / "new/link").readlink() == Path("a")
    (tmp_path / "flat").mkdir()
    unpack(data, tmp_path / "flat", name=None)
    assert sorted(path.name for path in (tmp_path / "flat").iterdir()) == ["a", "link", "sub"]


@pytest.mark.parametrize("name", [None, "new"])
def test_a_tar_without_a_first_part_keeps_every_path(tmp_path, name):
    place = tmp_path if name is None else tmp_path / name
    unpack(tar(("hosts", b"1"), ("ssl", None), ("ssl/cert.pem", b"2")), tmp_path, name=name, rooted=False)
    unpack(tar(("ssl/cert", "ssl/cert.pem"), kind=tarfile.LNKTYPE), tmp_path, name=name, rooted=False)
    assert (place / "hosts").read_bytes() == b"1"
    assert (place / "ssl/cert.pem").read_bytes() == b"2"
    assert (place / "ssl/cert").samefile(place / "ssl/cert.pem")
    assert sorted(path.name for path in place.iterdir()) == ["hosts", "ssl"]


def test_files_are_replaced_and_have_no_set_user_id(tmp_path):
    (tmp_path / "new").write_bytes(b"old and longer")
    unpack(tar(("x", b"1"), mode=0o4755), tmp_path)
    assert (tmp_path / "new").read_bytes() == b"1"
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "members",
    [
        [("d", None), ("d/../../out", b"x")],
        [("../out", b"x")],
        [("d", None), ("d/link", ".."), ("d/link/out", b"x")],
        [("d", "/tmp"), ("d/out", b"x")],
    ],
)
def test_nothing_gets_out(tmp_path, members):
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(HyperctlError, match=r"leads outside|through a link"):
        unpack(tar(*members), place)
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_link_that_is_there_is_not_followed(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "victim").write_bytes(b"mine")
    (place / "new").symlink_to(tmp_path / "victim")
    unpack(tar(("x", b"theirs")), place)
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert (place / "new").read_bytes() == b"theirs"
    assert not (place / "new").is_symlink()


def test_what_is_left_away(tmp_path):
    assert unpack(tar(("d/dev", b""), kind=tarfile.CHRTYPE), tmp_path) == ["d/dev"]
    assert unpack(tar(("d/hard", "/etc/passwd"), kind=tarfile.LNKTYPE), tmp_path) == ["d/hard"]
    both = tar(("d", None), ("d/a", b"1"), ("d/b", "d/a"), kind=tarfile.LNKTYPE)
    (tmp_path / "hard").mkdir()
    assert unpack(both, tmp_path / "hard") == []
    assert (tmp_path / "hard/new/b").samefile(tmp_path / "hard/new/a")


def test_no_tar(tmp_path):
    with pytest.raises(HyperctlError, match="is no tar"):
        unpack(b"x" * 4096, tmp_path)


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        (tarfile.REGTYPE, {"mtime": "1e400"}),
        (tarfile.REGTYPE, {"mtime": "nan"}),
        (tarfile.REGTYPE, {"path": "x/a\0b"}),
        (tarfile.DIRTYPE, {"path": "x/a\0b"}),
        (tarfile.SYMTYPE, {"linkpath": "a\0b"}),
    ],
)
def test_values_that_no_file_has(tmp_path, kind, headers):
    one = tarfile.TarInfo("x/file")
    one.type, one.pax_headers, one.linkname = kind, headers, "target" if kind == tarfile.SYMTYPE else ""
    data = one.tobuf(tarfile.PAX_FORMAT) + tars.end()
    with pytest.raises(HyperctlError, match="what the daemon sends is no tar"):
        unpack(data, tmp_path, name=None)


@given(st.lists(st.binary(min_size=1, max_size=9)), st.lists(st.integers(-1, 12), min_size=1))
def test_pieces_are_read_in_any_sizes(pieces, sizes):
    file, whole = tars.Pieces(iter(pieces)), io.BytesIO(b"".join(pieces))
    for size in sizes:
        assert file.read(size) == whole.read(size)


def test_a_file_does_not_replace_a_directory(tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(HyperctlError, match="cannot overwrite the directory"):
        unpack(tar(("x", b"1")), tmp_path)


def test_packing_and_unpacking_are_each_others_inverse(tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_bytes(b"x" * 1000)
    (source / "link").symlink_to("sub/file")
    data = b"".join(tars.member(str(source), "s"))
    data += b"".join(piece for name in tars.walk(str(source)) for piece in tars.member(f"{source}/{name}", f"s/{name}"))
    unpack(data + tars.end(), tmp_path)
    assert (tmp_path / "new/link").read_bytes() == b"x" * 1000
