"""Pushes on a bad day: broken connections, busy and lying registries, tokens that run out, impatient clients."""

from __future__ import annotations

import gzip
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hyperd.api.jsonmessage import as_lines
from hyperd.config.model import Config, RegistryConfig
from hyperd.errors import Cancelled, Forbidden, HostFault, RegistryError, Timeout, Unauthorized
from hyperd.image.model import Image
from hyperd.image.service import ImageService
from hyperd.registry import client as client_module
from hyperd.registry.auth import AuthConfig
from tests.support.faulty import FaultyRegistry, send, upload
from tests.support.images import image_service
from tests.support.registry import PASSWORD, USER, RegistryServer, digest_of, layer_tar, member

PATH = "some/image"
BIG = layer_tar([member("noise", random.Random(1).randbytes(6_000_000))])
SMALL = layer_tar([member("small", b"s" * 1000)])


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageService]:
    monkeypatch.setattr(client_module, "_BACKOFF", 0.01)
    with image_service(tmp_path, Config(registry=RegistryConfig(timeout=60.0))) as service:
        yield service


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as server:
        yield server


def made(images: ImageService, host: str, *tars: bytes) -> tuple[Image, str]:
    name = f"{host}/{PATH}:t"
    added = [images.add_layer(lambda tar=tar: iter([tar])) for tar in tars]
    return images.add_image({}, added, tags=[name]), name


def push(images: ImageService, name: str, **options: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    images.push(name, **{"auth": None, "progress": as_lines(lines.append), **options})
    return lines


def arrived(registry: FaultyRegistry, image: Image) -> bool:
    manifest = registry.manifests["t"][0].decode()
    digests = re.findall(r'"digest":"(sha256:[0-9a-f]{64})"', manifest)
    return len(digests) == 1 + len(image.diff_ids) and all(
        digest_of(registry.blobs[digest]) == digest for digest in digests
    )


def on(registry: FaultyRegistry, method: str, pattern: str, act: Callable[[Any, int], bool]) -> list[int]:
    """Let a fault act on the requests of a method and path; gives the list whose length is their number."""
    seen: list[int] = []

    def fault(handler: Any, path: str) -> bool:
        if handler.command != method or not re.search(pattern, path):
            return False
        seen.append(1)
        return act(handler, len(seen))

    registry.fault = fault
    return seen


def commands(registry: FaultyRegistry, method: str) -> list[Any]:
    return [headers for command, _, headers in registry.requests if command == method]


def test_a_broken_transfer_goes_on_where_it_stopped(images: ImageService, registry: FaultyRegistry) -> None:
    def fail(handler: Any, number: int) -> bool:
        if number > 3:
            return False
        path, _, query = handler.path.partition("?")
        upload(registry, handler, path, query, most=1_500_000)
        return True

    image, name = made(images, registry.host, BIG)
    on(registry, "PATCH", "uploads", fail)
    lines = push(images, name)
    assert arrived(registry, image)
    ranges = [headers.get("Content-Range", "") for headers in commands(registry, "PATCH")]
    assert [int(text.partition("-")[0] or 0) for text in ranges] == [0, 1_500_000, 3_000_000, 4_500_000]
    assert len(registry.uploads) == 2  # the layer's and the configuration's
    sent = [line["progressDetail"]["current"] for line in lines if line.get("status") == "Pushing"]
    assert sent[-1] > 6_000_000


def test_an_upload_that_is_forgotten_begins_anew(images: ImageService, registry: FaultyRegistry) -> None:
    def fail(handler: Any, number: int) -> bool:
        path, _, query = handler.path.partition("?")
        if number > 1:
            return False
        upload(registry, handler, path, query, most=1_000_000)
        del registry.uploads[path]
        registry.uploads["gone"] = bytearray()
        return True

    image, name = made(images, registry.host, BIG)
    on(registry, "PATCH", "uploads", fail)
    push(images, name)
    assert arrived(registry, image)


def test_it_is_given_up_in_the_end(images: ImageService, registry: FaultyRegistry) -> None:
    def fail(handler: Any, _number: int) -> bool:
        handler.close_connection = True
        handler.connection.close()
        return True

    _, name = made(images, registry.host, BIG)
    seen = on(registry, "PATCH", "uploads", fail)
    with pytest.raises((RegistryError, Timeout)):
        push(images, name)
    assert len(seen) == client_module.ATTEMPTS
    registry.fault = lambda _handler, _path: False
    push(images, name)


@pytest.mark.parametrize(
    ("method", "pattern"), [("HEAD", "blobs"), ("POST", "uploads"), ("PUT", "digest="), ("PUT", "manifests")]
)
def test_a_busy_registry_is_waited_for(
    images: ImageService, registry: FaultyRegistry, method: str, pattern: str
) -> None:
    times: list[float] = []

    def fail(handler: Any, number: int) -> bool:
        times.append(time.monotonic())
        if number == 1:
            send(handler, b"", status=429, Retry_After="1")
        elif number == 2:
            send(handler, b"", status=503)
        return number <= 2

    image, name = made(images, registry.host, SMALL)
    on(registry, method, pattern, fail)
    push(images, name)
    assert arrived(registry, image)
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize(
    ("status", "error"), [(403, Forbidden), (401, Unauthorized), (400, RegistryError), (405, RegistryError)]
)
def test_what_a_registry_refuses(
    images: ImageService, registry: FaultyRegistry, status: int, error: type[Exception]
) -> None:
    def fail(handler: Any, _number: int) -> bool:
        send(handler, b'{"errors":[{"code":"DENIED","message":"not for you"}]}', status=status)
        return True

    _, name = made(images, registry.host, SMALL)
    seen = on(registry, "POST", "uploads", fail)
    with pytest.raises(error):
        push(images, name)
    assert len(seen) == 1
    assert "t" not in registry.manifests


@pytest.mark.parametrize(("method", "pattern"), [("PUT", "digest="), ("PUT", "manifests")])
def test_a_registry_that_stored_something_else(
    images: ImageService, registry: FaultyRegistry, method: str, pattern: str
) -> None:
    def lie(handler: Any, _number: int) -> bool:
        send(handler, b"", status=201, Docker_Content_Digest=digest_of(b"else"))
        return True

    _, name = made(images, registry.host, SMALL)
    on(registry, method, pattern, lie)
    with pytest.raises(RegistryError, match="has stored another"):
        push(images, name)


def test_uploads_at_a_place_of_another_kind(images: ImageService, registry: FaultyRegistry) -> None:
    def lead_away(handler: Any, _number: int) -> bool:
        send(handler, b"", status=202, Location="file:///etc/passwd")
        return True

    _, name = made(images, registry.host, SMALL)
    on(registry, "POST", "uploads", lead_away)
    with pytest.raises(RegistryError, match="URL of another kind"):
        push(images, name)


def test_uploads_elsewhere_get_no_credentials(images: ImageService, registry: FaultyRegistry) -> None:
    with FaultyRegistry() as elsewhere:
        elsewhere.uploads["/v2/x/blobs/uploads/u"] = bytearray()

        def lead_away(handler: Any, _number: int) -> bool:
            send(handler, b"", status=202, Location=f"http://{elsewhere.host}/v2/x/blobs/uploads/u")
            return True

        def ask(handler: Any, path: str) -> bool:
            if "Authorization" not in handler.headers:
                send(handler, b"", status=401, WWW_Authenticate='Basic realm="x"')
                return True
            return lead_away(handler, 0) if handler.command == "POST" else False

        _, name = made(images, registry.host, BIG)
        registry.fault = ask
        auth = AuthConfig(username=USER, password=PASSWORD)
        with pytest.raises(RegistryError):  # the configuration's upload goes to the same place: its digest is wrong
            push(images, name, auth=auth)
        assert elsewhere.requests
        assert all("Authorization" not in headers for _, _, headers in elsewhere.requests)


def test_a_client_that_leaves_ends_the_push(images: ImageService, registry: FaultyRegistry) -> None:
    begun = threading.Event()

    def stall(_handler: Any, _number: int) -> bool:
        begun.set()
        registry.stall()
        return False

    _, name = made(images, registry.host, BIG)
    on(registry, "PATCH", "uploads", stall)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(push, images, name, cancelled=begun.is_set)
        assert begun.wait(60)
        started = time.monotonic()
        with pytest.raises(Cancelled):
            job.result()
        assert time.monotonic() - started < 30.0
    registry.released.set()


def test_a_silent_registry(images: ImageService, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images._transport, "config", RegistryConfig(timeout=0.3))
    monkeypatch.setattr("hyperd.registry.push.ATTEMPTS", 2)
    monkeypatch.setattr("hyperd.registry.push._SLOW_DISK", 10**12)

    def stall(_handler: Any, _number: int) -> bool:
        registry.stall()
        return True

    _, name = made(images, registry.host, SMALL)
    on(registry, "PUT", "digest=", stall)
    with pytest.raises(Timeout):
        push(images, name)


def test_two_pushes_pack_a_layer_once(images: ImageService, registry: FaultyRegistry) -> None:
    image, name = made(images, registry.host, BIG)
    other = f"{registry.host}/other/image:t"
    images.tag(image.id, other)
    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(push, images, one) for one in (name, other)]:
            assert job.result()[-1]["aux"]
    assert arrived(registry, image)
    assert images.totals().blobs == 1


def test_data_that_was_lost_is_told(images: ImageService, registry: FaultyRegistry) -> None:
    image, name = made(images, registry.host, SMALL)
    for path in images._store.blobs.iterdir():
        path.unlink()
    with pytest.raises(HostFault, match="data of a layer is lost"):
        push(images, name)
    assert image.tags


@pytest.mark.registry
def test_tokens_that_run_out_in_the_middle(images: ImageService) -> None:
    with RegistryServer(auth="token", token_lifetime=2) as server:
        assert server.tokens is not None
        image, name = made(images, server.host, BIG, SMALL)
        slow: list[dict[str, Any]] = []

        def line(entry: dict[str, Any]) -> None:
            slow.append(entry)

        read = images._packer.read

        def slowly(digest: str, offset: int = 0) -> Iterator[bytes]:
            for number, piece in enumerate(read(digest, offset)):
                if number % 8 == 7:
                    time.sleep(1.0)
                yield piece

        images._packer.read = slowly  # type: ignore[method-assign]
        auth = AuthConfig(username=USER, password=PASSWORD)
        images.push(name, auth=auth, progress=as_lines(line))
        assert slow[-1]["aux"]["Tag"] == "t"
        assert len(server.tokens.requests) >= 3
        assert image.tags == (name,)


@pytest.mark.registry
def test_the_real_registry_after_a_broken_connection(images: ImageService, tmp_path: Path) -> None:
    """It answers nonsense for an upload that broke off (its state is in the URL): the upload begins anew."""
    with RegistryServer() as server:
        image, name = made(images, server.host, gzip.compress(BIG, 1))
        read, broken = images._packer.read, []

        def breaking(digest: str, offset: int = 0) -> Iterator[bytes]:
            for number, piece in enumerate(read(digest, offset)):
                if number == 10 and not broken:
                    broken.append(offset)
                    raise RegistryError("the connection broke")
                yield piece

        images._packer.read = breaking  # type: ignore[method-assign]
        assert push(images, name)[-1]["aux"]["Tag"] == "t"
        assert broken == [0]
        assert image.tags == (name,)
