"""What the daemon does to stay small: what it imports, docstrings left out, memory given back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from hyperd import memory

ROOT = Path(__file__).resolve().parents[2]
LONG_TEXT = "What it does, said at length. " * 10
# What a daemon imports late or never; each with all that it brings.
LATE = (
    "alembic",  # migrations, in a process of their own
    "apispec",  # GET /openapi.json
    "cryptography",  # signatures
    "dockerfile",  # builds
    "http.server",
    "hyperd.api.exposition",  # GET /metrics
    "hyperd.api.openapi",
    "hyperd.build.build",
    "hyperd.build.config",
    "hyperd.build.context",
    "hyperd.build.dockerfile",
    "hyperd.vm.fake",
    "jinja2",
    "prometheus_client",
    "pydoc",
    "rich",
    "unittest",
    "urllib.request",
    "werkzeug.serving",
    "werkzeug.test",
    "wsgiref",
    "yaml",
)
# As ``hyperd.cli`` does it; the driver is chosen by the engine.
START = """
import sys
import hyperd.cli
from hyperd import memory
memory.prepare()
from hyperd import configfile, logsetup, server
from hyperd.engine import Engine
import hyperd.vm.libvirt.driver
logsetup.setup("info")
memory.settle()
"""


def run(code: str) -> str:
    """Run code in an interpreter of its own, as a daemon begins it."""
    done = subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_needed_late_is_not_imported_at_the_start() -> None:
    loaded = set(run("print(*(name for name, it in sys.modules.items() if type(it) is not memory._Postponed))").split())
    assert "hyperd.server" in loaded
    assert "sqlalchemy.orm" in loaded
    assert not loaded.intersection({*LATE, *memory.POSTPONED})


def test_what_was_hollow_can_be_imported_afterwards() -> None:
    assert run("import jinja2, rich.console; print(jinja2.Template('{{ 1 + 1 }}').render())") == "2\n"


def test_what_was_postponed_comes_when_it_is_used() -> None:
    code = """
import argparse, difflib, logging.handlers, mimetypes, zipfile
from configparser import ConfigParser
from gunicorn.config import argparse as before
print(difflib.get_close_matches("pod", ["pods", "image"]), logging.handlers.SYSLOG_UDP_PORT)
mimetypes.init()
print(mimetypes.inited, mimetypes.guess_type("a.json")[0])
print(hasattr(zipfile, "ZipFile"), hasattr(zipfile, "no"), ConfigParser.__name__)
print(before.ArgumentParser is argparse.ArgumentParser is sys.modules["argparse"].ArgumentParser)
import hyperd.configfile
try:
    hyperd.configfile.configparser.ConfigParser().read_string("no section")
except hyperd.configfile.configparser.Error as error:
    print(type(error).__name__)
"""
    assert run(code).splitlines() == [
        "['pods'] 514",
        "True application/json",
        "True False ConfigParser",
        "True",
        "MissingSectionHeaderError",
    ]


def test_the_application_works_without_what_is_hollow() -> None:
    code = """
from unittest import mock
from hyperd.app import create_app
from hyperd.config import Config
engine = mock.MagicMock(config=Config())
engine.events.listeners = 1
client = create_app(engine).test_client()
print(client.get("/_ping").status_code, client.get("/no/such/path").status_code)
print(client.get("/v1.2/openapi.json").get_json()["paths"]["/_ping"]["get"]["summary"])
"""
    assert run(code).splitlines() == ["200 404", "Say that the daemon answers."]


def test_libraries_lose_their_docstrings_and_we_keep_ours() -> None:
    code = """
import sqlalchemy, hyperd.db.session
print(len(sqlalchemy.create_engine.__doc__) < 100, "transaction" in hyperd.db.session.Database.session.__doc__)
"""
    assert run(code) == "True True\n"


def compiled(text: str) -> CodeType:
    return compile(text, "text", "exec", dont_inherit=True)


@pytest.fixture
def space() -> dict[str, Callable[..., object]]:
    """The names that the code below defines, after its docstrings were left out."""
    names: dict[str, Callable[..., object]] = {}
    code = memory.without_docstrings(
        compiled(
            f"""
def plain(): {LONG_TEXT!r}; return 1
def same(): {LONG_TEXT!r}; return {LONG_TEXT!r}
def none(): return {LONG_TEXT!r}
def short(): 'short'; return 2
def outer():
    def inner(): {LONG_TEXT!r}; return 3
    return inner
class Thing:
    {LONG_TEXT!r}
    def method(self): {LONG_TEXT!r}; return 4
    text = [{LONG_TEXT!r} for _ in range(2)]
def generator(): {LONG_TEXT!r}; yield 5
def keywords(): {LONG_TEXT!r}; return dict(a={LONG_TEXT!r}, b=1)
"""
        )
    )
    exec(code, names)  # noqa: S102 - the text above
    return names


@pytest.mark.parametrize("name", ["plain", "generator"])
def test_long_docstrings_are_left_out(space: dict[str, Any], name: str) -> None:
    assert space[name].__doc__ is not None
    assert len(space[name].__doc__) < 50


def test_what_the_code_does_stays(space: dict[str, Any]) -> None:
    assert space["plain"]() == 1
    assert space["same"]() == space["none"]() == LONG_TEXT
    assert space["none"].__doc__ is None
    assert (space["short"](), space["short"].__doc__) == (2, "short")
    assert list(space["generator"]()) == [5]
    assert space["keywords"]() == {"a": LONG_TEXT, "b": 1}


def test_functions_within_others_and_within_classes(space: dict[str, Any]) -> None:
    inner, thing = space["outer"](), space["Thing"]
    assert inner() == 3
    assert len(inner.__doc__ or "") < 50
    assert thing.__doc__ == LONG_TEXT  # a class sets its own
    assert thing().method() == 4
    assert len(thing.method.__doc__) < 50
    assert thing.text == [LONG_TEXT] * 2


def test_code_without_docstrings_is_the_same_object() -> None:
    code = compiled("def f(): return 1")
    assert memory.without_docstrings(code) is code


def test_one_trim_for_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    done = threading.Event()
    monkeypatch.setattr(memory, "BURST", 0.05)
    monkeypatch.setattr(memory, "trim", lambda: (trims.append(1), done.set()))
    trimmer = memory.Trimmer()
    for _ in range(20):
        trimmer.ask()
    assert done.wait(10)
    done.clear()
    trimmer.ask()  # the next burst
    assert done.wait(10)
    assert len(trims) == 2


def test_no_trim_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    monkeypatch.setattr(memory, "BURST", 60.0)
    monkeypatch.setattr(memory, "trim", lambda: trims.append(1))
    trimmer = memory.Trimmer()
    trimmer.ask()
    waiting = [thread for thread in threading.enumerate() if thread.name == "trim"]
    assert len(waiting) == 1
    trimmer.close()
    waiting[0].join(10)
    assert not waiting[0].is_alive()
    assert not trims
