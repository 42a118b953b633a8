"""What README and the pages of docs/ show can be typed: commands, options, files and links exist.

`tests/vm/test_readme.py` and `tests/vm/test_docs_commands.py` run what needs no network.
"""

from __future__ import annotations

import re
import subprocess

import click
import pytest

from hyperctl import full, verbs
from hyperctl.api import Client
from hyperctl.command import App, Group, understand
from hyperd.cli import main as hyperd
from tests.support.daemon import PROJECT
from tests.support.docs import PAGES, blocks, commands

SHELL = [
    pytest.param(words, id=f"{block.page.name}:{block.line} {' '.join(words)[:60]}")
    for page in PAGES
    for block in blocks(page)
    if block.language in {"", "sh"}
    for line in block.logical_lines()
    if re.search(r"\b(hyperctl|hyperd|scripts/\w)", line) and "[" not in line.partition("#")[0].partition("'")[0]
    for words in commands(line)
    if words[0] in {"hyperctl", "hyperd"} or words[0].startswith("scripts/")
]
_HOST = {"-H": 2, "--host": 2, "--tlsverify": 1, "--tls": 1}


def test_there_is_something_to_check():
    assert len(SHELL) > 100


@pytest.mark.parametrize("words", SHELL)
def test_commands_are_understood(words):
    program, *rest = words
    if program == "hyperctl":
        check_hyperctl(rest)
    elif program == "hyperd":
        check_hyperd(rest)
    else:
        assert (PROJECT / program).is_file()
        options = [word.partition("=")[0] for word in rest if word.startswith("--") and word != "--"]
        shown = subprocess.run(
            [PROJECT / program, "--help"], capture_output=True, text=True, check=True, cwd=PROJECT
        ).stdout
        assert [option for option in options if option not in shown] == []


def check_hyperctl(rest: list[str]) -> None:
    while rest and rest[0] in _HOST:
        rest = rest[_HOST[rest[0]] :]
    if not rest or rest[0] in {"COMMAND", "--help", "--version"} or rest == ["..."]:
        return
    verb, *rest = rest
    if verb == "help" or "-h" in rest or "--help" in rest:
        return
    found = verbs.load(verb)
    assert found is not None, f"no command {verb}"
    if isinstance(found, Group):
        if not rest:
            return
        name, *rest = rest
        assert name in found.commands
        found = found.commands[name]
    if understand(found, rest) is None:
        context = full.cli.get_command(click.Context(full.cli), verb)
        assert context is not None
        one = full._ClickCommand(found)
        one.make_context(verb, list(rest), obj=App())


def check_hyperd(rest: list[str]) -> None:
    context = hyperd.make_context("hyperd", list(rest))
    name = (context._protected_args or [""])[0] if hasattr(context, "_protected_args") else ""
    if name:
        assert isinstance(hyperd, click.Group)
        hyperd.commands[name].make_context(name, list(context.args))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert [one for one in targets if "://" not in one and not (page.parent / one).exists()] == []


def test_every_method_of_the_client_is_named():
    text = (PROJECT / "docs/python.md").read_text(encoding="utf-8")
    methods = [name for name, value in vars(Client).items() if not name.startswith("_") and callable(value)]
    assert len(methods) > 50
    assert [name for name in methods if not re.search(rf"(?<![a-z_]){name}(?![a-z_])", text) and name != "close"] == []


def test_every_event_is_named():
    page = (PROJECT / "docs/events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:`(\w+)`)? *\| (.*) \|$", page, re.MULTILINE)
    named: dict[str, str] = {}
    kind = ""
    for one, words in rows:
        kind = one or kind
        named[kind] = named.get(kind, "") + words
    told = {"container": ".tell", "build": ".tell", "pod": "._tell", "network": "._tell"}
    found = set()
    for path in (PROJECT / "hyperd").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for what, actions in re.findall(r"\.publish\(\s*\"(\w+)\", ([^,]+),", text):
            found |= {(what, action) for action in re.findall(r"\"(\w+)\"", actions)}
        package = path.relative_to(PROJECT / "hyperd").parts[0]
        if call := told.get(package):
            what = "container" if package == "build" else package
            found |= {(what, action) for action in re.findall(rf"{re.escape(call)}\(\s*\"(\w+)\"", text)}
    assert {("vm", "silent"), ("volume", "create"), ("pod", "start"), ("container", "oom")} <= found
    assert sorted(pair for pair in found if not re.search(rf"\b{pair[1]}\b", named.get(pair[0], ""))) == []
