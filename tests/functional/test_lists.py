"""Lists are kept by the daemon, and yet nobody ever sees an old one."""

from __future__ import annotations

import json
import threading

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.registry import Layer, RegistryServer, busybox_tar

pytestmark = pytest.mark.root
KEYS = {"pod": "podData", "container": "cData", "vm": "vmData"}


@pytest.fixture(scope="module")
def daemon():
    with RegistryServer() as registry, HyperdLauncher(config="stop_grace = 1\n") as launcher:
        registry.push("busybox", "latest", [Layer(busybox_tar())])
        launcher.start()
        image = f"{registry.host}/busybox"
        assert launcher.request("POST", "/image/create", imageName=image)[0] == 200
        launcher.image = image
        yield launcher
        assert "internal_error" not in launcher.log()


def rows(daemon, item, **query):
    return daemon.json("GET", "/list", status=201, item=item, **query)[KEYS[item]]


def create(daemon, name):
    containers = [{"name": f"{name}-c", "image": daemon.image, "command": ["sleep", "60"]}]
    daemon.json("POST", "/pod/create", status=201, body={"id": name, "containers": containers})


def test_every_list_shows_what_has_just_been_done(daemon):
    def shown():
        return [row.split(":")[-1] for item in ("pod", "container", "vm") for row in rows(daemon, item)]

    assert shown() == []
    create(daemon, "one")
    assert shown() == ["pending", "pending"]
    daemon.json("POST", "/pod/start", podId="one")
    assert shown() == ["running", "running", "associated"]
    vm_id = rows(daemon, "vm")[0].split(":")[0]
    assert rows(daemon, "pod", vm=vm_id) == [f"one:one:{vm_id}:running"]
    for _ in range(3):
        assert daemon.request("POST", "/pod/pause", podId="one")[0] == 204
        assert shown() == ["paused", "running", "paused"]
        assert daemon.request("POST", "/pod/unpause", podId="one")[0] == 204
        assert shown() == ["running", "running", "associated"]
    daemon.json("POST", "/container/rename", oldName="one-c", newName="two-c")
    assert rows(daemon, "container")[0].split(":")[1] == "two-c"
    daemon.json("POST", "/pod/stop", podId="one", stopVM="no")
    assert [row.rpartition(":")[2] for row in rows(daemon, "vm")] == ["idle"]
    assert rows(daemon, "pod", vm=vm_id) == []
    assert daemon.request("DELETE", "/vm", vm=vm_id)[0] == 200
    assert rows(daemon, "vm") == []
    daemon.json("DELETE", "/pod", podId="one")
    assert shown() == []


def test_clients_that_ask_all_the_time_do_not_bring_an_old_list_back(daemon):
    over = threading.Event()
    broken = []

    def ask():
        while not over.is_set():
            for item, key in KEYS.items():
                status, _, body = daemon.request("GET", "/list", item=item)
                if status != 201 or key not in json.loads(body):
                    broken.append(body)

    def live(name):
        for _ in range(6):
            create(daemon, name)
            if not any(row.startswith(f"{name}:") for row in rows(daemon, "pod")):
                broken.append(f"{name} is missing")
            daemon.json("DELETE", "/pod", podId=name)
            if any(row.startswith(f"{name}:") for row in rows(daemon, "pod")):
                broken.append(f"{name} is still there")

    askers = [threading.Thread(target=ask) for _ in range(4)]
    lives = [threading.Thread(target=live, args=(f"life{number}",)) for number in range(3)]
    for thread in (*askers, *lives):
        thread.start()
    for thread in lives:
        thread.join()
    over.set()
    for thread in askers:
        thread.join()
    assert broken == []
