"""The exchanges where the guest matters, with real VMs: the original's client, and hyperctl beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from conformance.original import Done, Original, command_line
from support.registry import RegistryServer
from vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    daemon, host = launch(registry)
    with daemon:
        yield host


@pytest.fixture
def client(host: Host) -> Iterator[Original]:
    with contextlib.closing(Original(host.daemon.socket)) as one:
        yield one
        for row in one.list():
            one.remove(row[0])
    host.assert_clean()


def test_attach_and_start_at_the_same_time_lose_nothing(client, host):
    for number in range(4):
        script = f"echo out {number}; echo err {number} >&2; exit {number}"
        done = client.run(command_line(host.image, ["sh", "-c", script], name=f"short{number}"))
        assert done == Done(number, b"out %d\n" % number, b"err %d\n" % number)


def test_one_pod_through_everything(client, host):
    """One guest, since each costs a boot: exec, terminals, the guest itself, stdin, logs, signals, more containers."""
    client.run(command_line(host.image, ["sh"], name="full"), attach=False)
    done = client.exec("full", ["sh", "-c", "cat; echo err >&2; exit 37"], stdin=b"in\n" * 10_000)
    assert done == Done(37, b"in\n" * 10_000, b"err\n")
    assert client.exec("full", ["sh", "-c", "tty; exit 5"], tty=True) == Done(0, b"/dev/pts/0\r\n")
    assert client.exec_vm("full", ["/sbin/busybox", "sh", "-c", "echo aaa; exit 3"]) == Done(0, b"aaa\n")
    assert client.exec("full", ["sh", "-c", "kill -9 $$"]).code in (0, 137)
    spec = {"name": "second", "image": host.image, "command": ["sh", "-c", "echo hello-log; sleep 1000"]}
    client.create_container("full", spec)
    client.container("start", "second")
    client.container("kill", "second", ("signal", "9"))
    assert client._exit_code("second", "", tty=False) == 137
    assert client.logs("second").out == b"hello-log\n"
    stream, _ = client.attach("full", stdin=b"echo from stdin; exit 3\n")
    assert stream.frames() == [(1, b"from stdin\n")]
    assert client._exit_code("full", "", tty=False) == 3
    assert client.logs("full", tail="1") == Done(0, b"from stdin\n")
    client.pause("full")
    assert client.list()[0][3] == "paused"
    client.unpause("full")
    assert client.stop("full") == "Successfully shutdown the POD: full!\n"
    assert client.start("full") == "Successfully started the Pod(full)\n"
    assert client.exec("full", ["hostname"]) == Done(0, b"full\n")


def test_terminal_run(client, host):
    spec = command_line(host.image, ["sh", "-c", "test -t 0 && echo tty; exit 9"], tty=True)
    assert client.run(spec, tty=True) == Done(9, b"tty\r\n")


def test_hyperctl(host):
    done = host.ctl("run", "--rm", host.image, "sh", "-c", "cat; echo err >&2; exit 17", stdin=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (17, b"in", b"err\n")
    host.assert_clean()
