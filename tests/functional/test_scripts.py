"""The scripts: what they say, what they refuse, and the image that quick start and tests use."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from busybox_image import PushError, build, push, root_tar

from hyperd.config.load import read
from hyperd.config.model import Config
from tests.support.ports import free_port
from tests.support.registry import RegistryServer, layer_tar, member

ROOT = Path(__file__).parents[2]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **env}
    )


@pytest.mark.parametrize(
    "script", ["scripts/quickstart", "scripts/test", "scripts/lint", "scripts/build-deb", "scripts/test-deb"]
)
def test_help_tells_what_will_be_done_and_does_nothing(script: str) -> None:
    done = run(f"./{script}", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: {script}")
    assert done.stderr == ""


@pytest.mark.parametrize("script", ["build-guest", "build-kernel", "make-busybox-image", "try-kubernetes"])
def test_python_scripts_have_help_too(script: str) -> None:
    done = run(sys.executable, f"scripts/{script}", "--help")
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def test_quickstart_names_every_package_it_installs() -> None:
    words = run("sh", "-c", ". scripts/lib.sh; echo $runtime_packages $build_packages $guest_packages").stdout.split()
    named = run("./scripts/quickstart", "--help").stdout
    assert len(words) > 10
    assert [word for word in words if word not in named] == []


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--nonsense"], 2, "Usage"),
        (["--root"], 2, "Usage"),
        (["--root", "relative"], 1, "must begin with /"),
        (["--socket", '/tmp/a"b'], 1, "quotes"),
        (["--bridge", "a b"], 1, "not the name of an interface"),
        (["--bridge", ""], 1, "not the name of an interface"),
        (["--kernel", "fast"], 1, "--kernel is auto, distro or minimal"),
    ],
)
def test_quickstart_refuses_what_cannot_be(options: list[str], code: int, says: str) -> None:
    done = run("./scripts/quickstart", *options)
    assert done.returncode == code
    assert says in done.stderr


@pytest.mark.root
def test_quickstart_stops_nothing_that_it_did_not_start(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "quickstart.pid").write_text(f"{other.pid}\n", encoding="ascii")
        done = run("./scripts/quickstart", "--stop", "--root", str(tmp_path), "--bridge", "hytnone")
        assert done.returncode == 0, done.stderr
        assert "no hyperd of an earlier run" in done.stdout
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_quickstart_shows_the_clouds_password_once_and_to_nobody_else(tmp_path: Path) -> None:
    """The functions of the script, with a real hypercloud and an engine that never answers."""
    root, venv = tmp_path / "root", tmp_path / ".venv"
    (root / "cloud").mkdir(parents=True)
    venv.symlink_to(Path(sys.executable).parents[1])
    (root / "cloud/output").write_text("hypercloud: first start. of a run before\n", encoding="ascii")
    text = (ROOT / "scripts/quickstart").read_text()
    functions = "".join(
        text[text.index(f"\n{name}() {{") : text.index("\n}\n", text.index(f"\n{name}() {{")) + 3]
        for name in ("start_cloud", "cloud_pid", "stop_cloud")
    )
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(root / "docker.sock"))
        engine.listen()
        port = free_port()
        script = f"set -eu; umask 022; root={root}; cloud_port={port}; . {ROOT}/scripts/lib.sh; {functions}"

        def call(function: str) -> str:
            argv = ["sh", "-c", f"{script}\n{function}"]
            done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
            assert done.returncode == 0, done
            return done.stdout

        try:
            first = call("start_cloud")
            again = call("start_cloud")
        finally:
            call("stop_cloud")
        restarted = call("start_cloud")
        call("stop_cloud")
    assert ("Account admin, password" in first, "of a run before" in first) == (True, False)
    assert "first start" not in again + restarted
    assert (root / "cloud/output").stat().st_mode & 0o777 == 0o600


def test_the_man_page_of_the_daemon() -> None:
    page = run(sys.executable, "scripts/hyperd-man").stdout
    assert page.startswith(".TH HYPERD 8")
    assert "HYPERD BUILD\\-GUEST" in page


def test_the_packages_configuration_is_the_defaults(tmp_path: Path) -> None:
    """scripts/build-deb makes comments of all settings: what is left must be read, and change nothing."""
    (line,) = [
        line
        for line in (ROOT / "scripts/build-deb").read_text().splitlines()
        if "hyperd.toml" in line and "sed" in line
    ]
    made = tmp_path / "hyperd.toml"
    run("sh", "-c", line.partition(">")[0] + f">{made}")
    assert "# root = " in made.read_text()
    config, warnings = read(made)
    assert (config, warnings) == (Config(), [])


@pytest.mark.registry
def test_busybox_image_is_pushed_and_always_the_same() -> None:
    with RegistryServer() as registry:
        image = build()
        push(image, registry=registry.url, name="library/busybox", tags=["latest", "1"])
        done = run(sys.executable, "scripts/make-busybox-image", "--registry", registry.host, "--name", "other")
        assert done.stdout.strip() == image.digest, done.stderr
        for place in ("library/busybox/manifests/1", "other/manifests/latest"):
            request = urllib.request.Request(f"{registry.url}/v2/{place}", headers={"Accept": image.media_type})
            with urllib.request.urlopen(request) as answer:
                assert answer.read() == image.manifest
        config = json.loads(image.blobs[json.loads(image.manifest)["config"]["digest"]])
        assert config["config"]["Cmd"] == ["sh"]


@pytest.mark.registry
def test_refused_push_says_what_was_refused() -> None:
    with RegistryServer() as registry, pytest.raises(PushError, match="/v2/UPPER/"):
        push(build([layer_tar([member("a")])]), registry=registry.host, name="UPPER")


def test_layers_and_configuration_of_ones_own() -> None:
    image = build([root_tar(), layer_tar([member("a", b"x")])], command=["true"], config={"User": "nobody"})
    manifest = json.loads(image.manifest)
    config = json.loads(image.blobs[manifest["config"]["digest"]])
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == 2
    assert (config["config"]["Cmd"], config["config"]["User"]) == (["true"], "nobody")
