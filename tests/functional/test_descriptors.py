"""Many descriptors, and none left: the daemon lives, and who has a connection is served."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperd.errors import HostFault
from hyperd.network import nft
from tests.support.daemon import HyperdLauncher
from tests.support.descriptors import descriptors
from tests.support.ports import free_port
from tests.support.registry import make_certificates
from tests.support.until import until

pytestmark = pytest.mark.root

PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
FD_SETSIZE = 1024  # what select(2) can name


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Allow this process (and what it starts) ``count`` open descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert before[1] >= count, f"the hard limit of open files is {before[1]}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def answered(sock: socket.socket) -> bool:
    """Read an answer of ``/_ping`` to its end."""
    data = b""
    while not data.endswith(b"OK"):
        data += sock.recv(4096)
    return data.startswith(b"HTTP/1.1 200 OK")


def test_a_pod_with_a_port_starts_beside_a_thousand_connections() -> None:
    pod = {"id": "ported", "portmappings": [{"containerPort": "80", "hostPort": "11480", "protocol": "tcp"}]}
    with many_descriptors(4096), contextlib.ExitStack() as stack:
        daemon = stack.enter_context(HyperdLauncher(driver="fake"))
        daemon.start()
        for _ in range(FD_SETSIZE + 30):
            stack.enter_context(daemon.raw())
        pod_id = daemon.json("POST", "/pod/create", body=pod)["ID"]
        daemon.json("POST", "/pod/start", podId=pod_id)
        assert len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())) > FD_SETSIZE
        daemon.json("DELETE", "/pod", podId=pod_id)
        assert daemon.request("GET", "/_ping")[2] == b"OK"


def test_rules_are_written_whatever_the_number_of_the_next_descriptor() -> None:
    with many_descriptors(20_000), contextlib.ExitStack() as stack:
        for _ in range(19_000):
            stack.callback(os.close, os.dup(0))
        with pytest.raises(HostFault, match="refused"):
            nft.apply("no such command")
        nft.apply("add table inet hyperd_test_descriptors; delete table inet hyperd_test_descriptors")


def test_more_connections_than_descriptors_end_nothing() -> None:
    """The soft limit is the hard one here: the daemon cannot raise it."""
    command = ["prlimit", "--nofile=256:256", sys.executable, "-m", "hyperd.cli"]
    with HyperdLauncher(driver="fake", command=command) as daemon, contextlib.ExitStack() as stack:
        daemon.start()
        with daemon.connection() as kept:
            for _ in range(400):
                stack.enter_context(daemon.raw())
                kept.request("GET", "/_ping")
                assert kept.getresponse().read() == b"OK"
            # Half requests give way less easily than idle connections: new callers are told so.
            with contextlib.ExitStack() as halves:
                for _ in range(400):
                    with contextlib.suppress(OSError):
                        halves.enter_context(daemon.raw()).sendall(PING[:9])
                refused = halves.enter_context(daemon.raw())
                assert refused.recv(4096).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())) < 256
        until(lambda: daemon.request("GET", "/_ping")[2] == b"OK")  # it has seen that they are closed
        daemon.json("POST", "/pod/create", body={"id": "beside"})
        daemon.json("POST", "/pod/start", podId="beside")
        daemon.json("DELETE", "/pod", podId="beside")
        until(lambda: "server.connections_refused" in daemon.log())


def test_the_last_descriptor_is_spent_on_saying_so() -> None:
    """When the daemon's own work has used up everything, connections are refused and not left waiting."""
    command = ["prlimit", "--nofile=256:256", sys.executable, "-m", "hyperd.cli"]
    with HyperdLauncher(driver="fake", command=command) as daemon, contextlib.ExitStack() as stack:
        daemon.start()
        spare = max(number for number, path in descriptors(daemon.pid) if path == "/dev/null")
        idle = stack.enter_context(daemon.raw())
        idle.sendall(PING)
        assert answered(idle)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (spare + 1, 256))
        for _ in range(20):
            sock = stack.enter_context(daemon.raw())
            assert sock.recv(4096).startswith(b"HTTP/1.1 503 ")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (256, 256))
        idle.sendall(PING)
        assert answered(idle)
        assert daemon.request("GET", "/_ping")[2] == b"OK"


def test_callers_without_a_handshake_leave_descriptors_to_others(tmp_path: Path) -> None:
    """The TLS front needs three descriptors for a connection, and takes callers that have no certificate yet."""
    authority, certificate, key = make_certificates(tmp_path)
    command = ["prlimit", "--nofile=256:256", sys.executable, "-m", "hyperd.cli"]
    port = free_port()
    config = f'[tls]\nenabled = true\ncert = "{certificate}"\nkey = "{key}"\n'
    with HyperdLauncher(driver="fake", command=command, config=config) as daemon, contextlib.ExitStack() as stack:
        daemon.start("--host", f"tcp://localhost:{port}")
        for _ in range(300):
            stack.enter_context(socket.create_connection(("localhost", port)))
        until(lambda: "tls.too_many_connections" in daemon.log())
        daemon.json("POST", "/pod/create", body={"id": "beside"})
        daemon.json("POST", "/pod/start", podId="beside")
        daemon.json("DELETE", "/pod", podId="beside")
        # A newer caller takes the place of an older one that has said nothing.
        context = ssl.create_default_context(cafile=str(authority))
        with contextlib.closing(http.client.HTTPSConnection("localhost", port, context=context, timeout=90)) as caller:
            caller.request("GET", "/_ping")
            assert caller.getresponse().read() == b"OK"
        assert "no_descriptors" not in daemon.log()
        assert "Too many open files" not in daemon.log()
