"""hyperd's own API on a real server: a registry beside it, VMs that only pretend, everything else as it is."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import threading
from datetime import UTC, datetime

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.registry import Layer, RegistryServer, busybox_tar
from tests.support.until import until

pytestmark = pytest.mark.root

CODE = re.compile(r'\{"Cause":"","Code":0,"ID":"[^"]+"\}\n')


@pytest.fixture(scope="module")
def registry():
    with RegistryServer() as server:
        server.push("busybox", "latest", [Layer(busybox_tar())])
        server.push("other", "1", [Layer(busybox_tar())], config={"config": {"Cmd": ["/bin/sh", "-c", "echo image"]}})
        yield server


@pytest.fixture(scope="module")
def daemon(registry):
    with HyperdLauncher(config="stop_grace = 1\n") as launcher:
        launcher.start()
        yield launcher
        assert "internal_error" not in launcher.log()


@pytest.fixture(scope="module")
def image(daemon, registry):
    name = f"{registry.host}/busybox"
    status, _, body = daemon.request("POST", "/image/create", imageName=name)
    assert status == 200, body
    assert json.loads(body.split(b"\r\n")[-2])["status"].startswith("Status: Downloaded newer image"), body
    return name


@pytest.fixture
def pods(daemon):
    """Yield a function that creates pods; they are gone afterwards, and so is everything of theirs."""
    made: list[str] = []

    def create(*commands: list[str], image: str, **fields: object) -> str:
        containers = [{"image": image, "command": command} for command in commands]
        answer = daemon.json("POST", "/pod/create", status=201, body={"containers": containers, **fields})
        made.append(answer["ID"])
        return answer["ID"]

    yield create
    for pod_id in made:
        daemon.request("DELETE", "/pod", podId=pod_id)
    assert rows(daemon, "pod") == []
    assert rows(daemon, "container") == []
    assert rows(daemon, "vm") == []


def rows(daemon, item: str, **query: str) -> list[list[str]]:
    key = {"pod": "podData", "container": "cData", "vm": "vmData"}[item]
    answer = daemon.json("GET", "/list", status=201, item=item, **query)
    assert answer["item"] == item
    return [row.split(":") for row in answer[key]]


def wait_status(daemon, item: str, status: str) -> None:
    until(lambda: {row[-1] for row in rows(daemon, item)} == {status}, tell=lambda: rows(daemon, item))


class Stream:
    """A hijacked connection."""

    def __init__(self, daemon, path: str, **query: str) -> None:
        words = "&".join(f"{key}={value}" for key, value in query.items())
        self.sock = daemon.raw(timeout=60)
        head = f"POST /v1.17{path}?{words} HTTP/1.1\r\nHost: \r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        self.sock.sendall(f"{head}Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self.sock.recv(1)
        assert answer.startswith(b"HTTP/1.1 101 UPGRADED\r\n"), answer + self.sock.recv(4096)

    def send(self, data: bytes, *, end: bool = False) -> None:
        self.sock.sendall(data)
        if end:
            self.sock.shutdown(socket.SHUT_WR)

    def raw(self) -> bytes:
        """Read to the end."""
        data = b""
        with self.sock:
            while more := self.sock.recv(65536):
                data += more
        return data

    def read(self) -> dict[int, bytes]:
        """Read frames to the end; give stdout and stderr."""
        return demultiplex(self.raw())


def demultiplex(data: bytes) -> dict[int, bytes]:
    out = {1: b"", 2: b""}
    while data:
        stream, size = struct.unpack_from("!BxxxI", data)
        out[stream] += data[8 : 8 + size]
        data = data[8 + size :]
    return out


def first_container(daemon, pod_id: str) -> str:
    return daemon.json("GET", "/pod/info", podName=pod_id)["spec"]["containers"][0]["containerID"]


def test_ping_and_headers(daemon):
    status, headers, body = daemon.request("GET", "/_ping")
    assert (status, body) == (200, b"OK")
    assert headers.get_all("Server") == ["hyperd/0.1.0"]
    assert headers["Api-Version"] == "1.17"


@pytest.mark.parametrize("prefix", ["", "/v1.1.0", "/v1.17", "/v0.1"])
def test_every_version_is_served(daemon, prefix):
    version = daemon.json("GET", f"{prefix}/version")
    assert version == {"ID": daemon.pid, "Version": "0.1.0"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v/info"), ("GET", "/nothing"), ("POST", "/info"), ("GET", "/"), ("OPTIONS", "/info"), ("GET", "/info/")],
)
def test_unknown_route_or_method(daemon, method, path):
    status, headers, body = daemon.request(method, path)
    assert (status, body) == (404, b"404 page not found\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["//info", "/pod/../info", "/./info"])
def test_unclean_path_is_redirected(daemon, path):
    status, headers, _ = daemon.request("GET", f"{path}?a=b&c=%20")
    assert (status, headers["Location"]) == (301, "/info?a=b&c=%20")


def test_info(daemon):
    status, headers, body = daemon.request("GET", "/info")
    info = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert list(info) == sorted(info)
    assert body.endswith(b"}\n")
    assert info["ID"] == daemon.pid
    assert info["ExecutionDriver"] == "fake"


def test_json_errors_on_request(daemon):
    headers = {"Accept": "application/json"}
    status, answer_headers, body = daemon.request("POST", "/pod/start", podId="none", headers=headers)
    error = json.loads(body)
    assert (status, answer_headers["Content-Type"]) == (404, "application/json")
    assert set(error) == {"message", "details", "resolution", "code", "kind", "name"}
    assert (error["code"], error["kind"], error["name"]) == (404, "pod", "none")


def test_image_rows(daemon, registry, image):
    answer = daemon.json("GET", "/images/get")
    row = next(row for row in answer["imagesList"] if row.startswith(image))
    name, tag, digest, created, size = row.rsplit(":", 4)
    assert (name, tag) == (image, "latest")
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert int(created) == datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC).timestamp()
    assert int(size) > 0


def test_image_names_and_removal(daemon, registry):
    name = f"{registry.host}/other"
    daemon.request("POST", "/image/create", imageName=name, tag="1")
    assert any(row.startswith(f"{name}:1:") for row in daemon.json("GET", "/images/get")["imagesList"])
    removed = daemon.json("DELETE", "/image", status=200, imageId=f"{name}:1")["imagesList"]
    assert {"untaged": f"{name}:1"} in removed
    assert any(list(entry) == ["deleted"] for entry in removed)
    assert daemon.request("DELETE", "/image", imageId=f"{name}:1")[0] == 404


def test_image_in_use(daemon, image, pods):
    pods(["true"], image=image)
    status, _, body = daemon.request("DELETE", "/image", imageId=image)
    assert status == 409, body


def test_pod_by_pod_args(daemon, image, pods):
    args = json.dumps({"id": "seed", "containers": [{"image": image, "command": ["true"]}]})
    status, _, body = daemon.request("POST", "/pod/create", podArgs=args, headers={"Content-Type": "text/plain"})
    assert status == 201
    assert CODE.fullmatch(body.decode())
    assert rows(daemon, "pod") == [["seed", "seed", "", "pending"]]
    assert daemon.request("DELETE", "/pod", podId="seed")[0] == 200


def test_pod_args_in_a_form(daemon, image):
    body = "podArgs=%7B%22id%22%3A%22form%22%7D"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert daemon.request("POST", "/pod/create", body=body, headers=headers)[0] == 201
    assert daemon.request("DELETE", "/pod", podid="form")[0] == 200


def test_long_pod_args(daemon):
    args = json.dumps({"id": "long", "labels": {"note": "x" * 50_000}})
    assert daemon.request("POST", "/pod/create", podArgs=args)[0] == 201
    assert daemon.request("DELETE", "/pod", podId="long")[0] == 200


def test_life_of_a_pod(daemon, image, pods):
    pod_id = pods(["sleep", "1000"], ["sleep", "1000"], image=image, labels={"team": "red"})
    assert re.fullmatch("pod-[A-Za-z]{10}", pod_id)
    info = daemon.json("GET", "/pod/info", podId=pod_id)
    assert (info["podID"], info["kind"], info["status"]["phase"]) == (pod_id, "Pod", "Pending")
    assert info["spec"]["labels"] == {"team": "red"}
    vm_id = daemon.json("POST", "/pod/start", podId=pod_id)["ID"]
    assert re.fullmatch("vm-[A-Za-z]{10}", vm_id)
    assert rows(daemon, "pod") == [[pod_id, pod_id, vm_id, "running"]]
    assert rows(daemon, "vm") == [[vm_id, pod_id, "associated"]]
    containers = rows(daemon, "container")
    assert [row[2:] for row in containers] == [[pod_id, "running"]] * 2
    assert daemon.json("GET", "/pod/info", podName=pod_id)["status"]["phase"] == "Running"
    assert daemon.json("POST", "/pod/stop", podId=pod_id, stopVM="yes") == {"Cause": "", "Code": 0, "ID": pod_id}
    assert rows(daemon, "vm") == []
    daemon.json("POST", "/pod/start", podId=pod_id)
    assert rows(daemon, "pod")[0][3] == "running"
    daemon.json("DELETE", "/pod", podId=pod_id)
    assert rows(daemon, "pod") == []


def test_idle_vm_takes_a_pod_and_stays(daemon, image, pods):
    vm_id = daemon.json("POST", "/vm/create", cpu=1, mem=128)["ID"]
    assert rows(daemon, "vm") == [[vm_id, "", "idle"]]
    pod_id = pods(["sleep", "1000"], image=image)
    assert daemon.json("POST", "/pod/start", podId=pod_id, vmId=vm_id)["ID"] == vm_id
    daemon.json("POST", "/pod/stop", podId=pod_id, STOPVM="no")
    assert rows(daemon, "vm") == [[vm_id, "", "idle"]]
    assert daemon.json("DELETE", "/vm", vm=vm_id) == {"Cause": "", "Code": 0, "ID": vm_id}
    assert rows(daemon, "vm") == []


def test_vm_of_another_size_is_refused(daemon, image, pods):
    vm_id = daemon.json("POST", "/vm/create", cpu=1, mem=64)["ID"]
    pod_id = pods(["true"], image=image)
    status, _, body = daemon.request("POST", "/pod/start", podId=pod_id, vmId=vm_id)
    assert (status, b"different with the VM's memory" in body) == (409, True)
    daemon.json("DELETE", "/vm", vm=vm_id)


def test_attach_before_start_loses_nothing(daemon, image, pods):
    for number in range(20):
        pod_id = pods(["sh", "-c", f"echo out {number}; echo err {number} >&2; exit 17"], image=image)
        container = first_container(daemon, pod_id)
        stream = Stream(daemon, "/attach", container=container)
        daemon.json("POST", "/pod/start", podId=pod_id)
        assert stream.read() == {1: b"out %d\n" % number, 2: b"err %d\n" % number}
        assert daemon.json("GET", "/exitcode", container=container) == 17
        daemon.json("DELETE", "/pod", podId=pod_id)


def test_runs_at_the_same_time(daemon, image, pods):
    """More attached runs than the server has threads, all at once, each with its own output and code."""
    daemon_threads, wrong = 40, []

    def run(number: int, pod_id: str) -> None:
        container = first_container(daemon, pod_id)
        stream = Stream(daemon, "/attach", container=container)
        daemon.json("POST", "/pod/start", podId=pod_id)
        output, code = stream.read(), daemon.json("GET", "/exitcode", container=container)
        if (output, code) != ({1: b"%d\n" % number, 2: b""}, number):
            wrong.append((number, output, code))

    ids = [pods(["sh", "-c", f"echo {number}; exit {number}"], image=image) for number in range(daemon_threads)]
    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(ids)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_standard_input(daemon, image, pods):
    pod_id = pods(["cat"], image=image)
    stream = Stream(daemon, "/attach", container=first_container(daemon, pod_id))
    stream.send(b"early ")
    daemon.json("POST", "/pod/start", podId=pod_id)
    stream.send(b"late", end=True)
    assert stream.read()[1] == b"early late"


def test_signal_is_128_more(daemon, image, pods):
    pod_id = pods(["sleep", "1000"], image=image)
    daemon.json("POST", "/pod/start", podId=pod_id)
    container = first_container(daemon, pod_id)
    status, _, body = daemon.request("POST", "/container/kill", container=container, signal=int(signal.SIGKILL))
    assert (status, body) == (201, b"{}\n")
    assert daemon.json("GET", "/container/exitcode", container=container) == 137
    info = daemon.json("GET", "/container/info", container=container)
    assert info["status"]["phase"] == "failed"
    assert info["status"]["terminated"]["exitCode"] == 137


def test_exec(daemon, image, pods):
    pod_id = pods(["sleep", "1000"], image=image)
    daemon.json("POST", "/pod/start", podId=pod_id)
    container = first_container(daemon, pod_id)
    command = json.dumps(["sh", "-c", "cat; echo oops >&2; exit 9"])
    exec_id = daemon.json("POST", "/exec/create", status=201, container=container, command=command)
    assert re.fullmatch("exec-[A-Za-z]{10}", exec_id)
    stream = Stream(daemon, "/exec/start", container=container, exec=exec_id)
    stream.send(b"through", end=True)
    assert stream.read() == {1: b"through", 2: b"oops\n"}
    assert daemon.json("GET", "/exitcode", container=container, exec=exec_id) == 9


def test_exec_waits_for_a_start_under_way(daemon, image, pods):
    """A pod runs before its last container does: who has seen that it runs may use all of them."""
    for _ in range(3):
        pod_id = pods(*[["sleep", "1000"]] * 8, image=image)
        last = daemon.json("GET", "/pod/info", podName=pod_id)["spec"]["containers"][-1]["containerID"]
        starter = threading.Thread(target=daemon.json, args=("POST", "/pod/start"), kwargs={"podId": pod_id})
        starter.start()
        while next(row[-1] for row in rows(daemon, "pod") if row[0] == pod_id) != "running":
            pass
        assert daemon.json("POST", "/exec/create", status=201, container=last, command='["true"]')
        starter.join()
    stopped = pods(["true"], image=image)
    assert (
        daemon.request("POST", "/exec/create", container=first_container(daemon, stopped), command='["true"]')[0] == 412
    )


def test_exec_with_a_terminal(daemon, image, pods):
    pod_id = pods(["sleep", "1000"], image=image)
    daemon.json("POST", "/pod/start", podId=pod_id)
    container = first_container(daemon, pod_id)
    command = json.dumps(["sh", "-c", "read line; stty size; echo $line"])
    exec_id = daemon.json("POST", "/exec/create", container=container, command=command, tty="yes")
    stream = Stream(daemon, "/exec/start", container=container, exec=exec_id)
    status, _, body = daemon.request("POST", "/tty/resize", container=container, exec=exec_id, h=33, w=99)
    assert (status, body) == (200, b"")
    stream.send(b"word\n")
    assert stream.raw().replace(b"\r\n", b"\n") == b"word\n33 99\nword\n"


def test_command_line_as_text(daemon, image, pods):
    pod_id = pods(["sleep", "1000"], image=image)
    daemon.json("POST", "/pod/start", podId=pod_id)
    container = first_container(daemon, pod_id)
    exec_id = daemon.json("POST", "/exec/create", container=container, command="echo 'two words'")
    assert Stream(daemon, "/exec/start", container=container, exec=exec_id).read()[1] == b"two words\n"


def test_exec_in_the_guest(daemon, image, pods):
    pod_id = pods(["sleep", "1000"], image=image)
    daemon.json("POST", "/pod/start", podId=pod_id)
    command = "%5B%22sh%22,%22-c%22,%22echo+a;echo+b+%3E%262%22%5D"
    assert sorted(Stream(daemon, "/execvm", pod=pod_id, command=command).raw().split()) == [b"a", b"b"]


def test_logs(daemon, image, pods):
    pod_id = pods(["sh", "-c", "for n in 1 2 3; do echo line $n; done; echo bad >&2"], image=image)
    container = first_container(daemon, pod_id)
    daemon.json("POST", "/pod/start", podId=pod_id)
    daemon.json("GET", "/exitcode", container=container)

    def logs(**query: object) -> dict[int, bytes]:
        status, headers, body = daemon.request("GET", "/container/logs", container=container, **query)
        assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        return demultiplex(body)

    assert logs(stdout="yes", stderr="yes") == {1: b"line 1\nline 2\nline 3\n", 2: b"bad\n"}
    assert logs(stdout=1) == {1: b"line 1\nline 2\nline 3\n", 2: b""}
    assert logs(stderr=1, follow=1) == {1: b"", 2: b"bad\n"}
    assert logs(stdout=1, tail="2")[1] == b"line 2\nline 3\n"
    assert logs(stdout=1, tail="all")[1].count(b"\n") == 3
    assert logs(stdout=1, since="4000000000")[1] == b""
    stamped = logs(stdout=1, timestamps=1)[1].splitlines()
    assert all(re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z line \d", line) for line in stamped)


def test_follow_until_the_end(daemon, image, pods):
    pod_id = pods(["sh", "-c", "echo first; read line; echo last"], image=image)
    container = first_container(daemon, pod_id)
    stdin = Stream(daemon, "/attach", container=container)
    daemon.json("POST", "/pod/start", podId=pod_id)
    answers: list[bytes] = []
    follower = threading.Thread(
        target=lambda: answers.append(
            daemon.request("GET", "/container/logs", container=container, stdout=1, follow=1)[2]
        )
    )
    follower.start()
    stdin.send(b"\n", end=True)
    assert stdin.read()[1] == b"first\nlast\n"
    follower.join(60)
    assert demultiplex(answers[0])[1] == b"first\nlast\n"


def test_containers_of_a_running_pod(daemon, image, pods):
    pod_id = pods(["sleep", "1000"], image=image)
    daemon.json("POST", "/pod/start", podId=pod_id)
    body = {"image": image, "name": "added", "command": ["sleep", "1000"]}
    created = daemon.json("POST", "/container/create", status=201, body=body, podId=pod_id)
    container = created["ID"]
    assert re.fullmatch("[0-9a-f]{64}", container)
    assert [row[3] for row in rows(daemon, "container") if row[1] == "added"] == ["pending"]
    assert daemon.json("POST", "/container/start", status=200, container="added") == {}
    assert [row[3] for row in rows(daemon, "container") if row[1] == "added"] == ["running"]
    assert daemon.json("POST", "/container/rename", oldName="added", newName="/renamed")["ID"] == "renamed"
    assert daemon.json("GET", "/container/info", container=container[:12])["container"]["name"] == "/renamed"
    assert daemon.json("POST", "/container/stop", status=200, container="renamed") == {}
    assert daemon.request("POST", "/container/remove", container="renamed")[::2] == (204, b"")
    assert [row[1] for row in rows(daemon, "container") if row[1] == "renamed"] == []


def test_pause_and_unpause(daemon, image, pods):
    pod_id = pods(["sleep", "1000"], image=image)
    daemon.json("POST", "/pod/start", podId=pod_id)
    assert daemon.request("POST", "/pod/pause", podId=pod_id)[::2] == (204, b"")
    assert rows(daemon, "pod")[0][3] == "paused"
    assert daemon.request("POST", "/pod/pause", podId=pod_id)[0] == 409
    assert daemon.request("POST", "/pod/unpause", podId=pod_id)[::2] == (204, b"")
    assert rows(daemon, "pod")[0][3] == "running"


def test_labels(daemon, image, pods):
    pod_id = pods(["true"], image=image, labels={"a": "1"})
    assert daemon.request("POST", "/pod/labels", podId=pod_id, labels='{"b":"2"}')[0] == 201
    status, _, body = daemon.request("POST", "/pod/labels", podId=pod_id, labels='{"a":"3","c":"4"}')
    assert (status, body) == (409, b"Can't update label a without override flag\n")
    assert daemon.request("POST", "/pod/labels", podId=pod_id, labels='{"a":"3"}', override="true")[0] == 201
    assert daemon.json("GET", "/pod/info", podName=pod_id)["spec"]["labels"] == {"a": "3", "b": "2"}


def test_kill_a_pod(daemon, image, pods):
    pod_id = pods(["sleep", "1000"], image=image)
    daemon.json("POST", "/pod/start", podId=pod_id)
    assert daemon.json("POST", "/pod/kill", podName=pod_id, signal="KILL") == {}
    wait_status(daemon, "container", "failed")


def test_portmappings_are_listed(daemon, image, pods):
    mapping = {"containerPort": "80", "hostPort": "11380", "protocol": "tcp"}
    pod_id = pods(["true"], image=image, portmappings=[mapping])
    assert daemon.json("GET", f"/pod/{pod_id}/portmappings") == {"portMappings": [mapping]}
    assert daemon.json("GET", f"/v1.1.0/pod/{pod_id}/portmappings") == {"portMappings": [mapping]}


def test_daemon_restart_keeps_pods_and_images(registry):
    with HyperdLauncher() as launcher:
        launcher.start()
        name = f"{registry.host}/busybox"
        assert launcher.request("POST", "/image/create", imageName=name)[0] == 200
        launcher.json("POST", "/pod/create", body={"id": "kept", "containers": [{"image": name, "command": ["true"]}]})
        for kill in (False, True):
            launcher.restart(kill=kill)
            assert rows(launcher, "pod") == [["kept", "kept", "", "pending"]]
            assert len(launcher.json("GET", "/images/get")["imagesList"]) == 1
        launcher.json("DELETE", "/pod", podId="kept")
