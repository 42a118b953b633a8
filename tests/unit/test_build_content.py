"""Content of large files that is not sent through the guest: the layer is the same, byte for byte."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperd.build.content import ContentTokens
from hyperd.build.context import Context, Node
from hyperd.errors import InvalidInput
from hyperd.image.layer.tarstream import FILE
from tests.support.hosted import agent_binary

pytestmark = pytest.mark.root

SIZES = {
    "big": 1_000_001,
    "d/other": 65_536,
    "d/small": 65_535,
    "d/token-sized": 64,
    "empty": 0,
    "d/" + "n" * 200: 99_999,
}


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    out, chance = io.BytesIO(), random.Random(5)
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, size in SIZES.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = size, 0o640, 1_500_000_000
            archive.addfile(info, io.BytesIO(chance.randbytes(size)))
        link = tarfile.TarInfo("d/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../big"
        archive.addfile(link)
    made = Context(tmp_path / "data", max_bytes=2**30)
    made.load(iter([out.getvalue()]))
    yield made
    made.close()


def packed(root: Path, tar: Iterator[bytes]) -> bytes:
    """Put files into a directory and pack it, as a guest does."""
    root.mkdir()
    words = [agent_binary(), "--unpack", root, "/to/", "7:8", "-", "copy"]
    subprocess.run(words, input=b"".join(tar), check=True)
    for path in [*root.rglob("*"), root]:
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    return subprocess.run([agent_binary(), "--pack", root], check=True, capture_output=True).stdout


@pytest.mark.parametrize("piece", [1, 500, 512, 70_000])
def test_the_layer_is_the_same(context: Context, tmp_path: Path, piece: int) -> None:
    members = context.select("/")[0].members
    direct = packed(tmp_path / "direct", context.tar(members))
    tokens = ContentTokens(context)
    brief = packed(tmp_path / "brief", context.tar(members, instead=tokens.of))
    assert len(brief) < 100_000
    assert len(direct) > 1_000_000
    pieces = (brief[at : at + piece] for at in range(0, len(brief), piece))
    assert b"".join(tokens.restored(pieces)) == direct


def test_what_a_guest_makes_up_is_no_token(context: Context, tmp_path: Path) -> None:
    tokens = ContentTokens(context)
    token = tokens.of(Node(kind=FILE, mode=0o644, size=100_000))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for data in (token[:-1] + b"9", token[:-1] + b"x", b"0" * 64, token[::-1]):
            info = tarfile.TarInfo("f")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert b"".join(tokens.restored(iter([out.getvalue()]))) == out.getvalue()
    for broken in (out.getvalue()[:700], b"x" * 100, b"\xff" * 2048, out.getvalue()[:124] + b"9" * 1000):
        with pytest.raises(InvalidInput):
            list(tokens.restored(iter([broken])))
