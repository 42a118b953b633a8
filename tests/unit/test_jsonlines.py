"""The quick ways through a log give what the slow one gives."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperd.stream import jsonlines
from hyperd.stream.jsonlines import Entry, last_lines, outputs, parse, whole_blocks
from hyperd.stream.logs import JsonFileLog, json_lines, split_lines

TRICKY = (
    b"plain\n",
    b"\n",
    b'","stream":"stdout","time":"x","run":1,"end":1}\n',
    b'{"log":"inside\\n","stream":"stderr"}\n',
    b"back\\slash\\n and \\\\\n",
    b"\x00\x01\x7f\xff\xc3\n",
    "äöü€ \U0001f600\n".encode(),
    b"\r\r\n",
    b"no newline",
    b"y" * 40_000,
)
pieces = st.one_of(st.sampled_from(TRICKY), st.binary(max_size=60))
writes = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), pieces), max_size=30)


def by_stream(parts):
    found = {"stdout": b"", "stderr": b""}
    for stream, text in parts:
        found[stream] += text
    return found


@given(writes)
def test_a_block_gives_what_was_written_in_its_order(tmp_path_factory, writes):
    path = tmp_path_factory.mktemp("log") / "l"
    log = JsonFileLog(path, run=7)
    for stream, data in writes:
        log.write(stream, data, 1_700_000_000_000_000_000)
    for stream in ("stdout", "stderr"):
        log.flush(stream, 1_700_000_000_000_000_000)
    log.finish()
    block = path.read_bytes()
    slow = []
    for line in io.BytesIO(block):
        entry = json.loads(line)
        text = entry["log"].encode("utf-8", "surrogateescape")
        assert parse(line) == Entry(entry["stream"], entry["time"], text)
        if slow and slow[-1][0] == entry["stream"]:
            slow[-1] = entry["stream"], slow[-1][1] + text
        else:
            slow.append((entry["stream"], text))
    assert list(outputs(block)) == slow
    assert by_stream(slow) == by_stream(writes)


def test_lines_of_docker_and_lines_that_are_none():
    docker = b'{"log":"\xc3\xa4 b\\n","stream":"stderr","time":"2026-01-02T03:04:05.6Z"}\n'
    odd = b'{"time":"t","stream":"stdout","log":"odd\\n"}\n'
    attributes = b'{"log":"attrs\\n","stream":"stdout","attrs":{"a":"b"},"time":"2026-01-02T03:04:05.6Z"}\n'
    noise = (b"\0\0\0\n", b"{}\n", b"[1]\n", b'{"log":"cut\n', b'{"log":1,"stream":"stdout","time":"t"}\n')
    assert list(outputs(docker * 2)) == [("stderr", "ä b\nä b\n".encode())]
    for bad in noise:
        assert parse(bad) is None
        found = by_stream(outputs(docker + bad + odd + attributes + docker))
        assert found == {"stdout": b"odd\nattrs\n", "stderr": "ä b\nä b\n".encode()}, bad


@given(st.lists(pieces, max_size=20), st.integers(0, 1 << 40))
def test_lines_of_a_block_are_those_of_the_single_pieces(data, end):
    lines, _ = split_lines(b"".join(data))
    alone, at = [], end
    for line in lines:
        alone.append(json_lines([line], tail=',"end":', end=at))
        at += len(line)
        assert json.loads(alone[-1])["end"] == at
    assert json_lines(lines, tail=',"end":', end=end) == b"".join(alone)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_splitting_keeps_every_byte_and_its_bounds(data):
    text = b"".join(data)
    lines, rest = split_lines(text)
    assert b"".join(lines) + rest == text
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    assert b"\n" not in rest


@pytest.mark.parametrize("size", [64, 1 << 18])
@given(
    lengths=st.lists(st.integers(0, 200), max_size=40),
    count=st.integers(0, 50),
    odd=st.booleans(),
    cut=st.booleans(),
)
def test_blocks_and_last_lines(size, lengths, count, odd, cut):
    lines = [b"%d:" % number + b"x" * length + b"\n" for number, length in enumerate(lengths)]
    text = b"".join(lines) + (b"unfinished" * 20 if cut else b"")
    before, jsonlines.BLOCK = jsonlines.BLOCK, size
    try:
        file = io.BytesIO(text)
        assert b"".join(whole_blocks(file)) == b"".join(lines)
        assert file.tell() == sum(map(len, lines))
        file = io.BytesIO(text)
        wanted = [line for line in lines if not odd or int(line.split(b":")[0]) % 2]
        found = last_lines(file, count, lambda line: not odd or bool(int(line.split(b":")[0]) % 2))
        assert found == wanted[len(wanted) - min(count, len(wanted)) :]
        assert file.tell() == sum(map(len, lines))
    finally:
        jsonlines.BLOCK = before
