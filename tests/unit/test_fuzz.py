"""A short run of every fuzz target: what once found a fault, and some inputs that are the same on every machine."""

from __future__ import annotations

import random

import pytest

from hyperd.build.dockerfile import parse_dockerfile
from hyperd.build.ignore import compiled
from hyperd.errors import InvalidInput
from hyperd.registry.reference import Reference
from hyperd.stream import jsonlines
from tests.fuzz.mutate import mutated
from tests.fuzz.seeds import CORPUS, seeds
from tests.fuzz.targets import MODULES, TARGETS
from tests.support.daemon import PROJECT

COUNT = 150


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_is_too_much(target: str) -> None:
    for data in mutated(seeds(target), count=COUNT, rng=random.Random(5)):
        TARGETS[target](data)


def test_every_target_says_what_it_covers() -> None:
    assert set(MODULES) == set(TARGETS)
    named = {entry.partition(":")[0] for found in MODULES.values() for entry in found}
    assert [name for name in named if not (PROJECT / f"{name}.py").exists()] == []
    assert {path.name for path in CORPUS.iterdir()} <= {*TARGETS, "agent_frames", "agent_tar"}


# What fuzzing has found.


def test_a_damaged_line_of_a_log_is_shown_without_its_time() -> None:
    line = b'{"log":"text\\n","stream":"stdout","time":"2026-01-\xb0"}\n'
    entry = jsonlines.parse(line)
    assert entry is not None
    assert (entry.text, entry.time) == (b"text\n", "2026-01-\ufffd")
    for wrong in (b'{"log":"a","stream":"other","time":"t"}\n', b'{"log":"a","stream":"stdout","time":7}\n'):
        assert jsonlines.parse(wrong) is None


def test_an_escape_at_the_end_of_a_dockerfile_is_refused() -> None:
    with pytest.raises(InvalidInput, match="parse error") as raised:
        parse_dockerfile(b"FROM a\n\\")
    assert "line 2: no instruction" in raised.value.details


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("pattern", "fits"),
    [("[&&]", "&"), ("[a||b]", "ab|"), ("[~~]", "~"), ("[--a]", "-5[a"), ("[+--]", "+,-"), ("[^--a]", "+,&b|~")],
)
def test_classes_of_characters_have_no_operations(pattern: str, fits: str) -> None:
    assert {char for char in "+,-5[a&b|~" if compiled(pattern).fullmatch(char)} == set(fits)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("docker.io/r.io/x", "docker.io/r.io/x"),  # not the x of the registry r.io
        (f"docker.io/library/{'ab' * 32}:t", f"docker.io/library/{'ab' * 32}"),  # not an id
        ("docker.io/library/busybox", "busybox"),
        ("docker.io/a/b", "a/b"),
    ],
)
def test_a_familiar_name_means_one_repository(name: str, repository: str) -> None:
    found = Reference.parse(name)
    assert found.repository == repository
    assert Reference.parse(found.familiar) == Reference.parse(found.canonical) == found
