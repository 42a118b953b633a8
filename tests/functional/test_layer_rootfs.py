"""What a container sees: our squashfs layers under overlayfs against ``umoci unpack`` of the same layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperd.image.layer.convert import build_layer
from tests.support.layers import CORPUS
from tests.support.registry import digest_of, layer_tar
from tests.support.rootfs import describe, overlaid, umoci_view

pytestmark = pytest.mark.root


@contextmanager
def our_view(tars: list[bytes], work: Path) -> Iterator[Path]:
    images = []
    for number, tar in enumerate(tars):
        image = work / f"{number}.sqfs"
        with image.open("w+b") as output:
            built = build_layer(lambda t=tar: iter([t[:1000], t[1000:]]), output, max_bytes=2**30)
        assert built.diff_id == digest_of(tar)
        assert built.image_size == image.stat().st_size
        images.append(image)
    with overlaid(images, work) as root:
        yield root


@pytest.mark.parametrize("name", CORPUS)
def test_a_container_sees_what_umoci_unpacks(name: str, tmp_path: Path) -> None:
    tars = [layer_tar(members) for members in CORPUS[name]]
    want = describe(umoci_view(tars, tmp_path), count_links=len(tars) == 1)
    with our_view(tars, tmp_path) as root:
        got = describe(root, count_links=len(tars) == 1)
    assert got.keys() == want.keys()
    assert {key: got[key] for key in got if got[key] != want[key]} == {
        key: want[key] for key in want if got[key] != want[key]
    }
