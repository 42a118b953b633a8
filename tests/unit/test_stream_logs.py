"""The json-file log: exact bytes, offsets that survive a crash, rotation, a full disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperd.api.params import lines_of
from hyperd.stream.logs import MAX_LINE, JsonFileLog, now_text

T = 1_700_000_000_123_456_789


def entries(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def text_of(path: Path, stream: str) -> bytes:
    return b"".join(e["log"].encode("utf-8", "surrogateescape") for e in entries(path) if e["stream"] == stream)


def test_time_is_rfc3339_with_nine_digits():
    assert now_text(T) == "2023-11-14T22:13:20.123456789Z"


def test_lines_are_written_whole_and_docker_keys_are_there(tmp_path):
    log = JsonFileLog(tmp_path / "a.log", run=3)
    log.write("stdout", b"one\ntw", T)
    assert entries(tmp_path / "a.log") == [
        {"log": "one\n", "stream": "stdout", "time": now_text(T), "run": 3, "end": 4}
    ]
    assert log.persisted["stdout"] == 4
    log.write("stdout", b"o\n", T)
    assert log.persisted["stdout"] == 8
    log.flush("stdout", T)
    log.finish()
    assert text_of(tmp_path / "a.log", "stdout") == b"one\ntwo\n"


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=60_000)), max_size=8))
def test_any_bytes_come_back(tmp_path_factory, writes):
    path = tmp_path_factory.mktemp("log") / "a.log"
    log = JsonFileLog(path, run=1)
    for stream, data in writes:
        log.write(stream, data, T)
    for stream in ("stdout", "stderr"):
        log.flush(stream, T)
    log.finish()
    for stream in ("stdout", "stderr"):
        wanted = b"".join(data for name, data in writes if name == stream)
        assert text_of(path, stream) == wanted
        assert log.persisted.get(stream, 0) == len(wanted)
    assert all(len(e["log"].encode("utf-8", "surrogateescape")) <= MAX_LINE for e in entries(path))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_cut_and_the_offset_is_that_of_the_last_whole_line(tmp_path, cut):
    path = tmp_path / "a.log"
    log = JsonFileLog(path, run=1)
    log.write("stdout", b"first\n", T)
    log.write("stderr", b"oops\n", T)
    log.write("stdout", b"second\n", T)
    log.finish()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)
    again = JsonFileLog(path, run=1)
    assert again.persisted == {"stdout": 6, "stderr": 5}
    again.write("stdout", b"second\n", T)
    again.finish()
    assert text_of(path, "stdout") == b"first\nsecond\n"


def test_offsets_of_an_earlier_run_do_not_count(tmp_path):
    log = JsonFileLog(tmp_path / "a.log", run=1)
    log.write("stdout", b"old\n", T)
    log.finish()
    new = JsonFileLog(tmp_path / "a.log", run=2)
    assert new.persisted == {}
    new.finish()


def test_rotation_keeps_the_newest_files_and_recovery_reads_behind_it(tmp_path):
    path = tmp_path / "a.log"
    log = JsonFileLog(path, run=1, max_size=300, max_file=3)
    log.write("stderr", b"early\n", T)
    for number in range(12):
        log.write("stdout", b"line %d\n" % number, T)
    log.finish()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["a.log", "a.log.1", "a.log.2"]
    assert text_of(path, "stdout").endswith(b"line 11\n")
    again = JsonFileLog(path, run=1, max_size=300, max_file=3)
    assert again.persisted["stdout"] == sum(len(b"line %d\n" % n) for n in range(12))
    again.finish()


def test_a_full_disk_leaves_the_log_as_it_was_and_the_bytes_can_be_given_again(tmp_path, mocker):
    path = tmp_path / "a.log"
    log = JsonFileLog(path, run=1)
    log.write("stdout", b"before\n", T)
    real = os.write
    calls = iter([10])

    def full(fd, data):
        part = next(calls, None)
        if part is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:part])

    patched = mocker.patch("hyperd.stream.logs.os.write", side_effect=full)
    with pytest.raises(OSError, match="No space"):
        log.write("stdout", b"after\n", T)
    mocker.stop(patched)
    assert text_of(path, "stdout") == b"before\n"
    log.write("stdout", b"after\n", T)
    log.finish()
    assert text_of(path, "stdout") == b"before\nafter\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", None),
        ("all", None),
        ("0", 0),
        ("15", 15),
        ("999999999", 999_999_999),
        ("10000000005", None),
        ("9" * 5000, None),
        ("²", None),
    ],
)
def test_lines_that_are_asked_for(text: str, lines: int | None) -> None:
    """More lines than any log has are all lines."""
    assert lines_of(text) == lines
