"""Saving and loading: ours is read by skopeo, podman and umoci, theirs is read by us; hostile archives are not."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from hyperd.api.jsonmessage import as_lines
from hyperd.config.model import Config, RegistryConfig
from hyperd.errors import Cancelled, ImageNotFound, InvalidInput, NotSupported, OutOfSpace, TooLarge
from hyperd.image.model import Image
from hyperd.image.service import ImageService
from tests.support.images import image_service, image_services
from tests.support.oracles import PodmanStore, run, skopeo
from tests.support.registry import Layer, RegistryServer, digest_of, directory, layer_tar, member

LOWER = layer_tar([directory("etc"), member("etc/a", b"lower" * 5000)])
UPPER = layer_tar([member("etc/b", b"upper" * 5000), member("etc/.wh.a")])
EMPTY = bytes(1024)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., ImageService]]:
    """Make image services, each on a store of its own."""
    with image_services(tmp_path) as start:
        yield lambda **settings: start(Config(registry=RegistryConfig(**{"max_layer_bytes": 2**26, **settings})))


@pytest.fixture
def ours(make: Callable[..., ImageService]) -> ImageService:
    return make()


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def store_files(service: ImageService) -> list[str]:
    root = service._store.layers.parent
    return sorted(str(path.relative_to(root)) for path in root.glob("**/*") if path.is_file())


def built(service: ImageService, *tags: str, layers: tuple[bytes, ...] = (LOWER, UPPER), **config: Any) -> Image:
    added = [service.add_layer(lambda tar=tar: iter([tar])) for tar in layers]
    return service.add_image({"config": {"Cmd": ["/bin/sh"]}, "author": "jane", **config}, added, tags=tags)


def save(service: ImageService, target: Path, *names: str, **options: Any) -> Path:
    with target.open("wb") as file:
        for piece in service.save(names, **options):
            file.write(piece)
    return target


def load(service: ImageService, data: bytes | Path, **options: Any) -> tuple[list[Image], list[str]]:
    if isinstance(data, Path):
        data = data.read_bytes()
    lines: list[dict[str, Any]] = []
    pieces = iter([data[at : at + 70_000] for at in range(0, len(data), 70_000)])
    found = service.load(pieces, progress=as_lines(lines.append), **options)
    return [service.get(one.id) for one in found], [line["stream"].rstrip("\n") for line in lines]


def contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]


def diff_ids(image: Image) -> list[str]:
    return list(image.diff_ids)


@pytest.mark.parametrize("oci", [False, True])
def test_ours_is_read_by_others(ours: ImageService, tmp_path: Path, oci: bool) -> None:
    image = built(ours, "made/one:t")
    archive = save(ours, tmp_path / "saved.tar", "made/one:t", oci=oci)
    form = "oci-archive" if oci else "docker-archive"
    seen = json.loads(skopeo("inspect", "--config", f"{form}:{archive}"))
    assert seen == image.config
    with PodmanStore() as podman:
        podman.run("load", "-q", "-i", str(archive))
        found = podman.inspect("made/one:t" if not oci else image.id.removeprefix("sha256:"))
        assert (found["Id"], found["RootFS"]["Layers"]) == (image.id.removeprefix("sha256:"), diff_ids(image))
        assert found["Author"] == "jane"
    skopeo("copy", f"{form}:{archive}", f"oci:{tmp_path}/layout:t")
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:t", str(tmp_path / "bundle"))
    assert [path.name for path in (tmp_path / "bundle/rootfs/etc").iterdir()] == ["b"]


@pytest.mark.parametrize("oci", [False, True])
@pytest.mark.parametrize("packer", PACKERS)
def test_ours_comes_back(make: Callable[..., ImageService], tmp_path: Path, oci: bool, packer: str) -> None:
    first, second = make(), make()
    one = built(first, "made/one:t", "made/one:u")
    two = built(first, "made/two", layers=(LOWER, EMPTY, UPPER, EMPTY), author="joe")
    archive = save(first, tmp_path / "saved.tar", "made/one", "made/two:latest", one.id[7:20], oci=oci)
    images, lines = load(second, PACKERS[packer](archive.read_bytes()))
    assert sorted(image.id for image in images) == sorted([one.id, two.id])
    assert second.get("made/one:u").id == second.get("made/one:t").id == one.id
    assert second.get("made/two").config == two.config
    assert diff_ids(second.get(two.id)) == diff_ids(two)
    assert "Loaded image: made/two:latest" in lines
    assert (
        save(second, tmp_path / "again.tar", "made/one", "made/two", oci=False).read_bytes()
        == save(first, tmp_path / "first.tar", "made/one", "made/two", oci=False).read_bytes()
    )


@pytest.mark.registry
@pytest.mark.parametrize("oci", [False, True])
def test_what_a_registry_sent_is_saved_as_it_was(
    make: Callable[..., ImageService], registry: RegistryServer, tmp_path: Path, oci: bool
) -> None:
    pushed = registry.push("saved/image", "t", [Layer(LOWER), Layer(UPPER, "zstd" if oci else "gzip")], oci=oci)
    service, name = make(), f"{registry.host}/saved/image:t"
    image = service.pull(name, auth=None, progress=lambda _line: None)
    archive = save(service, tmp_path / "saved.tar", name, oci=True)
    files = contents(archive)
    for digest in pushed.layers:
        assert digest_of(files[f"blobs/sha256/{digest.removeprefix('sha256:')}"]) == digest
    assert (f"blobs/sha256/{pushed.digest.removeprefix('sha256:')}" in files) == oci
    elsewhere = make()
    (loaded,), _ = load(elsewhere, archive)
    assert (loaded.id, loaded.tags) == (image.id, (name,))
    copy = f"{registry.host}/saved/copy:t"
    elsewhere.tag(loaded.id, copy)
    elsewhere.push(copy, auth=None, progress=lambda _line: None)
    digest = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{copy}"))["Digest"]
    assert (digest == pushed.digest) == oci  # of Docker's form the layout had an OCI one made


def podman_image(podman: PodmanStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "root.tar").write_bytes(LOWER)
    podman.run("import", "-q", "--change", "CMD /bin/sh", str(tmp_path / "root.tar"), name)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podmans_is_read_by_us(ours: ImageService, tmp_path: Path, form: str) -> None:
    with PodmanStore() as podman:
        podman_image(podman, tmp_path, "localhost/their/own:t")
        podman.run("save", "-q", "--format", form, "-o", str(tmp_path / "saved.tar"), "localhost/their/own:t")
        want = podman.inspect("localhost/their/own:t")
    (image,), lines = load(ours, tmp_path / "saved.tar")
    assert (image.id, diff_ids(image)) == (f"sha256:{want['Id']}", want["RootFS"]["Layers"])
    assert (image.tags, lines) == (("localhost/their/own:t",), ["Loaded image: localhost/their/own:t"])


def test_podmans_archive_of_several(ours: ImageService, tmp_path: Path) -> None:
    with PodmanStore() as podman:
        podman_image(podman, tmp_path, "localhost/a:1")
        podman.run("tag", "localhost/a:1", "localhost/b:2")
        podman.run("save", "-q", "-m", "-o", str(tmp_path / "saved.tar"), "localhost/a:1", "localhost/b:2")
    images, _ = load(ours, tmp_path / "saved.tar")
    assert {tag for image in images for tag in ours.get(image.id).tags} == {"localhost/a:1", "localhost/b:2"}


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeos_is_read_by_us(ours: ImageService, tmp_path: Path, form: str) -> None:
    image = built(ours, "x/y:t")
    save(ours, tmp_path / "first.tar", "x/y:t")
    name = ":x/y:t" if form == "docker-archive" else ":t"
    skopeo("copy", f"docker-archive:{tmp_path}/first.tar", f"{form}:{tmp_path}/second.tar{name}")
    ours.remove("x/y:t")
    if form == "oci-archive":
        (loaded,), lines = load(ours, tmp_path / "second.tar")  # a tag alone names nothing
        assert (loaded.tags, lines) == ((), [f"Loaded image ID: {loaded.id}"])
        (loaded,), _ = load(ours, tmp_path / "second.tar", name="x/y")
    else:
        (loaded,), _ = load(ours, tmp_path / "second.tar")
    assert (loaded.tags, diff_ids(loaded)) == (("x/y:t",), diff_ids(image))


def test_a_layout_without_names_and_with_attestations(ours: ImageService, tmp_path: Path) -> None:
    image = built(ours, "x:t")
    files = contents(save(ours, tmp_path / "s.tar", "x:t", oci=True))
    index = json.loads(files["index.json"])
    (entry,) = index["manifests"]
    del entry["annotations"]
    statement = {"mediaType": entry["mediaType"], "digest": "sha256:" + "e" * 64, "size": 3}
    index["manifests"].append({**statement, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}})
    files["index.json"] = json.dumps(index).encode()
    ours.remove("x:t")
    (loaded,), lines = load(ours, archive_of(*(member(name, data) for name, data in files.items())))
    assert (loaded.id, loaded.tags, lines) == (image.id, (), [f"Loaded image ID: {image.id}"])
    assert [one.id for one in ours.list()] == [image.id]


def test_names_of_a_layout(make: Callable[..., ImageService], tmp_path: Path) -> None:
    first = make()
    one, two = built(first, "a/one:x"), built(first, "a/two:y", author="joe")
    archive = save(first, tmp_path / "s.tar", "a/one:x", "a/two:y", oci=True, references={"a/one:x": "first"})
    index = json.loads(contents(archive)["index.json"])
    assert [entry["annotations"] for entry in index["manifests"]] == [
        {"io.containerd.image.name": "docker.io/a/one:x", "org.opencontainers.image.ref.name": "first"},
        {"io.containerd.image.name": "docker.io/a/two:y", "org.opencontainers.image.ref.name": "y"},
    ]
    second = make()
    load(second, archive, references={"my/one:1": "first"})
    assert [image.tags for image in second.list()] == [("my/one:1",)]
    load(second, archive, name="both")
    assert (second.get("both:first").id, second.get("both:y").id) == (one.id, two.id)
    for options, words in (
        ({"name": "both:tag"}, "one name"),
        ({"references": {"a": "none"}}, "no such reference"),
        ({"name": "a", "references": {"a": "first"}}, "cannot load with either name and refs"),
    ):
        with pytest.raises(InvalidInput, match=words):
            load(second, archive, **options)
    with pytest.raises(InvalidInput, match="cannot be a reference"):
        save(first, tmp_path / "no", "a/one:x", oci=True, references={"a/one:x": "a/b"})


def test_a_name_moves_and_the_client_is_told(make: Callable[..., ImageService], tmp_path: Path) -> None:
    first, second = make(), make()
    image = built(first, "name:t")
    old = built(second, "name:t", author="somebody else")
    _, lines = load(second, save(first, tmp_path / "s.tar", "name:t"))
    text = f"The image name:t already exists, renaming the old one with ID {old.id} to empty string"
    assert lines == [text, "Loaded image: name:t"]
    assert (second.get("name:t").id, second.get(old.id).tags) == (image.id, ())


def test_an_image_without_a_name(make: Callable[..., ImageService], tmp_path: Path) -> None:
    first, second = make(), make()
    image = built(first)
    (loaded,), lines = load(second, save(first, tmp_path / "s.tar", image.id))
    assert (loaded.id, loaded.tags, lines) == (image.id, (), [f"Loaded image ID: {image.id}"])


def test_what_is_here_is_not_converted_again(ours: ImageService, tmp_path: Path) -> None:
    built(ours, "name:t")
    for oci in (False, True):
        archive = save(ours, tmp_path / "s.tar", "name:t", oci=oci)
        before = {path: path.stat().st_ino for path in ours._store.layers.iterdir()}
        assert load(ours, archive)[1] == ["Loaded image: name:t"]
        assert {path: path.stat().st_ino for path in ours._store.layers.iterdir()} == before


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return layer_tar(members)


def docker_archive(
    *layers: tuple[str, bytes], tags: object = ("evil:t",), config: dict[str, Any] | None = None, **more: Any
) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Members of an archive as Docker 1.10 wrote it, the manifest at the end."""
    made = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for _, tar in layers]},
        **(config or {}),
    }
    entry = {"Config": "c.json", "RepoTags": tags, "Layers": [name for name, _ in layers], **more}
    return [
        *(member(name, tar) for name, tar in layers),
        member("c.json", json.dumps(made).encode()),
        member("manifest.json", json.dumps([entry]).encode()),
    ]


def test_links_inside_and_packed_layers(ours: ImageService) -> None:
    members = docker_archive(("a/layer.tar", LOWER), ("b/layer.tar", LOWER), ("c/layer.tar", UPPER))
    members[1] = member("b/layer.tar", type=tarfile.SYMTYPE, linkname="../a/layer.tar")
    members[2] = member("c/layer.tar", gzip.compress(UPPER))
    members[0][0].name = "./a/layer.tar"
    (image,), _ = load(ours, archive_of(directory("a"), *members))
    assert diff_ids(image) == [digest_of(LOWER), digest_of(LOWER), digest_of(UPPER)]


def test_an_archive_of_the_first_docker(ours: ImageService) -> None:
    one, two = "1" * 64, "2" * 64
    described = {
        "id": two,
        "parent": one,
        "created": "2015-01-02T03:04:05Z",
        "config": {"Cmd": ["/run"]},
        "os": "linux",
    }
    members = [
        directory(one),
        member(f"{one}/VERSION", b"1.0"),
        member(f"{one}/json", json.dumps({"id": one, "container_config": {"Cmd": ["ADD", "x"]}}).encode()),
        member(f"{one}/layer.tar", LOWER),
        member(f"{two}/json", json.dumps(described).encode()),
        member(f"{two}/layer.tar", EMPTY),
        member("repositories", json.dumps({"old/image": {"1.0": two}}).encode()),
    ]
    (image,), _ = load(ours, archive_of(*members))
    assert (image.tags, image.created_at) == (("old/image:1.0",), 1420167845.0)
    assert diff_ids(image) == [digest_of(LOWER), digest_of(EMPTY)]
    assert image.config["config"] == {"Cmd": ["/run"]}
    assert image.config["history"][0]["created_by"] == "ADD x"


def test_a_layout_of_before_1_0(ours: ImageService, tmp_path: Path) -> None:
    image = built(ours, "x:t")
    files = contents(save(ours, tmp_path / "s.tar", "x:t", oci=True))
    descriptor = json.loads(files.pop("index.json"))["manifests"][0]
    files["refs/v1"] = json.dumps({key: descriptor[key] for key in ("mediaType", "digest", "size")}).encode()
    ours.remove("x:t")
    (loaded,), _ = load(ours, archive_of(*(member(name, data) for name, data in files.items())), name="back")
    assert (loaded.id, loaded.tags) == (image.id, ("back:v1",))


SECRET = member("x", type=tarfile.SYMTYPE, linkname="/etc/shadow")
HOSTILE: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "absolute name": [member("/etc/passwd", b"x")],
    "name that leaves": [member("a/../../b", b"x")],
    "absolute link": [SECRET],
    "link that leaves": [member("a/x", type=tarfile.SYMTYPE, linkname="../../b")],
    "hard link that leaves": [member("x", type=tarfile.LNKTYPE, linkname="../b")],
    "twice": [member("VERSION", b"1"), member("./VERSION", b"2")],
    "manifest twice": [*docker_archive(("l.tar", LOWER)), member("manifest.json", b"[]")],
    "a device": [member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a pipe": [member("pipe", type=tarfile.FIFOTYPE)],
    "no image": [member("README", b"hello")],
    "no images": [member("manifest.json", b"[]")],
    "nonsense": [member("manifest.json", b"{")],
    "not a list": [member("manifest.json", b'{"a":1}')],
    "no configuration": [member("manifest.json", b'[{"Config":"x","Layers":[]}]')],
    "endless links": [
        member("a", type=tarfile.SYMTYPE, linkname="b"),
        member("b", type=tarfile.SYMTYPE, linkname="a"),
        member("manifest.json", b'[{"Config":"a","Layers":[]}]'),
    ],
    "layers that are not there": docker_archive(
        ("l.tar", LOWER), Layers=["other.tar"], config={"rootfs": {"diff_ids": [digest_of(UPPER)]}}
    ),
    "one layer too few": docker_archive(("l.tar", LOWER), Layers=[]),
    "other layers": docker_archive(("l.tar", LOWER), config={"rootfs": {"diff_ids": [digest_of(UPPER)]}}),
    "a layer that leaves": docker_archive(("l.tar", layer_tar([member("../x", b"x")]))),
    "a layer that is none": docker_archive(("l.tar", b"no layer" * 1000)),
    "a bad name": docker_archive(("l.tar", LOWER), tags=["Bad Name"]),
    "a name that is no text": docker_archive(("l.tar", LOWER), tags=[1]),
    "a name with a digest": docker_archive(("l.tar", LOWER), tags=[f"a@{digest_of(b'')}"]),
    "second image bad": [
        *docker_archive(("l.tar", LOWER))[:2],
        member(
            "manifest.json",
            json.dumps(
                [
                    {"Config": "c.json", "RepoTags": ["good:t"], "Layers": ["l.tar"]},
                    {"Config": "none.json", "RepoTags": ["bad:t"], "Layers": ["l.tar"]},
                ]
            ).encode(),
        ),
    ],
    "wrong blob": [
        member("oci-layout", b"{}"),
        member(f"blobs/sha256/{'0' * 64}", b"{}"),
        member("index.json", json.dumps({"manifests": [{"digest": f"sha256:{'0' * 64}", "size": 2}]}).encode()),
    ],
    "wrong layer blob": [member(f"blobs/sha256/{'0' * 64}", gzip.compress(LOWER)), member("manifest.json", b"[]")],
    "index of nonsense": [member("oci-layout", b"{}"), member("index.json", b'{"manifests":[1]}')],
    "legacy circle": [
        member("1/json", b'{"parent":"2"}'),
        member("1/layer.tar", EMPTY),
        member("2/json", b'{"parent":"1"}'),
        member("2/layer.tar", EMPTY),
        member("repositories", b'{"a":{"t":"1"}}'),
    ],
    "legacy that leaves": [member("repositories", b'{"a":{"t":"../x"}}')],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_leave_nothing(ours: ImageService, name: str) -> None:
    with pytest.raises((InvalidInput, NotSupported)):
        load(ours, archive_of(*HOSTILE[name]), name="x" if "blob" in name or "index" in name else "")
    assert (store_files(ours), ours.list(all_images=True)) == ([], [])


def test_garbage_and_cut_off(ours: ImageService) -> None:
    whole = archive_of(*docker_archive(("l.tar", LOWER)))
    for data in (b"", b"garbage" * 1000, random.Random(1).randbytes(5000), whole[:3000], gzip.compress(whole)[:-30]):
        with pytest.raises(InvalidInput, match="not an archive of images"):
            load(ours, data)
        assert store_files(ours) == []


def test_too_much(make: Callable[..., ImageService], monkeypatch: pytest.MonkeyPatch) -> None:
    small = make(max_layer_bytes=2**20)
    big = layer_tar([member("big", bytes(2**21))])
    for data in (big, gzip.compress(big)):
        with pytest.raises(TooLarge):
            load(small, archive_of(*docker_archive(("l.tar", data), config={"rootfs": {"diff_ids": [digest_of(big)]}})))
        assert store_files(small) == []
    monkeypatch.setattr("hyperd.image.transfer.archive.MAX_SMALL", 1000)
    with pytest.raises(TooLarge):
        load(small, archive_of(*(member(f"{number}", b"x" * 400) for number in range(3))))
    monkeypatch.setattr("hyperd.image.transfer.archive.MAX_MEMBERS", 10)
    with pytest.raises(TooLarge):
        load(small, archive_of(*(member(f"{number}") for number in range(11))))


def test_a_client_that_leaves(ours: ImageService) -> None:
    whole = archive_of(*docker_archive(("l.tar", LOWER), ("m.tar", UPPER)))

    def pieces() -> Iterator[bytes]:
        yield whole[:35_000]
        raise Cancelled("the client has left")

    with pytest.raises(Cancelled):
        ours.load(pieces())
    assert store_files(ours) == []


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    root = tmp_path / "images"
    noise = layer_tar([member("noise", random.Random(1).randbytes(6_000_000))])
    root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "none", root], check=True)
    try:
        with image_service(tmp_path) as service:
            with pytest.raises(OutOfSpace):
                load(service, archive_of(*docker_archive(("l.tar", LOWER), ("m.tar", noise))))
            assert (store_files(service), service.totals().layers) == ([], 0)
            assert load(service, archive_of(*docker_archive(("l.tar", LOWER))))[0]
    finally:
        subprocess.run(["umount", root], check=True)


def test_nothing_to_save(ours: ImageService) -> None:
    with pytest.raises(ImageNotFound):
        ours.save(["nosuch:t"])
    with pytest.raises(InvalidInput):
        ours.save([])


def test_an_image_removed_while_it_is_saved(ours: ImageService, tmp_path: Path) -> None:
    built(ours, "gone:t")
    pieces = ours.save(["gone:t"])
    first = next(pieces)
    ours.remove("gone:t")
    (tmp_path / "s.tar").write_bytes(first + b"".join(pieces))
    assert len(contents(tmp_path / "s.tar")) == 4
    assert store_files(ours) == []
