"""The exchanges of the original hyperctl 1.1.0 with a real daemon, byte for byte, one test for each kind of command.

The VMs only pretend here (``test_guests.py`` beside this file repeats the ones where the guest matters).
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from urllib.parse import unquote_plus

import pytest

from tests.conformance.original import HEAD_101, HIJACK, PLAIN, Done, Original, RefusedError, command_line, frames
from tests.support.daemon import HyperdLauncher
from tests.support.registry import PASSWORD, USER, Layer, RegistryServer, busybox_tar
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]


@pytest.fixture
def client(daemon: HyperdLauncher) -> Iterator[Original]:
    """Yield a client; the pods that a test leaves are removed."""
    one = Original(daemon.socket)
    with contextlib.closing(one):
        yield one
        for row in one.list():
            one.remove(row[0])
    assert daemon.json("GET", "/list", item="vm")["vmData"] == []


@pytest.fixture
def full(client: Original, image: str) -> Original:
    """Yield a client with the record's long-running pod `full`, nothing counted yet."""
    client.run(command_line(image, ["sh"], name="full"), attach=False)
    client.wire.requests.clear()
    return client


def wait_for(question, wanted: object) -> None:
    until(lambda: question() == wanted, tell=question)


# -- the emulator itself, against the record


def test_the_emulator_sends_what_the_record_shows(client):
    command = ["sh", "-c", "echo out; echo err >&2; exit 37"]
    with pytest.raises(RefusedError):
        client.exec("nosuch", command)
    assert client.wire.sent[-1] == (
        b"POST /v1.1.0/exec/create?command=%5B%22sh%22%2C%22-c%22%2C%22echo+out%3B+echo+err+%5Cu003e%5Cu00262%3B"
        b"+exit+37%22%5D&container=nosuch&tty=false HTTP/1.1\r\nHost: \r\nUser-Agent: Hyper-Client/1.1.0\r\n"
        b"Content-Length: 0\r\nContent-Type: text/plain\r\n\r\n"
    )
    with pytest.raises(RefusedError):
        client.wire.call("DELETE", "/pod", [("podId", "nosuch")])
    assert client.wire.sent[-1] == (
        b"DELETE /v1.1.0/pod?podId=nosuch HTTP/1.1\r\nHost: \r\nUser-Agent: Hyper-Client/1.1.0\r\n"
        b"Content-Type: text/plain\r\n\r\n"
    )
    with client.wire.hijack("/attach", [("container", "nosuch")]).sock:
        assert client.wire.sent[-1] == (
            b"POST /v1.17/attach?container=nosuch HTTP/1.1\r\nHost: \r\nUser-Agent: Hyper-Client/1.1.0\r\n"
            b"Content-Length: 0\r\nConnection: Upgrade\r\nContent-Type: text/plain\r\nUpgrade: tcp\r\n\r\n"
        )
    client.list()
    assert client.wire.sent[-1] == (
        b"GET /v1.1.0/list?item=pod HTTP/1.1\r\nHost: \r\nUser-Agent: Hyper-Client/1.1.0\r\n\r\n"
    )


# -- general rules


def test_one_connection_serves_all_plain_calls(full):
    connections = full.wire.connections
    for _ in range(3):
        full.info()
        full.list()
        with pytest.raises(RefusedError):
            full.start("nosuch")
        full.pause("full")
        full.unpause("full")
        full.images()
    assert full.wire.connections == connections


def test_errors_are_plain_text(client):
    reply = client.wire.ask("POST", "/pod/start", [("podId", "nosuch")])
    assert reply.status >= 400
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch(rb"[^\n]+\n", reply.body)
    assert b"nosuch" in reply.body


@pytest.mark.parametrize(("method", "path"), [("GET", "/nosuch"), ("GET", "/pod"), ("PUT", "/info")])
def test_unknown_routes(client, method, path):
    reply = client.wire.ask(method, path)
    assert (reply.status, reply.body) == (404, b"404 page not found\n")


def test_a_version_may_not_be_empty(daemon):
    assert daemon.request("GET", "/v/info")[0] == 404
    assert daemon.request("GET", f"{HIJACK}/info")[0] == daemon.request("GET", f"{PLAIN}/info")[0] == 200


def test_env_answers_have_sorted_keys_and_a_newline(full):
    for reply in (
        full.wire.call("GET", "/info"),
        full.wire.call("GET", "/list", [("item", "pod")]),
        full.wire.call("POST", "/pod/stop", [("podId", "full"), ("stopVm", "yes")]),
    ):
        keys = list(reply.json)
        assert keys == sorted(keys)
        assert reply.body.endswith(b"}\n")
        assert reply.headers["content-type"] == "application/json"


def test_a_pod_must_be_json(client):
    body = b'{"id":"x"}'
    head = (
        f"POST {PLAIN}/pod/create HTTP/1.1\r\nHost: \r\nContent-Length: {len(body)}\r\nContent-Type: text/plain\r\n\r\n"
    )
    with client.wire._connect() as sock:
        sock.sendall(head.encode() + body)
        reply = client.wire._answer(sock)
    assert reply.body == b"Content-Type specified (text/plain) must be 'application/json'\n"
    assert reply.status >= 400


STATUS = {
    201: [
        ("GET", "/list", "item=pod"),
        ("POST", "/exec/create", "command=%5B%22true%22%5D&container=full&tty=false"),
        ("POST", "/container/kill", "container=full&signal=9"),
        ("POST", "/pod/labels", "labels=%7B%22a%22%3A%22b%22%7D&podId=full"),
    ],
    204: [("POST", "/pod/pause", "podId=full"), ("POST", "/pod/unpause", "podId=full")],
    200: [
        ("POST", "/container/stop", "container=full"),
        ("POST", "/container/start", "container=full"),
        ("GET", "/pod/info", "podName=full"),
        ("GET", "/container/info", "container=full"),
        ("POST", "/pod/kill", "podName=full&signal=15"),
        ("GET", "/exitcode", "container=full&exec="),
        ("POST", "/pod/stop", "podId=full&stopVm=yes"),
        ("POST", "/pod/start", "podId=full"),
        ("DELETE", "/pod", "podId=full"),
    ],
}


def test_status_codes_are_the_originals(full):
    for status, requests in STATUS.items():
        for method, path, query in requests:
            pairs = [tuple(pair.split("=", 1)) for pair in query.split("&")]
            pairs = [(key, unquote_plus(value)) for key, value in pairs]
            reply = full.wire.ask(method, path, pairs)
            assert reply.status == status, (method, path, query, reply)
            assert full.wire.requests[-1] == f"{method} {PLAIN}{path}?{query}"


# -- run


def test_run_attached(client, image):
    spec = command_line(image, ["sh", "-c", "echo out; echo err >&2; exit 17"])
    name = spec["id"]
    assert client.run(spec) == Done(17, b"out\n", b"err\n")
    assert client.wire.requests == [
        f"POST {PLAIN}/pod/create",
        f"GET {PLAIN}/pod/info?podName={name}",
        f"POST {PLAIN}/pod/start?podId={name}",
        f"POST {HIJACK}/attach?container={name}",
        f"GET {PLAIN}/exitcode?container={name}&exec=",
        f"DELETE {PLAIN}/pod?podId={name}",
    ]
    assert client.list() == []


def test_attach_and_start_at_the_same_time_lose_nothing(client, image):
    """A hundred short commands: the original daemon lost the output of about one in twenty."""
    wrong = []
    for number in range(100):
        script = f"echo out {number}; echo err {number} >&2; exit {number}"
        done = client.run(command_line(image, ["sh", "-c", script], name=f"short{number}"))
        if done != Done(number, b"out %d\n" % number, b"err %d\n" % number):
            wrong.append((number, done))
    assert wrong == []


def test_run_with_stdin(client, image):
    text = b"line\n" * 50_000
    assert client.run(command_line(image, ["cat"]), stdin=text) == Done(0, text, b"")


def test_half_close_at_once_is_no_disconnect(client, image):
    script = "cat; sleep 0.3; echo later"
    assert client.run(command_line(image, ["sh", "-c", script])) == Done(0, b"later\n", b"")


def test_run_with_a_terminal(client, image):
    """The code comes from /container/info, once: it must be there when the stream ends."""
    for _ in range(10):
        spec = command_line(image, ["sh", "-c", "echo tty; exit 9"], tty=True)
        assert client.run(spec, tty=True) == Done(9, b"tty\r\n", b"")
    name = spec["id"]
    assert f"GET {PLAIN}/container/info?container={name}" in client.wire.requests
    assert not any("/exitcode" in line for line in client.wire.requests)


def test_run_detached_with_every_flag(client, image):
    container = {
        "workdir": "/tmp",
        "envs": [{"env": "A", "value": "b"}, {"env": "C", "value": "d=e"}],
        "entrypoint": ["/bin/sh"],
        "readOnly": True,
        "volumes": [{"path": "/data", "volume": "data12345", "detail": {"name": "data12345"}}],
    }
    ports = [
        {"containerPort": "1300", "hostPort": "18000", "protocol": "tcp"},
        {"containerPort": "1301", "hostPort": "18001", "protocol": "udp"},
    ]
    spec = command_line(image, ["-c", "echo $A $C; sleep 1000"], name="full", container=container)
    spec.update(labels={"k": "v"}, portmappings=ports, resource={"vcpu": 1, "memory": 160})
    spec["log"] = {"type": "json-file", "config": {"max-size": "1m"}}
    assert client.run(spec, attach=False) == Done(0, b"POD id is full\n")
    assert client.wire.requests == [f"POST {PLAIN}/pod/create", f"POST {PLAIN}/pod/start?podId=full"]
    assert client.ports("full") == [("tcp", "18000", "1300"), ("udp", "18001", "1301")]
    info = client.wire.call("GET", "/pod/info", [("podName", "full")]).json
    assert (info["spec"]["memory"], info["spec"]["vcpu"], info["spec"]["labels"]) == (160, 1, {"k": "v"})
    wait_for(lambda: client.logs("full"), Done(0, b"b d=e\n"))


def test_podfile_keys_in_any_case_and_unknown_ones(client, image):
    spec = {
        "ID": "filepod",
        "Nonsense": [1],
        "Containers": [
            {"NAME": "fp1", "Image": image, "COMMAND": ["sh", "-c", "echo $X"], "ENVS": [{"ENV": "X", "VALUE": "y"}]}
        ],
        "portmappings": [{"containerport": "80", "HOSTPORT": "18002"}],
    }
    client.wire.call("POST", "/pod/create", body=spec)
    client.start("filepod")
    assert client.ports("filepod") == [("tcp", "18002", "80")]
    wait_for(lambda: client.logs("fp1"), Done(0, b"y\n"))


def test_podfile_without_id(client, image):
    pod = client.create({"containers": [{"image": image, "command": ["sleep", "1000"]}], "log": {}})
    assert re.fullmatch("pod-[A-Za-z]{10}", pod)
    client.start(pod)
    client.wire.requests.clear()
    assert client.exec(pod, ["echo", "hi"]) == Done(0, b"hi\n")
    assert client.wire.requests[0] == f"GET {PLAIN}/list?item=container&pod={pod}"
    stream, tty = client.attach(pod, stdin=None)
    with stream.sock:
        assert (stream.head, tty) == (HEAD_101, False)


def test_attach_without_a_name_is_refused_and_closed(client, image):
    """A podfile's container without a name: the client attaches to nothing, and must not hang."""
    client.create({"id": "nameless", "containers": [{"image": image, "command": ["true"]}]})
    stream = client.wire.hijack("/attach", [("container", "")])
    assert stream.head.startswith(b"HTTP/1.1 400 ")
    assert b"Empty container name" in stream.raw()


def test_missing_image_is_pulled_by_the_client(client, registry):
    name = f"{registry.host}/other:latest"
    spec = command_line(name, ["true"])
    assert client.run(spec) == Done()
    encoded = name.replace(":", "%3A").replace("/", "%2F")
    assert client.wire.requests[:3] == [
        f"POST {PLAIN}/pod/create",
        f"POST {PLAIN}/image/create?imageName={encoded}",
        f"POST {PLAIN}/pod/create",
    ]


def test_an_image_that_is_nowhere(client, registry):
    with pytest.raises(RefusedError) as caught:
        client.run(command_line(f"{registry.host}/nosuch:1", ["true"]))
    assert caught.value.status < 500
    assert len(client.wire.requests) == 2
    assert client.list() == []


def test_only_a_missing_image_is_404(client, image):
    spec = command_line(image, ["true"], name="cpod")
    client.create(spec)
    for body in (
        spec,
        {"id": "other", "containers": [{"image": image, "name": "cpod"}]},
        {"id": "bad name!"},
        {"id": 3},
    ):
        reply = client.wire.ask("POST", "/pod/create", body=body)
        assert reply.status >= 400
        assert reply.status != 404, (body, reply)
    reply = client.wire.ask("POST", "/container/create", [("podId", "nosuch")], body={"image": image})
    assert reply.status >= 400
    assert reply.status != 404, reply
    reply = client.wire.ask("POST", "/container/create", [("podId", "cpod")], body={"image": "127.0.0.1:1/nosuch"})
    assert reply.status in (404, 412)


# -- exec


def test_exec(full):
    done = full.exec("full", ["sh", "-c", "echo out; echo err >&2; exit 37"])
    assert done == Done(37, b"out\n", b"err\n")
    words = "%5B%22sh%22%2C%22-c%22%2C%22echo+out%3B+echo+err+%5Cu003e%5Cu00262%3B+exit+37%22%5D"
    create, start, code = full.wire.requests
    assert create == f"POST {PLAIN}/exec/create?command={words}&container=full&tty=false"
    found = re.fullmatch(rf"POST {HIJACK}/exec/start\?container=full&exec=(exec-[A-Za-z]{{10}})", start)
    assert found
    assert code == f"GET {PLAIN}/exitcode?container=full&exec={found[1]}"


def test_exec_with_stdin(full):
    assert full.exec("full", ["cat"], stdin=b"through") == Done(0, b"through")


def test_exec_with_a_terminal_uses_the_containers_code(full):
    done = full.exec("full", ["sh", "-c", "echo hello; exit 5"], tty=True)
    assert done == Done(0, b"hello\r\n")
    assert full.wire.requests[-1] == f"GET {PLAIN}/container/info?container=full"


def test_exec_that_is_killed(full):
    assert full.exec("full", ["sh", "-c", "kill -9 $$"]).code in (0, 137)


def test_exec_in_the_vm_is_raw(full):
    assert full.exec_vm("full", ["sh", "-c", "echo aaa; exit 3"]) == Done(0, b"aaa\n")
    assert full.wire.requests == [
        f"POST {HIJACK}/execvm?command=%5B%22sh%22%2C%22-c%22%2C%22echo+aaa%3B+exit+3%22%5D&pod=full"
    ]


@pytest.mark.parametrize("route", ["/exec/start", "/execvm", "/attach"])
def test_a_refused_hijack_closes(client, route):
    stream = client.wire.hijack(route, [("container", "nosuch"), ("exec", "exec-none"), ("pod", "nosuch")])
    assert int(stream.head.split()[1]) >= 400
    assert stream.raw()


def test_resize(full):
    exec_id = full.wire.call(
        "POST", "/exec/create", [("command", '["sh","-c","read x; stty size"]'), ("container", "full"), ("tty", "true")]
    ).json
    stream = full.wire.hijack("/exec/start", [("container", "full"), ("exec", exec_id)])
    full.resize("full", exec_id, height=40, width=100)
    assert full.wire.requests[-1] == f"POST {PLAIN}/tty/resize?container=full&exec={exec_id}&h=40&w=100"
    stream.send(b"\n")
    assert b"40 100" in stream.raw()


# -- containers


def test_containers_in_a_running_pod(full, image):
    spec = {"name": "second", "image": image, "command": ["sh", "-c", "echo hello-log; echo err >&2; sleep 1000"]}
    assert re.fullmatch("[0-9a-f]{64}", full.create_container("full", spec))
    full.container("start", "second")
    wait_for(lambda: full.logs("second"), Done(0, b"hello-log\n", b"err\n"))
    stream, tty = full.attach("second", stdin=None)
    assert (stream.head, tty) == (HEAD_101, False)
    full.container("kill", "second", ("signal", "15"))
    # What it wrote in its first seconds comes again; the end is what counts.
    assert all(data in (b"hello-log\n", b"err\n") for _, data in stream.frames())
    wait_for(lambda: [row[3] for row in full.list("container") if row[1] == "second"], ["failed"])
    full.container("kill", "second", ("signal", "9"))
    full.container("stop", "second")
    full.container("remove", "second")
    assert [row[1] for row in full.list("container")] == ["full"]
    with pytest.raises(RefusedError):
        full.container("remove", "second")


def test_a_shell_without_attach_keeps_running(full):
    time.sleep(0.2)  # it would end at once if its stdin were closed
    assert [row[3] for row in full.list("container")] == ["running"]


def test_stdin_stays_open_until_somebody_closes_it(full):
    stream, _ = full.attach("full", stdin=b"echo from stdin; exit 3\n")
    assert frames(stream.raw()) == [(1, b"from stdin\n")]
    assert full._exit_code("full", "", tty=False) == 3


def test_logs(client, image):
    script = "for n in 1 2 3; do echo line $n; done; echo bad >&2"
    client.run(command_line(image, ["sh", "-c", script], name="logged"), attach=False)
    client._exit_code("logged", "", tty=False)
    client.wire.requests.clear()
    assert client.logs("logged") == Done(0, b"line 1\nline 2\nline 3\n", b"bad\n")
    info, logs = client.wire.requests
    assert info == f"GET {PLAIN}/container/info?container=logged"
    query = "container=logged&follow=false&since=&stderr=true&stdout=true&tail=&timestamps=false"
    assert logs == f"GET {PLAIN}/container/logs?{query}"
    done = client.logs("logged", tail="5", timestamps=True)
    stamp = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z "
    assert all(re.match(stamp, line) for line in (done.out + done.err).splitlines())
    assert client.logs("logged", since="1600000000", follow=True).out.count(b"\n") == 3
    assert client.logs("logged", since="2020-01-02T03:04:05Z").out.count(b"\n") == 3
    assert client.logs("logged", since="4000000000") == Done()
    with pytest.raises(RefusedError):
        client.logs("nosuch")
    assert client.wire.requests[-1] == f"GET {PLAIN}/container/info?container=nosuch"


def test_logs_of_a_terminal_are_raw(client, image):
    client.run(command_line(image, ["sh", "-c", "echo raw; echo all >&2"], name="term", tty=True), attach=False)
    wait_for(lambda: client.logs("term"), Done(0, b"raw\r\nall\r\n"))


def test_info_of_containers_and_pods(full):
    info = full.wire.call("GET", "/container/info", [("container", "full")]).json
    assert re.fullmatch("[0-9a-f]{64}", info["container"]["containerID"])
    assert (info["container"]["name"], info["container"]["tty"], info["podID"]) == ("/full", False, "full")
    assert (info["status"]["phase"], info["status"]["terminated"]) == ("running", {})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", info["status"]["running"]["startedAt"])
    assert isinstance(info["createdAt"], int)
    pod = full.wire.call("GET", "/pod/info", [("podName", "full")]).json
    assert (pod["kind"], pod["apiVersion"], pod["status"]["phase"]) == ("Pod", "1.17", "Running")
    assert pod["spec"]["containers"][0]["containerID"] == info["container"]["containerID"]


def test_exit_code_waits_and_is_an_integer(full):
    answers: list[bytes] = []

    def ask() -> None:
        with contextlib.closing(Original(full.path)) as other:
            answers.append(other.wire.call("GET", "/exitcode", [("container", "full"), ("exec", "")]).body)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(1.5)
    assert thread.is_alive()
    full.container("kill", "full", ("signal", "9"))
    thread.join(60)
    assert answers == [b"137\n"]
    assert full.wire.call("GET", "/container/info", [("container", "full")]).json["status"]["phase"] == "failed"


# -- pods


def test_lists(full):
    [vm] = full.list("vm")
    [pod] = full.list("pod")
    [container] = full.list("container", pod="full")
    assert re.fullmatch("vm-[A-Za-z]{10}", vm[0])
    assert vm == [vm[0], "full", "associated"]
    assert pod == ["full", "full", vm[0], "running"]
    assert (container[1:], len(container[0])) == (["full", "full", "running"], 64)
    assert full.list("pod", vm=vm[0]) == [pod]
    assert full.list("pod", vm="vm-none") == full.list("container", pod="none") == []
    assert full.wire.requests[-1] == f"GET {PLAIN}/list?item=container&pod=none"
    full.pause("full")
    assert full.list()[0][3] == "paused"
    full.unpause("full")
    full.stop("full")
    [stopped] = full.list()
    assert stopped[2] == ""
    assert stopped[3] in {"failed", "succeeded"}


def test_stop_start_and_remove(full):
    assert full.stop("full") == "Successfully shutdown the POD: full!\n"
    assert full.start("full") == "Successfully started the Pod(full)\n"
    assert full.list()[0][3] == "running"
    assert full.remove("full") == "Pod(full) is successfully deleted!\n"
    assert full.wire.requests == [
        f"POST {PLAIN}/pod/stop?podId=full&stopVm=yes",
        f"POST {PLAIN}/pod/start?podId=full",
        f"GET {PLAIN}/list?item=pod",
        f"DELETE {PLAIN}/pod?podId=full",
    ]
    for wrong in (full.stop, full.start, full.remove, full.pause):
        with pytest.raises(RefusedError, match="full"):
            wrong("full")


def test_a_pod_whose_containers_have_ended_runs_on(client, image):
    client.run(command_line(image, ["true"], name="brief"), attach=False)
    wait_for(lambda: [row[3] for row in client.list("container")], ["succeeded"])
    assert client.list()[0][3] == "running"
    assert client._exit_code("brief", "", tty=False) == 0


def test_kill_a_pod_switches_its_vm_off(full):
    full.kill_pod("full")
    assert full.wire.requests == [f"POST {PLAIN}/pod/kill?podName=full&signal=9"]
    wait_for(lambda: full.list("vm"), [])


def test_ports(full):
    assert full.ports("full") == []
    rule = {"containerPort": "1302", "hostPort": "18302", "protocol": "tcp"}
    full.change_ports("add", "full", [rule])
    assert full.ports("full") == [("tcp", "18302", "1302")]
    full.change_ports("delete", "full", [rule])
    assert full.ports("full") == []
    assert full.wire.requests == [
        f"GET {PLAIN}/pod/full/portmappings",
        f"PUT {PLAIN}/pod/full/portmappings/add",
        f"GET {PLAIN}/pod/full/portmappings",
        f"PUT {PLAIN}/pod/full/portmappings/delete",
        f"GET {PLAIN}/pod/full/portmappings",
    ]
    for path in ("/pod/nosuch/portmappings", "/pod/nosuch/portmappings/add"):
        method = "PUT" if path.endswith("add") else "GET"
        assert full.wire.ask(method, path, body=[rule] if method == "PUT" else None).status == 404


# -- images and the daemon


def test_images(client, registry, image):
    repository, _, tag = image.rpartition(":")
    found = [row for row in client.images() if row[0] == repository]
    assert [(row[0], row[1]) for row in found] == [(repository, tag)]
    assert re.fullmatch("[0-9a-f]{12}", found[0][2])
    client.images(every=True, quiet=True)
    assert client.wire.requests == [
        f"GET {PLAIN}/images/get?all=no&quiet=no",
        f"GET {PLAIN}/images/get?all=yes&quiet=yes",
    ]


def test_pull_and_remove(client, registry):
    name = f"{registry.host}/third"
    lines = client.pull(name)
    assert lines[0] == {"status": "Pulling from third", "id": "latest"}
    assert any(line.get("status") == "Pull complete" and re.fullmatch("[0-9a-f]{12}", line["id"]) for line in lines)
    assert any(line.get("status", "").startswith("Digest: sha256:") for line in lines)
    assert lines[-1]["status"] == f"Status: Downloaded newer image for {name}:latest"
    assert client.pull(name)[-1]["status"] == f"Status: Image is up to date for {name}:latest"
    assert client.remove_image(f"{name}:latest").startswith(f"Image({name}:latest)")
    encoded = f"{name}:latest".replace(":", "%3A").replace("/", "%2F")
    assert client.wire.requests[-1] == f"DELETE {PLAIN}/image?force=false&imageId={encoded}&noprune=false"
    for _ in range(2):
        with pytest.raises(RefusedError) as caught:
            client.remove_image("nosuch", force=True, noprune=True)
        assert caught.value.status == 404


def test_an_image_in_use_stays(full, image):
    with pytest.raises(RefusedError) as caught:
        full.remove_image(image)
    assert caught.value.status == 409


def test_login_and_a_pull_with_credentials(client):
    with RegistryServer(auth="basic") as server:
        server.push("private", "latest", [Layer(busybox_tar())])
        assert client.login(USER, PASSWORD, server.host) == "Login Succeeded"
        with pytest.raises(RefusedError) as caught:
            client.login(USER, "wrong", server.host)
        assert caught.value.status == 401
        name = f"{server.host}/private:latest"
        with pytest.raises(RefusedError) as refused:
            client.pull(name)
        assert refused.value.status == 401
        auth = {"username": USER, "password": PASSWORD, "serveraddress": server.host}
        client.pull(name, auth=base64.urlsafe_b64encode(json.dumps(auth).encode()).decode())
        client.remove_image(name)


def test_info(client):
    info = client.info()
    for key in ("Images", "Containers", "Pods", "MemTotal", "ID"):
        assert isinstance(info[key], int), key
    for key in ("Driver", "DockerRootDir", "IndexServerAddress", "ExecutionDriver", "Operating System", "Name"):
        assert isinstance(info[key], str), key
        assert info[key], key
    assert all(
        len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str) for pair in info["DriverStatus"]
    )


def test_version_and_ping(client, daemon):
    version = client.wire.call("GET", "/version").json
    assert version["ID"] == daemon.pid
    assert isinstance(version["Version"], str)
    assert client.wire.call("GET", "/_ping").body == b"OK"
