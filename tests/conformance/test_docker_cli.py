"""Debian's docker CLI with this daemon and with Docker's own: the same output, exit code and errors.

Each container of ours is a VM. What differs is compared by less, and the reason stands with the case; docs/docker.md
lists the reasons.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.docker_cases import CODE, ERROR, GROUPS, NONE, SORTED, Case
from tests.conformance.docker_pair import Docker, Dockerd
from tests.conformance.docker_program import IMAGE, PROGRAM, import_image
from tests.support.daemon import HyperdLauncher
from tests.vm.conftest import GUEST

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def theirs() -> Iterator[Docker]:
    """Docker's own daemon."""
    directory = Path("/tmp") / f"dockerd-{os.getpid()}"
    directory.mkdir(mode=0o700)
    dockerd = Dockerd(directory)
    try:
        dockerd.start()
        docker = Docker(dockerd.socket, home=directory, program=PROGRAM)
        import_image(docker)
        yield docker
    finally:
        dockerd.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def ours() -> Iterator[Docker]:
    """This daemon, with real virtual machines."""
    with HyperdLauncher(driver="libvirt", guest=GUEST, pool=1) as launcher:
        socket = launcher.directory / "docker.sock"
        launcher.start("--docker-host", f"unix://{socket}")
        docker = Docker(socket, home=launcher.directory, program=PROGRAM)
        import_image(docker)
        yield docker


def words_of(case: Case) -> str:
    return case.words.replace("{image}", IMAGE).replace("<<", "{{").replace(">>", "}}")


@pytest.mark.parametrize("name", GROUPS)
def test_the_same_as_with_dockers_own_daemon(name: str, ours: Docker, theirs: Docker) -> None:
    wrong = []
    for case in GROUPS[name]:
        line = words_of(case)
        wanted, found = theirs.line(line, stdin=case.stdin), ours.line(line, stdin=case.stdin)
        if case.compare == NONE:
            same = found.code == 0
        elif case.compare == CODE:
            same = bool(wanted.code) == bool(found.code)
        elif case.compare == SORTED:
            same = sorted(wanted.stdout.splitlines()) == sorted(found.stdout.splitlines())
        elif case.compare == ERROR:
            same = wanted.code == found.code and case.part.lower() in (found.stdout + found.stderr).lower()
        else:
            same = wanted.plain == found.plain
        if not same:
            wrong.append(f"docker {line}\n    Docker: {wanted.plain}\n    hyperd: {found.plain}")
    assert not wrong, f"{len(wrong)} of {len(GROUPS[name])} differ:\n" + "\n".join(wrong)


def test_every_case_that_is_compared_by_less_says_why() -> None:
    silent = [case.words for cases in GROUPS.values() for case in cases if case.compare != "all" and not case.differs]
    assert not silent
    assert sum(len(cases) for cases in GROUPS.values()) >= 150
