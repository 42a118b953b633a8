"""Completion in real shells, of commands, options, files, and names that a real daemon knows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.hyperctl_process import Runner
from tests.support.shells import Shell, offers

pytestmark = [pytest.mark.root, pytest.mark.registry]


@pytest.fixture(scope="module")
def ctl(daemon: HyperdLauncher, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Yield hyperctl with a running pod, on the PATH of the shells."""
    home = tmp_path_factory.mktemp("home")
    one = Runner(daemon.host, home)
    one.environment["PATH"] = f"{Path(sys.executable).parent}:{one.environment['PATH']}"
    (home / "web.pod").write_text("{}")
    (home / "context").mkdir()
    assert one("run", "-d", "--name", "webpod", image, "sleep", "1000").returncode == 0
    yield one
    assert one("rm", "webpod").returncode == 0


# What is typed, and what stands there after TAB; IMAGE is host:port/busybox:latest.
LINES = [
    ("hyperctl unp", ["hyperctl", "unpause"]),
    ("hyperctl ports del", ["hyperctl", "ports", "delete"]),
    ("hyperctl run --read", ["hyperctl", "run", "--read-only"]),
    ("hyperctl run --restart=onF", ["hyperctl", "run", "--restart=onFailure"]),
    ("hyperctl run --restart onF", ["hyperctl", "run", "--restart", "onFailure"]),
    ("hyperctl stop w", ["hyperctl", "stop", "webpod"]),
    ("hyperctl exec -t we", ["hyperctl", "exec", "-t", "webpod"]),
    ("hyperctl rmi HOST", ["hyperctl", "rmi", "IMAGE"]),
    ("hyperctl rmi IMAG", ["hyperctl", "rmi", "IMAGE"]),
    ("hyperctl run --rm HOST:PO", ["hyperctl", "run", "--rm", "IMAGE"]),
    ("hyperctl run -p we", ["hyperctl", "run", "-p", "web.pod"]),
    ("hyperctl build cont", ["hyperctl", "build", "context/"]),
    ("hyperctl kill -s TER", ["hyperctl", "kill", "-s", "TERM"]),
]


def spelled(text: str, image: str) -> str:
    host, _, port = image.partition("/")[0].partition(":")
    text = text.replace("HOST:PO", f"{host}:{port[:2]}").replace("HOST", host)
    return text.replace("IMAGE", image).replace("IMAG", image[:-3])


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(ctl: Runner, request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Yield an interactive shell."""
    with Shell(request.param, ctl.environment, ctl.home) as one:
        yield one


@pytest.mark.parametrize(("line", "words"), LINES, ids=[line for line, _ in LINES])
def test_tab_on_a_terminal(shell, image, line, words):
    assert shell.complete(spelled(line, image)) == [spelled(word, image) for word in words]


@pytest.mark.parametrize(("line", "words"), LINES, ids=[line for line, _ in LINES])
def test_fish(ctl, image, line, words):
    assert list(offers(spelled(line, image), ctl.environment, ctl.home)) == [spelled(words[-1], image)]


def test_descriptions(ctl):
    assert offers("hyperctl pau", ctl.environment, ctl.home) == {"pause": "Pause a pod"}
    assert offers("hyperctl logs ", ctl.environment, ctl.home) == {"webpod": "running in webpod"}


def test_nothing_is_offered_twice_or_for_the_container(ctl, image):
    assert offers("hyperctl rm webpod ", ctl.environment, ctl.home) == {}
    assert offers("hyperctl exec webpod -", ctl.environment, ctl.home) == {}


def test_without_a_daemon(ctl, tmp_path):
    nobody = {**ctl.environment, "HYPER_HOST": f"unix://{tmp_path}/none"}
    assert offers("hyperctl stop ", nobody, tmp_path) == {}
    assert offers(f"hyperctl -H {ctl.environment['HYPER_HOST']} stop ", nobody, tmp_path) == {"webpod": "running"}
    with Shell("bash", nobody, tmp_path) as shell:
        assert shell.complete("hyperctl stop w") == ["hyperctl", "stop", "w"]
