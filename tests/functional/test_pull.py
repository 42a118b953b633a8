"""Pulling from a real registry: all ways to authenticate, all forms of images, what a client sees."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperd.api.jsonmessage import as_lines
from hyperd.config.model import Config, RegistryConfig
from hyperd.errors import ImageNotFound, InvalidInput, NotSupported, RegistryError, Unauthorized
from hyperd.image.progress import ImageEvent, PullStarted
from hyperd.image.service import ImageService
from hyperd.registry.auth import AuthConfig
from tests.support.images import image_services
from tests.support.oracles import skopeo
from tests.support.registry import (
    OCI_MANIFEST,
    PASSWORD,
    USER,
    Layer,
    RegistryServer,
    busybox_tar,
    digest_of,
    directory,
    layer_tar,
    member,
)

pytestmark = pytest.mark.registry

Make = Callable[..., ImageService]


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


def pull(service: ImageService, name: str, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []
    image = service.pull(name, progress=as_lines(lines.append), **{"auth": None, **options})
    return image, lines


def files_of(image: Any) -> list[str]:
    listing = subprocess.run(["rdsquashfs", "-d", image.layers[-1].path], capture_output=True, check=True)
    return sorted(line.split()[1] for line in listing.stdout.decode().splitlines())


def test_the_lines_of_a_first_and_a_second_pull(make: Make, plain: RegistryServer) -> None:
    pushed = plain.push("lines/busybox", "latest", [Layer(busybox_tar())])
    service, name = make(), f"{plain.host}/lines/busybox"
    image, lines = pull(service, name)
    short = pushed.layers[0].removeprefix("sha256:")[:12]
    statuses = [line["status"] for line in lines]
    assert lines[0] == {"status": "Pulling from lines/busybox", "id": "latest"}
    assert [s for i, s in enumerate(statuses) if i == 0 or statuses[i - 1] != s] == [
        "Pulling from lines/busybox",
        "Pulling fs layer",
        "Downloading",
        "Verifying Checksum",
        "Download complete",
        "Extracting",
        "Pull complete",
        f"Digest: {pushed.digest}",
        f"Status: Downloaded newer image for {name}:latest",
    ]
    assert {line["id"] for line in lines[1:-2]} == {short}
    last = [line for line in lines if line["status"] == "Downloading"][-1]
    assert last["progressDetail"]["current"] == last["progressDetail"]["total"] > 0
    assert last["progress"].startswith("[" + "=" * 50 + ">] ")
    assert (image.id, image.tags, image.created_at) == (pushed.image_id, (f"{name}:latest",), 1714979289.123456)
    assert image.digests == (f"{name}@{pushed.digest}",)
    again, lines = pull(service, name)
    assert again == image
    assert [line["status"] for line in lines] == [
        "Pulling from lines/busybox",
        f"Digest: {pushed.digest}",
        f"Status: Image is up to date for {name}:latest",
    ]


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
@pytest.mark.parametrize("oci", [True, False])
def test_every_form_of_layer_and_manifest(make: Make, plain: RegistryServer, compression: str, oci: bool) -> None:
    tar = layer_tar([directory("d"), member("d/f", b"content")])
    plain.push("forms/image", "t", [Layer(tar, compression)], oci=oci)
    image, _ = pull(make(), f"{plain.host}/forms/image:t")
    assert image.layers[0].diff_id == digest_of(tar)
    assert files_of(image) == ["d", "d/f"]
    assert image.config["config"]["Cmd"] == ["/bin/sh"]


def test_one_layer_twice_and_a_shared_one_says_so(make: Make, plain: RegistryServer) -> None:
    shared, own = Layer(layer_tar([member("a", b"1")])), Layer(layer_tar([member("b", b"2")]))
    plain.push("shared/one", "t", [shared, own, shared])
    pushed = plain.push("shared/two", "t", [shared, Layer(layer_tar([member("c")]))])
    service = make()
    one, _ = pull(service, f"{plain.host}/shared/one:t")
    assert list(one.diff_ids) == [digest_of(x.tar) for x in (shared, own, shared)]
    assert [layer.diff_id for layer in one.layers] == [digest_of(x.tar) for x in (own, shared)]
    _, lines = pull(service, f"{plain.host}/shared/two:t")
    by_id: dict[str, list[str]] = {}
    for line in lines[1:-2]:
        by_id.setdefault(line["id"], []).append(line["status"])
    assert by_id.pop(pushed.layers[0].removeprefix("sha256:")[:12]) == ["Already exists"]
    assert [statuses[-1] for statuses in by_id.values()] == ["Pull complete"]


@pytest.mark.parametrize("oci", [True, False])
def test_the_platform_of_this_host_is_chosen(make: Make, plain: RegistryServer, oci: bool) -> None:
    wanted, other = (plain.push("multi", "", [Layer(layer_tar([member(n)]))], oci=oci) for n in ("good", "bad"))
    index = plain.push_index(
        "multi",
        "latest",
        [
            (other, {"os": "unknown", "architecture": "unknown"}),
            (other, {"os": "linux", "architecture": "s390x"}),
            (other, {"os": "windows", "architecture": "amd64"}),
            (other, {"os": "linux", "architecture": "amd64", "variant": "v4"}),
            (wanted, {"os": "linux", "architecture": "amd64"}),
        ],
        oci=oci,
    )
    service = make()
    image, lines = pull(service, f"{plain.host}/multi")
    assert image.id == wanted.image_id
    assert lines[-2]["status"] == f"Digest: {index}"
    by_digest, _ = pull(service, f"{plain.host}/multi@{index}")
    assert by_digest.id == image.id
    assert service.get(f"{plain.host}/multi@{index}").id == image.id


def test_no_platform_for_this_host(make: Make, plain: RegistryServer) -> None:
    image = plain.push("foreign", "", [Layer(layer_tar([member("x")]))])
    plain.push_index("foreign", "latest", [(image, {"os": "linux", "architecture": "s390x"})])
    with pytest.raises(ImageNotFound, match="no matching manifest for linux/amd64"):
        pull(make(), f"{plain.host}/foreign")


def test_a_tag_parameter_may_be_a_digest(make: Make, plain: RegistryServer) -> None:
    pushed = plain.push("params", "v1", [Layer(layer_tar([member("x")]))])
    service = make()
    assert pull(service, f"{plain.host}/params", tag="v1")[0].tags == (f"{plain.host}/params:v1",)
    image, lines = pull(service, f"{plain.host}/params", tag=pushed.digest)
    assert image.id == pushed.image_id
    assert lines[-1]["status"].endswith(f"/params@{pushed.digest}")


def test_a_tag_that_moved(make: Make, plain: RegistryServer) -> None:
    service = make()
    plain.push("moving", "t", [Layer(layer_tar([member("old")]))])
    old, _ = pull(service, f"{plain.host}/moving:t")
    plain.push("moving", "t", [Layer(layer_tar([member("new")]))])
    new, lines = pull(service, f"{plain.host}/moving:t")
    assert lines[-1]["status"].startswith("Status: Downloaded newer image")
    assert new.id != old.id
    assert service.get(old.id).tags == ()
    assert service.get(f"{plain.host}/moving:t").id == new.id


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("kind", ["basic", "token"])
def test_credentials(make: Make, kind: str, tls: bool) -> None:
    with RegistryServer(auth=kind, tls=tls) as server:
        pushed = server.push("private/image", "t", [Layer(layer_tar([member("secret")]))])
        service, name = make(ca_file=server.ca_file), f"{server.host}/private/image:t"
        good = AuthConfig(username=USER, password=PASSWORD, serveraddress=server.host)
        bad = AuthConfig(username=USER, password="wrong", serveraddress=server.host)
        with pytest.raises(Unauthorized, match="Authentication is required"):
            pull(service, name)
        with pytest.raises(Unauthorized, match="wrong login/password"):
            pull(service, name, auth=bad)
        assert pull(service, name, auth=good)[0].id == pushed.image_id
        with pytest.raises(Unauthorized):  # what another user fetched is no pass
            pull(service, name)
        service.authenticate(good)
        for server_address in (f"http://{server.host}", f"https://{server.host}/v2/"):
            service.authenticate(AuthConfig(username=USER, password=PASSWORD, serveraddress=server_address))
        with pytest.raises(Unauthorized):
            service.authenticate(bad)


def test_a_token_server_may_serve_everybody(make: Make) -> None:
    with RegistryServer(auth="token") as server:
        server.push("open/image", "t", [Layer(layer_tar([member(str(n))])) for n in range(4)])
        assert server.tokens is not None
        server.tokens.anonymous = True
        pull(make(), f"{server.host}/open/image:t")
        assert len([path for path in server.tokens.requests if "scope=" in path]) == 1  # one token for all requests


def test_a_token_that_ran_out_is_renewed(make: Make) -> None:
    with RegistryServer(auth="token", token_lifetime=-70) as server:  # refused by the registry, cached by nobody
        service = make()
        good = AuthConfig(username=USER, password=PASSWORD)
        with pytest.raises(Unauthorized):
            pull(service, f"{server.host}/short/image:t", auth=good)


def test_tls_needs_a_known_authority(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with RegistryServer(tls=True) as server:
        pushed = server.push("tls/image", "t", [Layer(layer_tar([member("x")]))])
        name = f"{server.host}/tls/image:t"
        assert pull(make(), name)[0].id == pushed.image_id  # the loopback needs no authority
        monkeypatch.setattr("hyperd.registry.transport.is_loopback", lambda _host: False)
        with pytest.raises(RegistryError, match="CERTIFICATE_VERIFY_FAILED"):
            pull(make(), name)
        assert pull(make(ca_file=server.ca_file), name)[0].id == pushed.image_id
        assert pull(make(insecure=("127.0.0.0/8",)), name)[0].id == pushed.image_id


def test_plain_http_is_for_insecure_registries_only(
    make: Make, plain: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.push("plain/image", "t", [Layer(layer_tar([member("x")]))])
    monkeypatch.setattr("hyperd.registry.transport.is_loopback", lambda _host: False)
    with pytest.raises(RegistryError):
        pull(make(), f"{plain.host}/plain/image:t")
    assert pull(make(insecure=(plain.host,)), f"{plain.host}/plain/image:t")


def test_what_is_not_there(make: Make, plain: RegistryServer) -> None:
    plain.push("there", "t", [Layer(layer_tar([member("x")]))])
    service = make()
    for name in ("there:other", "nowhere:t", f"there@sha256:{'0' * 64}"):
        with pytest.raises(ImageNotFound):
            pull(service, f"{plain.host}/{name}")
    with pytest.raises(InvalidInput):
        pull(service, "Not A Name")
    with pytest.raises(RegistryError):
        pull(service, "127.0.0.1:1/nobody/listens")
    assert service.list(all_images=True) == []


def test_artifacts_are_not_images(make: Make, plain: RegistryServer) -> None:
    config = {"mediaType": "application/vnd.example.thing+json", "digest": digest_of(b"{}"), "size": 2}
    plain._push_blob("artifact", b"{}")
    plain.push("artifact", "t", [], oci=True, manifest={"config": config, "mediaType": OCI_MANIFEST})
    with pytest.raises(NotSupported):
        pull(make(), f"{plain.host}/artifact:t")


def test_the_default_registry_serves_bare_names(make: Make, plain: RegistryServer) -> None:
    plain.push("busybox", "latest", [Layer(busybox_tar())])
    service = make(default=plain.host)
    image, lines = pull(service, "busybox")
    assert image.tags == ("busybox:latest",)
    assert lines[-1]["status"] == "Status: Downloaded newer image for busybox:latest"
    assert service.get("busybox").id == service.get(image.id[7:19]).id == image.id


def test_a_mirror_is_asked_first(make: Make, plain: RegistryServer) -> None:
    pushed = plain.push("library/mirrored", "latest", [Layer(layer_tar([member("x")]))])
    image, _ = pull(make(mirrors=("127.0.0.1:1", f"http://{plain.host}")), "mirrored")
    assert (image.id, image.tags) == (pushed.image_id, ("mirrored:latest",))


def test_the_blob_stays_as_the_registry_sent_it(make: Make, plain: RegistryServer, tmp_path: Path) -> None:
    layer = Layer(layer_tar([member("x", b"y" * 1000)]))
    pushed = plain.push("kept", "t", [layer])
    pull(make(), f"{plain.host}/kept:t")
    blob = tmp_path / "0/images/blobs/sha256" / pushed.layers[0].removeprefix("sha256:")
    assert blob.read_bytes() == layer.packed


def test_skopeo_agrees_on_the_image(make: Make, plain: RegistryServer) -> None:
    pushed = plain.push("checked", "t", [Layer(busybox_tar()), Layer(layer_tar([member("x")]), "gzip")])
    image, _ = pull(make(), f"{plain.host}/checked:t")
    inspected = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{plain.host}/checked:t"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert digest_of(inspected) == pushed.digest
    assert image.digests[0].endswith(pushed.digest)


def test_all_tags_of_a_repository(make: Make, plain: RegistryServer) -> None:
    for tag in ("one", "two"):
        plain.push("all/tags", tag, [Layer(layer_tar([member(tag, b"x")]))])
    service, name = make(), f"{plain.host}/all/tags"
    events: list[ImageEvent] = []
    pulled = service.pull_all(name, auth=None, progress=events.append)
    assert sorted(tag for image in pulled for tag in image.tags) == [f"{name}:one", f"{name}:two"]
    assert [event.target for event in events if isinstance(event, PullStarted)] == ["one", "two"]
    with pytest.raises(InvalidInput, match="all-tags"):
        service.pull_all(f"{name}:one", auth=None, progress=events.append)
    with pytest.raises((ImageNotFound, Unauthorized)):
        service.pull_all(f"{plain.host}/no/such", auth=None, progress=events.append)


def test_what_a_registry_has_under_a_name(make: Make, plain: RegistryServer) -> None:
    pushed = plain.push("known/image", "t", [Layer(busybox_tar())])
    service, name = make(), f"{plain.host}/known/image:t"
    found = service.distribution(name, auth=None)
    assert (found.digest, found.size) == (pushed.digest, len(found_body(plain, "known/image:t")))
    assert found.media_type.endswith("manifest.v1+json") or found.media_type.endswith("manifest.v2+json")
    (platform,) = found.platforms
    assert (platform.os, platform.architecture) == ("linux", "amd64")
    assert service.list(all_images=True) == []  # nothing was pulled
    with pytest.raises((ImageNotFound, Unauthorized)):
        service.distribution(f"{plain.host}/known/image:no", auth=None)


def found_body(server: RegistryServer, name: str) -> bytes:
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{server.host}/{name}")
