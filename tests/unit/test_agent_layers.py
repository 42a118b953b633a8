"""The agent's object files: directories stand above each other, and no file needs itself through others."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from hyperd.guest.image import agent_sources
from tests.support.hosted import agent_binary

# From the bottom up; "" holds main.c and what joins the parts.
LAYERS = ("wire", "loop", "process", "plan", "tools", "")


@cache
def objects() -> dict[str, Path]:
    """The agent's object files by name without ``.o``, such as ``wire/util``."""
    directory = agent_binary().parent
    command = ["make", "-s", "-C", agent_sources(), f"BUILD={directory}", "objects"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {str(Path(name).relative_to(directory).with_suffix("")): Path(name) for name in names}


def symbols(path: Path) -> tuple[set[str], set[str]]:
    """What an object defines for others, and what it needs of others."""
    defined, needed = set(), set()
    text = subprocess.run(["nm", "-g", "-P", path], check=True, capture_output=True, text=True).stdout
    for line in text.splitlines():
        name, kind = line.split()[:2]
        (needed if kind == "U" else defined).add(name)
    return defined, needed


@cache
def needs() -> dict[str, set[str]]:
    """For every object those whose symbols it needs."""
    tables = {name: symbols(path) for name, path in objects().items()}
    owner = {symbol: name for name, (defined, _) in tables.items() for symbol in defined}
    return {name: {owner[symbol] for symbol in needed if symbol in owner} for name, (_, needed) in tables.items()}


def layer(name: str) -> int:
    return LAYERS.index(name.rpartition("/")[0])


def test_every_source_is_linked() -> None:
    found = {str(path.relative_to(agent_sources()).with_suffix("")) for path in agent_sources().rglob("*.c")}
    assert {name for name in found if not name.startswith("fuzz/")} == set(objects())
    assert len(objects()) > 30


def test_directories_need_only_those_below() -> None:
    offenders = [f"{a} needs {b}" for a, wanted in needs().items() for b in wanted if layer(b) > layer(a)]
    assert not offenders, "\n".join(sorted(offenders))


def test_no_object_needs_itself_through_others() -> None:
    graph = {name: set(wanted) - {name} for name, wanted in needs().items()}
    while free := [name for name, wanted in graph.items() if not wanted]:
        for name in free:
            del graph[name]
        graph = {name: wanted - set(free) for name, wanted in graph.items()}
    assert not graph, f"in a circle, or above one: {sorted(graph)}"


def test_main_is_on_top() -> None:
    assert not [name for name, wanted in needs().items() if "main" in wanted]
