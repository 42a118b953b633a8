"""Containers and execs as values and over the API: waiting, execs without clients, what inspection tells."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.registry import Layer, RegistryServer, busybox_tar
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.push("busybox", "latest", [Layer(busybox_tar())])
        strange = {"config": {"Cmd": ["sh", "-c", "sleep 100"], "StopSignal": "SIGNOPE"}}
        server.push("strange", "1", [Layer(busybox_tar())], config=strange)
        yield server


@pytest.fixture(scope="module")
def daemon(registry: RegistryServer) -> Iterator[HyperdLauncher]:
    with HyperdLauncher(config="stop_grace = 1\n") as launcher:
        launcher.start()
        for name in ("busybox", "strange:1"):
            assert launcher.request("POST", "/image/create", imageName=f"{registry.host}/{name}")[0] == 200
        yield launcher
        assert "internal_error" not in launcher.log()
        assert "observer_failed" not in launcher.log()


Make = Callable[..., str]


@pytest.fixture
def container(daemon: HyperdLauncher, registry: RegistryServer) -> Iterator[Make]:
    """Yield a function that makes a pod with one container, started or not, and gives the container's name."""
    pods: list[str] = []

    def make(command: str, *, start: bool = True, image: str = "busybox", **fields: Any) -> str:
        spec = {"image": f"{registry.host}/{image}", "command": ["sh", "-c", command] if command else [], **fields}
        pod = daemon.json("POST", "/pod/create", status=201, body={"containers": [spec]})["ID"]
        pods.append(pod)
        if start:
            daemon.json("POST", "/pod/start", podId=pod)
        info = daemon.json("GET", "/pod/info", podName=pod)
        return info["spec"]["containers"][0]["containerID"]

    yield make
    for pod in pods:
        daemon.request("DELETE", "/pod", podId=pod)


def info(daemon: HyperdLauncher, name: str) -> dict[str, Any]:
    return daemon.json("GET", "/container/info", container=name)


class Waiter:
    """A client of /container/wait, whose head has come."""

    def __init__(self, daemon: HyperdLauncher, name: str, condition: str = "") -> None:
        self._connection = daemon.connection()
        connection = self._connection.__enter__()
        connection.request("GET", f"/container/wait?container={name}&condition={condition}")
        self._answer = connection.getresponse()
        assert self._answer.status == 200, self._answer.read()

    def result(self) -> int:
        value = json.loads(self._answer.read())
        self._connection.__exit__(None, None, None)
        return value["exitCode"]


def test_the_head_of_a_wait_comes_before_the_start(daemon: HyperdLauncher, container: Make):
    name = container("exit 7", start=False)
    next_exit = Waiter(daemon, name, "next-exit")
    assert Waiter(daemon, name).result() == 0  # it does not run
    daemon.json("POST", "/container/start", container=name)
    assert next_exit.result() == 7
    assert Waiter(daemon, name).result() == 7


def test_starting_a_container_of_a_pod_that_does_not_run_starts_it_alone(
    daemon: HyperdLauncher, registry: RegistryServer
):
    pod = daemon.json("POST", "/pod/create", status=201, body={})["ID"]
    try:
        for name in ("alone-1", "alone-2"):
            spec = {"name": name, "image": f"{registry.host}/busybox", "command": ["sleep", "100"]}
            daemon.json("POST", "/container/create", status=201, body=spec, podId=pod)
        for name, other in (("alone-1", "alone-2"), ("alone-2", "alone-1")):
            daemon.json("POST", "/container/start", container=name)
            assert daemon.json("GET", "/pod/info", podName=pod)["status"]["phase"] == "Running"
            assert info(daemon, name)["status"]["phase"] == "running"
            assert info(daemon, other)["status"]["phase"] != "running"
            daemon.json("POST", "/pod/stop", podId=pod)
    finally:
        daemon.request("DELETE", "/pod", podId=pod)


@pytest.mark.parametrize("whole", [False, True], ids=["container", "pod"])
def test_the_caller_says_how_long_a_stop_may_take(daemon: HyperdLauncher, registry: RegistryServer, whole: bool):
    deaf = {
        "name": "deaf-c",
        "image": f"{registry.host}/busybox",
        "command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"],
        "stopTimeout": 3000,
    }
    pod = daemon.json("POST", "/pod/create", status=201, body={"containers": [deaf]})["ID"]
    try:
        daemon.json("POST", "/pod/start", podId=pod)
        until(lambda: b"up" in daemon.request("GET", "/container/logs", container="deaf-c", stdout="yes")[2])
        assert daemon.request("POST", f"/pod/stop?podId={pod}&t=-1")[0] == 400
        assert daemon.request("POST", "/container/stop?container=deaf-c&t=soon")[0] == 400
        if whole:
            daemon.json("POST", "/pod/stop", podId=pod, t=1)
        else:
            daemon.json("POST", "/container/stop", container="deaf-c", t=0)
        assert info(daemon, "deaf-c")["status"]["terminated"]["exitCode"] == 137
    finally:
        daemon.request("DELETE", "/pod", podId=pod)


def test_waiting_for_the_removal(daemon: HyperdLauncher, container: Make):
    name = container("exit 3")
    until(lambda: info(daemon, name)["status"]["phase"] == "failed")
    removed, ended = Waiter(daemon, name, "removed"), Waiter(daemon, name, "next-exit")
    daemon.request("POST", "/container/remove", container=name)
    assert (removed.result(), ended.result()) == (3, 3)
    assert daemon.request("GET", "/container/wait", container=name)[0] == 404


def test_a_wait_outlasts_restarts_by_the_policy(daemon: HyperdLauncher, container: Make):
    name = container("exit 5", start=False, restartPolicy="onFailure")
    wait = Waiter(daemon, name, "next-exit")
    daemon.json("POST", "/container/start", container=name)
    until(lambda: info(daemon, name)["status"]["restartCount"] >= 1)
    daemon.json("POST", "/container/kill", container=name, signal="TERM", status=201)
    assert wait.result() in (5, 143)


def test_bad_conditions(daemon: HyperdLauncher, container: Make):
    status, _, body = daemon.request("GET", "/container/wait", container=container("true"), condition="never")
    assert (status, b"next-exit" in body) == (400, True)


def test_an_exec_without_a_client(daemon: HyperdLauncher, container: Make):
    name = container("sleep 100")
    command = json.dumps(["sh", "-c", "test $A = b || exit 9; cat; sleep 100"])
    ident = daemon.json("POST", "/exec/create", status=201, container=name, command=command, env="A=b", user="0:0")
    made = daemon.json("GET", "/exec/info", exec=ident)
    assert (made["state"], made["exitCode"], made["pid"], made["user"]) == ("created", None, 0, "0:0")
    running = daemon.json("POST", "/exec/start", container=name, exec=ident, detach="yes")
    assert running["state"] == "running"
    assert running["pid"] > 0
    assert daemon.request("POST", "/exec/start", container=name, exec=ident, detach="yes")[0] == 409
    assert [one["id"] for one in daemon.json("GET", "/exec/list", container=name)] == [ident]
    daemon.json("POST", "/exec/kill", exec=ident, signal="KILL")
    assert daemon.json("GET", "/exitcode", container=name, exec=ident) == 137
    ended = daemon.json("GET", "/exec/info", exec=ident)
    assert (ended["state"], ended["exitCode"], ended["pid"]) == ("exited", 137, 0)
    assert ended["finishedAt"] >= ended["startedAt"] != ""
    assert daemon.request("POST", "/exec/kill", exec=ident, signal="KILL")[0] == 412


def test_a_detached_exec_that_cannot_be_executed(daemon: HyperdLauncher, container: Make):
    name = container("sleep 100")
    ident = daemon.json("POST", "/exec/create", status=201, container=name, command='["/no/such"]')
    found = daemon.json("POST", "/exec/start", container=name, exec=ident, detach=1)
    assert (found["state"], found["exitCode"]) == ("exited", 127)


def test_running_a_command_for_its_output(daemon: HyperdLauncher, container: Make):
    name = container("sleep 100")

    def run(script: str, **query: Any) -> dict[str, Any]:
        asked = urlencode({"container": name, "command": json.dumps(["sh", "-c", script]), **query})
        return daemon.json("POST", f"/exec/run?{asked}")

    found = run("echo out; echo err >&2; cat; exit 4")
    assert (found["stdout"], found["stderr"], found["exitCode"], found["timedOut"]) == ("out\n", "err\n", 4, False)
    late = run("echo begun; exec sleep 100", timeout=1)
    assert (late["stdout"], late["exitCode"], late["timedOut"]) == ("begun\n", -1, True)
    much = run("head -c 700000 /dev/zero | tr '\\0' x", limit=1000)
    assert (much["stdout"], much["truncated"]) == ("x" * 1000, True)
    missing = daemon.json("POST", "/exec/run", container=name, command='["/no/such"]')
    assert missing["exitCode"] == 127
    assert "no/such" in missing["stderr"]
    assert daemon.json("GET", "/exec/list", container=name) == []


@pytest.mark.parametrize(
    "query", [{"env": "A"}, {"workdir": "rel"}, {"user": ":g"}, {"detachKeys": "ctrl-nope"}, {"command": "[]"}]
)
def test_bad_execs(daemon: HyperdLauncher, container: Make, query: dict[str, str]):
    assert daemon.request("POST", "/exec/create", container=container("true"), **{"command": "ls", **query})[0] == 400


def test_clients_that_run_many_at_once(daemon: HyperdLauncher, container: Make):
    name = container("sleep 100")
    found: list[str] = []

    def run(number: int) -> None:
        answer = daemon.json("POST", "/exec/run", container=name, command=json.dumps(["sh", "-c", f"echo {number}"]))
        found.append(answer["stdout"].strip())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(str(number) for number in range(8))


def test_signals_of_real_time_and_strange_ones(daemon: HyperdLauncher, container: Make):
    name = container("trap 'exit 21' RTMIN+3 2>/dev/null || trap 'exit 21' 37; while :; do sleep 0.05; done")
    daemon.json("POST", "/container/kill", container=name, signal="SIGRTMIN+3", status=201)
    until(lambda: info(daemon, name)["status"]["phase"] == "failed")
    assert daemon.request("POST", "/container/kill", container=name, signal="RTMIN+99")[0] == 400
    bad = {"image": "busybox", "StopSignal": "SIGNOPE"}
    status, _, body = daemon.request("POST", "/pod/create", body={"containers": [bad]})
    assert (status, b"is not a signal" in body) == (400, True), body
    strange = container("", image="strange:1")
    assert info(daemon, strange)["warnings"] == ["the stop signal SIGNOPE is not known; SIGTERM is sent instead"]
    assert info(daemon, strange)["container"]["stopSignal"] == "SIGTERM"
    assert "SIGNOPE" in daemon.log()


def test_what_was_asked_for_is_shown(daemon: HyperdLauncher, registry: RegistryServer):
    asked: dict[str, Any] = {
        "readOnly": True,
        "limits": {"memory": 1 << 26, "pids": 9},
        "security": {"capAdd": ["NET_ADMIN"], "noNewPrivileges": True},
        "tmpfs": [{"path": "/t", "size": 4096, "mode": "0700", "options": ["ro"]}],
        "ulimits": [{"Name": "nofile", "Hard": 20, "Soft": 10}],
        "sysctl": {"net.core.somaxconn": "100"},
        "healthcheck": {"command": ["true"], "interval": 5},
        "stopTimeout": 0,
        "user": {"name": "1", "additionalGroups": ["3"]},
    }
    image = f"{registry.host}/busybox"
    plain, own = {"name": "plain", "image": image}, {"name": "own", "image": image, "restartPolicy": "always", **asked}
    settings = {"hostname": "front", "dns": ["1.1.1.1"], "extraHosts": [{"name": "db", "ip": "10.0.0.1"}]}
    pod = {"id": "asked", "restartPolicy": "onFailure", "containers": [plain, own], **settings}
    daemon.json("POST", "/pod/create", body=pod, status=201)
    spec = daemon.json("GET", "/pod/info", podName="asked")["spec"]
    assert spec["settings"] == settings
    shown = {one["name"]: one for one in spec["containers"]}
    assert (shown["/plain"]["restartPolicy"], shown["/plain"]["settings"]) == ("onFailure", {})
    assert (shown["/own"]["restartPolicy"], shown["/own"]["settings"]) == ("always", asked)
    daemon.json("DELETE", "/pod", podId="asked")


def test_health(daemon: HyperdLauncher, container: Make):
    check = {"command": ["sh", "-c", "echo looked; test -e well"], "interval": 1, "retries": 2}
    name = container("sleep 100", healthcheck=check)
    assert info(daemon, name)["health"]["status"] == "starting"
    until(lambda: info(daemon, name)["health"]["status"] == "unhealthy")
    found = info(daemon, name)["health"]
    assert found["failingStreak"] >= 2
    assert {(one["exitCode"], one["output"]) for one in found["log"]} == {(1, "looked\n")}
    daemon.json("POST", "/exec/run", container=name, command='["touch", "well"]')
    until(lambda: info(daemon, name)["health"]["status"] == "healthy")
    lines = daemon.request("GET", f"/events?since=0&until={time.time()}")[2].splitlines()
    told = [json.loads(line)["Actor"] for line in lines if b"health_status" in line]
    assert [one["Attributes"]["healthStatus"] for one in told if one["ID"] == name] == ["unhealthy", "healthy"]
    daemon.json("POST", "/container/kill", container=name, signal="KILL", status=201)
    until(lambda: info(daemon, name)["status"]["phase"] == "failed")
    until(lambda: info(daemon, name)["health"]["status"] == "unhealthy")
    assert info(daemon, container("sleep 100"))["health"] is None
    late = container("sleep 100", healthcheck={"command": ["sleep", "9"], "interval": 1, "timeout": 1, "retries": 1})
    until(lambda: info(daemon, late)["health"]["status"] == "unhealthy")
    assert info(daemon, late)["health"]["log"][-1]["output"].startswith("Health check exceeded timeout (1s)")


def test_a_container_that_is_removed_when_it_ends(daemon: HyperdLauncher, container: Make):
    name = container("exit 6", start=False, autoRemove=True)
    removed = Waiter(daemon, name, "removed")
    daemon.json("POST", "/container/start", container=name)
    assert removed.result() == 6
    assert daemon.request("GET", "/container/info", container=name)[0] == 404
    spec = {"image": "busybox", "autoRemove": True, "restartPolicy": "always"}
    status, _, body = daemon.request("POST", "/pod/create", body={"containers": [spec]})
    assert (status, b"restart policy" in body) == (400, True), body


def test_a_pod_whose_containers_are_all_removed_at_their_end_goes_with_the_last(daemon, registry: RegistryServer):
    image = f"{registry.host}/busybox"
    made = [
        {"name": f"goes-{script[-1]}", "image": image, "command": ["sh", "-c", script], "autoRemove": True}
        for script in ("exit 1", "sleep 100; exit 2")
    ]
    daemon.json("POST", "/pod/create", status=201, body={"id": "goes", "containers": made})
    daemon.json("POST", "/pod/start", podId="goes")
    until(lambda: daemon.request("GET", "/container/info", container="goes-1")[0] == 404)
    assert daemon.request("GET", "/pod/info", podName="goes")[0] == 200
    daemon.json("POST", "/container/kill", container="goes-2", signal="KILL", status=201)
    until(lambda: daemon.request("GET", "/pod/info", podName="goes")[0] == 404)


def test_restarts_have_a_bound(daemon: HyperdLauncher, container: Make):
    name = container("exit 2", start=False, restartPolicy="onFailure", restartMax=2)
    wait = Waiter(daemon, name, "next-exit")
    daemon.json("POST", "/container/start", container=name)
    assert wait.result() == 2
    assert info(daemon, name)["status"]["restartCount"] == 2


def test_bad_checks(daemon: HyperdLauncher, registry: RegistryServer):
    for check in ({"shell": True}, {"command": ["a", "b"], "shell": True}, {"interval": -1}, {"retries": "x"}):
        spec = {"image": f"{registry.host}/busybox", "healthcheck": check}
        assert daemon.request("POST", "/pod/create", body={"containers": [spec]})[0] == 400


def test_unknown_keys_are_told_with_the_nearest_known_one(daemon: HyperdLauncher, registry: RegistryServer):
    spec = {"image": f"{registry.host}/busybox", "comand": ["sleep", "9"]}
    pod = {"containers": [spec], "restart_policy": "always", "zzz": 1, "Labels": {"any": "key"}}
    made = daemon.json("POST", "/pod/create", status=201, body=pod)
    assert made["Warnings"] == [
        "unknown key containers[0].comand: it is ignored; did you mean command?",
        "unknown key restart_policy: it is ignored; did you mean restartPolicy?",
        "unknown key zzz: it is ignored",
    ]
    one = {"image": f"{registry.host}/busybox", "Driver": "x"}
    more = daemon.json("POST", "/container/create", status=201, body=one, podId=made["ID"])
    assert more["Warnings"] == ["unknown key Driver: it is ignored"]
    daemon.request("DELETE", "/pod", podId=made["ID"])
    fine = daemon.json("POST", "/pod/create", status=201, body={"ID": "plain", "TTY": False})
    assert "Warnings" not in fine
    daemon.request("DELETE", "/pod", podId="plain")


def test_a_manifest_is_refused(daemon: HyperdLauncher):
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": []}}
    status, _, body = daemon.request("POST", "/pod/create", body=manifest)
    assert (status, b"kube play" in body) == (400, True), body


def test_limits_beyond_the_vm_are_told(daemon: HyperdLauncher, registry: RegistryServer):
    spec = {"image": f"{registry.host}/busybox", "limits": {"memory": 2**29, "nanoCpus": 3_000_000_000}}
    told = [
        "The virtual machine has 128 MiB of memory: a limit of more has no effect.",
        "The virtual machine has 1 CPU(s): a limit of more has no effect.",
    ]
    made = daemon.json("POST", "/pod/create", body={"id": "small", "containers": [spec]}, status=201)
    assert made["Warnings"] == told
    assert daemon.json("POST", "/container/create", podId="small", body=spec, status=201)["Warnings"] == told
    fits = {**spec, "limits": {"memory": 2**26, "nanoCpus": 500_000_000}}
    assert "Warnings" not in daemon.json("POST", "/container/create", podId="small", body=fits, status=201)
    daemon.request("DELETE", "/pod", podId="small")


def test_published_ports_are_shown(daemon: HyperdLauncher, registry: RegistryServer):
    image = f"{registry.host}/busybox"
    ports = [{"containerPort": 80, "hostPort": 11_431}, {"containerPort": 81}]
    containers = [{"name": "shown-1", "image": image, "ports": ports}, {"name": "shown-2", "image": image}]
    pod = {"id": "shown", "containers": containers, "portmappings": [{"containerPort": "82", "hostPort": "11432"}]}
    daemon.json("POST", "/pod/create", status=201, body=pod)

    def shown(name: str) -> set[tuple[int, int]]:
        found = info(daemon, name)["container"]["ports"]
        return {(port["containerPort"], port["hostPort"]) for port in found}

    assert shown("shown-1") == {(80, 11_431), (81, 0)}
    assert shown("shown-2") == {(80, 11_431), (82, 11_432)}
    daemon.request("DELETE", "/pod", podId="shown")


def test_what_this_host_cannot_have(daemon: HyperdLauncher, registry: RegistryServer):
    status, _, body = daemon.request("POST", "/vm/create", mem=2**20)
    assert (status, b"more memory than this host has" in body) == (400, True), body
    status, _, body = daemon.request("POST", "/pod/create", body={"resource": {"memory": 2**20}})
    assert status == 400, body
    for source, read_only, wanted in (("", False, 409), ("/images", False, 409), ("/images", True, 201)):
        volume = {"path": "/x", "volume": "v", "readOnly": read_only}
        spec = {"image": f"{registry.host}/busybox", "volumes": [volume]}
        volumes = [{"name": "v", "format": "vfs", "source": f"{daemon.root}{source}"}]
        body = {"id": "greedy", "containers": [spec], "volumes": volumes}
        status, _, answer = daemon.request("POST", "/pod/create", body=body)
        assert status == wanted, answer
    daemon.request("DELETE", "/pod", podId="greedy")


def test_a_directory_above_the_root_cannot_be_written_to(daemon: HyperdLauncher, registry: RegistryServer):
    """A guest would write to the root through it."""
    for source in (str(daemon.root.parent), str(daemon.root.parent.parent), "/"):
        for read_only, wanted in ((False, 409), (True, 201)):
            volume = {"path": "/x", "volume": "v", "readOnly": read_only}
            spec = {"image": f"{registry.host}/busybox", "volumes": [volume]}
            body = {
                "id": "above",
                "containers": [spec],
                "volumes": [{"name": "v", "format": "vfs", "source": source}],
            }
            status, _, answer = daemon.request("POST", "/pod/create", body=body)
            assert status == wanted, answer
            assert wanted == 201 or b"holds the files of the daemon itself" in answer
        daemon.request("DELETE", "/pod", podId="above")


def test_vms_without_pods_have_a_bound():
    with HyperdLauncher(config="max_pods = 2\n") as launcher:
        launcher.start()
        for _ in range(2):
            launcher.json("POST", "/vm/create")
        status, _, body = launcher.request("POST", "/vm/create")
        assert (status, b"max_pods" in body) == (503, True), body
        for row in launcher.json("GET", "/list", item="vm", status=201)["vmData"]:
            launcher.json("DELETE", "/vm", vm=row.split(":")[0])
        launcher.json("POST", "/vm/create")


def test_a_container_is_changed(daemon: HyperdLauncher, container: Make):
    name = container("sleep 100", labels={"a": "1"}, limits={"pids": 77})

    def update(**body: Any) -> int:
        return daemon.request("POST", "/container/update", body=body, container=name)[0]

    assert update(labels={"b": "2"}, restartPolicy="onFailure", restartMax=1, memory=64 * 2**20) == 204
    assert info(daemon, name)["container"]["labels"] == {"b": "2"}
    assert update(cpuPeriod=5) == 400
    assert update(memory=1) == 400
    assert update(restartPolicy="sometimes") == 400
    wait = Waiter(daemon, name, "next-exit")
    daemon.json("POST", "/container/kill", container=name, signal="USR1", status=201)
    until(lambda: (now := info(daemon, name)["status"])["restartCount"] == 1 and now["phase"] == "running")
    daemon.json("POST", "/container/kill", container=name, signal="USR1", status=201)
    assert wait.result() == 138
