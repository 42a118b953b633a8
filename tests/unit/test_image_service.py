"""Names, listing and removal of images, on a store without a registry."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperd.config.model import Config
from hyperd.db.session import Database
from hyperd.errors import Conflict, ImageNotFound, InvalidInput
from hyperd.image.catalog import Catalog, NewImage, NewLayer
from hyperd.image.layer.convert import BuiltLayer
from hyperd.image.progress import bar, human_size
from hyperd.image.service import ImageInfo, ImageService


class Images:
    """A service whose images are made of nothing."""

    def __init__(self, root: Path) -> None:
        self.database = Database(root / "db")
        self.database.create_all()
        self.users: dict[str, list[str]] = {}
        self.root = root / "images"
        self.service = ImageService(
            config=Config(), database=self.database, root=self.root, in_use=lambda image: self.users.get(image, [])
        )
        self.catalog = Catalog(self.database, default_domain="docker.io")

    def layer(self, text: str) -> str:
        diff_id = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        (self.root / "layers" / f"{diff_id[7:]}.sqfs").write_text(text)
        self.catalog.add_layer(BuiltLayer(diff_id, 10 * len(text), len(text)))
        return diff_id

    def add(self, *names: str, layers: tuple[str, ...] = ("base",), parent: str = "", created: float = 0.0) -> str:
        diff_ids = [self.layer(text) for text in layers]
        config = {"rootfs": {"diff_ids": diff_ids}, "created": created, "names": names}
        blob = json.dumps(config).encode()
        image_id = "sha256:" + hashlib.sha256(blob).hexdigest()
        self.catalog.add_image(
            NewImage(
                id=image_id,
                blob=blob,
                config=config,
                layers=[NewLayer(diff_id=diff_id) for diff_id in diff_ids],
                created_at=created,
                parent=parent,
            )
        )
        for name in names:
            self.catalog.set_name(self.catalog.parse(name).with_default_tag(), image_id)
        return image_id

    def layers(self) -> int:
        return len(list((self.root / "layers").iterdir()))


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Images]:
    made = Images(tmp_path)
    yield made
    made.service.close()
    made.database.close()


def test_every_way_to_name_an_image(images: Images) -> None:
    image = images.add("busybox:1", "host:5000/a/b", layers=("a", "bb"))
    digest = "sha256:" + "d" * 64
    images.catalog.set_name(images.catalog.parse("busybox:1"), image, digest=digest)
    names = ["busybox:1", "docker.io/library/busybox:1", "host:5000/a/b", "host:5000/a/b:latest", f"busybox@{digest}"]
    for name in [*names, image, image[7:], image[7:20], image[:20]]:
        assert images.service.get(name).id == image
    info = images.service.get(image)
    assert (info.size, info.tags) == (30, ("busybox:1", "host:5000/a/b:latest"))
    assert [layer.path.read_text() for layer in info.layers] == ["a", "bb"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "No such image: nothing:latest"),
        ("host:5000/nothing", "No such image: host:5000/nothing:latest"),
        ("busybox:2", "No such image: busybox:2"),
        ("0" * 64, f"No such image: {'0' * 64}:latest"),
        ("Not A Name", "No such image: Not A Name:latest"),
        ("%", "No such image: %:latest"),
        ("", "No such image: :latest"),
    ],
)
def test_no_such_image(images: Images, name: str, message: str) -> None:
    images.add("busybox:1")
    with pytest.raises(ImageNotFound) as caught:
        images.service.get(name)
    assert caught.value.brief == message


def test_a_beginning_that_fits_several_ids_finds_none(images: Images) -> None:
    ids = {images.add(f"i{n}")[7:] for n in range(17)}
    start = next(c for c in "0123456789abcdef" if sum(i.startswith(c) for i in ids) > 1)
    with pytest.raises(ImageNotFound):
        images.service.get(start)


def test_a_name_goes_before_the_beginning_of_an_id(images: Images) -> None:
    other = images.add("other")
    named = images.add(other[7:15])
    assert images.service.get(other[7:15]).id == named


def test_listing(images: Images) -> None:
    base = images.add(layers=("base",), created=1)
    middle = images.add(parent=base, layers=("base", "m"), created=2)
    top = images.add("app:1", "reg.example/app:2", parent=middle, layers=("base", "m", "t"), created=3)
    loose = images.add(layers=("x",), created=4)

    def ids(found: list[ImageInfo]) -> list[str]:
        return [info.id for info in found]

    service = images.service
    assert ids(service.list()) == [loose, top]
    assert ids(service.list(all_images=True)) == [loose, top, middle, base]
    assert ids(service.list(dangling=True)) == [loose]
    assert ids(service.list(dangling=False)) == [top]
    assert ids(service.list(pattern="app")) == ids(service.list(pattern="reg.example/*")) == [top]
    assert ids(service.list(pattern="app:1")) == [top]
    assert service.list(pattern="ap") == []
    assert service.count() == 4


def test_the_last_name_takes_the_image_along(images: Images) -> None:
    image = images.add("a:1", "a:2", layers=("base", "own"))
    images.add("other", layers=("base",))
    assert images.service.remove("a:1") == [{"untaged": "a:1"}]
    assert images.layers() == 2
    assert images.service.remove("a:2") == [{"untaged": "a:2"}, {"deleted": image}]
    assert images.layers() == 1
    with pytest.raises(ImageNotFound):
        images.service.get(image)


def test_digests_go_with_the_last_tag_of_their_repository(images: Images) -> None:
    image = images.add("a:1")
    digest = "sha256:" + "d" * 64
    images.catalog.set_name(images.catalog.parse("a:1"), image, digest=digest)
    assert images.service.remove("a:1") == [
        {"untaged": "a:1"},
        {"untaged": f"a@{digest}"},
        {"deleted": image},
    ]


def test_by_id_all_names_of_one_repository_go(images: Images) -> None:
    image = images.add("a:1", "a:2")
    assert images.service.remove(image[:20]) == [{"untaged": "a:1"}, {"untaged": "a:2"}, {"deleted": image}]


def test_several_repositories_need_force(images: Images) -> None:
    image = images.add("a:1", "b:1")
    with pytest.raises(Conflict, match="multiple repositories"):
        images.service.remove(image)
    assert images.service.get(image).tags == ("a:1", "b:1")
    assert images.service.remove(image, force=True)[-1] == {"deleted": image}


def test_an_image_in_use(images: Images) -> None:
    image = images.add("a:1", "a:2")
    images.users[image] = ["web"]
    assert images.service.remove("a:1") == [{"untaged": "a:1"}]  # another name is left
    for name in ("a:2", image):
        with pytest.raises(Conflict, match="web"):
            images.service.remove(name)
    assert images.service.remove("a:2", force=True) == [{"untaged": "a:2"}]
    assert images.service.get(image).layers[0].path.exists()
    with pytest.raises(Conflict):
        images.service.remove(image, force=True)
    images.users.clear()
    assert images.service.remove(image) == [{"deleted": image}]


@pytest.mark.parametrize("noprune", [False, True])
def test_nameless_parents_go_too(images: Images, noprune: bool) -> None:
    base = images.add("base", layers=("b",))
    middle = images.add(parent=base, layers=("b", "m"))
    top = images.add("top", parent=middle, layers=("b", "m", "t"))
    done = images.service.remove("top", noprune=noprune)
    want = [{"untaged": "top:latest"}, {"deleted": top}] + ([] if noprune else [{"deleted": middle}])
    assert done == want
    assert images.service.get("base").id == base


def test_an_image_with_children(images: Images) -> None:
    base = images.add("base", layers=("b",))
    child = images.add("top", parent=base, layers=("b", "t"))
    assert images.service.remove("base") == [{"untaged": "base:latest"}]
    with pytest.raises(Conflict, match="dependent child"):
        images.service.remove(base, force=True)
    assert images.service.remove("top") == [{"untaged": "top:latest"}, {"deleted": child}, {"deleted": base}]
    assert images.layers() == 0


def test_an_image_that_is_held_is_not_removed(images: Images) -> None:
    image = images.add("a")
    caught: list[Conflict] = []

    def remove() -> None:
        with pytest.raises(Conflict) as error:
            images.service.remove("a")
        caught.append(error.value)

    remover = threading.Thread(target=remove)
    with images.service.held("a") as info:
        remover.start()
        remover.join(0.1)
        assert info.id == image
        images.users[image] = ["web"]
    remover.join()
    assert len(caught) == 1
    assert images.service.get("a").id == image


def test_blank_and_unknown_names(images: Images) -> None:
    with pytest.raises(InvalidInput, match="image name cannot be blank"):
        images.service.remove(" ")
    with pytest.raises(ImageNotFound):
        images.service.remove("nothing")


def test_recovery_removes_half_made_files_only(images: Images) -> None:
    image = images.add("a")
    (images.root / "tmp" / "x.tmp").write_text("half")
    (images.root / "tmp" / f"{'0' * 64}.partial").write_text("to be resumed")
    (images.root / "layers" / f"{'1' * 64}.sqfs").write_text("renamed, but not in the database")
    images.service.recover()
    names = sorted(path.name for path in images.root.rglob("*") if path.is_file())
    assert names == sorted([f"{'0' * 64}.partial", images.service.get(image).layers[0].path.name])


def test_bars() -> None:
    assert bar(1, 100) == "[>" + " " * 50 + "] 1 B/100 B"
    assert bar(50, 100) == "[" + "=" * 25 + ">" + " " * 25 + "] 50 B/100 B"
    assert bar(100, 100) == "[" + "=" * 50 + ">] 100 B/100 B"
    assert bar(5, 0) == "5 B"
    assert human_size(1_048_576) == "1.049 MB"
    assert human_size(10**18) == "1000 PB"
