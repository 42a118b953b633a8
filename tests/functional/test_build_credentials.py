"""``X-Registry-Config`` of a build: base images from registries that want a password."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.faulty import FaultyRegistry
from tests.support.registry import PASSWORD, USER, Layer, RegistryServer, layer_tar, member

pytestmark = [pytest.mark.root, pytest.mark.registry]

JANE = {"username": USER, "password": PASSWORD}


@pytest.fixture(scope="module")
def daemon() -> Iterator[HyperdLauncher]:
    with HyperdLauncher(driver="fake") as one:
        one.start()
        yield one


@pytest.fixture(scope="module", params=["basic", "token"])
def secret(request: pytest.FixtureRequest) -> Iterator[RegistryServer]:
    with RegistryServer(auth=request.param) as server:
        server.push("secret/base", "t", [Layer(layer_tar([member("a", b"a")]))])
        yield server


def build(daemon: HyperdLauncher, base: str, config: object) -> str:
    """Build an image that only adds a label: that takes no VM."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        text = f"FROM {base}\nLABEL a=b\n".encode()
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    headers = {"Content-Type": "application/tar"}
    if config is not None:
        data = config if isinstance(config, bytes) else json.dumps(config).encode()
        headers["X-Registry-Config"] = base64.urlsafe_b64encode(data).decode()
    code, _, said = daemon.request("POST", "/image/build?t=built:t&pull=1", body=out.getvalue(), headers=headers)
    return f"{code} {said.decode()}"


def remove(daemon: HyperdLauncher) -> None:
    for image in daemon.json("GET", "/images/df")["Images"]:
        daemon.request("DELETE", "/image", imageId=image["Id"], force="yes")


@pytest.mark.parametrize("form", ["host", "url", "joined"])
def test_a_base_image_behind_a_password(daemon: HyperdLauncher, secret: RegistryServer, form: str) -> None:
    joined = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    server = f"http://{secret.host}/v1/" if form == "url" else secret.host
    auth = {"auth": joined} if form == "joined" else JANE
    others = {"registry.invalid": {"username": "x", "password": "y"}, "https://index.docker.io/v1/": {"auth": "eDp5"}}
    said = build(daemon, f"{secret.host}/secret/base:t", {**others, server: auth})
    assert "Successfully tagged built:t" in said, said
    remove(daemon)


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        b"no json",
        b"[1]",
        {"other.invalid": JANE},
        {"HOST": {"username": USER, "password": "wrong"}},
        {"HOST": 5},
    ],
)
def test_without_the_right_ones_it_fails(daemon: HyperdLauncher, secret: RegistryServer, config: object) -> None:
    if isinstance(config, dict):
        config = {key.replace("HOST", secret.host): value for key, value in config.items()}
    said = build(daemon, f"{secret.host}/secret/base:t", config)
    wrong = isinstance(config, dict) and isinstance(config.get(secret.host), dict)
    assert ("wrong login/password for" if wrong else "Authentication is required for") in said, said
    assert daemon.json("GET", "/images/df")["Images"] == []


def test_a_registry_gets_its_own_credentials_only(daemon: HyperdLauncher, secret: RegistryServer) -> None:
    with FaultyRegistry() as curious:
        curious.add("t", [Layer(layer_tar([member("a", b"b")]))])
        said = build(daemon, f"{curious.host}/some/image:t", {secret.host: JANE})
        assert "Successfully tagged built:t" in said, said
        assert not any("Authorization" in headers for _, _, headers in curious.requests)
    remove(daemon)
