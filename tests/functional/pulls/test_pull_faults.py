"""Pulls on a bad day: broken connections, lying registries, full disks, crashes, impatient clients."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hyperd.api.jsonmessage import as_lines
from hyperd.errors import (
    Cancelled,
    Conflict,
    HyperError,
    ImageNotFound,
    InvalidInput,
    NotSupported,
    OutOfSpace,
    RegistryError,
    Timeout,
    TooLarge,
)
from hyperd.image.model import StoreTotals
from hyperd.image.progress import Flights
from hyperd.image.transfer.fetch import LayerFetch
from hyperd.registry import client as client_module
from hyperd.registry.auth import AuthConfig
from tests.support.faulty import FaultyRegistry, send, send_blob
from tests.support.pulls import NAME, Host, noise, on_blobs
from tests.support.registry import Layer, digest_of, layer_tar, member


def test_a_broken_download_goes_on_where_it_stopped(host: Host, registry: FaultyRegistry) -> None:
    _, (digest,) = registry.add("t", [noise(1_000_000)])
    on_blobs(lambda handler, body: send_blob(handler, body, cut=300_000), registry, digest)
    host.pull(registry)
    starts = [
        int(found[1]) for _, _, h in registry.requests if (found := re.match(r"bytes=(\d+)-", h.get("Range", "")))
    ]
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert all(abs(start - 300_000 * (n + 1)) < 1000 for n, start in enumerate(starts))


def test_a_registry_without_ranges_is_no_obstacle(host: Host, registry: FaultyRegistry) -> None:
    _, (digest,) = registry.add("t", [noise(1_000_000)])
    sizes = iter([200_000, 500_000, None])
    on_blobs(lambda handler, body: send(handler, body, cut=next(sizes)), registry, digest)
    assert host.pull(registry).layers


def test_what_a_failed_pull_left_is_resumed_by_the_next(host: Host, registry: FaultyRegistry) -> None:
    _, (digest,) = registry.add("t", [noise(1_000_000)])
    cuts = [400_000, 0, 0, 0, 0, 0, 0]
    on_blobs(lambda handler, body: send_blob(handler, body, cut=cuts.pop(0)), registry, digest)
    with pytest.raises(RegistryError):
        host.pull(registry)
    (partial,) = host.partials()
    assert partial.stat().st_size == 400_000
    host.service.recover()
    registry.fault = lambda _handler, _path: False
    registry.requests.clear()
    host.pull(registry)
    assert [h["Range"] for _, p, h in registry.requests if digest in p] == ["bytes=400000-"]
    assert not host.partials()


def test_a_damaged_rest_of_an_earlier_download_is_thrown_away(host: Host, registry: FaultyRegistry) -> None:
    _, (digest,) = registry.add("t", [noise(500_000)])
    partial = host.root / "images/tmp" / f"{digest.removeprefix('sha256:')}.partial"
    partial.write_bytes(b"not what it was" * 1000)
    host.pull(registry)
    partial.write_bytes(b"x" * 1_000_000)  # more than the blob has
    host.service.remove(f"{registry.host}/{NAME}:t")
    partial.write_bytes(b"x" * 1_000_000)
    host.pull(registry)


@pytest.mark.parametrize("place", ["config", "layer", "manifest"])
def test_wrong_data_is_refused_and_leaves_nothing(host: Host, registry: FaultyRegistry, place: str) -> None:
    top, (digest,) = registry.add("t", [noise(100_000)])
    config = json.loads(registry.manifests["t"][0])["config"]["digest"]
    for name in {"layer": [digest], "config": [config]}.get(place, []):
        body = bytearray(registry.blobs[name])
        body[len(body) // 2] ^= 1
        registry.blobs[name] = bytes(body)
    if place == "manifest":
        registry.manifests[top] = (registry.manifests["t"][0] + b" ", registry.manifests["t"][1])
        with pytest.raises(RegistryError, match="not what its digest says"):
            host.service.pull(f"{registry.host}/{NAME}@{top}", auth=None, progress=lambda _line: None)
    else:
        with pytest.raises(RegistryError, match="wrong data"):
            host.pull(registry)
    assert host.files() == []
    assert host.service.count() == 0


def test_a_layer_that_is_not_the_configured_one(host: Host, registry: FaultyRegistry) -> None:
    config = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
    registry.add("t", [noise(100)], config=config)
    with pytest.raises(RegistryError, match="not what the image's configuration says"):
        host.pull(registry)
    assert host.files() == []


def test_an_image_cannot_get_at_a_layer_it_does_not_have(host: Host, registry: FaultyRegistry) -> None:
    private, mine = noise(1000, 1), noise(1000, 2)
    registry.add("private", [private])
    host.pull(registry, "private")
    registry.add("thief", [mine], config={"rootfs": {"diff_ids": [digest_of(private.tar)]}})
    with pytest.raises(RegistryError):
        host.pull(registry, "thief")
    assert host.pull(registry, "private").layers


def test_the_same_layer_packed_in_another_way_is_checked_and_shared(host: Host, registry: FaultyRegistry) -> None:
    tar = noise(1000).tar
    registry.add("one", [Layer(tar)])
    registry.add("two", [Layer(tar, "zstd")], config={"author": "another"})
    one, two = host.pull(registry, "one"), host.pull(registry, "two")
    assert one.layers == two.layers
    totals = host.service.totals()
    assert (totals.layers, totals.blobs) == (1, 2)
    host.service.remove(one.id)
    assert two.layers[0].path.exists()
    host.service.remove(two.id)
    assert host.files() == []


HOSTILE = {
    "not a tar": (Layer(b"", "", blob=b"\x7fELF" + b"x" * 5000), InvalidInput),
    "cut gzip": (Layer(b"x", blob=noise(5000).packed[:-9]), InvalidInput),
    "leaves the root": (Layer(layer_tar([member("../x")])), InvalidInput),
    "dangling hard link": (Layer(layer_tar([member("a", type=b"1", linkname="b")])), InvalidInput),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_leave_nothing(host: Host, registry: FaultyRegistry, name: str) -> None:
    layer, error = HOSTILE[name]
    registry.add("t", [layer])
    with pytest.raises(error):
        host.pull(registry)
    assert host.files() == []
    assert host.service.list(all_images=True) == []


def test_a_layer_over_the_bound(tmp_path: Path, registry: FaultyRegistry) -> None:
    registry.add("t", [Layer(layer_tar([member("zeros", bytes(3_000_000))]))])
    small = Host(tmp_path / "small", max_layer_bytes=1_000_000)
    with pytest.raises(TooLarge):
        small.pull(registry)
    assert small.files() == []
    small.close()


MANIFESTS: list[tuple[bytes, type[HyperError]]] = [
    (b"", RegistryError),
    (b"[" * 100_000, RegistryError),
    (b"[]", RegistryError),
    (b"{}", NotSupported),
    (b'{"schemaVersion":1,"fsLayers":[]}', NotSupported),
    (b'{"schemaVersion":2,"config":5,"layers":[]}', RegistryError),
    (b'{"schemaVersion":2,"config":{"digest":"sha256:0","size":1},"layers":[]}', NotSupported),
    (b'{"schemaVersion":2,"config":{"digest":"sha256:' + b"0" * 64 + b'","size":-1},"layers":[]}', RegistryError),
    (b'{"schemaVersion":2,"config":{"digest":"sha256:' + b"0" * 64 + b'","size":1e99},"layers":[]}', RegistryError),
    (b'{"schemaVersion":2,"config":{"digest":"sha256:' + b"0" * 64 + b'","size":99999999},"layers":[]}', TooLarge),
    (b'{"schemaVersion":2,"manifests":5}', RegistryError),
    (b'{"schemaVersion":2,"manifests":[5]}', RegistryError),
    (b'{"schemaVersion":2,"manifests":[]}', ImageNotFound),
    (b'{"schemaVersion":2,"manifests":[' + b",".join([b"{}"] * 2000) + b"]}", TooLarge),
    (b"{" + b" " * 5_000_000 + b"}", RegistryError),
]


@pytest.mark.parametrize("number", range(len(MANIFESTS)))
def test_nonsense_manifests(host: Host, registry: FaultyRegistry, number: int) -> None:
    raw, error = MANIFESTS[number]
    registry.add_manifest("t", raw, "application/json")
    with pytest.raises(error):
        host.pull(registry)
    assert host.files() == []


def test_an_index_without_sense_is_no_platform(host: Host, registry: FaultyRegistry) -> None:
    name = f"{registry.host}/{NAME}:t"
    for entries in (5, "x", True, [5], [[]]):
        registry.add_manifest("t", json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), "application/json")
        with pytest.raises(RegistryError):
            host.service.distribution(name, auth=None)
    platforms = [{"platform": 5}, {}, {"platform": {"os": [], "architecture": "x"}}, {"platform": {"os": "linux"}}]
    registry.add_index("t", platforms)
    assert [one.os for one in host.service.distribution(name, auth=None).platforms] == ["linux"]


CONFIGS: list[dict[str, Any]] = [
    {"os": "windows"},
    {"rootfs": None},
    {"rootfs": {"diff_ids": []}},
    {"rootfs": {"diff_ids": ["x"]}},
    {"rootfs": {"diff_ids": [5]}},
    {"config": []},
    {"architecture": []},
]


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_nonsense_configurations(host: Host, registry: FaultyRegistry, number: int) -> None:
    registry.add("t", [noise(10)], config=CONFIGS[number])
    if CONFIGS[number] == {"architecture": []}:  # of no use, and no harm
        assert host.pull(registry).config["architecture"] == []
        return
    if CONFIGS[number] == {"config": []}:  # falsy, as null: no configuration
        assert host.pull(registry).config["config"] == []
        return
    with pytest.raises((RegistryError, NotSupported)):
        host.pull(registry)


def test_an_index_that_leads_to_itself_ends(host: Host, registry: FaultyRegistry) -> None:
    platform = {"os": "linux", "architecture": "amd64"}
    digest = "sha256:" + "0" * 64
    for _ in range(10):
        digest = registry.add_index("t", [{"digest": digest, "size": 1, "platform": platform}])
    with pytest.raises(RegistryError, match="leads nowhere"):
        host.pull(registry)


def test_a_blob_that_the_registry_lost(host: Host, registry: FaultyRegistry) -> None:
    _, (digest,) = registry.add("t", [noise(1000)])
    del registry.blobs[digest]
    with pytest.raises(RegistryError, match="does not have"):
        host.pull(registry)


def test_pulls_at_once_share_the_work(host: Host, registry: FaultyRegistry) -> None:
    layers = [noise(300_000, n) for n in range(4)]
    _, digests = registry.add("t", layers)
    registry.add("u", layers[1:])
    lines: list[list[dict[str, Any]]] = [[] for _ in range(6)]
    deadline = time.monotonic() + 60

    def all_watch() -> bool:
        return all(any(line["status"] == "Downloading" for line in list(seen)) for seen in lines)

    def slowly(handler: Any, body: bytes) -> None:
        """Send a little at a time while there is somebody who has not joined."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        position = 0
        while position < len(body) - 100 and not all_watch() and time.monotonic() < deadline:
            handler.wfile.write(body[position : position + 100])
            position += 100
            time.sleep(0.02)
        handler.wfile.write(body[position:])

    on_blobs(slowly, registry, only=digests)
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(host.pull, registry, "tu"[n % 2], progress=as_lines(lines[n].append)) for n in range(6)]
        images = [job.result() for job in jobs]
    assert len({image.id for image in images}) == 2
    for digest in digests:
        assert registry.count(digest) == 1
    assert all_watch(), lines
    assert host.service.totals().layers == 4


def test_work_that_ended_just_before_is_not_done_again(
    host: Host, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("t", [noise(1000)])
    join, run, runs, first = Flights.join, LayerFetch.run, [], threading.Lock()

    def late(flights: Flights, key: str) -> Any:
        if first.acquire(blocking=False):  # it has seen that the layer is missing
            host.pull(registry)
        return join(flights, key)

    def counted(fetch: LayerFetch) -> None:
        runs.append(fetch)
        run(fetch)

    monkeypatch.setattr(Flights, "join", late)
    monkeypatch.setattr(LayerFetch, "run", counted)
    lines: list[dict[str, Any]] = []
    host.pull(registry, progress=as_lines(lines.append))
    assert len(runs) == 1
    assert "Pull complete" in [line["status"] for line in lines]


def test_when_the_one_who_works_leaves_another_takes_over(host: Host, registry: FaultyRegistry) -> None:
    _, (digest,) = registry.add("t", [noise(1_000_000)])
    on_blobs(lambda handler, body: send_blob(handler, body, pace=0.02, piece=32768), registry, digest)
    half = threading.Event()

    def watch(line: dict[str, Any]) -> None:
        if line["status"] == "Downloading" and line["progressDetail"]["current"] > 300_000:
            half.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(host.pull, registry, progress=as_lines(watch), cancelled=half.is_set)
        while not registry.count(digest):
            time.sleep(0.005)
        second = pool.submit(host.pull, registry)
        with pytest.raises(Cancelled):
            first.result()
        assert second.result().layers
    ranges = [headers.get("Range", "") for _, path, headers in registry.requests if digest in path]
    assert ranges[0] == ""
    assert len(ranges) == 2
    assert int(ranges[1].removeprefix("bytes=").rstrip("-")) >= 300_000


def test_removing_while_pulling_keeps_what_the_pull_needs(host: Host, registry: FaultyRegistry) -> None:
    shared, slow = noise(1000, 1), noise(600_000, 2)
    registry.add("old", [shared])
    _, digests = registry.add("new", [shared, slow])
    host.pull(registry, "old")
    on_blobs(lambda handler, body: send_blob(handler, body, pace=0.03, piece=32768), registry, digests[1])
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(host.pull, registry, "new")
        while not registry.count(digests[1]):
            time.sleep(0.005)
        host.service.remove(f"{registry.host}/{NAME}:old")
        image = job.result()
    assert all(layer.path.exists() for layer in image.layers)


@pytest.mark.root
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, registry: FaultyRegistry) -> None:
    registry.add("t", [noise(500_000, 1), noise(6_000_000, 2), noise(6_000_000, 3)])
    (tmp_path / "host/images").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", tmp_path / "host/images"], check=True)
    try:
        small = Host(tmp_path / "host")
        with pytest.raises(OutOfSpace):
            small.pull(registry)
        assert small.files() == []
        assert small.service.totals() == StoreTotals()
        registry.add("small", [noise(500_000, 1)])
        assert small.pull(registry, "small").layers
        small.close()
    finally:
        subprocess.run(["umount", tmp_path / "host/images"], check=True)


CHILD = textwrap.dedent("""
    import sys
    from pathlib import Path
    from hyperd.config.model import Config
    from hyperd.db.session import Database
    from hyperd.image.service import ImageService
    root = Path(sys.argv[1])
    database = Database(root / "db")
    service = ImageService(config=Config(), database=database, root=root / "images", in_use=lambda i: [])
    service.recover()
    service.pull(sys.argv[2], auth=None, progress=lambda event: print(type(event).__name__, flush=True))
""")


def test_a_daemon_that_is_killed_at_any_moment(host: Host, registry: FaultyRegistry) -> None:
    layers = [noise(400_000, n) for n in range(3)] + [Layer(layer_tar([member("a", b"1"), member("a", b"2")]))]
    top, _ = registry.add("t", layers)
    on_blobs(lambda handler, body: send_blob(handler, body, pace=0.01, piece=32768), registry)
    name = f"{registry.host}/{NAME}:t"
    chance = random.Random(7)
    done = kills = 0
    while not done:
        command = [sys.executable, "-c", CHILD, str(host.root), name]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        if kills < 8:
            for _ in range(chance.randrange(1, 14)):
                child.stdout.readline()
            time.sleep(chance.random() * 0.05)
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        with child:
            child.stdout.read()
        done = child.returncode == 0
        fresh = host.open()
        fresh.recover()
        for image in fresh.list(all_images=True):
            assert all(layer.path.exists() for layer in image.layers)
        assert not list((host.root / "images/tmp").glob("*.tmp"))
        for blob in (host.root / "images/blobs/sha256").iterdir():
            assert digest_of(blob.read_bytes()) == f"sha256:{blob.name}"
        fresh.close()
    assert kills >= 2
    image = host.pull(registry)
    assert image.digests == (f"{registry.host}/{NAME}@{top}",)
    assert len(image.layers) == 4


def test_what_nobody_resumed_goes_after_a_day(host: Host, registry: FaultyRegistry) -> None:
    _, (first, second) = registry.add("t", [noise(1000, 1), noise(300_000, 2)])
    on_blobs(lambda handler, body: send_blob(handler, body, cut=100_000), registry, second)
    cut_for_good = registry.fault
    done = threading.Event()

    def fault(handler: Any, path: str) -> bool:
        if second in path:
            done.wait(60)
            if handler.headers.get("Range"):
                send(handler, b"", status=404)
                return True
        return cut_for_good(handler, path)

    registry.fault = fault

    def progress(line: dict[str, Any]) -> None:
        if line["status"] == "Pull complete":
            done.set()

    with pytest.raises(HyperError):
        host.pull(registry, progress=as_lines(progress))
    assert len(host.files()) == 3  # one finished layer with its blob, one broken-off download
    host.service.recover()
    assert len(host.files()) == 3
    old = time.time() - 2 * 24 * 3600
    for name in host.files():
        os.utime(host.root / "images" / name, (old, old))
    host.service.recover()
    assert host.files() == []
    assert host.service.totals().layers == 0
    assert first


def test_removal_needs_nothing_of_the_registry(host: Host, registry: FaultyRegistry) -> None:
    registry.add("t", [noise(10)])
    image = host.pull(registry)
    done = host.service.remove(image.id)
    assert [step.kind for step in done] == ["untagged", "untagged", "deleted"]
    with pytest.raises(ImageNotFound):
        host.service.get(image.id)
    with pytest.raises((ImageNotFound, Conflict)):
        host.service.remove(image.id)


@pytest.mark.parametrize("where", ["manifest", "blob", "error", "token"])
def test_a_registry_that_drips_is_given_up(tmp_path: Path, registry: FaultyRegistry, where: str) -> None:
    _, (digest,) = registry.add("t", [noise(1_000_000)])
    dripped = []

    def drip(handler: Any, status: int = 200) -> None:
        dripped.append(handler.path)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(registry.blobs[digest]) if where == "blob" else 1_000_000))
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b"x")
            time.sleep(0.01)

    def fault(handler: Any, path: str) -> bool:
        if where == "token" and "Authorization" not in handler.headers and not path.startswith("/token"):
            send(handler, b"", status=401, WWW_Authenticate=f'Bearer realm="http://{registry.host}/token"')
            return True
        hit = {"manifest": "/manifests/", "blob": digest, "error": "/manifests/", "token": "/token"}[where]
        if hit in path:
            drip(handler, 400 if where == "error" else 200)
        return hit in path

    registry.fault = fault
    host = Host(tmp_path / "impatient", min_rate=10_000, min_rate_seconds=0.2)
    started = time.monotonic()
    with pytest.raises(Timeout, match="is too slow") as caught:
        host.pull(registry)
    assert time.monotonic() - started < 50  # all of it would take 100
    assert "at least 10000 a second are wanted" in caught.value.details
    assert len(dripped) == (2 if where == "blob" else 1)  # another connection may lead to another server
    host.close()


def test_slow_is_what_the_registry_is_not_this_host(tmp_path: Path, registry: FaultyRegistry) -> None:
    registry.add("t", [noise(3_000_000)])
    on_blobs(lambda handler, body: send_blob(handler, body, pace=0.005, piece=65536), registry)
    host = Host(tmp_path / "patient", min_rate=30_000, min_rate_seconds=0.1)
    pauses = [2.5]  # seconds, in which 65536 bytes would be too few

    def reluctant(line: dict[str, Any]) -> None:
        if line["status"] == "Downloading" and pauses:
            time.sleep(pauses.pop())  # the fault itself: who is told takes that long

    assert host.pull(registry, progress=as_lines(reluctant)).layers
    assert not pauses
    host.close()


def test_a_token_that_runs_out_in_the_middle_of_a_layer(host: Host, registry: FaultyRegistry) -> None:
    _, (digest,) = registry.add("t", [noise(1_000_000)])
    given: list[str] = []
    good = {"t1"}

    def fault(handler: Any, path: str) -> bool:
        if path.startswith("/token"):
            given.append(f"t{len(given) + 1}")
            good.add(given[-1])
            send(handler, json.dumps({"token": given[-1], "expires_in": 300}).encode())
        elif handler.headers.get("Authorization", "").removeprefix("Bearer ") not in good:
            send(handler, b"", status=401, WWW_Authenticate=f'Bearer realm="http://{registry.host}/token"')
        elif digest in path and len(given) == 1:
            good.clear()
            send_blob(handler, registry.blobs[digest], cut=400_000)
        else:
            return False
        return True

    registry.fault = fault
    assert host.pull(registry).layers
    assert given == ["t1", "t2"]
    sent = [(h.get("Authorization"), h.get("Range")) for _, path, h in registry.requests if digest in path]
    assert sent == [("Bearer t1", None), ("Bearer t1", "bytes=400000-"), ("Bearer t2", "bytes=400000-")]


def test_the_time_that_a_busy_registry_asks_for_is_waited(host: Host, registry: FaultyRegistry) -> None:
    _, (digest,) = registry.add("t", [noise(1000)])
    times: list[float] = []

    def fault(handler: Any, path: str) -> bool:
        if digest not in path:
            return False
        times.append(time.monotonic())
        if len(times) == 1:
            send(handler, b"", status=429, Retry_After="1")
        return len(times) == 1

    registry.fault = fault
    assert host.pull(registry).layers
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("said", "words"), [(-100, "sent too much"), (100, "sent too little")])
def test_a_registry_that_lies_about_a_size(
    host: Host, registry: FaultyRegistry, said: int, words: str, told: bool
) -> None:
    _, (digest,) = registry.add("t", [noise(100_000)])
    raw, media_type = registry.manifests["t"]
    manifest = json.loads(raw)
    manifest["layers"][0]["size"] += said
    registry.add_manifest("t", json.dumps(manifest).encode(), media_type)

    def without_length(handler: Any, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    if not told:
        on_blobs(without_length, registry, digest)
    with pytest.raises(RegistryError, match="of another size than its manifest says" if told else words):
        host.pull(registry)
    assert host.service.count() == 0
    assert registry.count(digest) <= client_module.ATTEMPTS


def test_a_registry_that_sends_another_range(host: Host, registry: FaultyRegistry) -> None:
    _, (digest,) = registry.add("t", [noise(100_000)])

    def wrong(handler: Any, body: bytes) -> None:
        if handler.headers.get("Range"):
            send(handler, body[:50_000], status=206, Content_Range=f"bytes 0-49999/{len(body)}")
        else:
            send(handler, body, cut=50_000)

    on_blobs(wrong, registry, digest)
    with pytest.raises(RegistryError, match="another range"):
        host.pull(registry)
    assert host.service.count() == 0


def test_a_mirror_does_not_get_the_credentials_of_the_registry(tmp_path: Path, registry: FaultyRegistry) -> None:
    registry.add("t", [noise(1000)])
    asked = 'Basic realm="x"'
    refused: list[str] = []

    def fault(handler: Any, path: str) -> bool:
        if "/manifests/" in path and "Authorization" not in handler.headers:
            refused.append(path)
            send(handler, b"", status=401, WWW_Authenticate=asked)
            return True
        return False

    registry.fault = fault
    host = Host(tmp_path / "mirrored", mirrors=(f"http://{registry.host}",))
    hub = AuthConfig(username="u", password="p", serveraddress="https://index.docker.io/v1/")
    with pytest.raises(HyperError):  # Docker Hub itself cannot be reached here
        host.service.pull(f"{NAME}:t", auth=hub, progress=lambda _line: None)
    assert refused
    assert not any("Authorization" in headers for _, _, headers in registry.requests)
    own = AuthConfig(username="u", password="p", serveraddress=f"http://{registry.host}")
    assert host.service.pull(f"{NAME}:t", auth=own, progress=lambda _line: None).layers
    host.close()
