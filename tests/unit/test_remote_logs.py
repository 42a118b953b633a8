"""Logs that go to syslog or the journal: exact messages on real sockets, receivers that are slow, gone or back."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hyperd.config.model import Config, LogConfig
from hyperd.container.logconf import check_receiver, log_settings, parse_address
from hyperd.errors import InvalidInput, NotSupported
from hyperd.spec.model import ContainerSpec, LogSpec, PodSpec
from hyperd.stream import remotelog
from hyperd.stream.channels import Address
from hyperd.stream.hub import OutputHub
from hyperd.stream.logformats import Origin, expand_tag, journal, syslog_3164, syslog_5424
from hyperd.stream.relay import Relay
from hyperd.stream.remotelog import Entry, RemoteLog
from tests.support.descriptors import descriptors
from tests.support.until import until

T = 1_700_000_000_123_456_789
ORIGIN = Origin(
    container_id="0123456789ab" * 5 + "cdef", name="web", pod_id="p1", image="busybox", image_id="sha256:ff", host="box"
)


@pytest.fixture
def directory():
    path = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(60)
    sock.bind(str(path))
    return sock


def in_loop(relay: Relay, function):
    async def run():
        return function()

    return relay.call(run(), timeout=60)


def entry(text: bytes = b"hello", stream: str = "stdout", *, partial: bool = False) -> Entry:
    return Entry(stream=stream, text=text, time_ns=T, end=6, partial=partial)


# -- messages


def test_rfc3164_messages():
    local = syslog_3164(ORIGIN, tag="tag with blank", facility=3, local=True)(entry())
    assert re.fullmatch(rb"<30>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d tag_with_blank: hello", local)
    remote = syslog_3164(ORIGIN, tag="t", facility=16, local=False)(entry(b"a\nb\0c", "stderr"))
    assert re.fullmatch(rb"<131>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d box t: a b c", remote)


def test_rfc5424_messages():
    assert (
        syslog_5424(ORIGIN, tag="t", facility=3, micro=False)(entry())
        == b"<30>1 2023-11-14T22:13:20Z box t 0123456789ab stdout - hello"
    )
    micro = syslog_5424(ORIGIN, tag="t" * 60, facility=3, micro=True)(entry(b"\xff", "stderr"))
    assert micro == b"<27>1 2023-11-14T22:13:20.123456Z box " + b"t" * 48 + b" 0123456789ab stderr - \xff"


def test_journal_fields_and_values_with_newlines():
    message = journal(replace(ORIGIN, name="two\nlines"), tag="t")(entry(b"x\xfe", partial=True))
    name = b"CONTAINER_NAME\n" + struct.pack("<Q", 9) + b"two\nlines\n"
    assert name in message
    plain = message.replace(name, b"").splitlines()
    assert b"MESSAGE=x\xfe" in plain
    assert b"PRIORITY=6" in plain
    assert b"SYSLOG_IDENTIFIER=t" in plain
    assert b"CONTAINER_PARTIAL_MESSAGE=true" in plain
    assert b"CONTAINER_ID=0123456789ab" in plain
    assert b"CONTAINER_PARTIAL_MESSAGE" not in journal(ORIGIN, tag="t")(entry())


def test_tags():
    assert expand_tag("{{.Name}}/{{ .ID }}-x", ORIGIN.words()) == "web/0123456789ab-x"
    with pytest.raises(KeyError):
        expand_tag("{{.Nope}}", ORIGIN.words())


# -- settings


def settings(kind: str = "", options: dict[str, str] | None = None, *, config: LogConfig | None = None, path: str = ""):
    pod = PodSpec(id="p", log=LogSpec(type=kind, config=options or {}))
    whole = Config(root=Path("/r"), log=config or LogConfig())
    return log_settings(whole, pod, "p", "c", ContainerSpec(name="n", log_path=path))


def test_defaults_of_the_daemon_and_wishes_of_the_pod():
    config = LogConfig(max_size=5, max_file=2)
    assert (settings(config=config).max_size, settings(config=config).max_file) == (5, 2)
    mixed = settings("json-file", {"max-size": "10k"}, config=config)
    assert (mixed.max_size, mixed.max_file) == (10 * 1024, 2)
    found = settings(
        "syslog", {"tag": "{{.Name}}"}, config=LogConfig(syslog_address="udp://h:1", syslog_facility="local3")
    )
    assert (found.address, found.facility, found.tag) == (Address(kind="udp", host="h", port=1), 19, "{{.Name}}")


def test_where_log_files_are():
    assert settings().path == Path("/r/pods/p/c-json.log")
    assert settings(path="/var/x.log").path == Path("/var/x.log")
    assert settings(config=LogConfig(directory=Path("/logs"))).path == Path("/logs/p/c-json.log")
    flat = LogConfig(directory=Path("/logs"), pod_id_in_path=False)
    assert settings(config=flat).path == Path("/logs/c-json.log")


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        ("json-file", {"max-size": "big"}, "max-size"),
        ("json-file", {"max-file": "0"}, "max-file"),
        ("json-file", {"maxsize": "1"}, "unknown log option 'maxsize'"),
        ("none", {"max-size": "1m"}, "unknown log option"),
        ("syslog", {"syslog-address": "ftp://x"}, "syslog-address"),
        ("syslog", {"syslog-address": "udp://h:99999"}, "syslog-address"),
        ("syslog", {"syslog-address": "unix://relative"}, "syslog-address"),
        ("syslog", {"syslog-facility": "tea"}, "syslog-facility"),
        ("syslog", {"syslog-format": "rfc1"}, "syslog-format"),
        ("syslog", {"tag": "{{.Secret}}"}, "unknown word"),
        ("syslog", {"syslog-tls-ca-cert": "ca.pem"}, "bad log option syslog-tls-ca-cert 'ca.pem'"),
        ("syslog", {"syslog-tls-key": "/k"}, "belong together"),
        ("syslog", {"syslog-tls-skip-verify": "perhaps"}, "syslog-tls-skip-verify"),
        ("journald", {"syslog-tls-ca-cert": "/ca.pem"}, "unknown log option"),
        ("journald", {"tag": "x" * 200}, "tag"),
    ],
)
def test_bad_options_are_refused(kind, options, word):
    with pytest.raises(InvalidInput, match=word):
        settings(kind, options)


def test_what_is_not_supported_is_said():
    with pytest.raises(NotSupported, match="splunk"):
        settings("splunk")
    with pytest.raises(NotSupported, match="/no/such/socket"):
        check_receiver(settings("journald", config=LogConfig(journal_socket=Path("/no/such/socket"))))
    check_receiver(settings("syslog", {"syslog-address": "udp://192.0.2.1:9"}))
    assert parse_address("tcp://[::1]:77") == Address(kind="tcp", host="::1", port=77)
    assert parse_address("udp://h").port == 514


# -- sending


def plain(line: Entry) -> bytes:
    return line.stream.encode() + b":" + line.text


def make(relay: Relay, address: Address) -> RemoteLog:
    return in_loop(relay, lambda: RemoteLog(relay, address, plain))


def test_lines_arrive_and_are_safe_only_then(relay, directory):
    path = directory / "log"
    log = make(relay, Address(kind="unix", path=str(path)))
    in_loop(relay, lambda: log.write("stdout", b"one\ntwo\nthr", T))
    time.sleep(0.2)
    assert log.persisted == {}  # nobody listens yet
    with listen(path) as receiver:
        assert [receiver.recv(100) for _ in range(2)] == [b"stdout:one", b"stdout:two"]
        until(lambda: log.persisted == {"stdout": 8})
        in_loop(relay, lambda: log.flush("stdout", T))
        assert receiver.recv(100) == b"stdout:thr"
        until(lambda: log.persisted == {"stdout": 11})
        in_loop(relay, log.finish)
    assert log.dropped == 0


def test_a_receiver_that_restarts_loses_nothing(relay, directory):
    path = directory / "log"
    log = make(relay, Address(kind="unix", path=str(path)))
    for number in range(3):
        with listen(path) as receiver:
            in_loop(relay, lambda number=number: log.write("stdout", b"line %d\n" % number, T))
            assert receiver.recv(100) == b"stdout:line %d" % number
        path.unlink()
    in_loop(relay, log.finish)


def test_tcp_frames_are_lines_and_a_closed_connection_is_noticed(relay):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        log = make(relay, Address(kind="tcp", host="127.0.0.1", port=server.getsockname()[1]))
        in_loop(relay, lambda: log.write("stderr", b"a\nb\n", T))
        first, _ = server.accept()
        with first:
            first.settimeout(60)
            data = b""
            while data.count(b"\n") < 2:
                data += first.recv(100)
            assert data == b"stderr:a\nstderr:b\n"
        in_loop(relay, lambda: log.write("stderr", b"c\n", T))
        second, _ = server.accept()
        with second:
            second.settimeout(60)
            assert second.recv(100) == b"stderr:c\n"
        in_loop(relay, log.finish)


def test_udp(relay):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(60)
        log = make(relay, Address(kind="udp", host="localhost", port=receiver.getsockname()[1]))
        in_loop(relay, lambda: log.write("stdout", b"over the net\n", T))
        assert receiver.recv(100) == b"stdout:over the net"
        in_loop(relay, log.finish)


def test_a_slow_receiver_slows_down_and_loses_nothing(relay, directory):
    path = directory / "log"
    with listen(path) as receiver:
        log = make(relay, Address(kind="unix", path=str(path)))
        lines = [b"%06d" % number + b"x" * 500 for number in range(400)]
        got: list[bytes] = []

        def read() -> None:
            for _ in lines:
                got.append(receiver.recv(1000))
                time.sleep(0.001)

        in_loop(relay, lambda: log.write("stdout", b"\n".join(lines) + b"\n", T))
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(60)
        assert got == [b"stdout:" + line for line in lines]
        assert log.dropped == 0
        in_loop(relay, log.finish)


class Guest:
    """A process whose output goes through a hub, as the agent would send it."""

    def __init__(self, relay: Relay, log: RemoteLog) -> None:
        self.acked = {1: 0, 2: 0}
        self.sent = 0
        self.ended = threading.Event()
        self.relay = relay
        self.hub = in_loop(relay, lambda: OutputHub(relay, tty=False, log_file=log))
        self.hub.on_end = self.ended.set
        in_loop(relay, lambda: self.hub.connect(self._ack))

    def _ack(self, stream: int, offset: int) -> None:
        self.acked[stream] = offset

    def write(self, data: bytes) -> None:
        """Send when the window allows it."""
        until(lambda: self.sent + len(data) - self.acked[1] <= 262_144)
        in_loop(self.relay, lambda: self.hub.data(1, self.sent, data))
        self.sent += len(data)


def test_a_dead_receiver_never_stops_the_container(relay, directory, monkeypatch):
    monkeypatch.setattr(remotelog, "PATIENCE", 0.5)
    monkeypatch.setattr(remotelog, "RETRY", 0.05)
    counted: list[int] = []
    path = directory / "log"
    log = in_loop(
        relay, lambda: RemoteLog(relay, Address(kind="unix", path=str(path)), plain, on_dropped=counted.append)
    )
    guest = Guest(relay, log)
    block = (b"y" * 1023 + b"\n") * 32
    for _ in range(40):  # five windows full
        guest.write(block)
    assert log.dropped > 1000
    assert sum(counted) == log.dropped
    with listen(path) as receiver:  # it comes back: the newest lines are still there
        assert receiver.recv(2000) == b"stdout:" + b"y" * 1023
        last = b""
        guest.write(b"the end\n")
        while last != b"stdout:the end":
            last = receiver.recv(2000)
        in_loop(relay, lambda: (guest.hub.eof(1, guest.sent), guest.hub.eof(2, 0)))
        assert guest.ended.wait(60)
    assert guest.acked == {1: guest.sent + 1, 2: 1}


def test_a_container_ends_although_its_last_lines_wait(relay, directory, monkeypatch):
    monkeypatch.setattr(remotelog, "LINGER", 0.3)
    log = make(relay, Address(kind="unix", path=str(directory / "nobody")))
    guest = Guest(relay, log)
    guest.write(b"last words\n")
    in_loop(relay, lambda: (guest.hub.eof(1, guest.sent), guest.hub.eof(2, 0)))
    assert guest.ended.wait(60)
    until(lambda: log.dropped == 1)


def test_eof_waits_for_a_receiver_that_works(relay, directory):
    path = directory / "log"
    with listen(path) as receiver:
        log = make(relay, Address(kind="unix", path=str(path)))
        guest = Guest(relay, log)
        guest.write(b"no newline at the end")
        in_loop(relay, lambda: (guest.hub.eof(1, guest.sent), guest.hub.eof(2, 0)))
        assert receiver.recv(100) == b"stdout:no newline at the end"
        assert guest.ended.wait(60)
        assert guest.acked[1] == guest.sent + 1


def test_sockets_are_closed_at_the_end(relay, directory):
    path = directory / "log"
    with listen(path) as receiver:
        before = descriptors()
        for _ in range(5):
            log = make(relay, Address(kind="unix", path=str(path)))
            in_loop(relay, lambda log=log: (log.write("stdout", b"x\n", T), log.finish()))
            assert receiver.recv(10) == b"stdout:x"
        until(lambda: descriptors() <= before)


def test_a_container_asks_for_a_log_of_its_own():
    pod = PodSpec(id="p", log=LogSpec(type="syslog"))
    whole = Config(root=Path("/r"))
    own = ContainerSpec(name="n", log=LogSpec(type="none"))
    assert log_settings(whole, pod, "p", "c", own).driver == "none"
    sized = ContainerSpec(name="n", log=LogSpec(config={"max-size": "1k", "max-file": "2"}))
    found = log_settings(whole, pod, "p", "c", sized)
    assert (found.driver, found.max_size, found.max_file) == ("json-file", 1024, 2)
    assert log_settings(whole, pod, "p", "c", ContainerSpec(name="n")).driver == "syslog"
