"""Requests that take as long as a container: who holds no thread, and which outputs the client of an exec gets."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hyperd.api.background import MAX_REMOTE
from tests.support.daemon import HyperdLauncher, UnixConnection
from tests.support.ports import free_port
from tests.support.registry import busybox_tar

pytestmark = pytest.mark.root

THREADS = 12
MANY = 40
STUBBORN = {
    "Image": "busybox",
    "Cmd": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.2; done"],
    "StopTimeout": 600,
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[HyperdLauncher]:
    with HyperdLauncher(driver="fake", config=f"threads = {THREADS}\n") as launcher:
        launcher.start("--docker-host", f"unix://{launcher.directory}/docker.sock")
        data = busybox_tar()
        connection = docker(launcher)
        with contextlib.closing(connection):
            connection.request("POST", "/images/create?fromSrc=-&repo=busybox&tag=latest", data)
            assert connection.getresponse().status == 200
        yield launcher


def docker(daemon: HyperdLauncher, timeout: float = 60.0) -> UnixConnection:
    return UnixConnection(daemon.directory / "docker.sock", timeout)


def ask(daemon: HyperdLauncher, method: str, path: str, body: Any = None, timeout: float = 60.0) -> tuple[int, bytes]:
    connection = docker(daemon, timeout)
    with contextlib.closing(connection):
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def stubborn(daemon: HyperdLauncher) -> Iterator[str]:
    """A container that runs and does not end at SIGTERM."""
    code, data = ask(daemon, "POST", "/containers/create", STUBBORN)
    assert code == 201, data
    ident = json.loads(data)["Id"]
    assert ask(daemon, "POST", f"/containers/{ident}/start")[0] == 204
    connection = docker(daemon)
    with contextlib.closing(connection):
        connection.request("GET", f"/containers/{ident}/logs?stdout=1&follow=1")
        assert connection.getresponse().read(8 + 3)[8:] == b"up\n"  # the trap is set
    yield ident
    ask(daemon, "DELETE", f"/containers/{ident}?force=1")


@contextlib.contextmanager
def asking(daemon: HyperdLauncher, method: str, path: str) -> Iterator[list[UnixConnection]]:
    """Send the same request many times, and read no answer."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(docker(daemon))) for _ in range(MANY)]
        for connection in connections:
            connection.request(method, path)
        yield connections


def answers(connections: list[UnixConnection]) -> list[tuple[int, bytes, http.client.HTTPMessage]]:
    found = []
    for connection in connections:
        answer = connection.getresponse()
        found.append((answer.status, answer.read(), answer.headers))
    return found


@pytest.mark.parametrize("grace", [-1, 600])
def test_who_stops_a_container_holds_no_thread(daemon: HyperdLauncher, stubborn: str, grace: int) -> None:
    with asking(daemon, "POST", f"/containers/{stubborn}/stop?t={grace}") as connections:
        assert ask(daemon, "GET", "/_ping", timeout=90) == (200, b"OK")
        assert json.loads(ask(daemon, "GET", f"/containers/{stubborn}/json", timeout=90)[1])["State"]["Running"]
        assert ask(daemon, "POST", f"/containers/{stubborn}/kill", timeout=90)[0] == 204
        for code, body, headers in answers(connections):
            assert (code in (204, 304), body, headers["Content-Length"]) == (True, b"", None)


def test_waits_and_samples_hold_no_thread_either(daemon: HyperdLauncher, stubborn: str) -> None:
    with (
        asking(daemon, "POST", f"/containers/{stubborn}/wait") as waiting,
        asking(daemon, "GET", f"/containers/{stubborn}/stats") as streams,
        asking(daemon, "GET", f"/containers/{stubborn}/stats?stream=0") as samples,
    ):
        assert ask(daemon, "GET", "/_ping", timeout=90) == (200, b"OK")
        assert {code for code, _, _ in answers(samples)} == {409}  # fake guests count nothing
        assert ask(daemon, "DELETE", f"/containers/{stubborn}?force=1", timeout=90)[0] == 204
        assert {(code, body) for code, body, _ in answers(waiting)} == {(200, b'{"StatusCode":137}\n')}
        for code, body, _ in answers(streams):
            assert (code, json.loads(body.splitlines()[0])["id"]) == (200, stubborn)


def test_streams_are_bounded_for_callers_over_tcp() -> None:
    """Each is a thread: a caller of the network has no end of connections."""
    port = free_port()
    with HyperdLauncher(driver="fake") as launcher, contextlib.ExitStack() as stack:
        launcher.start("--docker-host", f"tcp://127.0.0.1:{port}")

        def send(method: str, path: str, body: object = None) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            stack.enter_context(contextlib.closing(connection))
            data = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            return stack.enter_context(connection.getresponse())

        assert send("POST", "/images/create?fromSrc=-&repo=busybox", busybox_tar()).status == 200
        ident = json.loads(send("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]}).read())["Id"]
        waits = [send("POST", f"/containers/{ident}/wait?condition=removed") for _ in range(MAX_REMOTE)]
        assert {answer.status for answer in waits} == {200}
        for method, path in (("POST", "wait?condition=next-exit"), ("GET", "stats")):
            refused = send(method, f"/containers/{ident}/{path}")
            assert (refused.status, b"too many" in refused.read()) == (503, True), path


def test_who_kills_a_container_finds_it_ended(daemon: HyperdLauncher, stubborn: str) -> None:
    assert ask(daemon, "POST", f"/containers/{stubborn}/kill?signal=TERM")[0] == 204
    assert json.loads(ask(daemon, "GET", f"/containers/{stubborn}/json")[1])["State"]["Running"]  # it is stubborn
    assert ask(daemon, "POST", f"/containers/{stubborn}/kill")[0] == 204
    state = json.loads(ask(daemon, "GET", f"/containers/{stubborn}/json")[1])["State"]
    assert (state["Running"], state["ExitCode"]) == (False, 137)
    assert ask(daemon, "POST", f"/containers/{stubborn}/kill")[0] == 409


def test_a_wait_ends_with_the_run_although_a_policy_starts_the_next(daemon: HyperdLauncher) -> None:
    body = {
        "Image": "busybox",
        "Cmd": ["sh", "-c", "sleep 1; exit 3"],
        "HostConfig": {"RestartPolicy": {"Name": "always"}},
    }
    ident = json.loads(ask(daemon, "POST", "/containers/create", body)[1])["Id"]
    try:
        assert ask(daemon, "POST", f"/containers/{ident}/start")[0] == 204
        assert ask(daemon, "POST", f"/containers/{ident}/wait", timeout=90)[1] == b'{"StatusCode":3}\n'
        code, data = ask(daemon, "DELETE", f"/containers/{ident}")  # it runs, or will soon
        assert (code, b"stop the container before removing" in data) == (409, True)
    finally:
        assert ask(daemon, "DELETE", f"/containers/{ident}?force=1")[0] == 204


def test_logs_and_stream_of_a_container_that_has_not_begun(daemon: HyperdLauncher) -> None:
    ident = json.loads(ask(daemon, "POST", "/containers/create", {"Image": "busybox", "Cmd": ["echo", "hi"]})[1])["Id"]
    connection = docker(daemon)
    with contextlib.closing(connection):
        connection.request("POST", f"/containers/{ident}/attach?logs=1&stream=1&stdout=1")
        answer = connection.getresponse()
        assert ask(daemon, "POST", f"/containers/{ident}/start")[0] == 204
        assert answer.read() == b"\1\0\0\0\0\0\0\3hi\n"
    assert ask(daemon, "DELETE", f"/containers/{ident}?force=1")[0] == 204


def test_there_is_no_swarm_to_leave(daemon: HyperdLauncher) -> None:
    assert ask(daemon, "POST", "/swarm/leave?force=1") == (503, b'{"message": "This node is not part of a swarm"}\n')


def test_a_link_is_taken_away(daemon: HyperdLauncher, stubborn: str) -> None:
    host = {"Links": [f"{stubborn}:db", f"{stubborn}:other"], "Runtime": "runc", "Isolation": "default"}
    body = {"Image": "busybox", "Cmd": ["sleep", "60"], "HostConfig": host}
    ident = json.loads(ask(daemon, "POST", "/containers/create", body)[1])["Id"]

    def shown() -> dict[str, Any]:
        return dict(json.loads(ask(daemon, "GET", f"/containers/{ident}/json")[1])["HostConfig"])

    try:
        assert (shown()["Runtime"], shown()["Isolation"], len(shown()["Links"])) == ("runc", "default", 2)
        assert ask(daemon, "DELETE", f"/containers/{ident}?link=1")[0] == 409
        assert ask(daemon, "DELETE", f"/containers/{ident}/db?link=1") == (204, b"")
        assert [link.rpartition("/")[2] for link in shown()["Links"]] == ["other"]
        assert ask(daemon, "DELETE", f"/containers/{ident}/db?link=1")[0] == 404
        assert ask(daemon, "DELETE", f"/containers/{ident}/other")[0] == 404  # it is no container
    finally:
        assert ask(daemon, "DELETE", f"/containers/{ident}?force=1")[0] == 204


def test_a_start_does_not_wait_for_a_copy_that_is_over(daemon: HyperdLauncher) -> None:
    """The copy has claimed the filling of the new volume; here it fails, as a fake guest cannot unpack."""
    body = {"Image": "busybox", "Cmd": ["true"], "Volumes": {"/new": {}}}
    ident = json.loads(ask(daemon, "POST", "/containers/create", body)[1])["Id"]
    try:
        assert ask(daemon, "PUT", f"/containers/{ident}/archive?path=/new")[0] == 500
        assert ask(daemon, "POST", f"/containers/{ident}/start", timeout=90)[0] == 204
    finally:
        assert ask(daemon, "DELETE", f"/containers/{ident}?force=1&v=1")[0] == 204


def test_a_volume_driver_that_nobody_knows(daemon: HyperdLauncher) -> None:
    code, data = ask(daemon, "POST", "/volumes/create", {"Name": "v", "Driver": "asdf"})
    assert (code, json.loads(data)["message"]) == (404, "Error looking up volume plugin asdf: plugin not found")


def test_each_line_of_a_log_is_a_frame(daemon: HyperdLauncher) -> None:
    body = {"Image": "busybox", "Cmd": ["printf", "one\\ntwo\\n\\nend"]}
    ident = json.loads(ask(daemon, "POST", "/containers/create", body)[1])["Id"]
    try:
        assert ask(daemon, "POST", f"/containers/{ident}/start")[0] == 204
        assert ask(daemon, "POST", f"/containers/{ident}/wait")[0] == 200
        wanted = b"".join(b"\1\0\0\0" + len(line).to_bytes(4) + line for line in (b"one\n", b"two\n", b"\n", b"end"))
        assert ask(daemon, "GET", f"/containers/{ident}/logs?stdout=1&follow=1") == (200, wanted)
        assert ask(daemon, "POST", f"/containers/{ident}/attach?stdout=1&logs=1") == (200, wanted)
    finally:
        assert ask(daemon, "DELETE", f"/containers/{ident}?force=1")[0] == 204


def test_a_log_driver_that_nobody_knows(daemon: HyperdLauncher) -> None:
    body = {"Image": "busybox", "HostConfig": {"LogConfig": {"Type": "asdf"}}}
    code, data = ask(daemon, "POST", "/containers/create", body)
    assert (code, json.loads(data)["message"]) == (400, "logger: no log driver named 'asdf' is registered")


def test_every_key_of_an_image_config_is_there(daemon: HyperdLauncher) -> None:
    config = json.loads(ask(daemon, "GET", "/images/busybox/json")[1])["Config"]
    assert (config["OnBuild"], config["Entrypoint"]) == (None, None)


def test_a_removal_does_not_wait_for_a_stop(daemon: HyperdLauncher, stubborn: str) -> None:
    with asking(daemon, "POST", f"/containers/{stubborn}/stop?t=600") as connections:
        assert ask(daemon, "DELETE", f"/containers/{stubborn}?force=1", timeout=90)[0] == 204
        assert {code for code, _, _ in answers(connections)} <= {204, 304, 404}


def test_the_answer_to_a_late_restart(daemon: HyperdLauncher, stubborn: str) -> None:
    assert ask(daemon, "POST", f"/containers/{stubborn}/restart?t=3") == (204, b"")
    assert json.loads(ask(daemon, "GET", f"/containers/{stubborn}/json")[1])["State"]["Running"]


def test_a_forced_removal_does_not_ask(daemon: HyperdLauncher, stubborn: str) -> None:
    assert ask(daemon, "DELETE", f"/containers/{stubborn}")[0] == 409
    assert ask(daemon, "DELETE", f"/containers/{stubborn}?force=1")[0] == 204  # SIGTERM would take 600 s
    assert ask(daemon, "GET", f"/containers/{stubborn}/json")[0] == 404


@pytest.mark.parametrize(
    ("attached", "wanted"),
    [
        ({"AttachStdout": True, "AttachStderr": True}, {1: b"out\n", 2: b"err\n"}),
        ({"AttachStdout": True}, {1: b"out\n"}),
        ({"AttachStderr": True}, {2: b"err\n"}),
        ({}, {}),
    ],
)
def test_an_exec_gives_the_outputs_that_were_asked_for(
    daemon: HyperdLauncher, stubborn: str, attached: dict[str, bool], wanted: dict[int, bytes]
) -> None:
    body = {"Cmd": ["sh", "-c", "echo out; echo err >&2"], **attached}
    code, data = ask(daemon, "POST", f"/containers/{stubborn}/exec", body)
    assert code == 201, data
    ident = json.loads(data)["Id"]
    about = json.loads(ask(daemon, "GET", f"/exec/{ident}/json")[1])
    assert (about["OpenStdout"], about["OpenStderr"]) == (1 in wanted, 2 in wanted)
    code, data = ask(daemon, "POST", f"/exec/{ident}/start", {"Detach": False})
    found: dict[int, bytes] = {}
    while data:
        size = int.from_bytes(data[4:8])
        found[data[0]] = found.get(data[0], b"") + data[8 : 8 + size]
        data = data[8 + size :]
    assert (code, found) == (200, wanted)


def test_the_size_of_a_terminal_of_an_exec(daemon: HyperdLauncher, stubborn: str) -> None:
    def run(made: dict[str, Any], started: dict[str, Any], resized: str = "") -> bytes:
        body = {"Cmd": ["stty", "size"], "Tty": True, "AttachStdout": True, **made}
        ident = json.loads(ask(daemon, "POST", f"/containers/{stubborn}/exec", body)[1])["Id"]
        if resized:
            assert ask(daemon, "POST", f"/exec/{ident}/resize?{resized}")[0] == 200
        code, data = ask(daemon, "POST", f"/exec/{ident}/start", {"Tty": True, **started})
        assert code == 200, data
        return data.strip()

    assert run({"ConsoleSize": [11, 22]}, {}) == b"11 22"
    assert run({"ConsoleSize": [11, 22]}, {"ConsoleSize": [33, 44]}) == b"33 44"
    assert run({"ConsoleSize": [0, 0]}, {}, "h=55&w=66") == b"55 66"
    for body in ({"Cmd": ["true"], "ConsoleSize": [1, 2]}, {"Cmd": ["true"], "Tty": True, "ConsoleSize": [1, 2, 3]}):
        assert ask(daemon, "POST", f"/containers/{stubborn}/exec", body)[0] == 400


@pytest.mark.parametrize(("started", "wanted"), [({"Tty": True}, b"out\r\n"), ({}, b"\1\0\0\0\0\0\0\5out\r\n")])
def test_who_starts_an_exec_says_whether_its_output_is_framed(
    daemon: HyperdLauncher, stubborn: str, started: dict[str, Any], wanted: bytes
) -> None:
    body = {"Cmd": ["echo", "out"], "Tty": True, "AttachStdout": True, "AttachStderr": True}
    ident = json.loads(ask(daemon, "POST", f"/containers/{stubborn}/exec", body)[1])["Id"]
    assert ask(daemon, "POST", f"/exec/{ident}/start", started) == (200, wanted)


def test_keys_of_bodies_are_known_in_any_case(daemon: HyperdLauncher, stubborn: str) -> None:
    body = {"cmd": ["true"], "detachKeys": "ctrl-a"}
    ident = json.loads(ask(daemon, "POST", f"/containers/{stubborn}/exec", body)[1])["Id"]
    about = json.loads(ask(daemon, "GET", f"/exec/{ident}/json")[1])
    assert (about["DetachKeys"], about["ProcessConfig"]["entrypoint"]) == ("ctrl-a", "true")

    given = {"image": "busybox", "hostconfig": {"readonlyRootfs": True}}
    code, data = ask(daemon, "POST", "/containers/create", given)
    assert code == 201, data
    path = f"/containers/{json.loads(data)['Id']}"
    assert json.loads(ask(daemon, "GET", f"{path}/json")[1])["HostConfig"]["ReadonlyRootfs"] is True
    assert ask(daemon, "DELETE", path)[0] == 204


def test_the_end_of_a_log_that_was_asked_for(daemon: HyperdLauncher, stubborn: str) -> None:
    now = time.time()
    log = f"/containers/{stubborn}/logs?stdout=1"
    assert ask(daemon, "GET", f"{log}&until={now + 60}")[1][8:] == b"up\n"
    assert ask(daemon, "GET", f"{log}&until={now - 3600}")[1] == b""
    assert ask(daemon, "GET", f"{log}&until=1h&tail=5")[1] == b""
    assert ask(daemon, "GET", f"{log}&follow=1&until={time.time() + 1}", timeout=90)[1][8:] == b"up\n"  # it ends
    assert ask(daemon, "GET", f"{log}&until=inf")[0] == 400


@pytest.mark.parametrize(("size", "wanted"), [([31, 42], b"31 42"), ([0, 0], b"24 80"), (None, b"24 80")])
def test_the_size_of_a_terminal_of_a_container(daemon: HyperdLauncher, size: list[int] | None, wanted: bytes) -> None:
    body = {"Image": "busybox", "Cmd": ["stty", "size"], "Tty": True, "HostConfig": {"ConsoleSize": size}}
    code, data = ask(daemon, "POST", "/containers/create", body)
    assert code == 201, data
    ident = json.loads(data)["Id"]
    assert ask(daemon, "POST", f"/containers/{ident}/start")[0] == 204
    assert ask(daemon, "GET", f"/containers/{ident}/logs?stdout=1&follow=1")[1].strip() == wanted
    assert ask(daemon, "DELETE", f"/containers/{ident}?force=1")[0] == 204


def test_both_apis_list_the_same_and_change_each_others(daemon: HyperdLauncher) -> None:
    """Containers of Docker's clients and those of hyperctl's pods, seen and changed from the other side."""

    def ours() -> dict[str, str]:
        rows = [row.split(":") for row in daemon.json("GET", "/list", item="container")["cData"]]
        return {row[0]: row[3] for row in rows}

    def theirs() -> dict[str, str]:
        return {row["Id"]: row["State"] for row in json.loads(ask(daemon, "GET", "/containers/json?all=1")[1])}

    body = {"Image": "busybox", "Cmd": ["sleep", "1000"]}
    one = json.loads(ask(daemon, "POST", "/containers/create?name=by-docker", body)[1])["Id"]
    assert ask(daemon, "POST", f"/containers/{one}/start")[0] == 204
    inner = [{"name": name, "image": "busybox", "command": ["sleep", "1000"]} for name in ("web", "db")]
    daemon.json("POST", "/pod/create", status=201, body={"id": "shop", "containers": inner})
    daemon.json("POST", "/pod/start", podId="shop")
    assert ours().keys() == theirs().keys()
    assert len(ours()) == 3
    assert set(theirs().values()) == {"running"}
    web = json.loads(ask(daemon, "GET", "/containers/web/json")[1])["Id"]
    assert ask(daemon, "POST", "/containers/web/stop?t=0")[0] == 204
    daemon.json("POST", "/container/stop", container="by-docker")
    assert {ident for ident, state in theirs().items() if state == "exited"} == {web, one}
    assert {ident for ident, state in ours().items() if state != "running"} == {web, one}
    assert ask(daemon, "DELETE", "/containers/web")[0] == 204
    daemon.json("DELETE", "/pod", podId=one)
    assert ours().keys() == theirs().keys()
    assert len(ours()) == 1
    assert ask(daemon, "DELETE", "/containers/db?force=1")[0] == 204
    assert (ours(), theirs()) == ({}, {})
    assert daemon.json("GET", "/list", item="pod")["podData"] != []  # the pod is hyperctl's, and stays
    daemon.json("DELETE", "/pod", podId="shop")
