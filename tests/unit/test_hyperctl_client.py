"""The parts of hyperctl that need no daemon: addresses, queries, frames, columns, pod files, names."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperctl import credentials, images, output, podfile, spec
from hyperctl.api import client, streams
from hyperctl.api.errors import ConnectionLost, ProgressError, ProtocolError, UsageProblem
from hyperctl.api.transport import Endpoint, Reader, _read_head, parse_host
from hyperctl.commands.lifecycle import signal_number
from tests.support.fake_hyperd import FakeHyperd, Reply, frame, ok

HOSTS = [
    ("unix:///var/run/hyper.sock", ("/var/run/hyper.sock", "", 0)),
    ("/run/h.sock", ("/run/h.sock", "", 0)),
    ("tcp://10.0.0.1:99", ("", "10.0.0.1", 99)),
    ("tcp://10.0.0.1", ("", "10.0.0.1", 2375)),
    ("tcp://", ("", "localhost", 2375)),
    ("tcp://:99", ("", "localhost", 99)),
    ("tcp://[::1]:99/", ("", "::1", 99)),
    ("tcp://[::1]", ("", "::1", 2375)),
    ("example.com:99", ("", "example.com", 99)),
]


@pytest.mark.parametrize(("text", "parts"), HOSTS)
def test_addresses(text, parts):
    endpoint = parse_host(text)
    assert (endpoint.path, endpoint.host, endpoint.port) == parts
    assert endpoint.local == bool(parts[0])


@pytest.mark.parametrize("text", ["unix://rel", "http://x", "tcp://x:0", "tcp://x:65536", "tcp://x:y", "tcp://a/b:1"])
def test_bad_addresses(text):
    with pytest.raises(UsageProblem, match="is not an address of a daemon"):
        parse_host(text)


def test_the_host_header():
    assert Endpoint(path="/s").authority == "localhost"
    assert Endpoint(host="::1", port=1).authority == "[::1]:1"


@given(st.dictionaries(st.sampled_from("abcd"), st.text() | st.lists(st.text()), max_size=4))
def test_queries_are_escaped_and_sorted_as_forms_are(parameters):
    assert client.query(parameters) == urlencode(sorted(parameters.items()), doseq=True)


@given(st.recursive(st.text() | st.integers() | st.booleans(), st.lists, max_leaves=5))
def test_json_is_escaped_as_gos_encoder_does(value):
    text = client.compact(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))), st.lists(st.integers(1, 60), min_size=1))
def test_frames_come_apart_however_they_arrive(messages, sizes):
    data = b"".join(frame(stream, payload) for stream, payload in messages)
    demultiplexer = streams.Demultiplexer()
    got = {1: b"", 2: b""}
    turn = 0
    while data:
        size = sizes[turn % len(sizes)]
        turn += 1
        for stream, payload in demultiplexer.feed(data[:size]):
            got[stream] += payload
        data = data[size:]
    demultiplexer.finish()
    assert got == {which: b"".join(body for stream, body in messages if stream == which) for which in (1, 2)}


@pytest.mark.parametrize("header", [b"\3\0\0\0\0\0\0\1", b"\1\0\1\0\0\0\0\1", b"HTTP/1.1"])
def test_what_is_no_frame(header):
    with pytest.raises(ProtocolError, match="Unrecognized input header"):
        list(streams.Demultiplexer().feed(header))


def test_a_frame_cut_off():
    demultiplexer = streams.Demultiplexer()
    assert list(demultiplexer.feed(frame(2, b"abc")[:-1])) == [(2, b"ab")]
    with pytest.raises(ConnectionLost):
        demultiplexer.finish()


@given(st.lists(st.sampled_from([b"\x10", b"\x11", b"a", b"\x10\x10", b"b\x10"]), max_size=8))
def test_detach_keys_lose_nothing(typed):
    keys, passed, detached = streams.DetachKeys(), b"", False
    for data in typed:
        more, detached = keys.feed(data)
        passed += more
        if detached:
            break
    whole = b"".join(typed)
    assert detached == (b"\x10\x11" in whole)
    if detached:
        assert passed == whole.partition(b"\x10\x11")[0]
    else:
        assert whole.startswith(passed)
        assert whole[len(passed) :] in {b"", b"\x10"}


def test_write_all_waits_for_a_full_pipe():
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    got = bytearray()

    def drain() -> None:
        while piece := os.read(readable, 4096):
            got.extend(piece)

    thread = threading.Thread(target=drain)
    thread.start()
    streams.write_all(writable, b"x" * 1_000_000)
    os.close(writable)
    thread.join(60)
    os.close(readable)
    assert len(got) == 1_000_000


def test_columns_look_like_tabwriters():
    rows = [("A", "B", "C"), ("a" * 18, "", "tail"), ("b", "c", "")]
    assert output.table(rows) == (
        "A                    B                   C\n"
        "aaaaaaaaaaaaaaaaaa                       tail\n"
        "b                    c                   \n"
    )
    assert output.table([("x\x1b[31m\ny", "z")]) == "x?[31m?y            z\n"
    assert output.table([]) == ""


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1130000, "1.13 MB"), (4194304000, "4.194 GB"), (123456, "123.5 kB")],
)
def test_sizes(size, text):
    assert output.human_size(size) == text


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("KILL", 9), ("sigint", 2), ("SIGTERM", 15), ("64", 64), ("HUP", 1)]
)
def test_signals(text, number):
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["0", "65", "-1", "NOPE", "SIG", "", "²"])
def test_bad_signals(text):
    with pytest.raises(UsageProblem, match="Invalid signal"):
        signal_number(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("80:8080", ("tcp", "80", "8080")),
        ("udp:1-2:3-4", ("udp", "1-2", "3-4")),
        ("tcp:1:2", ("tcp", "1", "2")),
        (":80", ("tcp", None, "80")),
        ("udp::53-54", ("udp", None, "53-54")),
        ("80", ("tcp", None, "80")),
        ("8080:80/udp", ("udp", "8080", "80")),
        ("80/tcp", ("tcp", None, "80")),
        ("0.0.0.0:8080:80", ("tcp", "8080", "80")),
        ("[::]::80/udp", ("udp", None, "80")),
        ("127.0.0.1:8080:80", ("tcp", "8080", "80")),
        ("127.0.0.1::80", ("tcp", None, "80")),
    ],
)
def test_port_rules(text, rule):
    got = spec.port_rule(text)
    assert (got["protocol"], got.get("hostPort"), got["containerPort"]) == rule


@pytest.mark.parametrize("text", ["", "80:", "sctp:1:2", "1:2:3", "a:b", "1-:2", "tcp:1:2/udp", "1.2.3:1:2", "::1:8:8"])
def test_bad_port_rules(text):
    with pytest.raises(UsageProblem):
        spec.port_rule(text)


@pytest.mark.parametrize(
    ("image", "full", "server"),
    [
        ("busybox", "busybox:latest", credentials.DEFAULT_SERVER),
        ("u/x:1", "u/x:1", credentials.DEFAULT_SERVER),
        ("docker.io/u/x", "docker.io/u/x:latest", credentials.DEFAULT_SERVER),
        ("localhost/x", "localhost/x:latest", "localhost"),
        ("h:1/x", "h:1/x:latest", "h:1"),
        ("r.example.com/a/b@sha256:0", "r.example.com/a/b@sha256:0", "r.example.com"),
    ],
)
def test_names_of_images(image, full, server):
    assert images.tagged(image) == full
    assert credentials.registry_of(image) == server


def test_credentials_are_found_under_dockers_other_spellings(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    entries = {"https://h:1/v1/": {"auth": "YTpi"}, "bad": {"auth": "%%"}, "empty": {}, "odd": 7}
    (tmp_path / "config.json").write_text(json.dumps({"auths": entries}))
    assert credentials.find("h:1") == {"username": "a", "password": "b", "serveraddress": "h:1"}
    for server in ("bad", "empty", "odd", "nosuch"):
        assert credentials.find(server) == {}
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(UsageProblem, match="cannot read"):
        credentials.find("h:1")


BAD_PODFILES = [
    ("[1]", False, "expected an object"),
    ("{", False, "is not JSON"),
    ("{" * 100_000, False, "is not JSON"),
    ("a: [", True, "is not YAML"),
    ('{"resource": {"memory": "128"}}', False, "resource.memory must be a number"),
    ('{"resource": {"memory": true}}', False, "resource.memory must be a number"),
    ("resource: {memory: much}", True, "resource.memory must be a number"),
    ('{"containers": {}}', False, "containers must be a list"),
    ('{"containers": [{"image": 5}]}', False, r"containers\[0\].image must be a string"),
    ('{"containers": [{"tty": "yes"}]}', False, r"containers\[0\].tty must be true or false"),
    ('{"labels": {"a": 1}}', False, "labels.a must be a string"),
    ('{"labels": []}', False, "labels must be an object of strings"),
    ('{"log": []}', False, "log must be an object"),
]


@pytest.mark.parametrize(("text", "yaml", "message"), BAD_PODFILES)
def test_bad_podfiles(tmp_path, text, yaml, message):
    file = tmp_path / "pod"
    file.write_text(text)
    with pytest.raises(UsageProblem, match=message):
        podfile.load(str(file), yaml=yaml, shape=podfile.POD)


def test_yaml_scalars_have_the_type_of_their_field(tmp_path):
    file = tmp_path / "pod.yml"
    file.write_text(
        "tty: yes\nresource: {vcpu: 2}\nlabels: {on: off, n: 1}\n"
        "containers: [{readonly: true, files: [{path: /a, perm: 0644}], envs: [{env: A, value: yes}, null]}]\n"
    )
    assert podfile.load(str(file), yaml=True, shape=podfile.POD) == {
        "tty": True,
        "resource": {"vcpu": 2},
        "labels": {"on": "off", "n": "1"},
        "containers": [
            {"readOnly": True, "files": [{"path": "/a", "perm": "0644"}], "envs": [{"env": "A", "value": "yes"}]}
        ],
    }


@pytest.mark.parametrize(("yaml", "no"), [(True, "no"), (False, "false")])
def test_zeros_that_say_something_are_sent(tmp_path, yaml, no):
    file = tmp_path / "pod"
    one = f'{{"tty": {no}, "init": {no}, "stopTimeout": 0, "security": {{"maskedPaths": [], "capAdd": []}}}}'
    file.write_text(f'{{"tty": {no}, "containers": [{one}]}}')
    security = {"maskedPaths": []}
    assert podfile.load(str(file), yaml=yaml, shape=podfile.POD) == {
        "containers": [{"tty": False, "stopTimeout": 0, "security": security}]
    }


def test_progress_lines_need_not_end_in_a_newline():
    with FakeHyperd() as fake:
        fake.on("POST", "/image/create", Reply(pieces=[b'{"status":"a"}\r\n\r\n{"sta', b'tus":"b"}']))
        one = client.Client(parse_host(fake.address))
        assert list(one.pull("x")) == [{"status": "a"}, {"status": "b"}]
        one.close()


@pytest.mark.parametrize(
    ("body", "error"), [(b"[]", ProtocolError), (b"x", ProtocolError), (b'{"error":"e"}', ProgressError)]
)
def test_bad_progress_lines(body, error):
    with FakeHyperd() as fake:
        fake.on("POST", "/image/create", Reply(body=body))
        one = client.Client(parse_host(fake.address))
        with pytest.raises(error):
            list(one.pull("x"))
        one.close()


def test_a_connection_the_daemon_closed_is_opened_again():
    with FakeHyperd() as fake:
        fake.on("GET", "/info", Reply(body=b"{}", cut=True), ok({"Images": 1}))
        one = client.Client(parse_host(fake.address))
        with pytest.raises(ConnectionLost):
            one.info()
        assert one.info() == {"Images": 1}
        assert [exchange.connection for exchange in fake.exchanges] == [1, 2]
        one.close()


def test_an_interrupted_request_gives_its_answer_to_nobody_else():
    """The answer arrives after the next request has been sent, as when ctrl-C ends the wait for it."""
    late = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"p2"
        raise KeyboardInterrupt

    with FakeHyperd() as fake:
        fake.on("GET", "/info", ok({"Images": 1}), ok({"Images": 3}))
        fake.on("POST", "/load", Reply(body=b'{"Images":2}', before=lambda: late.wait(3)))
        one = client.Client(parse_host(fake.address))
        assert one.info() == {"Images": 1}
        with pytest.raises(KeyboardInterrupt):
            one.call("POST", "/load", body=body(), headers={"Content-Length": "2"})
        assert one.info() == {"Images": 3}
        late.set()
        one.close()


BROKEN_HEADS = [
    b"SMTP hello\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"x" * 70_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
]


@pytest.mark.parametrize("head", BROKEN_HEADS)
def test_what_is_not_http(head):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(head,))
        sender.start()
        sender.join(60)
        with pytest.raises(ProtocolError):
            _read_head(Reader(ours)).read()


def test_interim_answers_are_skipped():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\nA: b\r\n\r\n")
        response = _read_head(Reader(ours))
        assert (response.status, response.headers, response.read()) == (204, {"a": "b"}, b"")


def test_a_body_may_end_with_the_connection():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        theirs.close()
        assert _read_head(Reader(ours)).read() == b"all of it"
