"""Known faults of the original daemon that this one must not have, as far as no guest is needed to see them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.ports import free_port
from tests.support.registry import Layer, busybox_tar
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]

Create = Callable[..., str]


@pytest.fixture
def create(daemon: HyperdLauncher, image: str) -> Iterator[Create]:
    """Make a pod of one container with its name; it is gone afterwards."""
    made: list[str] = []

    def make(name: str, script: str = "sleep 1000", *, start: bool = True, **fields: object) -> str:
        container = {"name": f"{name}-c", "image": image, "command": ["sh", "-c", script]}
        daemon.json("POST", "/pod/create", status=201, body={"id": name, "containers": [container], **fields})
        made.append(name)
        if start:
            daemon.json("POST", "/pod/start", podId=name)
        return f"{name}-c"

    yield make
    for name in made:
        daemon.request("DELETE", "/pod", podId=name)
    assert daemon.json("GET", "/list", item="vm")["vmData"] == []


def phase(daemon: HyperdLauncher, container: str) -> str:
    word: str = daemon.json("GET", "/container/info", container=container)["status"]["phase"]
    return word


@pytest.mark.parametrize("name", ["123", "true", "1.5", "null"])
def test_an_id_stays_text(daemon, create, name):
    create(name, start=False)
    assert daemon.json("GET", "/list", item="pod")["podData"] == [f"{name}:{name}::pending"]
    assert daemon.request("POST", "/pod/stop", podId=name)[2] == b'{"Cause":"","Code":0,"ID":"%s"}\n' % name.encode()
    assert daemon.json("GET", "/pod/info", podName=name)["podID"] == name


def test_an_empty_name_is_nobody(daemon, create):
    container = create("only")
    for method, path, query in (
        ("POST", "/container/kill", {}),
        ("POST", "/container/stop", {"container": ""}),
        ("POST", "/container/remove", {"container": " "}),
        ("POST", "/container/rename", {"oldName": container, "newName": ""}),
        ("POST", "/pod/kill", {"podName": ""}),
        ("DELETE", "/pod", {"podId": ""}),
    ):
        assert daemon.request(method, path, **query)[0] == 400, path
    assert phase(daemon, container) == "running"
    assert daemon.json("GET", "/list", item="container", pod="none", vm="vm-none")["cData"] == []


def test_a_signal_that_is_handled_ends_nothing(daemon, create):
    """The original noted every signalled container as killed with 137."""
    container = create("hup", "trap 'echo hup' HUP; trap 'exit 7' TERM; echo up; while true; do sleep 0.05; done")

    def logged() -> bytes:
        return daemon.request("GET", "/container/logs", container=container, stdout=1)[2]

    until(lambda: b"up\n" in logged())
    daemon.request("POST", "/container/kill", container=container, signal=1)
    until(lambda: b"hup\n" in logged())
    assert phase(daemon, container) == "running"
    daemon.request("POST", "/container/kill", container=container, signal=15)
    assert daemon.json("GET", "/exitcode", container=container) == 7
    (row,) = daemon.json("GET", "/list", item="container")["cData"]
    assert (row.rsplit(":", 1)[1], phase(daemon, container)) == ("failed", "failed")  # both say the same


def test_following_a_stopped_container_ends(daemon, create):
    container = create("brief", "echo one; exit 0")
    assert daemon.json("GET", "/exitcode", container=container) == 0
    said = daemon.request(
        "GET", "/container/logs", container=container, stdout=1, follow=1, since="2020-01-01T00:00:00Z"
    )
    assert (said[0], said[2][8:]) == (200, b"one\n")
    daemon.json("POST", "/pod/stop", podId="brief")
    assert daemon.json("GET", "/list", item="pod")["podData"] == ["brief:brief::succeeded"]


def test_paused_pods_are_stopped_and_removed_with_their_vm(daemon, create):
    for name, method, path in (("first", "POST", "/pod/stop"), ("second", "DELETE", "/pod")):
        create(name)
        assert daemon.request("POST", "/pod/pause", podId=name)[0] == 204
        assert daemon.request(method, path, podId=name)[0] == 200
        assert daemon.json("GET", "/list", item="vm")["vmData"] == []


@pytest.mark.parametrize("key", ["stopVM", "stopVm", "stopvm"])
def test_a_vm_that_shall_stay_stays(daemon, create, key):
    create("kept")
    daemon.request("POST", "/pod/stop", podId="kept", **{key: "no"})
    (row,) = daemon.json("GET", "/list", item="vm")["vmData"]
    vm, pod, state = row.split(":")
    assert (pod, state) == ("", "idle")
    assert daemon.json("POST", "/pod/start", podId="kept", vmId=vm)["ID"] == vm
    assert daemon.request("DELETE", "/vm", vm=vm)[0] == 200


def test_a_failed_creation_keeps_no_name(daemon, create, image):
    create("host")
    wrong = {"name": "again", "image": f"{image}-none", "command": ["true"]}
    assert daemon.request("POST", "/container/create", podId="host", body=wrong)[0] == 404
    body = {"id": "later", "containers": [{"name": "again", "image": image}, {"name": "host-c", "image": image}]}
    assert daemon.request("POST", "/pod/create", body=body)[0] == 409
    assert daemon.request("GET", "/pod/info", podName="later")[0] == 404
    daemon.json("POST", "/container/create", podId="host", body={**wrong, "image": image}, status=201)
    daemon.request("POST", "/container/remove", container="again")


def test_a_missing_path_of_the_host_is_no_missing_image(daemon, image):
    """A 404 of this call makes clients pull every image and try again."""
    volume = {"name": "v", "source": "/no/such/path", "format": "vfs"}
    container = {"image": image, "volumes": [{"volume": "v", "path": "/v"}]}
    status, _, body = daemon.request(
        "POST", "/pod/create", body={"id": "p", "containers": [container], "volumes": [volume]}
    )
    assert 400 <= status < 500
    assert status != 404
    assert b"/no/such/path" in body


def test_log_options_of_a_pod_are_not_the_next_ones(daemon, create):
    silent = create("silent", "echo unheard", log={"type": "none", "config": {}})
    heard = create("heard", "echo heard")
    for container in (silent, heard):
        assert daemon.json("GET", "/exitcode", container=container) == 0
    assert daemon.request("GET", "/container/logs", container=silent, stdout=1)[0] >= 400
    assert daemon.request("GET", "/container/logs", container=heard, stdout=1)[2][8:] == b"heard\n"


def test_ports_choose_themselves_and_outlive_a_restart(daemon, create):
    """Automatic host ports, container ports with a protocol, deletion by what was published."""
    fixed = free_port()
    create(
        "web",
        portmappings=[{"containerPort": "80"}, {"containerPort": "81", "hostPort": str(fixed), "protocol": "TCP"}],
    )

    def ports() -> dict[str, str]:
        return {
            row["containerPort"]: row["hostPort"] for row in daemon.json("GET", "/pod/web/portmappings")["portMappings"]
        }

    before = ports()
    assert before["81"] == str(fixed)
    assert 1024 < int(before["80"]) < 65536
    daemon.json("POST", "/pod/stop", podId="web")
    daemon.json("POST", "/pod/start", podId="web")
    assert ports() == before
    other = [{"containerPort": "81", "hostPort": "1", "protocol": "tcp"}]
    assert daemon.request("PUT", "/pod/web/portmappings/delete", body=other)[0] == 204
    assert ports() == before
    assert (
        daemon.request("PUT", "/pod/web/portmappings/delete", body=[{"containerPort": "81", "protocol": "tcp"}])[0]
        == 204
    )
    assert ports() == {"80": before["80"]}


def test_services_are_lists_and_objects(daemon, create):
    create("served", start=False)
    assert daemon.request("GET", "/service/list", podId="served")[2] == b"[]\n"
    service = {"SERVICEIP": "10.254.0.24", "servicePort": 80, "Protocol": "TCP", "hosts": []}
    for _ in range(2):
        status, _, body = daemon.request("POST", "/service/update", podId="served", services=json.dumps([service]))
        assert (status, body) == (200, b'{"Result":"success"}\n')
    assert daemon.request("POST", "/service/add", podId="served", services=json.dumps([service]))[0] == 409
    assert daemon.json("GET", "/service/list", podId="served")[0]["protocol"] == "tcp"


def test_labels_ports_and_pause_outlive_the_daemon(daemon, create):
    create("lasting", labels={"a": "1"}, portmappings=[{"containerPort": "80"}])
    daemon.request("POST", "/pod/labels", podId="lasting", labels='{"b":"2"}')
    status, _, body = daemon.request("POST", "/pod/labels", podId="lasting", labels='{"a":"3"}', override="on")
    assert (status, body) == (409, b"Can't update label a without override flag\n")  # only yes and true override
    before = daemon.json("GET", "/pod/lasting/portmappings")
    daemon.restart()
    assert daemon.json("GET", "/pod/info", podName="lasting")["spec"]["labels"] == {"a": "1", "b": "2"}
    assert daemon.json("GET", "/pod/lasting/portmappings") == before


def test_a_name_without_a_tag_is_one_image(daemon, registry, image):
    """The original pulled every tag of the repository, and each twice."""
    registry.push("busybox", "old", [Layer(busybox_tar())])
    status, _, body = daemon.request("POST", "/image/create", imageName=image.removesuffix(":latest"))
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    assert status == 200
    assert [line["id"] for line in lines if line.get("status", "").startswith("Pulling from")] == ["latest"]
    tags = [row.rsplit(":", 4)[1] for row in daemon.json("GET", "/images/get")["imagesList"]]
    assert tags == ["latest"]
