"""The files of pods' writable disks: they are there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperd.errors import HostFault, OutOfSpace
from hyperd.vm.scratch import copy_disk, make_scratch

KILLED_MEANWHILE = """
import os, signal, sys
from pathlib import Path
from hyperd.vm import scratch
os.copy_file_range = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
scratch.copy_disk(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "template"
    with path.open("wb") as file:
        file.write(b"a" * 5000)
        file.seek(1 << 20)
        file.write(b"b" * 5000)
        file.truncate(1 << 22)
    return path


def test_a_copy_has_the_same_bytes_and_holes(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "pods" / "p" / "scratch.img"
    copy_disk(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks
    assert [path.name for path in target.parent.iterdir()] == ["scratch.img"]


def test_a_daemon_that_is_killed_leaves_no_half_disk_under_the_name(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "scratch.img"
    done = subprocess.run([sys.executable, "-c", KILLED_MEANWHILE, source, target], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    copy_disk(source, target)
    assert target.read_bytes() == source.read_bytes()


def test_a_copy_takes_no_ones_place(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "scratch.img"
    target.write_text("somebody's")
    with pytest.raises(HostFault):
        copy_disk(source, target)
    assert target.read_text() == "somebody's"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_one(source: Path, tmp_path: Path, mocker: Any, number: int) -> None:
    mocker.patch("os.copy_file_range", side_effect=OSError(number, os.strerror(number)))
    with pytest.raises(OutOfSpace):
        copy_disk(source, tmp_path / "scratch.img")
    mocker.patch("os.truncate", side_effect=OSError(number, os.strerror(number)))
    with pytest.raises(OutOfSpace):
        make_scratch(tmp_path / "scratch.img", 1 << 22)
    assert [path.name for path in tmp_path.iterdir()] == ["template"]


def test_a_source_that_gets_shorter_ends_the_copy(source: Path, tmp_path: Path, mocker: Any) -> None:
    mocker.patch("os.copy_file_range", return_value=0)
    with pytest.raises(HostFault, match="disk cannot be made"):
        copy_disk(source, tmp_path / "scratch.img")
    assert not (tmp_path / "scratch.img").exists()
