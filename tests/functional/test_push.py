"""Pushing to a real registry: what arrives, what is skipped, mounted, packed; what a client sees."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperd.api.jsonmessage import as_lines
from hyperd.config.model import Config, RegistryConfig
from hyperd.errors import ImageNotFound, InvalidInput, Unauthorized
from hyperd.image.service import ImageService
from hyperd.registry.auth import AuthConfig
from tests.support.images import image_services
from tests.support.oracles import PodmanStore, skopeo
from tests.support.registry import PASSWORD, USER, Layer, RegistryServer, digest_of, directory, layer_tar, member

pytestmark = pytest.mark.registry

Make = Callable[..., ImageService]
JANE = AuthConfig(username=USER, password=PASSWORD)
LOWER = layer_tar([directory("etc"), member("etc/a", b"lower" * 1000)])
UPPER = layer_tar([member("etc/b", b"upper" * 1000)])


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make image services, each on a store of its own."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with image_services(tmp_path) as start:
        yield lambda **settings: start(Config(registry=RegistryConfig(**settings)))


@pytest.fixture(scope="module")
def plain() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture(scope="module")
def other() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def pull(service: ImageService, name: str, **options: Any) -> Any:
    return service.pull(name, **{"progress": lambda _line: None, "auth": None, **options})


def push(service: ImageService, name: str, **options: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    service.push(name, **{"progress": as_lines(lines.append), "auth": None, **options})
    return lines


def manifest_of(server: RegistryServer, name: str) -> bytes:
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{server.host}/{name}")


def skopeo_copy(server: RegistryServer, name: str, target: Path) -> dict[str, Any]:
    skopeo("copy", "--src-tls-verify=false", f"docker://{server.host}/{name}", f"dir:{target}")
    return dict(json.loads((target / "manifest.json").read_bytes()))


def statuses(lines: list[dict[str, Any]], image: Any, position: int) -> list[str]:
    short = image.layers[position].diff_id.removeprefix("sha256:")[:12]
    found = [line["status"] for line in lines if line.get("id") == short]
    return [status for at, status in enumerate(found) if at == 0 or found[at - 1] != status]


@pytest.mark.parametrize("form", [(oci, compression) for oci in (False, True) for compression in ("gzip", "zstd", "")])
def test_what_was_pulled_arrives_byte_for_byte(
    make: Make, plain: RegistryServer, other: RegistryServer, tmp_path: Path, form: tuple[bool, str]
) -> None:
    oci, compression = form
    name = f"same/{compression or 'tar'}-{oci}".lower()
    pushed = plain.push(name, "t", [Layer(LOWER, compression), Layer(UPPER, compression)], oci=oci)
    service = make()
    image = pull(service, f"{plain.host}/{name}:t")
    target = f"{other.host}/{name}:u"
    service.tag(image.id, target)
    lines = push(service, target)
    body = manifest_of(other, f"{name}:u")
    assert digest_of(body) == pushed.digest
    assert body == manifest_of(plain, f"{name}:t")
    assert lines[0] == {"status": f"The push refers to a repository [{other.host}/{name}]"}
    assert statuses(lines, image, 0) == ["Preparing", "Pushing", "Pushed"]
    assert lines[-2:] == [
        {"status": f"u: digest: {pushed.digest} size: {len(body)}"},
        {"progressDetail": {}, "aux": {"Tag": "u", "Digest": pushed.digest, "Size": len(body)}},
    ]
    bars = [line for line in lines if line.get("status") == "Pushing"]
    assert all(set(line) == {"status", "progressDetail", "progress", "id"} for line in bars)
    assert bars[-1]["progressDetail"]["current"] == bars[-1]["progressDetail"]["total"]
    for digest, layer in zip(pushed.layers, (LOWER, UPPER), strict=True):
        assert other.blob_file(digest).read_bytes() == Layer(layer, compression).packed
    if oci or compression != "zstd":  # which skopeo takes in OCI manifests only
        skopeo_copy(other, f"{name}:u", tmp_path / "copy")


def test_an_image_of_an_index_is_pushed_as_its_own_manifest(
    make: Make, plain: RegistryServer, other: RegistryServer
) -> None:
    one = plain.push("index/image", "", [Layer(LOWER)], oci=True)
    plain.push_index("index/image", "t", [(one, {"os": "linux", "architecture": "amd64"})])
    service = make()
    image = pull(service, f"{plain.host}/index/image:t")
    service.tag(image.id, f"{other.host}/index/image:t")
    push(service, f"{other.host}/index/image:t")
    assert digest_of(manifest_of(other, "index/image:t")) == one.digest


def test_what_is_there_is_not_sent(make: Make, plain: RegistryServer, other: RegistryServer) -> None:
    plain.push("there/a", "t", [Layer(LOWER)])
    service = make()
    image = pull(service, f"{plain.host}/there/a:t")
    again = push(service, f"{plain.host}/there/a:t")
    assert statuses(again, image, 0) == ["Preparing", "Layer already exists"]
    service.tag(image.id, f"{plain.host}/there/b:t")
    assert statuses(push(service, f"{plain.host}/there/b:t"), image, 0) == ["Preparing", "Mounted from there/a"]
    service.tag(image.id, f"{other.host}/there/a:t")
    assert statuses(push(service, f"{other.host}/there/a:t"), image, 0)[-1] == "Pushed"


def test_a_layer_made_here_is_packed_once(make: Make, plain: RegistryServer, tmp_path: Path) -> None:
    plain.push("made/base", "t", [Layer(LOWER)])
    service = make()
    base = pull(service, f"{plain.host}/made/base:t")
    layer = service.add_layer(lambda: iter([UPPER]))
    name = f"{plain.host}/made/child:t"
    image = service.add_image({"config": {"Cmd": ["x"]}}, [base.layers[0].diff_id, layer], tags=[name], parent=base.id)
    lines = push(service, name)
    assert statuses(lines, image, 0)[-1] == "Mounted from made/base"
    assert statuses(lines, image, 1) == ["Preparing", "Compressing", "Pushing", "Pushed"]
    manifest = skopeo_copy(plain, "made/child:t", tmp_path / "copy")
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert {entry["mediaType"] for entry in manifest["layers"]} == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}
    digest = manifest["layers"][1]["digest"].removeprefix("sha256:")
    assert gzip.decompress((tmp_path / "copy" / digest).read_bytes()) == UPPER
    assert manifest["config"]["digest"] == image.id
    assert service.totals().blobs == 2
    before = manifest_of(plain, "made/child:t")
    service.tag(image.id, f"{plain.host}/made/child:u")
    assert statuses(push(service, f"{plain.host}/made/child:u"), image, 1) == ["Preparing", "Layer already exists"]
    assert manifest_of(plain, "made/child:u") == before
    elsewhere = pull(make(), name)
    assert (elsewhere.id, elsewhere.diff_ids) == (
        image.id,
        image.diff_ids,
    )


def test_a_child_of_an_oci_image_is_one(make: Make, plain: RegistryServer) -> None:
    plain.push("made/oci", "t", [Layer(LOWER, "zstd")], oci=True)
    service = make()
    base = pull(service, f"{plain.host}/made/oci:t")
    layer = service.add_layer(lambda: iter([UPPER]))
    service.add_image({}, [base.layers[0].diff_id, layer, layer], tags=[f"{plain.host}/made/oci:child"])
    push(service, f"{plain.host}/made/oci:child")
    manifest = json.loads(manifest_of(plain, "made/oci:child"))
    assert [entry["mediaType"].rpartition(".")[2] for entry in manifest["layers"]] == [
        "tar+zstd",
        "tar+gzip",
        "tar+gzip",
    ]
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert pull(make(), f"{plain.host}/made/oci:child").size == service.get(f"{plain.host}/made/oci:child").size


def test_a_large_layer_and_podman(make: Make, plain: RegistryServer) -> None:
    tar = layer_tar([member("noise", random.Random(1).randbytes(9_000_000))])
    service = make()
    layer = service.add_layer(lambda: iter([tar]))
    name = f"{plain.host}/large/image:t"
    image = service.add_image({"config": {"Cmd": ["/x"]}}, [layer], tags=[name])
    push(service, name)
    with PodmanStore() as podman:
        podman.run("pull", "-q", "--tls-verify=false", name)
        assert podman.inspect(name)["Id"] == image.id.removeprefix("sha256:")
        assert podman.inspect(name)["RootFS"]["Layers"] == [layer.diff_id]


@pytest.mark.parametrize("auth", ["basic", "token"])
@pytest.mark.parametrize("tls", [False, True])
def test_with_credentials(make: Make, auth: str, tls: bool) -> None:
    with RegistryServer(tls=tls, auth=auth) as server:
        service = make(ca_file=server.ca_file) if tls else make()
        layer = service.add_layer(lambda: iter([UPPER]))
        names = [f"{server.host}/secret/one:t", f"{server.host}/secret/two:t"]
        image = service.add_image({}, [layer], tags=names)
        with pytest.raises(Unauthorized):
            push(service, names[0])
        with pytest.raises(Unauthorized):
            push(service, names[0], auth=AuthConfig(username=USER, password="wrong"))
        assert push(service, names[0], auth=JANE)[-1]["aux"]["Tag"] == "t"
        assert statuses(push(service, names[1], auth=JANE), image, 0)[-1] == "Mounted from secret/one"
        if server.tokens is not None:
            assert any("scope=repository%3Asecret%2Fone%3Apull%2Cpush" in path for path in server.tokens.requests)


def test_all_tags_of_a_repository(make: Make, plain: RegistryServer) -> None:
    service = make()
    layer = service.add_layer(lambda: iter([UPPER]))
    image = service.add_image({}, [layer], tags=[f"{plain.host}/all/tags:{tag}" for tag in ("a", "b")])
    lines = push(service, f"{plain.host}/all/tags")
    assert [line["aux"]["Tag"] for line in lines if "aux" in line] == ["a", "b"]
    assert push(service, f"{plain.host}/all/tags:a", tag="b")[-1]["aux"]["Tag"] == "b"
    assert service.get(image.id).digests == (f"{plain.host}/all/tags@{lines[-1]['aux']['Digest']}",)


def test_names_that_cannot_be_pushed(make: Make, plain: RegistryServer) -> None:
    service = make()
    with pytest.raises(ImageNotFound):
        push(service, f"{plain.host}/not/here:t")
    with pytest.raises(ImageNotFound, match="does not exist locally"):
        push(service, f"{plain.host}/not/here")
    with pytest.raises(InvalidInput):
        push(service, f"{plain.host}/not/here@sha256:{'0' * 64}")
    with pytest.raises(InvalidInput):
        push(service, "a/NO")


@pytest.mark.parametrize("auth", ["basic", "token"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_round_trip_with_skopeo(make: Make, plain: RegistryServer, tmp_path: Path, auth: str, tls: bool) -> None:
    """Pulled here, pushed there behind a password, taken from there by skopeo and by another daemon."""
    pushed = plain.push("round/trip", "t", [Layer(LOWER), Layer(UPPER, "zstd")], oci=True)
    with RegistryServer(tls=tls, auth=auth) as server:
        service = make(ca_file=server.ca_file)
        image = pull(service, f"{plain.host}/round/trip:t")
        name = f"{server.host}/round/trip:t"
        service.tag(image.id, name)
        push(service, name, auth=JANE)
        access = ["--src-creds", f"{USER}:{PASSWORD}"]
        if server.ca_file is not None:
            (tmp_path / "certificates").mkdir()
            shutil.copy(server.ca_file, tmp_path / "certificates/ca.crt")
            access += ["--src-cert-dir", str(tmp_path / "certificates")]
        else:
            access += ["--src-tls-verify=false"]
        copy = tmp_path / "copy"
        skopeo("copy", "--preserve-digests", *access, f"docker://{name}", f"dir:{copy}")
        assert digest_of((copy / "manifest.json").read_bytes()) == pushed.digest
        for digest, layer in zip(pushed.layers, (Layer(LOWER), Layer(UPPER, "zstd")), strict=True):
            assert (copy / digest.removeprefix("sha256:")).read_bytes() == layer.packed
        elsewhere = pull(make(ca_file=server.ca_file), name, auth=JANE)
        assert (elsewhere.id, elsewhere.diff_ids) == (image.id, image.diff_ids)
        assert elsewhere.digests == (f"{server.host}/round/trip@{pushed.digest}",)
