"""Layers and images that are made here: converting, keeping the data, half-made ones."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backports import zstd

from hyperd.config.model import Config, RegistryConfig
from hyperd.errors import Cancelled, Conflict, InvalidInput, NotSupported, OutOfSpace, TooLarge
from hyperd.image.service import ImageService
from hyperd.image.store import ImageStore
from tests.support.images import image_service
from tests.support.registry import digest_of, directory, layer_tar, member

TAR = layer_tar([directory("d"), member("d/f", b"content")])


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ImageService]:
    with image_service(tmp_path, Config(registry=RegistryConfig(max_layer_bytes=2**24))) as service:
        yield service


def files(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path / "images")) for path in tmp_path.glob("images/**/*") if path.is_file())


def pieces(data: bytes, size: int = 1000) -> Callable[[], Iterator[bytes]]:
    return lambda: iter([data[at : at + size] for at in range(0, len(data), size)])


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "tar": lambda data: data,
}


@pytest.mark.parametrize("form", PACKERS)
def test_a_layer_in_every_form(images: ImageService, tmp_path: Path, form: str) -> None:
    data = PACKERS[form](TAR)
    layer = images.add_layer(pieces(data, 100))
    assert (layer.diff_id, layer.size, layer.kept) == (digest_of(TAR), len(TAR), form in {"gzip", "zstd"})
    blob = (tmp_path / "images/blobs/sha256" / layer.blob.removeprefix("sha256:")).read_bytes()
    assert layer.blob == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert layer.blob_size == len(blob)
    assert blob == data if layer.kept else zstd.decompress(blob) == TAR
    image = images.add_image({"config": {"Cmd": ["/f"]}}, [layer], tags=["made/here"])
    assert image.tags == ("made/here:latest",)
    assert image.config["rootfs"] == {"type": "layers", "diff_ids": [layer.diff_id]}
    listing = subprocess.run(["rdsquashfs", "-d", image.layers[0].path], capture_output=True, check=True)
    assert b"file d/f" in listing.stdout


def test_a_layer_that_needs_a_plan_is_read_once(images: ImageService) -> None:
    tar = layer_tar([member("x", b"1"), member("x", b"two")])
    opened = []

    def once() -> Iterator[bytes]:
        opened.append(1)
        return iter([tar])

    assert images.add_layer(once).diff_id == digest_of(tar)
    assert opened == [1]


def test_an_image_on_top_of_another(images: ImageService) -> None:
    base = images.add_layer(pieces(TAR))
    lower = images.add_image({}, [base], tags=["base"])
    upper = images.add_layer(pieces(layer_tar([member("g", b"more")])))
    image = images.add_image({"author": "jane"}, [lower.layers[0].diff_id, upper], tags=["base"], parent=lower.id)
    assert [layer.diff_id for layer in image.layers] == [base.diff_id, upper.diff_id]
    assert (images.get("base").id, images.get(lower.id).tags, image.parent) == (image.id, (), lower.id)
    assert image.size == base.size + upper.size


def test_a_stream_that_breaks_leaves_nothing(images: ImageService, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield TAR[:700]
        raise Cancelled("the client left")

    with pytest.raises(Cancelled):
        images.add_layer(broken)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"no tar at all" * 100, InvalidInput),
        (gzip.compress(TAR, mtime=0)[:-20], InvalidInput),
        (TAR[:600], InvalidInput),
        (layer_tar([member("../escape", b"x")]), InvalidInput),
        (layer_tar([member("big", bytes(2**24))]), TooLarge),
        (gzip.compress(layer_tar([member("big", bytes(2**24))]), mtime=0), TooLarge),
    ],
)
def test_hostile_layers_leave_nothing(
    images: ImageService, tmp_path: Path, data: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        images.add_layer(pieces(data, 2**18))
    assert files(tmp_path) == []


def test_layers_of_work_that_fails_go_and_those_in_use_stay(images: ImageService, tmp_path: Path) -> None:
    used = images.add_layer(pieces(TAR))
    images.add_image({}, [used], tags=["keep"])
    before = files(tmp_path)

    def fail() -> None:
        with images.adding() as intake:
            intake.add_layer(pieces(TAR))
            intake.add_layer(pieces(layer_tar([member("new", b"n")])))
            assert len(files(tmp_path)) == 4
            raise OutOfSpace("no room")

    with pytest.raises(OutOfSpace):
        fail()
    assert files(tmp_path) == before


def test_images_that_cannot_be(images: ImageService) -> None:
    layer = images.add_layer(pieces(TAR))
    with pytest.raises(Conflict):
        images.add_image({}, ["sha256:" + "0" * 64])
    with pytest.raises(NotSupported):
        images.add_image({"os": "windows"}, [layer])
    with pytest.raises(InvalidInput):
        images.add_image({}, [layer], tags=["a@" + layer.diff_id])
    with pytest.raises(InvalidInput):
        images.add_image({"config": "text"}, [layer])
    with pytest.raises(TooLarge):
        images.add_image({}, [layer] * 128)
    assert images.list(all_images=True) == []


def test_a_layer_in_the_making_cannot_be_removed(images: ImageService) -> None:
    with images.adding() as intake:
        layer = intake.add_layer(pieces(TAR))
        images.add_image({}, [layer], tags=["first"])
        images.remove("first")
        image_id, _ = intake.add_image({"author": "second"}, [layer])
    assert images.get(image_id).layers[0].path.exists()


def test_a_full_disk(images: ImageService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutOfSpace("no room")

    monkeypatch.setattr(ImageStore, "keep", full)
    with pytest.raises(OutOfSpace):
        images.add_layer(pieces(TAR))
    assert files(tmp_path) == []
