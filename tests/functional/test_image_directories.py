"""What overlayfs alone would show wrongly: opaque roots, directories that only lower layers describe. Judge: umoci."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hyperd.api.jsonmessage import as_lines
from hyperd.errors import InvalidInput, TooLarge
from hyperd.image.layer.directories import Attributes, Chain, Notes, above, inherited
from hyperd.image.model import Image
from hyperd.image.service import ImageService
from tests.support.images import image_service
from tests.support.registry import Layer, RegistryServer, digest_of, directory, layer_tar, member
from tests.support.rootfs import describe, overlaid, umoci_view

Members = list[tuple[tarfile.TarInfo, bytes]]
XATTR = {"SCHILY.xattr.user.note": "kept"}


def described() -> Members:
    return [
        directory("tmp", mode=0o1777),
        directory("home", mode=0o711),
        directory("home/jane", mode=0o700, uid=1000, gid=1000, pax_headers=XATTR),
        member("home/jane/old", b"old", uid=1000),
        directory("srv", mode=0o750, gid=33),
        directory("srv/a b", mode=0o705),
        member("srv/a b/f", b"f"),
        directory("lib", mode=0o700),
        member("lib/x", b"x"),
        directory("gone", mode=0o700),
        member("gone/f", b"f"),
        directory("emptied", mode=0o700),
        member("emptied/f", b"f"),
        directory("emptied/sub", mode=0o711),
        directory("plain"),
    ]


FILES_ONLY: Members = [
    member("tmp/new", b"n"),
    member("home/jane/deep/er/new", b"n"),
    member("srv/a b/new", b"n"),
    member("plain/new", b"n"),
    member("fresh/new", b"n"),
]

CORPUS: dict[str, list[Members]] = {
    "bare above": [described(), FILES_ONLY],
    "bare twice": [described(), FILES_ONLY, [member("home/jane/third", b"3"), member("tmp/third", b"3")]],
    "bare below": [FILES_ONLY, described()],
    "described again": [described(), FILES_ONLY, [directory("tmp", mode=0o755), member("tmp/x", b"")]],
    "hidden and made again": [described(), [member(".wh.gone"), member(".wh.home")], [member("gone/n", b"n")]],
    "hidden and bare in one": [described(), [member(".wh.gone"), member("gone/n", b"n")]],
    "opaque and bare": [described(), [member("emptied/.wh..wh..opq"), member("emptied/n", b"n")]],
    "opaque above": [described(), [member("emptied/.wh..wh..opq")], [member("emptied/sub/n", b"n")]],
    "opaque root": [described(), [member(".wh..wh..opq"), directory("only", mode=0o711), member("only/f", b"f")]],
    "opaque root, bare": [described(), [member(".wh..wh..opq"), member("tmp/f", b"f")], [member("tmp/g", b"g")]],
    "opaque root in the middle": [
        described(),
        [directory("a", mode=0o700), member(".wh..wh..opq")],
        [member("a/f", b"f"), member("home/x", b"x")],
    ],
    "replaced by a link": [
        described(),
        [member("lib/y", b"y"), member("tmp/x", b"x")],
        [member(".wh.lib"), directory("usr"), member("usr/y", b"y")],
        [member("lib", type=tarfile.SYMTYPE, linkname="usr")],
    ],
    "the same layer twice": [described(), FILES_ONLY, [member(".wh.tmp"), directory("home", mode=0o500)], FILES_ONLY],
    "a root of its own": [[directory("./", mode=0o1711, uid=7, gid=8, pax_headers=XATTR), member("f", b"f")]],
    "a root that only the base describes": [
        [directory("./", mode=0o700, uid=7, gid=8, pax_headers=XATTR), member("f", b"f")],
        [member("g", b"g")],
        [member("h", b"h")],
    ],
    "a root described again, and a directory": [
        [directory("./", mode=0o700, uid=7), *described()],
        [directory("./", mode=0o750), member("g", b"g")],
        FILES_ONLY,
    ],
    "a root that was made opaque": [
        [directory("./", mode=0o700, uid=7), *described()],
        [member(".wh..wh..opq"), member("g", b"g")],
    ],
    "a root that is described again in a plan": [
        [directory("./", mode=0o700, uid=7), member("x", b"1"), member("x", b"2"), directory("./", mode=0o711)],
        [member("y", b"1"), member("y", b"2")],
    ],
    "needs a plan": [
        described(),
        [member("tmp/x", b"1"), member("tmp/x", b"2"), member("home/jane/x", b"3"), member("gone/.wh.f")],
    ],
}


ODD = 'a "b\\'


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def base() -> Members:
    return [
        directory("d", mode=0o711, uid=3),
        member("d/a", b"one", mode=0o4750, uid=5, mtime=7, pax_headers=XATTR),
        link("d/b", "d/a"),
        link("c", "d/a"),
        member("s", type=tarfile.SYMTYPE, linkname="nowhere"),
        member("n", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member(ODD, b"odd"),
        member("large", b"x" * 300_000),
    ]


# Hard links to files that only lower layers have.
LINKS: dict[str, list[Members]] = {
    "one": [base(), [link("d/x", "d/a")]],
    "in a directory of its own": [base(), [directory("new", mode=0o700), link("new/x", "large"), link("o/p/x", "c")]],
    "of every kind": [base(), [link("x", "s"), link("y", "n"), link("z", ODD), link(f"d/{ODD}x", ODD), link("s", "n")]],
    "through two layers": [base(), [link("x", "d/a")], [link("y", "x")], [link("z", "y"), member("x", b"new")]],
    "to what two layers have": [base(), [member("d/a", b"two")], [link("x", "d/a"), link("y", "d/b")]],
    "over a file": [base(), [link("d/a", "large")], [link("large", "d/b")]],
    "over a directory": [base(), [link("d", "large")], [directory("d"), member("d/n", b"n")]],
    "over a directory that stays away": [base(), [link("d", "large")]],
    "then the file goes": [base(), [link("x", "d/a"), member("d/.wh.a")], [member(".wh.c")]],
    "then the file is another one": [base(), [link("x", "d/a"), member("d/a", b"new")]],
    "then the link goes": [base(), [link("d/x", "d/a")], [member("d/.wh.x")]],
    "then its directory goes": [base(), [link("d/x", "d/a"), link("y", "c")], [member(".wh.d")]],
    "then its directory is emptied": [base(), [link("d/x", "d/a")], [member("d/.wh..wh..opq"), member("d/n", b"")]],
    "then it is a directory": [base(), [link("x", "d/a")], [member(".wh.x")], [directory("x"), member("x/f", b"")]],
    "then it is a file": [
        base(),
        [link("x", "d/a"), link(ODD + "x", "c")],
        [member("x", b"2"), member(ODD + "x", b"2")],
    ],
    "then everything goes": [base(), [link("x", "d/a")], [member(".wh..wh..opq"), member("f", b"f")]],
    "in a circle": [[*base(), member("x", b"x")], [link("x", "large"), link("large", "x")]],
    "the same layer twice": [base(), [link("x", "d/a")], [member("d/a", b"two")], [link("x", "d/a")]],
    "and directories": [described(), [link("tmp/x", "lib/x"), *FILES_ONLY]],
}
NOTHING: dict[str, list[Members]] = {
    "in the first layer": [[link("x", "y")]],
    "that comes later": [[link("x", "y"), member("y")]],
    "anywhere": [base(), [link("x", "y")]],
    "but itself": [base(), [link("c", "c")]],
    "but a directory": [base(), [link("x", "d")]],
    "but a directory that no layer describes": [FILES_ONLY, [link("x", "home/jane")]],
    "below a file": [base(), [link("x", "c/d")]],
    "any more": [base(), [member(".wh.c")], [link("x", "c")]],
    "any more, it was made a directory": [base(), [member(".wh.c")], [directory("c")], [link("x", "c")]],
    "any more, its directory is gone": [base(), [member(".wh.d")], [link("x", "d/a")]],
    "any more, its directory was emptied": [base(), [member("d/.wh..wh..opq")], [link("x", "d/a")]],
}


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ImageService]:
    with image_service(tmp_path) as service:
        yield service


def made(images: ImageService, tars: list[bytes], *tags: str) -> Image:
    added = [images.add_layer(lambda tar=tar: iter([tar])) for tar in tars]
    return images.add_image({}, added, tags=tags)


def files(images: ImageService) -> list[str]:
    return sorted(path.name for path in images._store.layers.iterdir())


def compare(images: ImageService, tars: list[bytes], work: Path) -> Image:
    image = made(images, tars)
    want = describe(umoci_view(tars, work), count_links=False)
    with overlaid([layer.path for layer in image.layers], work) as root:
        got = describe(root, count_links=False)
    assert got.keys() == want.keys()
    assert {key: got[key] for key in got if got[key] != want[key]} == {
        key: want[key] for key in want if got[key] != want[key]
    }
    return image


@pytest.mark.root
@pytest.mark.parametrize("name", CORPUS)
def test_a_container_sees_what_umoci_unpacks(images: ImageService, tmp_path: Path, name: str) -> None:
    tars = [layer_tar(members) for members in CORPUS[name]]
    image = compare(images, tars, tmp_path)
    assert image.diff_ids == tuple(map(digest_of, tars))


@pytest.mark.root
@pytest.mark.parametrize("name", LINKS)
def test_hard_links_to_files_of_lower_layers(images: ImageService, tmp_path: Path, name: str) -> None:
    compare(images, [layer_tar(members) for members in LINKS[name]], tmp_path)


@pytest.mark.parametrize("name", NOTHING)
def test_hard_links_to_nothing(images: ImageService, tmp_path: Path, name: str) -> None:
    tars = [layer_tar(members) for members in NOTHING[name]]
    with pytest.raises(CalledProcessError):
        umoci_view(tars, tmp_path)
    with pytest.raises(InvalidInput, match="points to nothing or to a directory"):
        made(images, tars)
    assert images.list(all_images=True) == []


def test_one_layer_with_links_above_two_others(images: ImageService) -> None:
    """A link is to what lies below it in its own image, and goes with that image."""
    upper = layer_tar([link("x", "f")])
    found = {}
    for text in (b"one", b"two"):
        image = made(images, [layer_tar([member("f", text)]), upper], text.decode())
        top = subprocess.run(["rdsquashfs", "-c", "x", image.layers[-1].path], capture_output=True, check=True)
        found[text] = (top.stdout, image.layers[1])
    assert found == {b"one": (b"one", found[b"two"][1]), b"two": (b"two", found[b"one"][1])}
    assert len(files(images)) == 5
    for name in ("one", "two"):
        images.remove(name)
    assert files(images) == []


NAMES = ["a", "b", "c"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
ENTRIES = st.one_of(
    st.tuples(st.just("dir"), PATHS, st.sampled_from([0o755, 0o700, 0o1777])),
    st.tuples(st.just("file"), PATHS, st.just(0)),
    st.tuples(st.just("hide"), PATHS, st.just(0)),
    st.tuples(st.just("opaque"), PATHS, st.just(0)),
    st.tuples(st.just("link"), PATHS, st.integers(0, 99)),
)


def with_above(path: str) -> list[str]:
    """A path and the directories above it."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def members_of(entries: list[tuple[str, str, int]], alive: set[str], links: set[str]) -> Members:
    """A layer as tools write it: only what is there (``alive``) is hidden, whiteouts come first.

    No name is a directory here and a file there: files end with ``.f``. ``links`` are files that links can point to.
    """
    found: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    hidden = {path for kind, path, _ in entries if kind == "hide" and path in alive}
    hidden = {path for path in hidden if not hidden & set(with_above(path)[:-1])}
    for path in hidden:
        head, slash, base = path.rpartition("/")
        found[f"{head}{slash}.wh.{base}"] = member(f"{head}{slash}.wh.{base}")
    cleared = {path for kind, path, _ in entries if kind == "opaque" and path in alive}
    cleared = {path for path in cleared if not (hidden | cleared) & set(with_above(path)[:-1])}
    made: set[str] = set()
    gone = {path for path in alive | links if hidden & set(with_above(path)) or cleared & set(with_above(path)[:-1])}
    targets = sorted(links - gone)
    for kind, path, mode in entries:
        if hidden & set(with_above(path)):
            continue
        if kind == "dir":
            found[path] = directory(path, mode=mode, uid=mode % 7)
            made |= set(with_above(path))
        elif kind == "file":
            found[f"{path}.f"] = member(f"{path}.f", f"{path} {len(links)}".encode())
            made |= set(with_above(path)[:-1])
        elif kind == "link" and targets and targets[mode % len(targets)] != f"{path}.f":
            found[f"{path}.f"] = link(f"{path}.f", targets[mode % len(targets)])
            made |= set(with_above(path)[:-1])
        elif kind == "opaque" and path in cleared:
            found[f"{path}/.wh..wh..opq"] = member(f"{path}/.wh..wh..opq")
    alive -= gone
    alive |= made
    links -= gone
    links |= {name for name in found if name.endswith(".f")}
    return sorted(found.values(), key=lambda pair: (".wh." not in pair[0].name, pair[0].name))


@pytest.mark.root
@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.lists(st.lists(ENTRIES, min_size=2, max_size=8), min_size=2, max_size=4))
def test_any_layers(layers: list[list[tuple[str, str, int]]]) -> None:
    with tempfile.TemporaryDirectory(prefix="hy", dir="/tmp") as name:
        alive: set[str] = set()
        links: set[str] = set()
        with image_service(Path(name)) as service:
            compare(service, [layer_tar(members_of(entries, alive, links)) for entries in layers], Path(name))


def test_the_layer_on_top_comes_and_goes_with_its_images(images: ImageService) -> None:
    tars = [layer_tar(described()), layer_tar(FILES_ONLY)]
    one = made(images, tars, "one")
    two = images.add_image({"author": "two"}, list(one.diff_ids), tags=["two"])
    assert [layer.diff_id for layer in one.layers[:2]] == list(one.diff_ids)
    assert one.layers == two.layers
    assert (len(one.layers), len(files(images))) == (3, 3)
    assert one.size == sum(map(len, tars))
    images.recover()
    images.remove("one")
    assert len(files(images)) == 3
    images.remove("two")
    assert files(images) == []


def test_images_that_need_nothing_on_top(images: ImageService) -> None:
    assert len(made(images, [layer_tar(described()), layer_tar([*described(), *FILES_ONLY])]).layers) == 2
    assert len(made(images, [layer_tar(FILES_ONLY), layer_tar([member("tmp/x", b"x")])]).layers) == 2


@pytest.mark.registry
def test_a_pulled_image_has_it_and_a_pushed_one_has_not(images: ImageService) -> None:
    with RegistryServer() as server:
        pushed = server.push("bare/above", "t", [Layer(layer_tar(described())), Layer(layer_tar(FILES_ONLY))])
        name = f"{server.host}/bare/above:t"
        image = images.pull(name, auth=None, progress=lambda _line: None)
        assert (len(image.layers), len(image.diff_ids)) == (3, 2)
        lines: list[dict[str, object]] = []
        images.push(name, auth=None, progress=as_lines(lines.append))
        assert lines[-1]["aux"]["Digest"] == pushed.digest  # type: ignore[index]


def test_notes_survive_packing() -> None:
    attributes = Attributes(0o1777, 1, 2, 3, ((b"user.a", b"\xff\0"),))
    notes = Notes({b"a/\xff": attributes}, {b"", b"b"}, {b"c"}, {b"d"})
    assert Notes.unpack(notes.pack()) == notes
    assert Notes.unpack(b"") == Notes()


def test_too_many_directories_are_not_noted() -> None:
    notes = Notes(bare={b"%d" % number for number in range(100_001)})
    assert notes.pack() == b""


def seen(layers: list[Notes]) -> dict[bytes, Attributes]:
    return inherited(Chain([notes.pack() for notes in layers]).layers)


def test_inherited_is_what_is_not_plain() -> None:
    lower = Notes({b"a": Attributes(0o700), b"b": Attributes(), b"c/d": Attributes(uid=5)})
    assert seen([lower, Notes(bare={b"a", b"b", b"c", b"c/d", b"e"})]) == {
        b"a": Attributes(0o700),
        b"c/d": Attributes(uid=5),
    }
    assert seen([lower, Notes(bare={b"c/d"}, hidden={b"c"})]) == {}
    assert seen([lower, Notes(bare={b"c/d"}, opaque={b"c"})]) == {}
    assert seen([lower, Notes(bare={b"a"}, opaque={b"a"})]) == {b"a": Attributes(0o700)}


def test_many_deep_directories_in_every_layer() -> None:
    """A thousand directories in a row, in every layer: a few kB as gzip were minutes of work."""
    paths = {b"/".join([b"%d" % number, *[b"d"] * 1000]) for number in range(5)}
    packed = Notes(bare={b"", *paths, *(up for path in paths for up in above(path))}).pack()
    lower = Notes({min(paths): Attributes(0o700)}).pack()
    started = time.process_time()
    assert inherited(Chain([lower, *[packed] * 126]).layers) == {min(paths): Attributes(0o700)}
    assert time.process_time() - started < 30


def test_too_many_directories_of_all_layers_together() -> None:
    packed = [Notes(bare={b"%d %d" % (layer, number) for number in range(90_000)}).pack() for layer in range(20)]
    with pytest.raises(TooLarge, match="the directories of an image's layers take more than"):
        Chain(packed)
