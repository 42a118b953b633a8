"""The original client's exchanges about images as streams: push, save, load."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import tarfile
from collections.abc import Iterator

import pytest

from tests.conformance.original import PLAIN, Original, RefusedError, progress
from tests.support.daemon import HyperdLauncher

pytestmark = [pytest.mark.root, pytest.mark.registry]

NO_AUTH = base64.urlsafe_b64encode(b'{"username":"","password":"","auth":"","email":""}').decode()
PIECE = 64 * 1024


@pytest.fixture
def client(daemon: HyperdLauncher, image: str) -> Iterator[Original]:
    with contextlib.closing(Original(daemon.socket)) as one:
        yield one


def encoded(name: str) -> str:
    return name.replace(":", "%3A").replace("/", "%2F")


def save(client: Original, *names: str, layout: str = "", refs: str = "{}") -> bytes:
    query = [("format", layout), *(("names", name) for name in names), ("refs", refs)]
    reply = client.wire.call("GET", "/images/save", query)
    assert reply.headers["content-type"] == "application/x-tar"
    return reply.body


def load(client: Original, data: bytes, *, name: str = "", refs: str = "{}") -> None:
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
    headers = {"Content-Type": "application/x-tar"}
    reply = client.wire.call("POST", "/image/load", [("name", name), ("refs", refs)], chunks=pieces, headers=headers)
    if reply.headers.get("content-type") == "application/json" and reply.body.strip():
        progress(reply)


def members(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_push(client, registry, image):
    name = image.replace("busybox", "user/pushed")
    client.wire.call("POST", "/image/tag", [("imageId", image), ("repo", name.rpartition(":")[0]), ("tag", "latest")])
    client.wire.requests.clear()
    query = [("remote", name), ("tag", "latest")]
    lines = progress(client.wire.call("POST", "/image/push", query, headers={"X-Registry-Auth": NO_AUTH}))
    assert client.wire.requests == [f"POST {PLAIN}/image/push?remote={encoded(name)}&tag=latest"]
    assert lines[0]["status"].startswith("The push refers to")
    assert lines[-1]["aux"]["Tag"] == "latest"
    assert lines[-1]["aux"]["Digest"].startswith("sha256:")
    client.remove_image(name)
    assert client.pull(name)[-1]["status"] == f"Status: Downloaded newer image for {name}"
    client.remove_image(name)


def test_push_of_nothing(client, registry):
    name = f"{registry.host}/nosuch:1"
    query = [("remote", name), ("tag", "1")]
    with pytest.raises(RefusedError, match="nosuch"):
        progress(client.wire.call("POST", "/image/push", query, headers={"X-Registry-Auth": NO_AUTH}))


def test_save_and_load(client, image):
    data = save(client, image)
    assert client.wire.requests == [f"GET {PLAIN}/images/save?format=&names={encoded(image)}&refs=%7B%7D"]
    assert {"manifest.json"} <= set(members(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        [entry] = json.load(archive.extractfile("manifest.json"))
    assert entry["RepoTags"] == [image]
    before = client.images()
    client.remove_image(image)
    client.wire.requests.clear()
    load(client, data)
    assert client.wire.requests == [f"POST {PLAIN}/image/load?name=&refs=%7B%7D"]
    assert client.images() == before


def test_two_names_format_and_references(client, registry, image):
    other = f"{registry.host}/other:latest"
    client.pull(other)
    client.wire.requests.clear()
    data = save(client, image, other, layout="docker")
    query = f"format=docker&names={encoded(image)}&names={encoded(other)}&refs=%7B%7D"
    assert client.wire.requests == [f"GET {PLAIN}/images/save?{query}"]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        entries = json.load(archive.extractfile("manifest.json"))
    assert [entry["RepoTags"] for entry in entries] == [[image], [other]]
    client.remove_image(other)


def test_save_of_nothing(client):
    for _ in range(2):  # the connection stays usable
        with pytest.raises(RefusedError) as caught:
            save(client, "nosuch:latest")
        assert caught.value.status == 404


def test_load_of_garbage(client, image):
    connections = client.wire.connections
    with pytest.raises(RefusedError) as caught:
        load(client, b"this is no archive" * 100)
    assert caught.value.status in range(400, 600)
    assert client.images()
    assert client.wire.connections <= connections + 2
