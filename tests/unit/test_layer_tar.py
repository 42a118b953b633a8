"""Reading hostile archives and writing clean ones; tarfile is the independent reader."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperd.errors import HyperError, InvalidInput, TooLarge
from hyperd.image.layer import tarstream
from hyperd.image.layer.tarstream import Entry, TarReader, pack, parse_pax
from tests.support.registry import directory, layer_tar, member


def source(data: bytes, piece: int = 700) -> Callable[[], bytes]:
    pieces: Iterator[bytes] = (data[i : i + piece] for i in range(0, len(data), piece))
    return lambda: next(pieces, b"")


def read(data: bytes, *, max_entries: int = 1000, piece: int = 700) -> list[tuple[Entry, bytes]]:
    reader = TarReader(source(data, piece), max_entries=max_entries)
    return [(entry, b"".join(reader.data())) for entry in reader]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300).filter(
    lambda name: not name.endswith("/") and name.strip("/")
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            NAMES, st.binary(max_size=1500), st.integers(0, 0o7777), st.integers(0, 2**32), st.integers(-5, 2**40)
        ),
        max_size=6,
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(1, 2000),
)
def test_reads_what_tarfile_writes(members: list[tuple[str, bytes, int, int, int]], form: int, piece: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data, mode, number, mtime in members:
            info, _ = member(name, mode=mode, uid=number, gid=number, mtime=mtime, size=len(data))
            archive.addfile(info, io.BytesIO(data))
    got = [(e.name, d, e.mode, e.uid, e.gid, e.mtime) for e, d in read(out.getvalue(), piece=piece)]
    want = [(n.encode(), d, m, i, i, t) for n, d, m, i, t in members]
    assert [(n.lstrip(b"/"), *rest) for n, *rest in got] == [(n.lstrip(b"/"), *rest) for n, *rest in want]


@settings(max_examples=150, deadline=None)
@given(
    st.binary(min_size=1, max_size=400).filter(lambda n: b"\0" not in n and not n.endswith(b"/")),
    st.binary(max_size=300).filter(lambda n: b"\0" not in n),
    st.integers(0, 2**32 - 2),
    st.dictionaries(st.sampled_from([b"user.a", b"security.capability"]), st.binary(max_size=50)),
)
def test_tarfile_reads_what_is_written(name: bytes, link: bytes, number: int, xattrs: dict[bytes, bytes]) -> None:
    entry = Entry(name, tarstream.SYMLINK, 0o777, number, number, mtime=number, link=link, xattrs=xattrs)
    with tarfile.open(
        fileobj=io.BytesIO(pack(entry) + bytes(1024)), encoding="utf-8", errors="surrogateescape"
    ) as file:
        (got,) = file.getmembers()
    assert got.name.encode("utf-8", "surrogateescape") == name
    assert got.linkname.encode("utf-8", "surrogateescape") == link
    assert (got.uid, got.gid, got.mtime, got.issym()) == (number, number, number, True)
    assert {k: v.encode("utf-8", "surrogateescape") for k, v in got.pax_headers.items()} == {
        "SCHILY.xattr." + k.decode(): v for k, v in xattrs.items()
    }


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_an_error_and_nothing_worse(data: st.DataObject) -> None:
    archive = bytearray(
        layer_tar(
            [member("a", b"x" * 600, pax_headers={"path": "b" * 200, "SCHILY.xattr.user.a": "1"}), directory("d")]
        )
    )
    for _ in range(data.draw(st.integers(1, 6))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInput, TooLarge):
        read(bytes(archive[: data.draw(st.integers(0, len(archive)))]))


@given(st.binary(max_size=200))
def test_any_pax_header_is_read_without_a_fault(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        parse_pax(data)


def test_links_and_devices_have_no_data_whatever_their_size_says() -> None:
    out = b""
    for kind in (b"1", b"2", b"3", b"5", b"6"):
        entry = Entry(b"n" + kind, kind, link=b"x")
        out += pack(entry, size=512)
    out += pack(Entry(b"file", b"0"), size=3) + b"abc" + bytes(509)
    assert [(e.name, d) for e, d in read(out)][-1] == (b"file", b"abc")


def test_an_archive_without_its_end_marks_is_read() -> None:
    data = layer_tar([member("a", b"x")])[:1024]
    assert [e.name for e, _ in read(data)] == [b"a"]


@pytest.mark.parametrize("keep", [100, 512, 900])
def test_an_archive_that_is_cut_off_is_refused(keep: int) -> None:
    with pytest.raises(InvalidInput):
        read(layer_tar([member("a", b"x" * 800)])[:keep])


def test_bounds() -> None:
    with pytest.raises(TooLarge):
        read(layer_tar([member(str(i)) for i in range(11)]), max_entries=10)
    with pytest.raises(TooLarge):
        read(pack(Entry(b"x", b"L"), size=2**21))


@pytest.mark.parametrize("kind", [b"M", b"N", b"Z", b"9", b"D"])
def test_members_of_unknown_kinds_are_refused(kind: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(pack(Entry(b"x", kind)))


def test_global_headers_are_passed_over() -> None:
    record = b"17 path=elsewhere\n"
    data = pack(Entry(b"g", b"g"), size=len(record)) + record + bytes(512 - len(record)) + pack(Entry(b"a", b"0"))
    assert [e.name for e, _ in read(data)] == [b"a"]


def test_not_an_archive() -> None:
    with pytest.raises(InvalidInput):
        read(b"\x7fELF" + bytes(2000))


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix"], ["--format=posix", "--sparse-version=0.1"]])
def test_sparse_files_of_gnu_tar(options: list[str], tmp_path: Path) -> None:
    path = tmp_path / "holes"
    with path.open("wb") as file:
        for number in range(60):
            file.seek(number * 100_000)
            file.write(b"data %d" % number * 100)
        file.truncate(6_500_000)
    archive = subprocess.run(
        ["tar", "-C", tmp_path, "--sparse", "--hole-detection=raw", *options, "-cf", "-", "holes"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert len(archive) < 2_000_000
    ((entry, data),) = read(archive)
    assert entry.holes is not None
    content = bytearray(entry.real_size)
    position = 0
    for offset, length in entry.holes:
        content[offset : offset + length] = data[position : position + length]
        position += length
    assert (entry.name, bytes(content)) == (b"holes", path.read_bytes())


def test_hostile_sparse_maps_are_refused() -> None:
    for sparse in ("0,10,5,10", "0,99999999999", "5", "x"):
        info, data = member("f", b"x" * 20)
        info.pax_headers = {"GNU.sparse.map": sparse, "GNU.sparse.size": "100"}
        with pytest.raises(HyperError):
            read(layer_tar([(info, data)]))
