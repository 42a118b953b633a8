"""Attached runs, exec, attach and logs of hyperctl: bytes, half-closes, signals and exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading

import pytest

from tests.support.fake_hyperd import FakeHyperd, Hijack, Reply, Talk, frame, ok, refuse
from tests.support.hyperctl_process import CID, HYPERCTL, attached_run


def test_run_attached_keeps_the_streams_apart_and_gives_the_exit_code(fake, hyperctl):
    def talk(talk: Talk) -> None:
        talk.send(frame(1, b"glued\n")[10:])
        talk.fake.find("/pod/start")
        talk.out(b"out\n")
        for byte in frame(2, b"err\n"):  # a frame in single bytes
            talk.send(bytes([byte]))
        talk.send(frame(1, b"more\n") + frame(2, b"") + frame(1, b"end"))

    attached_run(fake, Hijack(talk, glued=frame(1, b"glued\n")[:10]), code=17)
    done = hyperctl("run", "--rm", "--name", "n", "busybox", "sh", "-c", "exit 17")
    assert (done.stdout, done.stderr, done.returncode) == (b"glued\nout\nmore\nend", b"err\n", 17)
    assert fake.requests == [
        "POST /v1.1.0/pod/create",
        "POST /v1.17/attach?container=n",
        "POST /v1.1.0/pod/start?podId=p",
        "GET /v1.1.0/exitcode?container=n&exec=",
        "DELETE /v1.1.0/pod?podId=p",
    ]
    attach = fake.find("/attach")
    assert (attach.headers["connection"], attach.headers["upgrade"]) == ("Upgrade", "tcp")
    assert {exchange.connection for exchange in fake.exchanges} == {1, 2, 3}
    assert attach.connection != fake.find("/pod/start").connection


def test_stdin_reaches_the_container_and_its_end_is_a_half_close(fake, hyperctl):
    data = os.urandom(3_000_000)

    def echo(talk: Talk) -> None:
        while piece := talk.receive():
            talk.out(piece)
        talk.err(b"eof")

    attached_run(fake, Hijack(echo))
    done = hyperctl("run", "--rm", "busybox", "cat", stdin=data)
    assert (done.stdout == data, done.stderr, done.returncode) == (True, b"eof", 0)


@pytest.mark.parametrize("stdin", ["devnull", "closed", "file"])
def test_every_kind_of_stdin_ends_in_a_half_close(fake, hyperctl, tmp_path, stdin):
    def late(talk: Talk) -> None:
        talk.receive_all()
        talk.out(b"still here")

    attached_run(fake, Hijack(late))
    (tmp_path / "in").write_text("typed")
    source = {"devnull": "/dev/null", "file": str(tmp_path / "in")}.get(stdin)
    redirect = f"<{source}" if source else "<&-"
    done = subprocess.run(
        ["sh", "-c", f"exec {HYPERCTL} run busybox cat {redirect}"],
        capture_output=True,
        env=hyperctl.environment,
        check=False,
        timeout=100,
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"still here", b"", 0)
    assert fake.find("/attach").stdin == (b"typed" if stdin == "file" else b"")


def test_stdin_stays_open_while_nothing_is_typed(fake, hyperctl):
    attached_run(fake, Hijack(lambda talk: talk.out(b"bye")), code=3)
    with hyperctl.start("run", "busybox", stdin=subprocess.PIPE) as process:
        assert process.stdout.read() == b"bye"
        assert process.wait(100) == 3
    assert not fake.find("/attach").half_closed.is_set()


def test_a_container_that_does_not_read_does_not_stop_its_output(fake, hyperctl):
    def deaf(talk: Talk) -> None:
        talk.sock.shutdown(socket.SHUT_RD)
        talk.out(b"deaf")
        talk.fake.find("/pod/start")

    attached_run(fake, Hijack(deaf), code=5)
    done = hyperctl("run", "busybox", "true", stdin=b"x" * 5_000_000)
    assert (done.stdout, done.returncode) == (b"deaf", 5)


def test_run_attached_podfile(fake, hyperctl, tmp_path):
    (tmp_path / "pod.json").write_text(json.dumps({"containers": [{"name": "fp1", "image": "busybox"}]}))
    attached_run(fake, Hijack())
    assert hyperctl("run", "-a", "--rm", "-p", "pod.json").returncode == 0
    assert fake.requests[1] == "POST /v1.17/attach?container=fp1"


def test_run_attached_podfile_without_a_container_name_asks_for_it(fake, hyperctl, tmp_path):
    (tmp_path / "pod.json").write_text('{"containers": [{"image": "busybox"}]}')
    attached_run(fake, Hijack())
    assert hyperctl("run", "-a", "-p", "pod.json").returncode == 0
    assert fake.requests[1:3] == ["GET /v1.1.0/pod/info?podName=p", f"POST /v1.17/attach?container={CID}"]


@pytest.mark.parametrize("option", ["--rm", "-d", "--name=n"])
def test_a_failed_start_is_told_and_the_pod_removed(fake, hyperctl, option):
    attached_run(fake, Hijack(lambda talk: talk.receive_all()))
    fake.on("POST", "/pod/start", refuse(500, "no memory"))
    done = hyperctl("run", option, "busybox")
    assert done.stderr == b"hyperctl ERROR: Error from daemon's response: no memory\n"
    assert (done.returncode, fake.requests[-1]) == (255, "DELETE /v1.1.0/pod?podId=p")


def test_a_refused_attach_is_told_and_the_pod_never_started(fake, hyperctl):
    attached_run(fake, Hijack())
    fake.on("POST", "/attach", refuse(500, "no such thing"))
    done = hyperctl("run", "--rm", "--name", "n", "busybox")
    assert done.stderr == b"hyperctl ERROR: Error from daemon's response: no such thing\n"
    assert done.returncode == 255
    assert [line.partition("?")[0] for line in fake.requests] == [
        "POST /v1.1.0/pod/create",
        "POST /v1.17/attach",
        "DELETE /v1.1.0/pod",
    ]


def test_a_failed_removal_is_told_but_the_exit_code_stays(fake, hyperctl):
    attached_run(fake, Hijack(), code=4)
    fake.on("DELETE", "/pod", refuse(500, "busy"))
    done = hyperctl("run", "--rm", "busybox")
    assert (done.stderr, done.returncode) == (b"failed to rm pod, Error from daemon's response: busy\n", 4)


@pytest.mark.parametrize(
    ("glued", "text"),
    [
        (b"Error running\n", b"Unrecognized input header: 69"),
        (frame(1, b"abc")[:-1], b"the connection to the daemon ended in the middle of the output"),
        (b"\1\0\0", b"the connection to the daemon ended in the middle of the output"),
    ],
)
def test_broken_frames_are_an_error(fake, hyperctl, glued, text):
    attached_run(fake, Hijack(glued=glued))
    done = hyperctl("run", "busybox")
    assert (done.stderr, done.returncode) == (b"hyperctl ERROR: %b\n" % text, 255)


def test_ctrl_c_goes_to_the_container_and_the_third_leaves(fake, hyperctl):
    attached_run(fake, Hijack(lambda talk: (talk.out(b"ready\n"), talk.receive_all(), talk.receive())))
    with hyperctl.start("run", "--rm", "--name", "n", "busybox", stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert fake.find("/container/kill").line == "POST /v1.1.0/container/kill?container=n&signal=2"
        process.send_signal(signal.SIGTERM)
        assert fake.find("/container/kill", 2).parameters["signal"] == ["15"]
        process.send_signal(signal.SIGINT)
        assert process.wait(100) == 130
        assert process.stderr.read() == b""
    assert fake.requests[-1] == "DELETE /v1.1.0/pod?podId=p"


def test_a_container_that_ends_by_the_signal_gives_its_own_code(fake, hyperctl):
    def talk(talk: Talk) -> None:
        talk.out(b"ready\n")
        talk.fake.find("/container/kill")
        talk.out(b"graceful\n")

    attached_run(fake, Hijack(talk), code=7)
    with hyperctl.start("run", "--rm", "busybox") as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"graceful\n"
        assert process.wait(100) == 7


def test_ctrl_c_while_the_pod_is_created_still_removes_it(fake, hyperctl):
    process_box: list[subprocess.Popen[bytes]] = []

    def interrupt() -> None:
        process_box[0].send_signal(signal.SIGINT)

    attached_run(fake, Hijack())
    gate = threading.Event()
    fake.on("POST", "/pod/create", Reply(body=b'{"ID":"p"}', before=lambda: (gate.wait(60), interrupt())))
    with hyperctl.start("run", "--rm", "busybox") as process:
        process_box.append(process)
        gate.set()
        assert process.wait(100) == 130
    assert fake.requests == ["POST /v1.1.0/pod/create", "DELETE /v1.1.0/pod?podId=p"]


def test_ctrl_c_ends_a_pull_at_once(fake, hyperctl):
    gate = threading.Event()
    head = b'HTTP/1.1 200 OK\r\n\r\n{"status":"pulling"}\n'
    attached_run(fake, Hijack())
    fake.on("POST", "/pod/create", refuse(404, "No such image: busybox:latest"))
    fake.on("POST", "/image/create", Hijack(lambda _: gate.wait(60), head=head))
    with hyperctl.start("run", "--rm", "busybox") as process:
        assert process.stderr.readline() == b"pulling\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(100) == 130
    gate.set()
    assert len(fake.requests) == 2


def test_a_closed_stdout_is_quiet_and_the_pod_removed(fake, hyperctl):
    def flood(talk: Talk) -> None:
        with contextlib.suppress(OSError):
            while True:
                talk.out(b"y\n" * 1000)

    attached_run(fake, Hijack(flood))
    with hyperctl.start("run", "--rm", "busybox", "yes") as process:
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(100) == 141
        assert process.stderr.read() == b""
    assert fake.requests[-1] == "DELETE /v1.1.0/pod?podId=p"


def test_a_closed_stdout_is_quiet_for_tables_too(fake, hyperctl):
    fake.on("GET", "/list", ok({"podData": ["p:p::running"] * 50_000}))
    with hyperctl.start("list") as process:
        process.stdout.close()
        assert process.wait(100) == 141
        assert process.stderr.read() == b""


def exec_answers(fake: FakeHyperd, hijack: Hijack, code: int = 0) -> None:
    fake.on("POST", "/exec/create", ok("exec-ESlPQDOTRX", 201)).on("POST", "/exec/start", hijack)
    fake.on("GET", "/exitcode", ok(code)).on("POST", "/tty/resize", Reply())


def test_exec(fake, hyperctl):
    exec_answers(fake, Hijack(glued=frame(1, b"out\n") + frame(2, b"err\n")), code=37)
    done = hyperctl("exec", "full", "sh", "-c", "echo out; echo err >&2; exit 37")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 37)
    assert fake.requests == [
        (
            "POST /v1.1.0/exec/create?command=%5B%22sh%22%2C%22-c%22%2C%22"
            "echo+out%3B+echo+err+%5Cu003e%5Cu00262%3B+exit+37%22%5D&container=full&tty=false"
        ),
        "POST /v1.17/exec/start?container=full&exec=exec-ESlPQDOTRX",
        "GET /v1.1.0/exitcode?container=full&exec=exec-ESlPQDOTRX",
    ]


def test_exec_by_pod_id_takes_the_first_container(fake, hyperctl):
    exec_answers(fake, Hijack())
    fake.on("GET", "/list", ok({"cData": [f"{CID}:c:pod-vguneWLxgJ:running"]}), ok({"cData": []}))
    assert hyperctl("exec", "pod-vguneWLxgJ", "echo", "hi").returncode == 0
    assert fake.requests[0] == "GET /v1.1.0/list?item=container&pod=pod-vguneWLxgJ"
    assert fake.exchanges[1].parameters["container"] == [CID]
    done = hyperctl("exec", "pod-empty", "true")
    assert (done.returncode, done.stderr) == (255, b"hyperctl ERROR: cannot find a container in the pod pod-empty\n")


def test_exec_detached_joins_nothing(fake, hyperctl):
    fake.on("POST", "/exec/create", ok("exec-ESlPQDOTRX", 201)).on("POST", "/exec/start", ok({}))
    done = hyperctl("exec", "-d", "full", "sleep", "1")
    assert (done.stdout, done.returncode) == (b"", 0)
    assert [line.partition("?")[0] for line in fake.requests] == [
        "POST /v1.1.0/exec/create",
        "POST /v1.1.0/exec/start",
    ]
    assert fake.exchanges[1].parameters["detach"] == ["true"]


def test_exec_in_the_guest_is_raw(fake, hyperctl):
    fake.on("POST", "/execvm", Hijack(glued=b"aaa\n\1\0"))
    done = hyperctl("exec", "-m", "full", "/sbin/busybox", "-x")
    assert (done.stdout, done.returncode) == (b"aaa\n\1\0", 0)
    assert fake.requests == ["POST /v1.17/execvm?command=%5B%22%2Fsbin%2Fbusybox%22%2C%22-x%22%5D&pod=full"]


def test_exec_of_nothing(fake, hyperctl):
    fake.on("POST", "/exec/create", refuse(500, "cannot find container nosuch"))
    done = hyperctl("exec", "nosuch", "true")
    assert done.stderr == b"hyperctl ERROR: Error from daemon's response: cannot find container nosuch\n"
    assert (done.returncode, len(fake.requests)) == (255, 1)


def test_attach(fake, hyperctl):
    fake.on("GET", "/container/info", ok({"container": {"containerID": CID}, "status": {}}))
    fake.on("POST", "/attach", Hijack(glued=frame(1, b"hi"))).on("GET", "/exitcode", ok(9))
    done = hyperctl("attach", "second")
    assert (done.stdout, done.returncode) == (b"hi", 9)
    assert fake.requests == [
        "GET /v1.1.0/container/info?container=second",
        f"POST /v1.17/attach?container={CID}",
        f"GET /v1.1.0/exitcode?container={CID}&exec=",
    ]


def test_attach_by_pod_id(fake, hyperctl):
    fake.on("GET", "/pod/info", ok({"spec": {"containers": [{"containerID": CID}]}}), ok({"spec": {}}))
    fake.on("POST", "/attach", Hijack()).on("GET", "/exitcode", ok(0))
    assert hyperctl("attach", "pod-a").returncode == 0
    assert fake.requests[1] == f"POST /v1.17/attach?container={CID}"
    assert hyperctl("attach", "pod-b").stderr == b"hyperctl ERROR: cannot find the container pod-b\n"


def test_logs_take_the_frames_apart(fake, hyperctl):
    body = frame(1, b"out\n") + frame(2, b"err\n")
    fake.on("GET", "/container/info", ok({"container": {"containerID": CID}}))
    fake.on("GET", "/container/logs", Reply(pieces=[body[:5], body[5:9], body[9:]], content_type="text/plain"))
    done = hyperctl("logs", "--tail", "5", "-t", "-f", "--since", "1600000000", "second")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 0)
    assert fake.requests == [
        "GET /v1.1.0/container/info?container=second",
        (
            "GET /v1.1.0/container/logs?container=second&follow=true&since=1600000000&stderr=true&stdout=true"
            "&tail=5&timestamps=true"
        ),
    ]


def test_logs_of_a_terminal_are_raw(fake, hyperctl):
    fake.on("GET", "/container/info", ok({"container": {"tty": True}}))
    fake.on("GET", "/container/logs", Reply(body=b"\1raw", content_type="text/plain"))
    assert hyperctl("logs", "x").stdout == b"\1raw"


def test_logs_come_as_they_are_written(fake, hyperctl):
    """A follower sees the first piece while the answer is still open."""
    gate = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
    fake.on("GET", "/container/info", ok({"container": {}}))
    fake.on("GET", "/container/logs", Hijack(lambda _: gate.wait(60), glued=frame(1, b"now\n"), head=head))
    with hyperctl.start("logs", "-f", "x") as process:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(100) == 130
    gate.set()
