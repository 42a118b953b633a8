"""A short run of every fuzz target: what once found a fault, and some inputs that are the same on every machine."""

from __future__ import annotations

import random

import pytest

from hyperd.agent.programs import PROGRAM
from hyperd.build.dockerfile import parse_dockerfile
from hyperd.build.ignore import compiled
from hyperd.errors import DriverError, InvalidInput
from hyperd.registry.reference import Reference
from hyperd.stream import jsonlines
from hyperd.vm.fake import FakeDriver
from hyperd.vm.fake_agent import NO_TOOL
from tests.fuzz.answers import excused, is_failure
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


@pytest.mark.parametrize("status", [500, 505])
def test_a_failure_of_a_pretended_host_is_excused_only_where_it_was_told_to_fail(status: int) -> None:
    driver = FakeDriver()
    driver.fail_next = "stats"
    with pytest.raises(DriverError) as told:
        driver.stats("vm-none")
    assert is_failure(status)
    assert excused(str(told.value).encode())
    assert excused(f"EXEC {PROGRAM}: {NO_TOOL}".encode())
    assert not excused(b"the disk /x does not exist")
    assert not excused(b"EXEC /sbin/hyper-agent: No such file or directory")


def test_what_a_host_cannot_do_and_names_is_no_failure() -> None:
    assert [status for status in range(400, 600) if is_failure(status)][:3] == [500, 505, 506]


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
