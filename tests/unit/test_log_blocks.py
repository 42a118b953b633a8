"""Blocks of a json-file log: what is written at once, how it is read back, where a run goes on after a crash."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperd.stream.jsonblocks import decode_block, encode_block, escape, unescape
from hyperd.stream.jsonlines import outputs
from hyperd.stream.logs import MAX_LINE, JsonFileLog, has_long_line, split_lines

T = 1_700_000_000_123_456_789
TIME = "2023-11-14T22:13:20.123456789Z"
TRICKY = [
    b'","stream":"stdout","time":"x","run":1,"end":1}\n{"log":"',
    b'\\n","stream":"stdout"',
    b"\\\\n\\n\\",
    b'"',
    b"\\",
    b"\x00",
    b"\x7f\t\r\b\f\x1b[1m",
    "ä€\U0001f600\u2028".encode(),
    b"\xff\xc3",
    b"\xed\xb2\x80",
    b"plain",
]
texts = st.lists(st.one_of(st.sampled_from(TRICKY), st.just(b"\n"), st.binary(max_size=40))).map(b"".join)
lines = texts.map(lambda text: text + b"\n")


def encoded(text, *, stream="stdout", run=3, end=100):
    return b"".join(encode_block(text, stream=stream, time=TIME, run=run, end=end))


@given(lines)
def test_a_block_is_lines_of_json_of_which_the_first_says_where_it_stands(text):
    entries = [json.loads(line) for line in encoded(text).splitlines()]
    assert [entry["log"].encode("utf-8", "surrogateescape") for entry in entries] == [
        line + b"\n" for line in text.split(b"\n")[:-1]
    ]
    assert {(entry["stream"], entry["time"]) for entry in entries} == {("stdout", TIME)}
    assert entries[0]["run"] == 3
    assert entries[0]["end"] == 100 + text.index(b"\n") + 1
    assert not any("run" in entry or "end" in entry for entry in entries[1:])


@given(texts)
@example(b"".join(bytes([code]) for code in range(256)) * 2)
def test_what_is_escaped_is_what_json_says_and_comes_back(text):
    escaped = escape(text)
    decoded = json.loads(b'"' + escaped.replace(b"\n", b"\\n") + b'"')
    assert decoded.encode("utf-8", "surrogateescape") == text
    assert unescape(escaped) == text


@given(lines, st.sampled_from(["stdout", "stderr"]))
def test_the_lines_behind_the_first_are_decoded_as_one(text, stream):
    first, rest = encode_block(b"first\n" + text, stream=stream, time=TIME, run=1, end=0)
    block = (first + rest)[first.index(b"\n") + 1 :]
    assert decode_block(block) == (stream, text)


@pytest.mark.parametrize(
    "odd",
    [
        b'{"log":"b\\n","stream":"stderr","time":"%s"}\n' % TIME.encode(),
        b'{"log":"b\\n","stream":"stdout","time":"%s"}\n' % TIME.replace("9Z", "8Z").encode(),
        b'{"log":"b","stream":"stdout","time":"%s"}\n' % TIME.encode(),
        b'{"log":"b\\n","stream":"stdout","time":"%s","attrs":{}}\n' % TIME.encode(),
        b'{"log":"un"escaped\\n","stream":"stdout","time":"%s"}\n' % TIME.encode(),
        b'{"log":"\\q\\n","stream":"stdout","time":"%s"}\n' % TIME.encode(),
        b"\n",
        b"\0\0\n",
    ],
)
def test_lines_that_differ_are_not_taken_for_a_block(odd):
    same = b'{"log":"a\\n","stream":"stdout","time":"%s"}\n' % TIME.encode()
    assert decode_block(same * 3) == ("stdout", b"a\na\na\n")
    for where in range(3):
        assert decode_block(same * where + odd + same * (3 - where)) is None


@given(st.lists(st.one_of(st.sampled_from([b"\n", b"x" * MAX_LINE, b"y" * (MAX_LINE - 1), b"z" * 9000]), texts)))
def test_long_lines_are_noticed(parts):
    text = b"".join(parts)
    pieces, rest = split_lines(text)
    assert has_long_line(text) == any(not piece.endswith(b"\n") for piece in pieces)
    if not has_long_line(text):
        last = text.rfind(b"\n") + 1
        assert (b"".join(pieces), rest) == (text[:last], text[last:])


writes = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), texts), max_size=8)


@given(writes, st.data())
def test_wherever_a_crash_cuts_the_run_goes_on_behind_what_is_on_disk(tmp_path_factory, writes, data):
    path = tmp_path_factory.mktemp("log") / "l"
    given_before = {"stdout": b"", "stderr": b""}
    earlier = JsonFileLog(path, run=1)
    earlier.write("stdout", b"of an\nearlier\nrun\n", T)
    earlier.finish()
    start = path.stat().st_size
    log = JsonFileLog(path, run=2)
    for stream, text in writes:
        log.write(stream, text, T)
        given_before[stream] += text
    log.finish()
    whole = path.read_bytes()
    cut = data.draw(st.integers(start, len(whole)))
    path.write_bytes(whole[:cut])
    kept = {"stdout": b"", "stderr": b""}
    for stream, text in outputs(whole[start : whole.rfind(b"\n", 0, cut) + 1]):
        kept[stream] += text
    again = JsonFileLog(path, run=2)
    assert path.read_bytes() == whole[: whole.rfind(b"\n", 0, cut) + 1]
    assert {stream: again.persisted.get(stream, 0) for stream in kept} == {s: len(t) for s, t in kept.items()}
    for stream, text in given_before.items():
        assert text.startswith(kept[stream])
        again.write(stream, text[len(kept[stream]) :], T + 1)
        again.flush(stream, T + 1)
    again.finish()
    found = {"stdout": b"", "stderr": b""}
    for stream, text in outputs(path.read_bytes()[start:]):
        found[stream] += text
    assert found == given_before


def test_lines_that_all_say_where_they_stand_are_resumed_too(tmp_path):
    line = '{{"log":"{}\\n","stream":"stdout","time":"{}","run":{},"end":{}}}\n'
    path = tmp_path / "l"
    path.write_text(line.format("old", TIME, 1, 4) + line.format("one", TIME, 2, 4) + line.format("two", TIME, 2, 8))
    assert JsonFileLog(path, run=2).persisted == {"stdout": 8}
    assert JsonFileLog(path, run=3).persisted == {}


@pytest.mark.parametrize(
    "noise", [b"\0\0\0\n", b"{}\n", b'{"log":"x\\n","stream":"stdout",\n', b'{"run":"x","run":1\n']
)
def test_noise_behind_the_last_line_does_not_hide_it(tmp_path, noise):
    path = tmp_path / "l"
    path.write_bytes(encoded(b"one\ntwo\n", end=0) + noise)
    log = JsonFileLog(path, run=3)
    assert log.persisted == {"stdout": 8}
    log.finish()


def test_a_stream_that_is_far_back_or_in_the_file_before(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperd.stream.logresume.BLOCK", 512)
    path = tmp_path / "l"
    log = JsonFileLog(path, run=1, max_size=50_000, max_file=2)
    log.write("stderr", b"a\nb\n", T)
    for _ in range(3):
        log.write("stdout", b"line\n" * 100, T)
    log.finish()
    assert JsonFileLog(path, run=1).persisted == {"stdout": 1500, "stderr": 4}
    path.rename(f"{path}.1")
    path.write_bytes(encoded(b"more\n" * 50, run=1, end=1500))
    assert JsonFileLog(path, run=1).persisted == {"stdout": 1750, "stderr": 4}


def test_every_line_of_many_writes_is_read_once(tmp_path):
    path = tmp_path / "l"
    log = JsonFileLog(path, run=1)
    text = b"".join(b"%06d some text\n" % number for number in range(40_000))
    for at in range(0, len(text), 65_520):
        log.write("stdout", text[at : at + 65_520], T + at)
    log.finish()
    block = path.read_bytes()
    assert list(outputs(block)) == [("stdout", text)]
    starts = [*range(0, len(block), 100_000), len(block)]
    ends = [block.rfind(b"\n", 0, at) + 1 for at in starts]
    assert b"".join(t for a, b in pairwise(ends) for _, t in outputs(block[a:b])) == text
