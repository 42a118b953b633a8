"""Saving and restoring pods: what is refused, and that nothing is left then (``tests/vm/test_checkpoints.py``)."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PROJECT, HyperdLauncher
from tests.support.registry import Layer, RegistryServer, busybox_tar
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]

HYPERCTL = str(Path(sys.executable).with_name("hyperctl"))
IDENT = "c" * 64


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.push("busybox", "latest", [Layer(busybox_tar())])
        yield server


@pytest.fixture(scope="module")
def daemon(registry: RegistryServer) -> Iterator[HyperdLauncher]:
    with HyperdLauncher(config="stop_grace = 1\n") as launcher:
        launcher.start()
        done = ctl(launcher, "pull", f"{registry.host}/busybox")
        assert done.returncode == 0, done
        yield launcher
        assert not list((launcher.root / "checkpoints").glob("*"))


def ctl(daemon: HyperdLauncher, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    argv = [HYPERCTL, "-H", daemon.host, *words]
    return subprocess.run(argv, input=stdin, capture_output=True, timeout=120, check=False, cwd=PROJECT)


def manifest(**pod: object) -> bytes:
    """Return a manifest that is right in itself, of a VM that nobody has."""
    container = {"name": "main", "id": IDENT, "image": "nobody/has:it"}
    return json.dumps(
        {
            "format": "hyperd.checkpoint",
            "version": 1,
            "pod": {
                "v": 1, "id": "saved", "hostname": "saved", "resource": {"vcpu": 1, "memory": 64},
                "containers": [container], **pod,
            },
            "created_at": 1.0,
            "saved_at": 2.0,
            "machine": {"accelerator": "tcg", "version": "none", "ports": 3, "places": [1]},
            "vcpu": 1,
            "memory": 64,
            "containers": [
                {"id": IDENT, "name": "main", "image_id": "sha256:0", "state": "running", "created_at": 1.0}
            ],
            "images": {"sha256:0": "nobody/has:it"},
            "layers": [],
            "nics": [{"mac": "52:54:00:00:00:01", "addresses": []}],
            "disk_lun": 0,
            "disk_size": 0,
            "extents": [],
            "parts": {name: {"size": 0, "sha256": "0"} for name in ("memory", "disk")},
        }
    ).encode()  # fmt: skip


def tar(path: Path, text: bytes) -> Path:
    source = path.with_suffix(".json")
    source.write_bytes(text)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(source, "checkpoint.json")
    return path


def test_what_cannot_be_saved(daemon: HyperdLauncher, registry: RegistryServer, tmp_path: Path) -> None:
    image, target = f"{registry.host}/busybox", tmp_path / "saved.tar"
    (tmp_path / "data").mkdir()
    for name, options in (("plain", ()), ("shares", ("-v", f"{tmp_path}/data:/data"))):
        done = ctl(daemon, "run", "-d", "--name", name, *options, image, "sleep", "100")
        assert done.returncode == 0, done
    refused = {
        "none": b"no pod none",
        "plain": b"pretends",  # a VM that only pretends has nothing to save
        "shares": b"not on the pod's own disk",
    }
    for name, word in refused.items():
        done = ctl(daemon, "checkpoint", name, "--to", str(target))
        assert (done.returncode, done.stdout) == (255, b"")
        assert word in done.stderr, done
        assert list(tmp_path.glob("*.tar*")) == list(tmp_path.glob(".*")) == []
    assert b"is not running" in ctl(daemon, "stop", "plain").stderr + ctl(daemon, "checkpoint", "plain").stderr
    states = {row.split(":")[0]: row.split(":")[-1] for row in daemon.json("GET", "/list", item="pod")["podData"]}
    assert states == {"plain": "failed", "shares": "running"}
    for name in ("plain", "shares"):
        assert ctl(daemon, "rm", name).returncode == 0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"{}", b"no archive of a pod"),
        (b"nonsense", b"no JSON"),
        (b'{"format": "hyperd.checkpoint", "version": 7}', b"version 7"),
        (manifest(id="../up"), b"no usable name"),
        (manifest(volumes=[{"name": "v", "source": "/etc", "format": "vfs"}]), b"volume v"),
        (manifest(), b"nobody/has:it"),
    ],
)
def test_what_cannot_be_restored(daemon: HyperdLauncher, tmp_path: Path, text: bytes, word: bytes) -> None:
    done = ctl(daemon, "restore", "--pull", "never", str(tar(tmp_path / "a.tar", text)))
    assert (done.returncode, done.stdout) == (255, b"")
    assert word in done.stderr
    assert daemon.json("GET", "/list", item="pod")["podData"] == []
    until(lambda: list((daemon.root / "pods").glob("*")) == [])  # copies of rows, those of other tests, too, go soon


def test_other_files_and_stdin(daemon: HyperdLauncher, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive\n" * 1000)
    assert b"no archive of a pod" in ctl(daemon, "restore", str(tmp_path / "text")).stderr
    assert b"ends in the middle" in ctl(daemon, "restore", "-", stdin=b"x").stderr
    assert b"cannot read" in ctl(daemon, "restore", str(tmp_path / "none")).stderr


def test_what_does_not_fit_is_refused_before_it_comes(
    daemon: HyperdLauncher, registry: RegistryServer, tmp_path: Path
) -> None:
    data, size = json.loads(manifest()), 8 << 40
    name = f"{registry.host}/busybox"
    row = next(row for row in daemon.json("GET", "/images/get")["imagesList"] if row.startswith(name))
    ident = row.removeprefix(f"{name}:latest:").rsplit(":", 2)[0]
    data["containers"][0]["image_id"] = ident
    data |= {"images": {ident: name}, "disk_size": size, "extents": [[0, size]]}
    data["parts"]["disk"]["size"] = size
    done = ctl(daemon, "restore", "--pull", "never", str(tar(tmp_path / "a.tar", json.dumps(data).encode())))
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"disk is full" in done.stderr
