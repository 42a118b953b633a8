"""Permissions of the daemon's socket."""

from __future__ import annotations

import grp
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hyperd.errors import InvalidInput
from hyperd.server import listeners

pytestmark = pytest.mark.root


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
    yield directory / "s"
    shutil.rmtree(directory)


def owner(path: Path, group: str, dialect: listeners.Dialect = listeners.Dialect.HYPER) -> tuple[int, int]:
    """Open a socket; give its group and mode."""
    found = listeners.Listeners()
    found.open([f"unix://{path}"], mode=0o660, group=group, dialect=dialect)
    state = path.stat()
    found.close()
    return state.st_gid, stat.S_IMODE(state.st_mode)


def test_a_group_by_name_or_number(path):
    daemon = grp.getgrnam("daemon").gr_gid
    assert owner(path, "daemon") == (daemon, 0o660)
    assert owner(path, str(daemon)) == (daemon, 0o660)
    with pytest.raises(InvalidInput, match="there is no group 'nobody-has-this'"):
        owner(path, "nobody-has-this")
    assert not path.exists()


def test_the_group_hyper_counts_when_there_is_one(path, monkeypatch):
    known = grp.getgrnam

    def without(name: str) -> grp.struct_group:
        if name == "hyper":
            raise KeyError(name)
        return known(name)

    monkeypatch.setattr(grp, "getgrnam", without)
    assert owner(path, "") == (os.getgid(), 0o660)
    monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=4321) if name == "hyper" else known(name))
    assert owner(path, "") == (4321, 0o660)
    assert owner(path, "", listeners.Dialect.DOCKER)[0] != 4321
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # an ordinary user's daemon is that user's
    assert owner(path, "") == (os.getgid(), 0o660)
