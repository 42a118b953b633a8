"""Logs as Kubernetes reads them: exact bytes, and offsets that survive a crash, a rotation and a full disk."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperd.stream import linelog
from hyperd.stream.linelog import LineLog, Mark, outputs, parse
from hyperd.stream.logs import MAX_LINE, now_text

T = 1_700_000_000_123_456_789
LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] (.*)\n")


def opened(directory: Path, run: int = 1) -> LineLog:
    return LineLog(directory / "0.log", mark=directory / "mark", run=run)


def text_of(*paths: Path, stream: str = "stdout") -> bytes:
    data = b"".join(path.read_bytes() for path in paths)
    assert all(LINE.fullmatch(line + b"\n") for line in data.split(b"\n")[:-1])
    return b"".join(text for name, text in outputs(data) if name == stream)


def killed(log: LineLog) -> None:
    os.close(log._fd)


def test_lines_are_as_kubelet_reads_them(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.write("stdout", b"one\ntw", T)
    log.write("stderr", b"oops\n\n", T)
    log.write("stdout", b"o\nrest", T)
    log.flush("stdout", T)
    log.finish()
    time = now_text(T)
    assert (tmp_path / "0.log").read_text().splitlines() == [
        f"{time} stdout F one",
        f"{time} stderr F oops",
        f"{time} stderr F ",
        f"{time} stdout F two",
        f"{time} stdout P rest",
    ]
    assert log.persisted == {"stdout": 12, "stderr": 6}


def test_long_lines_come_in_pieces(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.write("stdout", b"x" * (2 * MAX_LINE + 5) + b"\nshort\n", T)
    lines = (tmp_path / "0.log").read_bytes().splitlines()
    assert [line.split(b" ")[2] for line in lines] == [b"P", b"P", b"F", b"F"]
    assert [len(line.split(b" ")[3]) for line in lines] == [MAX_LINE, MAX_LINE, 5, 5]


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=60_000)), max_size=8))
def test_any_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, bytes]]) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = opened(directory)
    for stream, data in writes:
        log.write(stream, data, T)
    for stream in ("stdout", "stderr"):
        log.flush(stream, T)
    log.finish()
    for stream in ("stdout", "stderr"):
        wanted = b"".join(data for name, data in writes if name == stream)
        assert text_of(directory / "0.log", stream=stream) == wanted
        assert log.persisted.get(stream, 0) == len(wanted)


@pytest.mark.parametrize("cut", range(1, 50, 7))
def test_a_torn_last_line_is_cut(tmp_path: Path, cut: int) -> None:
    log = opened(tmp_path)
    log.write("stdout", b"first\n", T)
    log.write("stderr", b"oops\n", T)
    log.write("stdout", b"second\n", T)
    killed(log)
    path = tmp_path / "0.log"
    os.truncate(path, path.stat().st_size - cut)
    again = opened(tmp_path)
    done = again.persisted["stdout"]
    assert (done, again.persisted["stderr"]) == (6, 5)
    again.write("stdout", b"first\nsecond\n"[done:], T)
    again.finish()
    assert text_of(path) == b"first\nsecond\n"


@given(data=st.data())
def test_a_daemon_that_is_killed_at_any_byte_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The file ends anywhere behind the mark; what the guest sends again from the offset makes it whole."""
    directory = tmp_path_factory.mktemp("log")
    text = data.draw(st.binary(min_size=1, max_size=200).map(lambda part: part + b"\n"))
    log = opened(directory)
    log.write("stdout", text, T)
    noted = Mark.read(directory / "mark")
    assert noted is not None
    if data.draw(st.booleans()):
        log.reopen()
        log.write("stdout", text, T)
        noted = Mark.read(directory / "mark")
        assert noted is not None
    killed(log)
    path = directory / "0.log"
    os.truncate(path, data.draw(st.integers(noted.size, path.stat().st_size)))
    again = opened(directory)
    again.write("stdout", (text * 2)[again.persisted["stdout"] :], T)
    assert text_of(path) == text * 2
    again.finish()


def test_marks_bound_what_is_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linelog, "MARK_EVERY", 1000)
    log = opened(tmp_path)
    for _ in range(100):
        log.write("stdout", b"0123456789\n", T)
        log.write("stderr", b"e\n", T)
    killed(log)
    mark = Mark.read(tmp_path / "mark")
    assert mark is not None
    assert 0 <= (tmp_path / "0.log").stat().st_size - mark.size <= 1100
    assert opened(tmp_path).persisted == {"stdout": 1100, "stderr": 200}


def test_a_reader_rotates(tmp_path: Path) -> None:
    path, old = tmp_path / "0.log", tmp_path / "0.log.20260102-030405"
    log = opened(tmp_path)
    log.write("stdout", b"one\n", T)
    path.rename(old)
    log.write("stdout", b"two\n", T)
    assert not path.exists()
    log.reopen()
    log.write("stdout", b"three\n", T)
    assert text_of(old) == b"one\ntwo\n"
    assert text_of(path) == b"three\n"
    killed(log)
    again = opened(tmp_path)
    assert again.persisted == {"stdout": 14, "stderr": 0}
    again.write("stdout", b"four\n", T)
    assert text_of(path) == b"three\nfour\n"


def test_a_daemon_that_is_killed_between_move_and_reopening(tmp_path: Path) -> None:
    path, old = tmp_path / "0.log", tmp_path / "0.log.20260102-030405"
    log = opened(tmp_path)
    log.write("stdout", b"one\n", T)
    path.rename(old)
    log.write("stdout", b"two\n", T)
    killed(log)
    again = opened(tmp_path)
    assert again.persisted["stdout"] == 8
    again.write("stdout", b"three\n", T)
    old.rename(path)  # kubelet could not have it opened again, and moves it back
    again.write("stdout", b"four\n", T)
    assert text_of(path) == b"one\ntwo\nthree\nfour\n"
    path.rename(old)
    again.reopen()
    again.write("stdout", b"five\n", T)
    assert text_of(path) == b"five\n"


def test_a_file_that_is_gone_is_made_again(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.write("stdout", b"one\n", T)
    log.reopen()  # notes the offset
    killed(log)
    (tmp_path / "0.log").unlink()
    again = opened(tmp_path)
    assert again.persisted["stdout"] == 4
    again.write("stdout", b"two\n", T)
    assert text_of(tmp_path / "0.log") == b"two\n"


def test_another_run_begins_anew_behind_what_is_there(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.write("stdout", b"one\n", T)
    log.finish()
    with (tmp_path / "0.log").open("ab") as file:
        file.write(b"left open")
    again = opened(tmp_path, run=2)
    assert again.persisted == {}
    again.write("stdout", b"two\n", T)
    lines = (tmp_path / "0.log").read_bytes().splitlines()
    assert [line.split(b" ")[-1] for line in lines] == [b"one", b"open", b"two"]


def test_a_mark_of_rubbish_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "mark").write_bytes(b"\0" * 160)
    assert opened(tmp_path).persisted == {}


def test_a_full_disk_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(tmp_path)
    log.write("stdout", b"one\n", T)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 3:
            write(fd, data[:3])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        log.write("stdout", b"two\n", T)
    monkeypatch.setattr(os, "write", write)
    log.write("stdout", b"two\n", T)
    assert text_of(tmp_path / "0.log") == b"one\ntwo\n"


def test_a_reopening_that_fails_changes_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path)
    (tmp_path / "0.log").rename(tmp_path / "0.log.1")
    (tmp_path / "0.log").mkdir()
    with pytest.raises(IsADirectoryError):
        log.reopen()
    log.write("stdout", b"one\n", T)
    assert text_of(tmp_path / "0.log.1") == b"one\n"


def test_other_lines_are_no_entries() -> None:
    assert parse(b"hello\n") is None
    assert parse(b"2026-01-02T03:04:05.000000006Z stdin F x\n") is None
    entry = parse(b"2026-01-02T03:04:05.000000006Z stdout P:more a b\n")
    assert entry is not None
    assert (entry.time, entry.stream, entry.text) == ("2026-01-02T03:04:05.000000006Z", "stdout", b"a b")
