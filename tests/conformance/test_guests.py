"""The exchanges where the guest matters, with real VMs: the original's client, and hyperctl beside it."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import tarfile
from collections.abc import Iterator

import pytest

from tests.conformance.original import PLAIN, Done, Original, RefusedError, command_line, progress
from tests.support.registry import RegistryServer
from tests.support.until import until
from tests.vm.conftest import Host, launch

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
    until(lambda: client.logs("second").out)
    client.container("kill", "second", ("signal", "9"))
    assert client._exit_code("second", "", tty=False) == 137
    assert client.logs("second").out == b"hello-log\n"
    stream, _ = client.attach("full", stdin=b"echo from stdin; exit 3\n")
    assert stream.frames() == [(1, b"from stdin\n")]
    assert client._exit_code("full", "", tty=False) == 3
    assert client.logs("full", tail="1") == Done(0, b"from stdin\n")
    changes = [("author", "me"), ("change", '["ENV Z=1"]'), ("container", "full"), ("message", "msg"), ("pause", "no")]
    reply = client.wire.call("POST", "/container/commit", [*changes, ("repo", "user/committed"), ("tag", "v1")])
    assert reply.json["ID"].startswith("sha256:")
    assert client.wire.requests[-1] == (
        "POST /v1.1.0/container/commit?author=me&change=%5B%22ENV+Z%3D1%22%5D&container=full&message=msg&pause=no"
        "&repo=user%2Fcommitted&tag=v1"
    )
    assert ("user/committed", "v1") in [row[:2] for row in client.images()]
    client.remove_image("user/committed:v1")
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


def context(dockerfile: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, text in (("Dockerfile", dockerfile), ("hello", "from the context\n")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return data.getvalue()


def test_build(client, host):
    data = context(f'FROM {host.image}\nCOPY hello /hello\nRUN cat /hello > /copied\nCMD ["cat", "/copied"]\n')
    headers = {"Content-Type": "application/tar", "X-Registry-Config": base64.urlsafe_b64encode(b"{}").decode()}
    query = [("name", "user/built:1")]
    lines = progress(client.wire.call("POST", "/image/build", query, chunks=[data], headers=headers))
    assert client.wire.requests == [f"POST {PLAIN}/image/build?name=user%2Fbuilt%3A1"]
    said = "".join(line.get("stream", "") for line in lines)
    assert said.startswith("Step 1")
    assert re.search(r"Successfully built [0-9a-f]{12}\n", said)
    assert client.run(command_line("user/built:1", name="built")) == Done(0, b"from the context\n")
    client.remove_image("user/built:1")


def test_a_build_that_fails(client, host):
    headers = {"Content-Type": "application/tar"}
    data = context(f"FROM {host.image}\nRUN exit 3\n")
    with pytest.raises(RefusedError, match="returned a non-zero code: 3"):
        progress(client.wire.call("POST", "/image/build", [("name", "user/b:1")], chunks=[data], headers=headers))


def test_hyperctl_commit_and_build(host, tmp_path):
    host.pod("full", "sleep 1000")
    host.ok("exec", "full", "sh", "-c", "echo kept > /kept")
    image_id = host.ok("commit", "-a", "me", "-m", "msg", "-c", "ENV Z=1", "full", "user/committed:v1")
    assert re.fullmatch("sha256:[0-9a-f]{64}\n", image_id)
    host.ok("rm", "full")
    assert host.ok("run", "--rm", "user/committed:v1", "sh", "-c", "cat /kept; echo $Z") == "kept\n1\n"
    (tmp_path / "Dockerfile").write_text("FROM user/committed:v1\nRUN echo more >> /kept\n")
    assert "Successfully built " in host.ok("build", "-t", "user/built:2", str(tmp_path))
    assert host.ok("run", "--rm", "user/built:2", "cat", "/kept") == "kept\nmore\n"
    host.ok("rmi", "user/built:2", "user/committed:v1")
    host.assert_clean()
