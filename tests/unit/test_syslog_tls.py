"""Syslog over TLS against real TLS servers: frames, certificates both ways, receivers that go away."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from hyperd.config.model import Config, LogConfig
from hyperd.container.logconf import check_receiver, log_settings
from hyperd.errors import InvalidInput
from hyperd.spec.model import ContainerSpec, LogSpec, PodSpec
from hyperd.stream import remotelog
from hyperd.stream.channels import Address, TlsFiles
from hyperd.stream.relay import Relay
from hyperd.stream.remotelog import Entry, RemoteLog
from tests.support.registry import make_certificates
from tests.support.until import until

T = 1_700_000_000_123_456_789


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Authority, certificate for localhost and its key."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def relay(monkeypatch):
    monkeypatch.setattr(remotelog, "RETRY", 0.05)
    relay = Relay()
    relay.start()
    yield relay
    relay.stop()


class Receiver:
    """A server that takes one connection after the other and reads frames of RFC 5425."""

    def __init__(self, files: tuple[Path, Path, Path], *, ask: bool = False) -> None:
        ca, certificate, key = files
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        if ask:
            self._context.load_verify_locations(ca)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._server = socket.create_server(("", 0))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self._server.settimeout(60)
        self.port = int(self._server.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    @contextlib.contextmanager
    def accepted(self) -> Iterator[ssl.SSLSocket]:
        """Take a connection and shake hands."""
        plain, _ = self._server.accept()
        plain.settimeout(60)
        with plain, self._context.wrap_socket(plain, server_side=True) as connection:
            yield connection


def frame(connection: ssl.SSLSocket) -> bytes:
    """Read MSG-LEN SP SYSLOG-MSG."""
    length = b""
    while (digit := connection.recv(1)) != b" ":
        assert digit.isdigit(), digit
        length += digit
    message = b""
    while len(message) < int(length):
        message += connection.recv(int(length) - len(message))
    return message


def plain(entry: Entry) -> bytes:
    return b"<30>" + entry.text


def in_loop(relay: Relay, function):
    async def run():
        return function()

    return relay.call(run(), timeout=60)


def make(relay: Relay, port: int, files: TlsFiles, *, host: str = "localhost") -> RemoteLog:
    address = Address(kind="tcp+tls", host=host, port=port, tls=files)
    return in_loop(relay, lambda: RemoteLog(relay, address, plain))


def write(relay: Relay, log: RemoteLog, data: bytes) -> None:
    in_loop(relay, lambda: log.write("stdout", data, T))


def test_frames_have_their_length_and_nothing_else(relay, files):
    with Receiver(files) as receiver:
        log = make(relay, receiver.port, TlsFiles(ca=files[0]))
        write(relay, log, b"one\n\ntwo words\n" + b"x" * 9000 + b"\n")
        with receiver.accepted() as connection:
            assert connection.version() in {"TLSv1.2", "TLSv1.3"}
            wanted = [b"<30>one", b"<30>", b"<30>two words", b"<30>" + b"x" * 9000]
            assert [frame(connection) for _ in range(4)] == wanted
            until(lambda: log.persisted == {"stdout": 15 + 9001})
            in_loop(relay, log.finish)
            assert connection.recv(1) == b""  # with a goodbye: without one this raises
    assert log.dropped == 0


def test_a_receiver_that_closes_is_noticed_and_the_next_one_gets_the_line(relay, files):
    with Receiver(files) as receiver:
        log = make(relay, receiver.port, TlsFiles(ca=files[0]))
        for number in range(3):
            write(relay, log, b"line %d\n" % number)
            with receiver.accepted() as connection:
                assert frame(connection) == b"<30>line %d" % number
                if number:  # with a goodbye, which nobody answers
                    connection.setblocking(False)
                    with contextlib.suppress(ssl.SSLWantReadError):
                        connection.unwrap()
        in_loop(relay, log.finish)


def test_many_lines_to_a_slow_receiver(relay, files):
    lines = [b"%06d" % number + b"y" * 1000 for number in range(6000)]
    with Receiver(files) as receiver:
        log = make(relay, receiver.port, TlsFiles(ca=files[0]))
        write(relay, log, b"\n".join(lines) + b"\n")
        with receiver.accepted() as connection:
            time.sleep(0.5)
            assert log.persisted["stdout"] < 6000 * 1007  # what the kernel does not take is not safe
            assert [frame(connection) for _ in lines] == [b"<30>" + line for line in lines]
        in_loop(relay, log.finish)
    assert log.dropped == 0


@pytest.mark.parametrize(("host", "whose"), [("127.0.0.2", "own"), ("localhost", "other"), ("localhost", "host")])
def test_a_receiver_that_cannot_be_believed_gets_nothing(relay, files, tmp_path, host, whose):
    """Another name than the certificate's, an authority that is not ours, none but the host's own."""
    ca = {"own": files[0], "other": make_certificates(tmp_path)[0], "host": None}[whose]
    with Receiver(files) as receiver:
        log = make(relay, receiver.port, TlsFiles(ca=ca), host=host)
        write(relay, log, b"secret\n")
        for _ in range(2):  # it tries again
            with pytest.raises(ssl.SSLError), receiver.accepted():
                pass
        assert log.persisted == {}
    # Believing whoever answers is possible.
    with Receiver(files) as receiver:
        careless = make(relay, receiver.port, TlsFiles(ca=ca, skip_verify=True), host=host)
        write(relay, careless, b"anything\n")
        with receiver.accepted() as connection:
            assert frame(connection) == b"<30>anything"
        in_loop(relay, careless.finish)
    in_loop(relay, log._give_up)


def test_own_certificate_for_receivers_that_ask(relay, files):
    ca, certificate, key = files
    with Receiver(files, ask=True) as receiver:
        log = make(relay, receiver.port, TlsFiles(ca=ca, cert=certificate, key=key))
        write(relay, log, b"who I am\n")
        with receiver.accepted() as connection:
            assert frame(connection) == b"<30>who I am"
            assert connection.getpeercert()
        in_loop(relay, log.finish)


def settings(options: dict[str, str], *, config: LogConfig | None = None):
    pod = PodSpec(id="p", log=LogSpec(type="syslog", config=options))
    return log_settings(Config(root=Path("/r"), log=config or LogConfig()), pod, "p", "c", ContainerSpec(name="n"))


def test_options_and_defaults(files, tmp_path):
    ca, certificate, key = files
    found = settings({"syslog-address": "tcp+tls://logs.example.com", "syslog-tls-ca-cert": str(ca)})
    assert found.address == Address(kind="tcp+tls", host="logs.example.com", port=6514, tls=TlsFiles(ca=ca))
    check_receiver(found)
    config = LogConfig(
        syslog_address="tcp+tls://h:1",
        syslog_tls_ca_cert=str(ca),
        syslog_tls_cert=str(certificate),
        syslog_tls_key=str(key),
    )
    whole = settings({"syslog-tls-skip-verify": "true"}, config=config)
    assert whole.address is not None
    assert whole.address.tls == TlsFiles(ca=ca, cert=certificate, key=key, skip_verify=True)
    check_receiver(whole)
    assert settings({"syslog-address": "tcp://h:1", "syslog-tls-ca-cert": str(ca)}).address == Address(
        kind="tcp", host="h", port=1
    )
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for name in (str(bad), "/no/such/file"):
        with pytest.raises(InvalidInput, match=f"certificates for syslog: {name}"):
            check_receiver(settings({"syslog-address": "tcp+tls://h:1", "syslog-tls-ca-cert": name}))
