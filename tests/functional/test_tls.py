"""TLS on tcp://: certificates of clients, streams with half-closes both ways, hyperctl, what goes wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask

from hyperctl.api.tls import TlsOptions, TlsSocket
from hyperd import __version__
from hyperd.api.context import EXTENSION, LISTENER, may_fetch
from hyperd.config.model import Config
from hyperd.server.listeners import Listeners
from tests.support.daemon import HyperdLauncher
from tests.support.hyperctl_process import HYPERCTL, PATIENCE
from tests.support.ports import free_port
from tests.support.registry import make_certificates, run_openssl
from tests.support.until import until

STUB = [sys.executable, str(Path(__file__).parents[1] / "support" / "stub_daemon.py")]
HEAD = b"HTTP/1.1 101 UPGRADED\r\n"


@dataclass(frozen=True)
class Files:
    """Certificates: ``directory`` is what hyperctl takes for HYPER_CERT_PATH."""

    directory: Path
    server: Path
    server_key: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"


def make_files(directory: Path) -> Files:
    ca, certificate, key = make_certificates(directory)
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    request = directory / "client.csr"
    run_openssl("req", *new, "-keyout", str(directory / "key.pem"), "-out", str(request), "-subj", "/CN=client")
    signing = ("-CA", str(ca), "-CAkey", str(directory / "ca.key"), "-CAcreateserial", "-days", "2")
    run_openssl("x509", "-req", "-in", str(request), "-out", str(directory / "cert.pem"), *signing)
    return Files(directory, certificate, key)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> Files:
    """Certificates of another authority."""
    return make_files(tmp_path_factory.mktemp("other"))


@dataclass(frozen=True)
class Daemon:
    launcher: HyperdLauncher
    port: int

    @property
    def host(self) -> str:
        return f"tcp://localhost:{self.port}"


@contextlib.contextmanager
def daemon_with(files: Files, *, verify: bool = True, config: str = "", **more) -> Iterator[Daemon]:
    port = free_port()
    tls = f"[tls]\nenabled = true\nverify = {'true' if verify else 'false'}\n"
    tls += f'cert = "{files.server}"\nkey = "{files.server_key}"\nca = "{files.ca}"\n'
    with HyperdLauncher(command=STUB, config=config + tls, **more) as launcher:
        launcher.start("--host", f"tcp://localhost:{port}")
        yield Daemon(launcher, port)


@pytest.fixture(scope="module")
def daemon(files) -> Iterator[Daemon]:
    with daemon_with(files, config="threads = 8\n") as one:
        yield one


def connect(daemon: Daemon, files: Files) -> TlsSocket:
    options = TlsOptions(verify=True, directory=str(files.directory))
    sock = socket.create_connection(("localhost", daemon.port), timeout=60)
    return TlsSocket(sock, options.context(), "localhost")


def attach(daemon: Daemon, files: Files, name: str) -> tuple[TlsSocket, bytes]:
    sock = connect(daemon, files)
    sock.sendall(
        f"POST /v1.17/attach?container={name} HTTP/1.1\r\nHost: \r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        "Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n".encode()
    )
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv()
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(HEAD)
    return sock, rest


def rest_of(sock: TlsSocket, data: bytes = b"") -> bytes:
    while more := sock.recv():
        data += more
    sock.close()
    return data


def hyperctl(daemon: Daemon, *words: str, home: Path, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **env}
    argv = [HYPERCTL, *(["-H", daemon.host] if "-H" not in words else []), *words]
    return subprocess.run(argv, input=stdin, capture_output=True, env=environment, timeout=PATIENCE, check=False)


def test_plain_requests(daemon, files):
    context = TlsOptions(verify=True, directory=str(files.directory)).context()
    connection = http.client.HTTPSConnection("localhost", daemon.port, context=context, timeout=90)
    with contextlib.closing(connection):
        for _ in range(3):  # one connection
            connection.request("GET", "/_ping")
            assert connection.getresponse().read() == b"OK"


def test_head_and_half_close_pass_both_ways(daemon, files):
    sock, data = attach(daemon, files, "echo")
    sock.sendall(b"ping")
    while len(data) < 12:
        data += sock.recv()
    assert data == struct.pack("!BxxxI", 1, 4) + b"ping"
    sock.shutdown(socket.SHUT_WR)
    assert rest_of(sock) == struct.pack("!BxxxI", 2, 7) + b"4 bytes"


def test_much_both_ways_at_once(daemon, files):
    """A client that reads while it writes: nothing is lost, nothing stands still."""
    sock, data = attach(daemon, files, "flood")
    sock.setblocking(False)
    received, pending = len(data), b"c" * 65536 * 64
    while pending:
        poller = select.poll()
        poller.register(sock, select.POLLIN | select.POLLOUT)
        assert poller.poll(30_000)
        with contextlib.suppress(BlockingIOError):
            pending = pending[sock.send(pending) :]
        with contextlib.suppress(BlockingIOError):
            received += len(sock.recv())
    sock.setblocking(True)
    sock.shutdown(socket.SHUT_WR)
    rest = rest_of(sock)
    assert received + len(rest) == 128 * 65536 + len(b"got 4194304")
    assert rest.endswith(b"got 4194304")


def test_a_slow_client_is_waited_for(daemon, files):
    sock, data = attach(daemon, files, "flood")
    sock.shutdown(socket.SHUT_WR)
    time.sleep(0.5)  # this is the slow client: what is under way fills every buffer meanwhile
    assert len(rest_of(sock, data)) == 128 * 65536 + len(b"got 0")


def test_a_client_that_leaves_is_noticed(daemon, files):
    context = TlsOptions(verify=True, directory=str(files.directory)).context()
    connection = http.client.HTTPSConnection("localhost", daemon.port, context=context, timeout=90)
    connection.request("POST", "/image/create?imageName=endless", headers={"Content-Length": "0"})
    answer = connection.getresponse()
    assert answer.readline().startswith(b"{")
    answer.close()
    connection.close()
    until((daemon.launcher.root / "cancelled").exists)


def test_without_a_certificate(daemon, files, tmp_path):
    done = hyperctl(daemon, "--tlsverify", "--tlscacert", str(files.ca), "list", home=tmp_path)
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Cannot connect to the Hyper daemon: TLS failed: " in done.stderr
    assert b"CERTIFICATE_REQUIRED" in done.stderr.upper()
    assert b"Traceback" not in done.stderr


def test_with_a_strange_certificate(daemon, files, strangers, tmp_path):
    words = ["--tlsverify", "--tlscacert", str(files.ca)]
    words += ["--tlscert", str(strangers.directory / "cert.pem"), "--tlskey", str(strangers.directory / "key.pem")]
    done = hyperctl(daemon, *words, "list", home=tmp_path)
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"TLS failed: " in done.stderr
    assert "tls.refused" in daemon.launcher.log()


def test_hyperctl_does_not_trust_everybody(daemon, strangers, tmp_path):
    done = hyperctl(daemon, "list", home=tmp_path, HYPER_TLS_VERIFY="1", HYPER_CERT_PATH=str(strangers.directory))
    assert done.returncode == 255
    assert b"certificate" in done.stderr


def test_hyperctl_checks_the_name(daemon, files, tmp_path):
    host = f"tcp://127.0.0.2:{daemon.port}"
    with contextlib.closing(socket.socket()) as probe:
        if probe.connect_ex(("127.0.0.2", daemon.port)) == 0:
            raise AssertionError("the daemon must listen on 127.0.0.1 only")
    done = hyperctl(
        daemon, "-H", host, "list", home=tmp_path, HYPER_TLS_VERIFY="1", HYPER_CERT_PATH=str(files.directory)
    )
    assert done.returncode == 255


@pytest.mark.parametrize("way", ["environment", "options", "home"])
def test_hyperctl(daemon, files, tmp_path, way):
    env, words = {}, []
    if way == "environment":
        env = {"HYPER_TLS_VERIFY": "1", "HYPER_CERT_PATH": str(files.directory), "HYPER_HOST": daemon.host}
    elif way == "options":
        words = ["--tlsverify", "--tlscacert", str(files.ca), "--tlscert", str(files.directory / "cert.pem")]
        words += ["--tlskey", str(files.directory / "key.pem")]
    else:
        (tmp_path / ".hyper").symlink_to(files.directory)
        words = ["--tlsverify"]
    done = hyperctl(daemon, *words, "list", home=tmp_path, **env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"POD ID")


def test_hyperctl_streams(daemon, files, tmp_path):
    env = {"HYPER_TLS_VERIFY": "1", "HYPER_CERT_PATH": str(files.directory)}
    text = b"0123456789abcdef" * 65536  # 1 MiB each way
    done = hyperctl(daemon, "attach", "echo", home=tmp_path, stdin=text, **env)
    assert done.stdout == text
    assert done.stderr == b"1048576 bytes"
    assert done.returncode == 17


@pytest.mark.parametrize("missing", ["ca", "cert"])
def test_hyperctl_without_its_files(daemon, files, tmp_path, missing):
    words = ["--tlsverify"] if missing == "ca" else ["--tls", "--tlscert", "/nonexistent"]
    done = hyperctl(daemon, *words, "list", home=tmp_path)
    assert done.returncode == 255
    assert b"cannot use the TLS " in done.stderr


def test_plain_http_on_the_tls_port_is_refused(daemon):
    with socket.create_connection(("localhost", daemon.port), timeout=90) as sock:
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: \r\n\r\n")
        data = b""
        with contextlib.suppress(ConnectionError):
            while more := sock.recv(4096):
                data += more
    assert b"OK" not in data
    assert b"HTTP/1.1" not in data


def test_hyperctl_without_tls_is_told_to_use_it(daemon, tmp_path):
    words = [HYPERCTL, "-H", f"tcp://localhost:{daemon.port}", "list"]
    done = subprocess.run(
        words, capture_output=True, check=False, timeout=60, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert (done.returncode, b"use --tlsverify" in done.stderr) == (255, True), done.stderr


def test_old_versions_are_refused(daemon, files):
    context = TlsOptions(verify=True, directory=str(files.directory)).context()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("localhost", daemon.port), timeout=90) as sock,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(sock, server_hostname="localhost")


def test_the_inner_socket_is_closed_to_others(daemon):
    inner = daemon.launcher.root / "run" / "tls.sock"
    assert inner.stat().st_mode & 0o777 == 0o600
    assert inner.parent.stat().st_mode & 0o077 == 0


def test_silent_clients_hold_nothing_up(daemon, files):
    silent = [socket.create_connection(("localhost", daemon.port)) for _ in range(20)]
    sock, data = attach(daemon, files, "echo")
    sock.shutdown(socket.SHUT_WR)
    assert rest_of(sock, data).endswith(b"0 bytes")
    for one in silent:
        one.close()


def test_tls_without_verification(files, tmp_path):
    with daemon_with(files, verify=False) as daemon:
        assert hyperctl(daemon, "--tls", "list", home=tmp_path).returncode == 0
        assert hyperctl(daemon, "list", home=tmp_path).returncode == 255
        done = hyperctl(daemon, "--tlsverify", "--tlscacert", str(files.ca), "list", home=tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
        assert "server.unverified" in daemon.launcher.log()


def test_certificates_are_renewed_by_a_reload(tmp_path, strangers):
    (tmp_path / "t").mkdir()
    files = make_files(tmp_path / "t")
    with daemon_with(files, verify=False) as daemon:
        words = ["--tlsverify", "--tlscacert", str(strangers.ca), "list"]
        assert hyperctl(daemon, *words, home=tmp_path).returncode == 255
        files.server.write_bytes(strangers.server.read_bytes())
        files.server_key.write_bytes(strangers.server_key.read_bytes())
        daemon.launcher.process.send_signal(signal.SIGHUP)
        until(lambda: hyperctl(daemon, *words, home=tmp_path).returncode == 0, tell=daemon.launcher.log)


def test_an_authority_that_was_replaced_is_not_trusted_after_a_reload(tmp_path, strangers):
    (tmp_path / "t").mkdir()
    files = make_files(tmp_path / "t")
    old = tmp_path / "old"
    shutil.copytree(files.directory, old)
    with daemon_with(files) as daemon:
        words = ["--tlsverify", "--tlscacert", str(old / "ca.pem"), "list"]
        assert hyperctl(daemon, *words, home=tmp_path, HYPER_CERT_PATH=str(old)).returncode == 0
        files.ca.write_bytes(strangers.ca.read_bytes())
        daemon.launcher.process.send_signal(signal.SIGHUP)
        until(lambda: "config.reloaded" in daemon.launcher.log())
        assert hyperctl(daemon, *words, home=tmp_path, HYPER_CERT_PATH=str(old)).returncode == 255
        assert hyperctl(daemon, *words, home=tmp_path, HYPER_CERT_PATH=str(strangers.directory)).returncode == 0


def test_a_reload_with_half_of_a_new_certificate_changes_nothing(tmp_path, strangers):
    (tmp_path / "t").mkdir()
    files = make_files(tmp_path / "t")
    with daemon_with(files, verify=False) as daemon:
        words = ["--tlsverify", "--tlscacert", str(files.ca), "list"]
        files.server.write_bytes(strangers.server.read_bytes())
        daemon.launcher.process.send_signal(signal.SIGHUP)
        until(lambda: "config.refused" in daemon.launcher.log())
        done = hyperctl(daemon, *words, home=tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")


def test_bad_files_are_told(tmp_path, files):
    (tmp_path / "empty").touch()
    cases = {
        "tls.cert is not set": "[tls]\nenabled = true\n",
        "tls.ca is not set": f'[tls]\nverify = true\ncert = "{files.server}"\nkey = "{files.server_key}"\n',
        "cannot use the TLS certificate": f'[tls]\nenabled = true\ncert = "/none"\nkey = "{files.server_key}"\n',
        "with the key": f'[tls]\nenabled = true\ncert = "{files.server}"\nkey = "{files.directory}/key.pem"\n',
        "cannot use the TLS authority": (
            f'[tls]\nverify = true\ncert = "{files.server}"\nkey = "{files.server_key}"\nca = "{tmp_path}/empty"\n'
        ),
    }
    for words, config in cases.items():
        with HyperdLauncher(command=STUB, config=config) as launcher:
            launcher.start(wait=False)
            assert launcher.wait_exit() == 1
            assert words in launcher.log()
            assert "Traceback" not in launcher.log()


def test_streams_end_with_the_daemon(files):
    with daemon_with(files) as daemon:
        sock, data = attach(daemon, files, "idle")
        daemon.launcher.kill()
        with contextlib.suppress(ConnectionError):
            assert rest_of(sock, data) == b""
        sock.close()
        daemon.launcher.start("--host", daemon.host)
        again = connect(daemon, files)
        again.sendall(b"GET /_ping HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n")
        assert rest_of(again).endswith(b"OK")


def test_version_of_the_answer_is_json_over_tls(daemon, files, tmp_path):
    sock = connect(daemon, files)
    sock.sendall(b"GET /version HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n")
    assert json.loads(rest_of(sock).partition(b"\r\n\r\n")[2]) == {"ID": daemon.launcher.pid, "Version": __version__}


def test_who_comes_over_tls_is_not_local(tmp_path):
    """Only callers on the unix socket may let the host fetch files; TLS arrives over a unix socket, too."""
    app = Flask("test")
    app.extensions[EXTENSION] = SimpleNamespace(config=Config(runtime_dir=tmp_path))
    found = Listeners()
    found.open([f"unix://{tmp_path}/api.sock"], mode=0o600, group="", inner=tmp_path / "tls.sock")
    local = {}
    for listener in found.served:
        with app.test_request_context("/", environ_overrides={LISTENER: listener}):
            local[Path(listener.sock.getsockname()).name] = may_fetch()
    found.close()
    assert local == {"api.sock": True, "tls.sock": False}
