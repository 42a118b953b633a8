"""Names, listing and removal of images, on a store without a registry."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperd.api.sizes import bar, human_size
from hyperd.config.model import Config
from hyperd.db.session import Database
from hyperd.errors import Conflict, ImageNotFound, InvalidInput
from hyperd.image.catalog import Catalog, NewImage, NewLayer
from hyperd.image.layer.convert import BuiltLayer
from hyperd.image.model import (
    ContainerDefaults,
    Image,
    ImageFilter,
    Removal,
    RemovalKind,
    Tagged,
    container_defaults,
)
from hyperd.image.service import ImageService
from hyperd.spec.model import Healthcheck


def untagged(name: str) -> Removal:
    return Removal(RemovalKind.UNTAGGED, name)


def deleted(image_id: str) -> Removal:
    return Removal(RemovalKind.DELETED, image_id)


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

    def ids(found: list[Image]) -> list[str]:
        return [info.id for info in found]

    def named(pattern: str) -> list[str]:
        return ids(service.list(wanted=ImageFilter(references=[pattern])))

    service = images.service
    assert ids(service.list()) == [loose, top]
    assert ids(service.list(all_images=True)) == [loose, top, middle, base]
    assert ids(service.list(wanted=ImageFilter(dangling=True))) == [loose]
    assert ids(service.list(wanted=ImageFilter(dangling=False))) == [top]
    assert named("app") == named("reg.example/*") == named("app:1") == named("*:1") == [top]
    assert named("ap") == []
    assert service.count() == 4


def test_the_last_name_takes_the_image_along(images: Images) -> None:
    image = images.add("a:1", "a:2", layers=("base", "own"))
    images.add("other", layers=("base",))
    assert images.service.remove("a:1") == [untagged("a:1")]
    assert images.layers() == 2
    assert images.service.remove("a:2") == [untagged("a:2"), deleted(image)]
    assert images.layers() == 1
    with pytest.raises(ImageNotFound):
        images.service.get(image)


def test_digests_go_with_the_last_tag_of_their_repository(images: Images) -> None:
    image = images.add("a:1")
    digest = "sha256:" + "d" * 64
    images.catalog.set_name(images.catalog.parse("a:1"), image, digest=digest)
    assert images.service.remove("a:1") == [
        untagged("a:1"),
        untagged(f"a@{digest}"),
        deleted(image),
    ]


def test_by_id_all_names_of_one_repository_go(images: Images) -> None:
    image = images.add("a:1", "a:2")
    assert images.service.remove(image[:20]) == [untagged("a:1"), untagged("a:2"), deleted(image)]


def test_several_repositories_need_force(images: Images) -> None:
    image = images.add("a:1", "b:1")
    with pytest.raises(Conflict, match="multiple repositories"):
        images.service.remove(image)
    assert images.service.get(image).tags == ("a:1", "b:1")
    assert images.service.remove(image, force=True)[-1] == deleted(image)


def test_an_image_in_use(images: Images) -> None:
    image = images.add("a:1", "a:2")
    images.users[image] = ["web"]
    assert images.service.remove("a:1") == [untagged("a:1")]  # another name is left
    for name in ("a:2", image):
        with pytest.raises(Conflict, match="web"):
            images.service.remove(name)
    assert images.service.remove("a:2", force=True) == [untagged("a:2")]
    assert images.service.get(image).layers[0].path.exists()
    with pytest.raises(Conflict):
        images.service.remove(image, force=True)
    images.users.clear()
    assert images.service.remove(image) == [deleted(image)]


@pytest.mark.parametrize("noprune", [False, True])
def test_nameless_parents_go_too(images: Images, noprune: bool) -> None:
    base = images.add("base", layers=("b",))
    middle = images.add(parent=base, layers=("b", "m"))
    top = images.add("top", parent=middle, layers=("b", "m", "t"))
    done = images.service.remove("top", noprune=noprune)
    want = [untagged("top:latest"), deleted(top)] + ([] if noprune else [deleted(middle)])
    assert done == want
    assert images.service.get("base").id == base


def test_an_image_with_children(images: Images) -> None:
    base = images.add("base", layers=("b",))
    child = images.add("top", parent=base, layers=("b", "t"))
    assert images.service.remove("base") == [untagged("base:latest")]
    with pytest.raises(Conflict, match="dependent child"):
        images.service.remove(base, force=True)
    assert images.service.remove("top") == [untagged("top:latest"), deleted(child), deleted(base)]
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


def test_filters(images: Images) -> None:
    old = images.add("old:1", layers=("o",), created=1)
    middle = images.add("app:1", "app:2", "host:5000/a/app:1", layers=("m",), created=2)
    new = images.add(layers=("n",), created=3)

    def found(**wanted: Any) -> list[str]:
        return [image.id for image in images.service.list(wanted=ImageFilter(**wanted))]

    assert found(before=["app:1"]) == [old]
    assert found(since=["app:1"]) == [new]
    assert found(since=["old:1"], before=[new]) == [middle]
    assert found(until=2.5) == [middle, old]
    assert found(until=2.0) == [old]
    (only,) = images.service.list(wanted=ImageFilter(references=["app:2", "nothing"]))
    assert (only.id, only.tags) == (middle, ("app:2",))  # names that do not fit are left out
    assert images.service.get("app:1").tags == ("app:1", "app:2", "host:5000/a/app:1")
    assert found(references=["a*"]) == [middle]
    assert found(references=["*"]) == [middle, old]
    assert found(references=["host:5000/*"]) == []  # a star stands for no slash
    with pytest.raises(ImageNotFound):
        found(before=["none"])


def test_labels_are_filtered(images: Images) -> None:
    def labelled(name: str, **labels: str) -> str:
        blob = json.dumps({"config": {"Labels": labels}, "name": name}).encode()
        image_id = "sha256:" + hashlib.sha256(blob).hexdigest()
        config = json.loads(blob)
        images.catalog.add_image(NewImage(id=image_id, blob=blob, config=config, layers=[], created_at=0.0))
        return image_id

    one, two = labelled("one", a="1", b="2"), labelled("two", a="2")

    def found(**wanted: Any) -> set[str]:
        return {image.id for image in images.service.list(wanted=ImageFilter(**wanted))}

    assert found(labels=["a"]) == {one, two}
    assert found(labels=["a=1"]) == found(labels=["a", "b"]) == found(without_labels=["a=2"]) == {one}
    assert found(labels=["a=1"], without_labels=["b"]) == set()
    pruned = images.service.prune(ImageFilter(dangling=True, without_labels=["b"]))
    assert [step.name for step in pruned.removed] == [two]


def test_what_an_image_says_for_containers() -> None:
    said = container_defaults(
        {
            "config": {
                "Entrypoint": ["/e"],
                "Cmd": None,
                "Env": ["A=1"],
                "ExposedPorts": {"80/tcp": {}},
                "Volumes": "nonsense",
                "Labels": {"a": "b"},
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 2},
            }
        }
    )
    assert (said.entrypoint, said.command, said.env, said.exposed_ports) == (("/e",), (), ("A=1",), ("80/tcp",))
    assert (said.volumes, said.labels) == ((), {"a": "b"})
    check = said.healthcheck
    assert check is not None
    assert (check.argv, check.shell, check.interval, check.retries) == (("true",), True, 5.0, 2)
    assert container_defaults({"config": {"Healthcheck": {"Test": ["NONE"]}}}).healthcheck == Healthcheck(disabled=True)
    assert container_defaults({"config": []}) == ContainerDefaults()


def test_a_tag_tells_whom_it_was_taken_from(images: Images) -> None:
    first, second = images.add("a:1", layers=("x",)), images.add("b:1", layers=("y",))
    assert images.service.tag("b:1", "c") == Tagged(image_id=second, name="c:latest")
    assert images.service.tag("b:1", "a:1") == Tagged(image_id=second, name="a:1", taken_from=first)
    assert images.service.tag("b:1", "a:1") == Tagged(image_id=second, name="a:1")
